// The kernel of transfers as threads; apart from the interpreters, which compile for minutes.
#include <thread>
#include <vector>

#include "src/cuda/host_block.h"
#include "src/cuda/transfers.h"
#include "tests/cuda/fake_cuda.h"

namespace tutti::cuda {

std::function<void()> transfer_grid(const void* launch, unsigned blocks) {
  return [launch = *static_cast<const TransferLaunch*>(launch), blocks] {
    std::vector<std::thread> threads;
    for (unsigned b = 0; b < blocks; ++b)
      threads.emplace_back([&, b] {
        TransferState state;
        HostBarrier barrier(1);
        TransferBlock<HostMemory, HostBlock>(launch, b, blocks, state, HostBlock(barrier, 0)).run();
      });
    for (std::thread& t : threads) t.join();
  };
}

}  // namespace tutti::cuda
