// The measuring loop: warm up, time, check, for every size of a sweep; and the formulas that turn a
// time into bandwidths. Knows no library: it talks to a Harness.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "perf/harness.h"
#include "perf/statistics.h"

namespace tutti::perf {

// nccl-tests' -a: how the ranks' times become one.
enum class Across : unsigned char { rank0, average, min, max };

struct SweepOptions {
  Collective collective = Collective::all_reduce;
  size_t min_bytes = 32 << 20;
  size_t max_bytes = 32 << 20;
  size_t step_bytes = 1 << 20;
  uint64_t step_factor = 1;     // > 1 wins over step_bytes
  uint64_t iterations = 20;     // 0: as many as fit time_per_size
  double time_per_size = 0.05;  // seconds
  uint64_t warmup = 1;
  uint64_t operations = 1;  // per iteration (-m)
  uint64_t checks = 1;
  std::vector<ReduceOp> ops{ReduceOp::sum};
  std::vector<DType> dtypes{DType::float32};
  std::vector<Rank> roots{0};
  Across across = Across::max;
  bool out_of_place = true;
  bool in_place = true;
  bool per_iteration = false;  // also time each iteration by itself
  uint64_t per_iteration_skip = 0;
  bool cpu_time = false;
  bool barrier_each = false;  // a barrier, not timed, before every iteration
  size_t misalign = 0;        // elements
  BufferKind buffer = BufferKind::private_memory;
  uint64_t graph_launches = 0;  // of device buffers: iterations are a CUDA graph, replayed so often
};

struct Timing {
  bool measured = false;
  double microseconds = 0;         // per operation: mean over iterations, then SweepOptions::across
  double algorithm_bandwidth = 0;  // GB/s
  double bus_bandwidth = 0;
  uint64_t wrong = 0;  // elements, summed over ranks
  uint64_t iterations = 0;
  Summary per_iteration;  // microseconds, of times_us
  std::vector<double>
      times_us;  // slowest rank, per iteration timed by itself: as many as `iterations`
                 // where the caller gave that number, several times more where not
};

struct Point {
  size_t bytes = 0;  // S of nccl-tests
  size_t count = 0;  // elements, as nccl-tests prints it
  DType dtype = DType::float32;
  ReduceOp op = ReduceOp::sum;
  Rank root = 0;
  Timing out_of_place;
  Timing in_place;
  std::string path;
};

bool has_root(Collective collective);
bool has_reduction(Collective collective);
// In-place forms exist and are checked (nccl-tests skips them for sendrecv and alltoall).
bool checks_in_place(Collective collective);

// busbw / algbw, by nccl-tests' doc/PERFORMANCE.md.
double bus_factor(Collective collective, uint32_t ranks);
// Sizes of a collective whose nominal size is `bytes`.
struct Extent {
  size_t block = 0;  // Call::count
  size_t bytes = 0;  // S: what algbw divides
  size_t shown_count = 0;
  size_t send_count = 0;  // elements of this library's largest send and receive buffers
  size_t recv_count = 0;
};
Extent extent_of(Collective collective, size_t bytes, DType dtype, uint32_t ranks);
// Nominal sizes of the sweep.
std::vector<size_t> sizes_of(const SweepOptions& options);

// Runs the sweep on every rank; `done` is called with each point, the same on all ranks. Returns an
// empty string or what went wrong. Skips what the harness does not support.
std::string run_sweep(Harness& harness, const SweepOptions& options,
                      const std::function<void(const Point&)>& done);

}  // namespace tutti::perf
