// Every rung of the ladder to the device kernels equals kernels/cpu, run by teams of host threads'
// numbers.
#include <gtest/gtest.h>

#include <random>

#include "kernels/cpu/kernels.h"
#include "kernels/cuda/ladder/ladder.h"

namespace tutti::cuda::ladder {
namespace {

template <DType kType>
void check(Rung rung, uint32_t k, uint64_t count, uint32_t threads) {
  const uint64_t bytes = count * size_of(kType);
  std::mt19937_64 random(k + count);
  struct alignas(16) Line {
    std::byte bytes[16];
  };
  std::vector<std::vector<Line>> memory(k, std::vector<Line>(bytes / 16));
  std::vector<Line> got(bytes / 16), want(bytes / 16);
  Sum sum{};
  std::vector<const void*> sources;
  for (uint32_t s = 0; s < k; ++s) {
    for (Line& line : memory[s])
      for (std::byte& b : line.bytes) b = static_cast<std::byte>(random());
    sum.sources[s] = memory[s][0].bytes;
    sources.push_back(sum.sources[s]);
  }
  sum.destination = got[0].bytes;
  sum.k = k;
  sum.bytes = bytes;
  void* to = want[0].bytes;
  kernels::reduce(kType, ReduceOp::sum, sources, {&to, 1}, count, 0);
  for (uint32_t t = 0; t < threads; ++t) run<kType>(rung, {t, threads}, sum);
  ASSERT_EQ(std::memcmp(got.data(), want.data(), bytes), 0)
      << name(rung) << " " << tutti::name(kType) << " k=" << k << " n=" << count << " by "
      << threads;
}

TEST(CudaLadder, EveryRungEqualsCpuKernels) {
  for (int r = 0; r < k_rungs; ++r)
    for (uint32_t k : {2u, 3u, 8u, 9u, 16u})
      for (uint64_t count : {8u, 64u, 1000u})
        for (uint32_t threads : {1u, 7u, 64u}) {
          check<DType::float32>(static_cast<Rung>(r), k, count, threads);
          check<DType::bfloat16>(static_cast<Rung>(r), k, count, threads);
          if (HasFatalFailure()) return;
        }
}

}  // namespace
}  // namespace tutti::cuda::ladder
