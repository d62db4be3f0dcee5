// A program outside the tree: four ranks as threads, each sums the ranks' numbers.
#include <tutti/communicator.h>

#include <cstdio>
#include <thread>
#include <vector>

int main() {
  constexpr uint32_t k_ranks = 4;
  auto all = tutti::Communicator::create_local(k_ranks, tutti::Config());
  if (!all) {
    std::printf("%s\n", all.status().to_string().c_str());
    return 1;
  }
  std::vector<float> results(k_ranks);
  std::vector<std::thread> threads;
  for (uint32_t rank = 0; rank < k_ranks; ++rank)
    threads.emplace_back([&, rank] {
      const float mine = static_cast<float>(rank + 1);
      const tutti::Status status = (*all)[rank]->all_reduce(
          &mine, &results[rank], 1, tutti::DType::float32, tutti::ReduceOp::sum);
      if (!status.ok()) std::printf("rank %u: %s\n", rank, status.to_string().c_str());
    });
  for (std::thread& thread : threads) thread.join();
  for (float result : results)
    if (result != 10.0f) return 2;
  std::printf("tutti %s: 4 ranks agree on 10\n", tutti::version());
  return 0;
}
