// The measuring loop over a library of threads written here: right libraries pass in every
// collective, type and place; wrong ones are caught; failures end the sweep with their reason.
#include "perf/measure.h"

#include <gtest/gtest.h>

#include <barrier>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>

#include "perf/verifiable.h"

namespace tutti::perf {
namespace {

enum class Fault : unsigned char { none, stale_result, swapped_blocks, lost_rank, fails };

// Memory that the ranks' harnesses share: each publishes its call, all meet, each takes what it
// needs.
struct World {
  explicit World(uint32_t count) : gate(count), calls(count), inputs(count), values(count) {}
  std::barrier<> gate;
  std::vector<Call> calls;
  std::vector<std::vector<unsigned char>> inputs;
  std::vector<std::vector<double>> values;
};

class ThreadHarness final : public Harness {
 public:
  ThreadHarness(World& world, Rank rank, Fault fault) : world_(world), rank_(rank), fault_(fault) {}
  Rank rank() const override { return rank_; }
  uint32_t ranks() const override { return static_cast<uint32_t>(world_.calls.size()); }
  bool supports(const Call&) const override { return true; }
  bool run(const Call& call) override;
  bool barrier() override {
    world_.gate.arrive_and_wait();
    return true;
  }
  std::vector<double> all_gather(const std::vector<double>& mine) override {
    world_.values[rank_] = mine;
    world_.gate.arrive_and_wait();
    std::vector<double> all;
    for (const auto& of_rank : world_.values) all.insert(all.end(), of_rank.begin(), of_rank.end());
    world_.gate.arrive_and_wait();
    return all;
  }
  const std::string& error() const override { return error_; }
  void* allocate(size_t bytes, BufferKind) override { return allocate_pages(bytes); }
  void release(void* memory, size_t bytes, BufferKind) override { release_pages(memory, bytes); }
  std::string path(const Call&) override { return "threads"; }

 private:
  // Elements [first, first + count) of what `peer` sent, to `to`.
  void take(void* to, Rank peer, size_t first, size_t count, DType dtype) const {
    std::memcpy(to, world_.inputs[peer].data() + first * size_of(dtype), count * size_of(dtype));
  }
  // int32 sums are enough to test the loop; the data itself has tests of its own.
  void reduce(int32_t* to, size_t first, size_t count) const {
    std::vector<int32_t> input(count);
    std::fill(to, to + count, 0);
    for (Rank peer = 0; peer < ranks(); ++peer) {
      if (fault_ == Fault::lost_rank && peer == 1) continue;
      take(input.data(), peer, first, count, DType::int32);
      for (size_t i = 0; i < count; ++i) to[i] += input[i];
    }
  }
  size_t send_elements(const Call& call) const;
  void deliver(const Call& call);

  World& world_;
  Rank rank_;
  Fault fault_;
  std::string error_;
};

size_t ThreadHarness::send_elements(const Call& call) const {
  switch (call.collective) {
    case Collective::reduce_scatter:
    case Collective::all_to_all:
    case Collective::all_to_all_v:
      return call.count * ranks();
    case Collective::scatter:
      return rank_ == call.root ? call.count * ranks() : 0;
    case Collective::broadcast:
      return rank_ == call.root ? call.count : 0;
    default:
      return call.count;
  }
}

void ThreadHarness::deliver(const Call& call) {
  const size_t n = call.count;
  auto* recv = static_cast<unsigned char*>(call.recv);
  const size_t block = n * size_of(call.dtype);
  switch (call.collective) {
    case Collective::all_reduce:
      return reduce(static_cast<int32_t*>(call.recv), 0, n);
    case Collective::reduce:
      if (rank_ == call.root) reduce(static_cast<int32_t*>(call.recv), 0, n);
      return;
    case Collective::reduce_scatter:
      return reduce(static_cast<int32_t*>(call.recv), rank_ * n, n);
    case Collective::broadcast:
      return take(recv, call.root, 0, n, call.dtype);
    case Collective::scatter:
      return take(recv, call.root, rank_ * n, n, call.dtype);
    case Collective::send_recv:
      return take(recv, (rank_ + ranks() - 1) % ranks(), 0, n, call.dtype);
    case Collective::gather:
      if (rank_ != call.root) return;
      [[fallthrough]];
    default:
      break;
  }
  const bool exchange =
      call.collective == Collective::all_to_all || call.collective == Collective::all_to_all_v;
  for (Rank peer = 0; peer < ranks(); ++peer) {
    const Rank from = fault_ == Fault::swapped_blocks ? ranks() - 1 - peer : peer;
    take(recv + peer * block, from, exchange ? rank_ * n : 0, n, call.dtype);
  }
}

bool ThreadHarness::run(const Call& call) {
  if (fault_ == Fault::fails) {
    error_ = "broken on purpose";
    return false;
  }
  const auto* send = static_cast<const unsigned char*>(call.send);
  world_.inputs[rank_].assign(send, send + send_elements(call) * size_of(call.dtype));
  world_.gate.arrive_and_wait();
  if (fault_ != Fault::stale_result) deliver(call);
  world_.gate.arrive_and_wait();
  return true;
}

struct Result {
  std::vector<Point> points;  // rank 0's
  std::string error;
};

Result sweep(uint32_t ranks, const SweepOptions& options, Fault fault) {
  World world(ranks);
  Result result;
  std::vector<std::thread> threads;
  for (Rank rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      ThreadHarness harness(world, rank, fault);
      std::vector<Point> points;
      const std::string error =
          run_sweep(harness, options, [&points](const Point& point) { points.push_back(point); });
      if (rank == 0) result = {points, error};
    });
  for (std::thread& thread : threads) thread.join();
  return result;
}

SweepOptions small_sweep(Collective collective) {
  SweepOptions options;
  options.collective = collective;
  options.min_bytes = 64;
  options.max_bytes = 4096;
  options.step_factor = 8;
  options.iterations = 2;
  options.checks = 2;
  options.dtypes = {DType::int32};
  return options;
}

uint64_t wrong_values(const Result& result) {
  uint64_t wrong = 0;
  for (const Point& point : result.points) wrong += point.out_of_place.wrong + point.in_place.wrong;
  return wrong;
}

class MeasureTest : public testing::TestWithParam<Collective> {};

TEST_P(MeasureTest, a_right_library_has_no_wrong_values) {
  for (uint32_t ranks : {1u, 2u, 3u, 5u}) {
    SweepOptions options = small_sweep(GetParam());
    options.misalign = ranks == 3 ? 1 : 0;
    options.roots = {ranks - 1};
    const Result result = sweep(ranks, options, Fault::none);
    EXPECT_EQ(result.error, "");
    ASSERT_EQ(result.points.size(), 3u);
    EXPECT_EQ(wrong_values(result), 0u) << ranks;
    for (const Point& point : result.points) {
      EXPECT_TRUE(point.out_of_place.measured);
      EXPECT_EQ(point.in_place.measured, checks_in_place(GetParam()));
      EXPECT_EQ(point.path, "threads");
    }
  }
}

TEST_P(MeasureTest, a_library_that_does_nothing_is_caught) {
  SweepOptions options = small_sweep(GetParam());
  const Result result = sweep(3, options, Fault::stale_result);
  for (const Point& point : result.points) {
    EXPECT_TRUE(point.count == 0 || point.out_of_place.wrong > 0) << point.bytes;
    if (checks_in_place(GetParam())) {
      EXPECT_TRUE(point.count == 0 || point.in_place.wrong > 0) << point.bytes;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(collectives, MeasureTest,
                         testing::Values(Collective::all_reduce, Collective::reduce_scatter,
                                         Collective::all_gather, Collective::broadcast,
                                         Collective::reduce, Collective::all_to_all,
                                         Collective::all_to_all_v, Collective::gather,
                                         Collective::scatter, Collective::send_recv),
                         [](const testing::TestParamInfo<Collective>& test) {
                           return std::string(name(test.param));
                         });

TEST(Measure, a_lost_contribution_is_caught) {
  for (Collective collective :
       {Collective::all_reduce, Collective::reduce, Collective::reduce_scatter})
    EXPECT_GT(wrong_values(sweep(3, small_sweep(collective), Fault::lost_rank)), 0u);
}

TEST(Measure, swapped_blocks_are_caught) {
  for (Collective collective : {Collective::all_gather, Collective::all_to_all, Collective::gather})
    EXPECT_GT(wrong_values(sweep(3, small_sweep(collective), Fault::swapped_blocks)), 0u);
}

TEST(Measure, a_failure_ends_the_sweep_with_its_reason) {
  const Result result = sweep(2, small_sweep(Collective::all_reduce), Fault::fails);
  EXPECT_EQ(result.error, "broken on purpose");
  EXPECT_TRUE(result.points.empty());
}

TEST(Measure, iterations_are_chosen_and_timed_one_by_one) {
  SweepOptions options = small_sweep(Collective::all_reduce);
  options.iterations = 0;
  options.time_per_size = 0.002;
  options.per_iteration = true;
  const Result result = sweep(2, options, Fault::none);
  ASSERT_EQ(result.points.size(), 3u);
  for (const Point& point : result.points) {
    EXPECT_GE(point.out_of_place.iterations, 3u);
    // A 99th percentile wants more of them than the mean does.
    EXPECT_GT(point.out_of_place.times_us.size(), point.out_of_place.iterations);
    EXPECT_LE(point.out_of_place.per_iteration.p50, point.out_of_place.per_iteration.p99);
    EXPECT_GT(point.out_of_place.microseconds, 0);
  }
}

TEST(Measure, given_iterations_are_timed_as_often_as_asked) {
  SweepOptions options = small_sweep(Collective::all_reduce);
  options.iterations = 7;
  options.per_iteration = true;
  options.per_iteration_skip = 2;
  const Result result = sweep(2, options, Fault::none);
  ASSERT_EQ(result.points.size(), 3u);
  for (const Point& point : result.points) {
    EXPECT_EQ(point.out_of_place.iterations, 7u);
    EXPECT_EQ(point.out_of_place.times_us.size(), 7u);
  }
}

}  // namespace
}  // namespace tutti::perf
