// kernels_bench: GB/s of the CPU kernels for every type beside what the machine allows.
//
//   kernels_bench --benchmark_repetitions=9 --benchmark_enable_random_interleaving=true
//   kernels_bench --benchmark_filter='float8.*/DRAM'
//
// A figure is bytes of one buffer per second, as for memcpy. Buffers are huge pages where allowed.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kernels/ladder/ladder.h"
#include "perf/bench/ceilings.h"
#include "perf/bench/ratio_reporter.h"

namespace tutti::bench {
namespace {

// Per buffer, so that two buffers fit the level.
struct Level {
  const char* name;
  size_t bytes;
};
constexpr Level k_levels[] = {{"L1", size_t{8} << 10},
                              {"L2", size_t{128} << 10},
                              {"L3", size_t{4} << 20},
                              {"DRAM", size_t{128} << 20}};

constexpr size_t k_buffers = 9;

// Nine buffers of the largest level in one mapping, each at a different offset within a page so
// that streams do not share cache sets; shared by all benchmarks.
class Arena {
 public:
  Arena() {
    const size_t bytes = k_buffers * k_stride;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    base_ = memory == MAP_FAILED ? nullptr : static_cast<uint8_t*>(memory);
    if (base_) madvise(base_, bytes, MADV_HUGEPAGE);
  }
  uint8_t* buffer(size_t i) const { return base_ + i * k_stride + i * 640; }
  bool ok() const { return base_ != nullptr; }

 private:
  static constexpr size_t k_stride = (size_t{128} << 20) + (size_t{2} << 20);
  uint8_t* base_;
};

// Ordinary numbers: 1.0 in every type, so that sums stay finite and products stay 1.
void fill_ones(DType dtype, uint8_t* buffer, size_t bytes) {
  const uint64_t ones[] = {1,      1,    1,   1, 1, 1, 0x3C00, 0x3F800000, 0x3FF0000000000000,
                           0x3F80, 0x38, 0x3C};
  const size_t element = size_of(dtype);
  for (size_t at = 0; at < bytes; at += element) {
    std::memcpy(buffer + at, &ones[static_cast<size_t>(dtype)], element);
  }
}

using Body = std::function<void(size_t bytes)>;
using Prepare = std::function<void(size_t bytes)>;

void add(const std::string& what, const Level& level, Prepare prepare, Body body) {
  benchmark::RegisterBenchmark((what + "/" + level.name).c_str(), [=](benchmark::State& state) {
    prepare(level.bytes);
    for (auto _ : state) {
      body(level.bytes);
      benchmark::ClobberMemory();
    }
    state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * level.bytes));
  })->MinTime(0.05);
}

void fill_all(const Arena& arena, DType dtype, size_t buffers, size_t bytes) {
  for (size_t i = 0; i < buffers; ++i) fill_ones(dtype, arena.buffer(i), bytes);
}

void add_ceilings(const Arena& arena, const Level& level) {
  const auto prepare = [&arena](size_t bytes) { fill_all(arena, DType::float32, 3, bytes); };
  const auto f = [&arena](size_t i) { return reinterpret_cast<float*>(arena.buffer(i)); };
  add("ceiling a+=b", level, prepare, [f](size_t n) { ceiling_add(f(0), f(1), n / 4); });
  add("ceiling c=a+b", level, prepare, [f](size_t n) { ceiling_add_to(f(2), f(0), f(1), n / 4); });
  add("ceiling c=a+b streaming", level, prepare,
      [f](size_t n) { ceiling_add_to_streaming(f(2), f(0), f(1), n / 4); });
  add("ceiling memcpy", level, prepare, [f](size_t n) { std::memcpy(f(0), f(1), n); });
  add("ceiling copy streaming", level, prepare,
      [f](size_t n) { ceiling_copy_streaming(f(0), f(1), n / 4); });
}

// In place over the first source, or (out != 0) into buffer `out` and those after it.
void add_reduce(const Arena& arena, const Level& level, const std::string& what, DType dtype,
                ReduceOp op, size_t k, uint32_t divisor, size_t out = 0, size_t outs = 1) {
  std::vector<const void*> sources;
  std::vector<void*> destinations;
  for (size_t i = 0; i < k; ++i) sources.push_back(arena.buffer(i));
  for (size_t i = 0; i < outs; ++i) destinations.push_back(arena.buffer(out + i));
  const size_t filled = std::max(k, out + outs);
  add(
      what, level, [&arena, dtype, filled](size_t bytes) { fill_all(arena, dtype, filled, bytes); },
      [=](size_t bytes) {
        kernels::reduce(dtype, op, sources, destinations, bytes / size_of(dtype), divisor);
      });
}

void add_all(const Arena& arena) {
  for (const Level& level : k_levels) {
    add_ceilings(arena, level);
    for (int d = 0; d < k_dtypes; ++d) {
      const auto dtype = static_cast<DType>(d);
      add_reduce(arena, level, std::string(name(dtype)) + " sum", dtype, ReduceOp::sum, 2, 0);
      add_reduce(arena, level, std::string(name(dtype)) + " prod", dtype, ReduceOp::prod, 2, 0);
      add_reduce(arena, level, std::string(name(dtype)) + " min", dtype, ReduceOp::min, 2, 0);
      add_reduce(arena, level, std::string(name(dtype)) + " avg/3", dtype, ReduceOp::avg, 2, 3);
    }
    for (DType dtype : {DType::float32, DType::float16}) {
      for (size_t k : {3, 4, 8}) {
        add_reduce(arena, level, std::string(name(dtype)) + " sum k=" + std::to_string(k), dtype,
                   ReduceOp::sum, k, 0);
      }
    }
    add_reduce(arena, level, "float32 sum c=a+b", DType::float32, ReduceOp::sum, 2, 0, 2);
    add_reduce(arena, level, "float32 sum to both", DType::float32, ReduceOp::sum, 2, 0, 0, 2);
    add_reduce(arena, level, "float32 sum 8 to 8", DType::float32, ReduceOp::sum, 8, 0, 0, 8);
    const auto prepare = [&arena](size_t bytes) { fill_all(arena, DType::float32, 2, bytes); };
    add("copy", level, prepare,
        [&arena](size_t n) { kernels::copy(arena.buffer(0), arena.buffer(1), n); });
    add("float32 scale", level, prepare, [&arena](size_t n) {
      kernels::scale(DType::float32, arena.buffer(0), arena.buffer(1), n / 4, 0x3F800000);
    });
    for (const ladder::Rung& rung : ladder::rungs()) {
      const DType dtype = rung.dtype;
      add(
          std::string("ladder ") + rung.name, level,
          [&arena, dtype](size_t bytes) { fill_all(arena, dtype, 2, bytes); },
          [&arena, rung](size_t n) {
            rung.run(arena.buffer(0), arena.buffer(1), n / size_of(rung.dtype));
          });
    }
  }
}

// Every rung computes what the kernels do, on finite values of all magnitudes.
bool check_rungs() {
  constexpr size_t k_bytes = 4096;
  for (const ladder::Rung& rung : ladder::rungs()) {
    alignas(64) uint8_t a[k_bytes], b[k_bytes], sum[k_bytes];
    const size_t element = size_of(rung.dtype);
    for (size_t i = 0; i < k_bytes; ++i) {
      // The upper byte of an element: no exponent of all ones, whatever the type.
      const bool upper = i % element == element - 1;
      a[i] = static_cast<uint8_t>((i * 37) & (upper ? 0xBE : 0xFF));
      b[i] = static_cast<uint8_t>((i * 91 + i / 256) & (upper ? 0xBE : 0xFF));
    }
    const void* sources[] = {a, b};
    void* const destination = sum;
    kernels::reduce(rung.dtype, ReduceOp::sum, sources, {&destination, 1}, k_bytes / element, 0);
    rung.run(a, b, k_bytes / element);
    if (std::memcmp(a, sum, k_bytes) != 0) {
      std::fprintf(stderr, "ladder %s: wrong result\n", rung.name);
      return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace tutti::bench

int main(int argc, char** argv) {
  const tutti::bench::Arena arena;
  if (!arena.ok() || !tutti::bench::check_rungs()) return 1;
  tutti::bench::add_all(arena);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("tutti kernels", tutti::kernels::target_name());
  tutti::bench::RatioReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  return 0;
}
