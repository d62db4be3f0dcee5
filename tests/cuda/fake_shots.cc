// The kernels of one and two shots as threads; apart from the interpreters, which compile for
// minutes.
#include <memory>
#include <thread>
#include <vector>

#include "kernels/cuda/dispatch.h"
#include "src/cuda/host_block.h"
#include "src/cuda/shots.h"
#include "tests/cuda/fake_cuda.h"

namespace tutti::cuda {

std::function<void()> shot_grid(DType dtype, Family family, const void* launch, unsigned blocks,
                                unsigned threads) {
  return [dtype, family, launch = *static_cast<const ShotLaunch*>(launch), blocks, threads] {
    std::vector<std::thread> all;
    std::vector<std::unique_ptr<HostBarrier>> barriers;
    for (unsigned b = 0; b < blocks; ++b) {
      barriers.push_back(std::make_unique<HostBarrier>(threads));
      for (unsigned t = 0; t < threads; ++t)
        all.emplace_back([&, b, t, barrier = barriers.back().get()] {
          dispatch(dtype, family, [&]<DType kType, Family kFamily>() {
            ShotBlock<kType, kFamily, HostMemory, HostBlock>(
                launch, launch.calls[b / launch.blocks], b % launch.blocks, HostBlock(*barrier, t))
                .run();
          });
        });
    }
    for (std::thread& t : all) t.join();
  };
}

}  // namespace tutti::cuda
