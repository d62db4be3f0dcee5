// What a call of the NCCL API costs: one rank, 4 bytes, so that nothing is left but the way there.
#include <benchmark/benchmark.h>

#include <vector>

#include "nccl.h"

namespace {

struct Lone {
  ncclComm_t comm = nullptr;
  Lone() { ncclCommInitAll(&comm, 1, nullptr); }
  ~Lone() { ncclCommDestroy(comm); }
};

void c_all_reduce(benchmark::State& state) {
  Lone lone;
  float x = 1, y = 0;
  for (auto _ : state)
    if (ncclAllReduce(&x, &y, 1, ncclFloat, ncclSum, lone.comm, nullptr) != ncclSuccess)
      state.SkipWithError(ncclGetLastError(lone.comm));
  benchmark::DoNotOptimize(y);
}
BENCHMARK(c_all_reduce);

void c_all_reduce_in_a_group(benchmark::State& state) {
  Lone lone;
  float x = 1, y = 0;
  for (auto _ : state) {
    ncclGroupStart();
    ncclAllReduce(&x, &y, 1, ncclFloat, ncclSum, lone.comm, nullptr);
    if (ncclGroupEnd() != ncclSuccess) state.SkipWithError(ncclGetLastError(lone.comm));
  }
  benchmark::DoNotOptimize(y);
}
BENCHMARK(c_all_reduce_in_a_group);

void c_comm_count(benchmark::State& state) {
  Lone lone;
  int count = 0;
  for (auto _ : state) ncclCommCount(lone.comm, &count);
  benchmark::DoNotOptimize(count);
}
BENCHMARK(c_comm_count);

// A buffer that was never seen: its pages are probed.
void c_all_reduce_of_new_buffers(benchmark::State& state) {
  Lone lone;
  std::vector<float> x(1 << 22);
  size_t at = 0;
  for (auto _ : state) {
    at = (at + 67 * 1024) % (x.size() - 1);
    if (ncclAllReduce(&x[at], &x[at], 1, ncclFloat, ncclSum, lone.comm, nullptr) != ncclSuccess)
      state.SkipWithError(ncclGetLastError(lone.comm));
  }
}
BENCHMARK(c_all_reduce_of_new_buffers);

}  // namespace

BENCHMARK_MAIN();
