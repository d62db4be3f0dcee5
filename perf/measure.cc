// The measuring loop, see measure.h.
#include "perf/measure.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>

#include "perf/verifiable.h"

namespace tutti::perf {
namespace {

constexpr int k_poison = 0xA5;
constexpr uint64_t k_most_samples = 1'000'000;  // of per-iteration times, over all ranks
constexpr uint64_t k_each_longer = 6;           // times the iterations that the mean takes
constexpr size_t k_page = 4096;

double now_seconds(bool cpu_time) {
  timespec t{};
  clock_gettime(cpu_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// The two buffers of a rank, used for every size of the sweep. Those on a device have mirrors on
// the host, which are filled and checked.
class Buffers {
 public:
  Buffers(Harness& harness, BufferKind kind, size_t bytes)
      : harness_(harness),
        kind_(kind),
        bytes_(bytes),
        a_(harness.allocate(bytes, kind)),
        b_(harness.allocate(bytes, kind)),
        host_a_(mirrored() ? harness.allocate(bytes, BufferKind::private_memory) : a_),
        host_b_(mirrored() ? harness.allocate(bytes, BufferKind::private_memory) : b_) {}
  ~Buffers() {
    for (void* memory : {a_, b_})
      if (memory != nullptr) harness_.release(memory, bytes_, kind_);
    for (void* memory : {host_a_, host_b_})
      if (mirrored() && memory != nullptr)
        harness_.release(memory, bytes_, BufferKind::private_memory);
  }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  bool ok() const {
    return a_ != nullptr && b_ != nullptr && host_a_ != nullptr && host_b_ != nullptr;
  }
  // Where calls read and write.
  std::byte* a() const { return static_cast<std::byte*>(a_); }
  std::byte* b() const { return static_cast<std::byte*>(b_); }
  // Where data is made and checked.
  std::byte* host_a() const { return static_cast<std::byte*>(host_a_); }
  std::byte* host_b() const { return static_cast<std::byte*>(host_b_); }
  // Makes the first `bytes` of the buffers what the mirrors are, and the other way round.
  bool put(size_t bytes) const {
    return !mirrored() || (harness_.put(a_, host_a_, bytes) && harness_.put(b_, host_b_, bytes));
  }
  bool get(size_t bytes) const {
    return !mirrored() || (harness_.get(host_a_, a_, bytes) && harness_.get(host_b_, b_, bytes));
  }

 private:
  bool mirrored() const { return kind_ == BufferKind::device; }

  Harness& harness_;
  BufferKind kind_;
  size_t bytes_;
  void *a_, *b_, *host_a_, *host_b_;
};

// Where one rank's call reads and writes. In-place forms share a buffer at the offset that
// tutti/communicator.h gives.
struct Placement {
  std::byte* send;
  std::byte* recv;
};

Placement place(std::byte* a, std::byte* b, const Call& call, bool in_place, Rank rank,
                size_t misalign) {
  const size_t element = size_of(call.dtype);
  a += misalign * element;
  b += misalign * element;
  if (!in_place) return {a, b};
  std::byte* own = b + rank * call.count * element;
  switch (call.collective) {
    case Collective::all_gather:
      return {own, b};
    case Collective::reduce_scatter:
      return {b, own};
    case Collective::gather:
      return rank == call.root ? Placement{own, b} : Placement{a, b};
    case Collective::scatter:
      return rank == call.root ? Placement{b, own} : Placement{b, a};
    default:
      return {b, b};
  }
}

// Fills inputs and checks results of one kind of call.
class Checker {
 public:
  Checker(const Call& call, Rank rank, uint32_t ranks, const Pattern& pattern)
      : call_(call), rank_(rank), ranks_(ranks), pattern_(pattern) {}

  // `extent` elements are what the buffers behind `at` hold from send or recv on.
  void fill(const Placement& at, bool in_place, const Extent& extent, uint64_t seed) const {
    const size_t element = size_of(call_.dtype);
    // Poison first: an in-place input lies inside the receive buffer.
    if (!in_place || call_.collective == Collective::all_gather ||
        call_.collective == Collective::gather || call_.collective == Collective::scatter)
      std::memset(at.recv, k_poison, recv_elements(extent) * element);
    if (has_reduction(call_.collective)) {
      pattern_.fill(at.send, extent.send_count, rank_, seed, 0);
      return;
    }
    const bool source =
        !(call_.collective == Collective::broadcast || call_.collective == Collective::scatter) ||
        rank_ == call_.root;
    if (source)
      fill_moved(at.send, extent.send_count, call_.dtype, rank_, seed, 0);
    else if (in_place && call_.collective == Collective::broadcast)
      std::memset(at.recv, k_poison, extent.recv_count * element);
  }

  uint64_t count_wrong(const Placement& at, const Extent& extent, uint64_t seed) const {
    const size_t block_bytes = call_.count * size_of(call_.dtype);
    const uint64_t own_first = rank_ * call_.count;
    switch (call_.collective) {
      case Collective::reduce:
        if (rank_ != call_.root) return 0;
        [[fallthrough]];
      case Collective::all_reduce:
        return pattern_.count_wrong(at.recv, call_.count, seed, 0);
      case Collective::reduce_scatter:
        return pattern_.count_wrong(at.recv, call_.count, seed, own_first);
      case Collective::broadcast:
        return count_wrong_moved(at.recv, call_.count, call_.dtype, call_.root, seed, 0);
      case Collective::scatter:
        return count_wrong_moved(at.recv, call_.count, call_.dtype, call_.root, seed, own_first);
      case Collective::send_recv:
        return count_wrong_moved(at.recv, extent.recv_count, call_.dtype,
                                 (rank_ + ranks_ - 1) % ranks_, seed, 0);
      case Collective::gather:
        if (rank_ != call_.root) return 0;
        [[fallthrough]];
      default:
        break;
    }
    const bool exchange =
        call_.collective == Collective::all_to_all || call_.collective == Collective::all_to_all_v;
    uint64_t wrong = 0;
    for (Rank peer = 0; peer < ranks_; ++peer)
      wrong += count_wrong_moved(at.recv + peer * block_bytes, call_.count, call_.dtype, peer, seed,
                                 exchange ? own_first : 0);
    return wrong;
  }

 private:
  // gather's result and scatter's source exist at the root only.
  size_t recv_elements(const Extent& extent) const {
    return call_.collective == Collective::gather && rank_ != call_.root ? 0 : extent.recv_count;
  }

  Call call_;
  Rank rank_;
  uint32_t ranks_;
  const Pattern& pattern_;
};

// One size, one placement.
class PointRun {
 public:
  PointRun(Harness& harness, const SweepOptions& options, Call call, const Extent& extent,
           const Checker& checker)
      : harness_(harness), options_(options), call_(call), extent_(extent), checker_(checker) {}

  bool run(const Buffers& buffers, bool in_place, uint64_t seed, Timing* timing) {
    const auto placed = [&](std::byte* a, std::byte* b) {
      return place(a, b, call_, in_place, harness_.rank(), options_.misalign);
    };
    const Placement there = placed(buffers.a(), buffers.b());
    const Placement at = placed(buffers.host_a(), buffers.host_b());
    const size_t used = (std::max(extent_.send_count, extent_.recv_count) + options_.misalign) *
                        size_of(call_.dtype);
    call_.send = there.send;
    call_.recv = there.recv;
    checker_.fill(at, in_place, extent_, seed);
    if (!buffers.put(used) || !time_iterations(timing) || !time_each(timing)) return false;
    double wrong = 0;
    for (uint64_t check = 0; check < options_.checks; ++check) {
      const uint64_t check_seed = seed + 1 + check;  // other data each time, to catch races
      checker_.fill(at, in_place, extent_, check_seed);
      if (!buffers.put(used) || !harness_.barrier() || !harness_.run(call_) ||
          !harness_.synchronize() || !buffers.get(used))
        return false;
      wrong += static_cast<double>(checker_.count_wrong(at, extent_, check_seed));
    }
    const std::vector<double> all = harness_.all_gather({wrong});
    if (all.empty()) return false;
    for (double of_rank : all) timing->wrong += static_cast<uint64_t>(of_rank);
    timing->measured = true;
    return true;
  }

 private:
  bool repeat(uint64_t iterations) {
    for (uint64_t i = 0; i < iterations * options_.operations; ++i)
      if (!harness_.run(call_)) return false;
    return true;
  }

  // Seconds this rank spent; negative on failure. Calls on device buffers are waited for once, at
  // the end, as nccl-tests do.
  double timed_loop(uint64_t iterations) {
    if (options_.graph_launches > 0) return timed_graph(iterations);
    if (!harness_.synchronize() || !harness_.barrier()) return -1;
    if (!options_.barrier_each) {
      const double start = now_seconds(options_.cpu_time);
      if (!repeat(iterations) || !harness_.synchronize()) return -1;
      return now_seconds(options_.cpu_time) - start;
    }
    double total = 0;
    for (uint64_t i = 0; i < iterations; ++i) {
      if (!harness_.barrier()) return -1;
      const double start = now_seconds(options_.cpu_time);
      if (!repeat(1) || !harness_.synchronize()) return -1;
      total += now_seconds(options_.cpu_time) - start;
    }
    return total;
  }

  // The iterations as a graph, launched several times: seconds of one launch.
  double timed_graph(uint64_t iterations) {
    if (!harness_.synchronize() || !harness_.record([&] { return repeat(iterations); }) ||
        !harness_.barrier())
      return -1;
    const double start = now_seconds(options_.cpu_time);
    for (uint64_t i = 0; i < options_.graph_launches; ++i)
      if (!harness_.replay()) return -1;
    if (!harness_.synchronize()) return -1;
    return (now_seconds(options_.cpu_time) - start) / static_cast<double>(options_.graph_launches);
  }

  // As many iterations as fit time_per_size, agreed by all ranks; 0 on failure.
  uint64_t choose_iterations() {
    if (options_.iterations != 0) return options_.iterations;
    for (uint64_t trial = 1;; trial *= 4) {
      double slowest = trial_seconds(trial);
      if (slowest * 8 < options_.time_per_size && slowest >= 0 && trial < (uint64_t{1} << 22))
        continue;
      // A rank that lost its core for a tick would ask for too few: the faster of two tries counts.
      slowest = std::min(slowest, trial_seconds(trial));
      if (slowest < 0) return 0;
      const double fit = options_.time_per_size * static_cast<double>(trial) / (slowest + 1e-9);
      return std::max<uint64_t>(3, static_cast<uint64_t>(fit));
    }
  }

  // The slowest rank's time for `iterations`; negative on failure.
  double trial_seconds(uint64_t iterations) {
    const std::vector<double> all = harness_.all_gather({timed_loop(iterations)});
    if (all.empty() || *std::min_element(all.begin(), all.end()) < 0) return -1;
    return *std::max_element(all.begin(), all.end());
  }

  bool time_iterations(Timing* timing) {
    if (!repeat(options_.warmup)) return false;
    const uint64_t iterations = choose_iterations();
    if (iterations == 0) return false;
    const double seconds = timed_loop(iterations);
    if (seconds < 0) return false;
    std::vector<double> all = harness_.all_gather({seconds});
    if (all.empty()) return false;
    double chosen = all[0];
    if (options_.across == Across::average) chosen = summarise(all).mean;
    if (options_.across == Across::min) chosen = *std::min_element(all.begin(), all.end());
    if (options_.across == Across::max) chosen = *std::max_element(all.begin(), all.end());
    const double each = chosen / static_cast<double>(iterations * options_.operations);
    timing->iterations = iterations;
    timing->microseconds = each * 1e6;
    timing->algorithm_bandwidth = each > 0 ? static_cast<double>(extent_.bytes) / each / 1e9 : 0;
    timing->bus_bandwidth =
        timing->algorithm_bandwidth * bus_factor(call_.collective, harness_.ranks());
    return true;
  }

  // A loop of its own, so that reading the clock does not weigh on the mean.
  bool time_each(Timing* timing) {
    if (!options_.per_iteration) return true;
    const uint64_t skip = options_.per_iteration_skip;
    // Some tenths of a second where the number is ours to choose: a 99th percentile of less would
    // be that of one bad moment of the machine.
    const uint64_t wanted = timing->iterations * (options_.iterations == 0 ? k_each_longer : 1);
    const uint64_t samples =
        std::max<uint64_t>(1, std::min(wanted, k_most_samples / harness_.ranks()));
    std::vector<double> mine(samples);  // written now: no page of it is new to an iteration
    if (!harness_.synchronize() || !harness_.barrier()) return false;
    double before = now_seconds(options_.cpu_time);
    for (uint64_t i = 0; i < skip + samples; ++i) {
      if (!repeat(1) || !harness_.synchronize()) return false;
      const double after = now_seconds(options_.cpu_time);
      if (i >= skip)
        mine[i - skip] = (after - before) * 1e6 / static_cast<double>(options_.operations);
      before = after;
    }
    const std::vector<double> all = harness_.all_gather(mine);
    if (all.empty()) return false;
    timing->times_us.assign(samples, 0);
    for (size_t i = 0; i < all.size(); ++i)
      timing->times_us[i % samples] = std::max(timing->times_us[i % samples], all[i]);
    timing->per_iteration = summarise(timing->times_us);
    return true;
  }

  Harness& harness_;
  const SweepOptions& options_;
  Call call_;
  const Extent& extent_;
  const Checker& checker_;
};

std::string measure_point(Harness& harness, const SweepOptions& options, const Buffers& buffers,
                          const Call& call, const Extent& extent, const Checker& checker,
                          Point* point) {
  PointRun run(harness, options, call, extent, checker);
  const uint64_t seed = point->bytes * 31 + (static_cast<uint64_t>(point->dtype) << 50);
  if (options.out_of_place && !run.run(buffers, false, seed, &point->out_of_place))
    return harness.error();
  if (options.in_place && checks_in_place(call.collective) &&
      !run.run(buffers, true, seed + 1'000'003, &point->in_place))
    return harness.error();
  Call shown = call;
  shown.send = buffers.a();
  shown.recv = buffers.b();
  point->path = harness.path(shown);
  return "";
}

std::string sweep_sizes(Harness& harness, const SweepOptions& options, const Buffers& buffers,
                        Call call, const std::function<void(const Point&)>& done) {
  const Pattern pattern(call.dtype, call.op, harness.ranks());
  for (size_t bytes : sizes_of(options)) {
    const Extent extent = extent_of(call.collective, bytes, call.dtype, harness.ranks());
    call.count = extent.block;
    if (!harness.supports(call)) continue;
    const Checker checker(call, harness.rank(), harness.ranks(), pattern);
    Point point;
    point.bytes = extent.bytes;
    point.count = extent.shown_count;
    point.dtype = call.dtype;
    point.op = call.op;
    point.root = call.root;
    std::string error = measure_point(harness, options, buffers, call, extent, checker, &point);
    if (!error.empty()) return error;
    done(point);
  }
  return "";
}

}  // namespace

void* allocate_pages(size_t bytes) {
  const size_t length = (std::max<size_t>(bytes, 1) + k_page - 1) / k_page * k_page;
  void* memory = mmap(nullptr, length, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

void release_pages(void* memory, size_t bytes) {
  munmap(memory, (std::max<size_t>(bytes, 1) + k_page - 1) / k_page * k_page);
}

bool has_root(Collective collective) {
  return collective == Collective::broadcast || collective == Collective::reduce ||
         collective == Collective::gather || collective == Collective::scatter;
}

bool has_reduction(Collective collective) {
  return collective == Collective::all_reduce || collective == Collective::reduce ||
         collective == Collective::reduce_scatter;
}

bool checks_in_place(Collective collective) {
  return collective != Collective::send_recv && collective != Collective::all_to_all_v;
}

double bus_factor(Collective collective, uint32_t ranks) {
  const double n = ranks;
  switch (collective) {
    case Collective::all_reduce:
      return 2 * (n - 1) / n;
    case Collective::broadcast:
    case Collective::reduce:
    case Collective::send_recv:
      return 1;
    default:
      return (n - 1) / n;
  }
}

Extent extent_of(Collective collective, size_t bytes, DType dtype, uint32_t ranks) {
  const size_t element = size_of(dtype);
  const size_t count = bytes / element;
  // Per-rank blocks are rounded down to 16 bytes, as in nccl-tests.
  const size_t block = count / ranks / (16 / element) * (16 / element);
  switch (collective) {
    case Collective::all_gather:
    case Collective::gather:
      return {block, block * ranks * element, block, block, block * ranks};
    case Collective::reduce_scatter:
    case Collective::scatter:
      return {block, block * ranks * element, block, block * ranks, block};
    case Collective::all_to_all:
    case Collective::all_to_all_v:
      return {block, block * ranks * element, block, block * ranks, block * ranks};
    default:
      return {count, count * element, count, count, count};
  }
}

std::vector<size_t> sizes_of(const SweepOptions& options) {
  std::vector<size_t> sizes;
  size_t size = options.min_bytes;
  while (size <= options.max_bytes) {
    sizes.push_back(size);
    const size_t next =
        options.step_factor > 1 ? size * options.step_factor : size + options.step_bytes;
    if (next <= size) break;  // zero size or no step: one point
    size = next;
  }
  return sizes;
}

std::string run_sweep(Harness& harness, const SweepOptions& options,
                      const std::function<void(const Point&)>& done) {
  const size_t slack = (options.misalign + 1) * sizeof(double);
  const Buffers buffers(harness, options.buffer, options.max_bytes + slack);
  if (!buffers.ok())
    return "no memory for two buffers of " + std::to_string(options.max_bytes) + " bytes";
  const std::vector<ReduceOp> one_op{ReduceOp::sum};
  const std::vector<Rank> one_root{0};
  for (DType dtype : options.dtypes) {
    for (ReduceOp op : has_reduction(options.collective) ? options.ops : one_op) {
      for (Rank root : has_root(options.collective) ? options.roots : one_root) {
        Call call;
        call.collective = options.collective;
        call.dtype = dtype;
        call.op = op;
        call.root = root;
        std::string error = sweep_sizes(harness, options, buffers, call, done);
        if (!error.empty()) return error;
      }
    }
  }
  return "";
}

}  // namespace tutti::perf
