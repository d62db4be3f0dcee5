#include "perf/tune_kernels.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/cpu/kernels.h"

namespace tutti::perf {
namespace {

constexpr size_t k_near = 64 * 1024;        // stays in the L2 cache with its operands
constexpr size_t k_far = 48 * 1024 * 1024;  // does not stay in any

using Clock = std::chrono::steady_clock;

// Least seconds of one call over a few batches: what disturbs makes it longer, never shorter.
template <class F>
double least_seconds(F&& body, double batch_seconds, int batches) {
  body();
  double least = 1e9;
  for (int b = 0; b < batches; ++b) {
    const Clock::time_point start = Clock::now();
    uint32_t calls = 0;
    double took = 0;
    do {
      body();
      ++calls;
      took = std::chrono::duration<double>(Clock::now() - start).count();
    } while (took < batch_seconds);
    least = std::min(least, took / calls);
  }
  return least;
}

}  // namespace

void measure_kernels(Profile& profile) {
  std::vector<std::byte> a(k_far), b(k_far), out(k_far);
  const auto reduce = [&](DType dtype, ReduceOp op, size_t bytes) {
    const void* sources[] = {a.data(), b.data()};
    void* destination = out.data();
    kernels::reduce(dtype, op, sources, {&destination, 1}, bytes / size_of(dtype), 0);
  };
  profile.kernels.clear();
  for (int d = 0; d < k_dtypes; ++d)
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::prod, ReduceOp::max, ReduceOp::min}) {
      const auto dtype = static_cast<DType>(d);
      profile.kernels[{dtype, op}] =
          least_seconds([&] { reduce(dtype, op, k_near); }, 0.001, 3) / k_near;
    }
  profile.gamma = profile.kernels[{DType::float32, ReduceOp::sum}];
  profile.copy =
      least_seconds([&] { kernels::copy(out.data(), a.data(), k_near); }, 0.001, 5) / k_near;
  const double far =
      least_seconds([&] { reduce(DType::float32, ReduceOp::sum, k_far); }, 0.01, 3) / k_far;
  const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  profile.cache_bytes = cache > 0 ? static_cast<uint64_t>(cache) / 4 : 4 << 20;
  profile.beyond_cache = std::clamp(far / profile.gamma, 1.0, 100.0);
}

}  // namespace tutti::perf
