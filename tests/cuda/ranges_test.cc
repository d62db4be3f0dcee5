// Ranks of several processes on one device: calls as ranges of steps with gates between them. The
// fake device runs one grid at a time, so that a grid that waited for another would never end.
#include "src/cuda/ranges.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/cuda/peers.h"

namespace tutti::cuda {
namespace {

// --- how calls are cut

std::vector<std::vector<Range>> of_all_ranks(const PlanPtr& plan, uint32_t rounds) {
  WindowShape shape = k_small;
  shape.ranks = plan->shape().ranks;
  std::vector<std::vector<Range>> all;
  for (Rank r = 0; r < shape.ranks; ++r) {
    Result<std::vector<Range>> ranges = ranges_of(plan, r, shape, rounds);
    EXPECT_TRUE(ranges.ok()) << ranges.status().to_string();
    all.push_back(*ranges);
  }
  return all;
}

TEST(Ranges, FollowEachOtherAndAreAsManyOnEveryRank) {
  for (const char* algorithm : {"direct_one_shot", "direct_two_shot", "ring", "double_binary_tree"})
    for (uint32_t n : {2u, 3u, 8u})
      for (uint32_t rounds : {1u, 2u, 5u}) {
        const auto all = of_all_ranks(all_reduce_plan(algorithm, n, true), rounds);
        for (const auto& ranges : all) {
          ASSERT_EQ(ranges.size(), all[0].size());
          ASSERT_GE(ranges.size(), 2u);
          const uint32_t lanes = all_reduce_plan(algorithm, n, true)->shape().lanes;
          for (uint32_t l = 0; l < lanes; ++l) {
            EXPECT_EQ(ranges[0].part.begin[l], Position{});
            for (size_t i = 1; i < ranges.size(); ++i)
              EXPECT_EQ(ranges[i].part.begin[l], ranges[i - 1].part.end[l]);
          }
        }
      }
}

// A message takes one gate: two ranges for one step of messages (in place tokens make it three),
// three for two steps, one more for each neighbour of a ring; the messages of the next round ride
// along as far as slots go (two deep).
TEST(Ranges, AreAsFewAsMessagesAllow) {
  EXPECT_EQ(of_all_ranks(all_reduce_plan("direct_one_shot", 4, false), 1)[0].size(), 2u);
  EXPECT_EQ(of_all_ranks(all_reduce_plan("direct_one_shot", 4, true), 1)[0].size(), 3u);
  EXPECT_EQ(of_all_ranks(all_reduce_plan("direct_two_shot", 4, true), 1)[0].size(), 3u);
  EXPECT_EQ(of_all_ranks(all_reduce_plan("ring", 4, true), 1)[0].size(), 7u);
  EXPECT_LT(of_all_ranks(all_reduce_plan("direct_one_shot", 4, true), 4)[0].size(), 12u);
}

TEST(Ranges, ABookRepeatsWhatItKnows) {
  WindowShape shape = k_small;
  shape.ranks = 3;
  RangeBook book(all_reduce_plan("direct_two_shot", 3, true), 1, shape);
  const uint32_t rounds = 2 * RangeBook::k_rounds + 3;
  uint32_t count = 0;
  Position at;
  ASSERT_TRUE(book.each(rounds,
                        [&](const Range& range) -> Status {
                          EXPECT_EQ(range.part.begin[0], at);
                          at = range.part.end[0];
                          ++count;
                          return {};
                        })
                  .ok());
  EXPECT_EQ(at, (Position{rounds, 0}));
  EXPECT_EQ(*book.count(rounds), count);
}

// --- worlds

class OneDevice : public testing::TestWithParam<std::pair<uint32_t, uint32_t>> {};

TEST_P(OneDevice, EveryAlgorithmEqualsThePlan) {
  const auto [n, devices] = GetParam();
  Peers peers(n, false, devices);
  peers.make_well();
  std::mt19937 random(n);
  size_t ran = 0;
  for_each_plan(n, random, [&, n = n](const PlanPtr& plan) {
    const uint64_t counts[] = {1, 3, 700, n < 4 ? 4000u : 300u};
    check(peers, plan, counts[random() % 4], static_cast<DType>(random() % k_dtypes),
          static_cast<ReduceOp>(random() % k_reduce_ops));
    ++ran;
  });
  EXPECT_GT(ran, 25u);
  EXPECT_GT(peers.fake.cooperative, static_cast<int>(ran * n));
}
INSTANTIATE_TEST_SUITE_P(Ranks, OneDevice,
                         testing::Values(std::pair{2u, 1u}, std::pair{3u, 1u}, std::pair{4u, 2u},
                                         std::pair{5u, 1u}));

TEST(SharedDevice, GraphsReplayBetweenOtherCalls) {
  Peers peers(3, false, 1);
  peers.make_well();
  const Driver& driver = *peers.fake.driver();
  const PlanPtr plan = all_reduce_plan("direct_two_shot", 3, true);
  const auto buffers = numbers(peers, 5000, [](Rank) { return 1; });
  std::vector<Graph> graphs(3);
  std::vector<GraphExec> execs(3);
  for (Rank r = 0; r < 3; ++r) {
    driver.stream_begin_capture(peers.streams[r], k_capture_relaxed);
    for (size_t count : {5000, 700}) {
      const Status status =
          peers.worlds[r]->launch(sum_in_place(plan, count, buffers[r]), peers.streams[r]);
      ASSERT_TRUE(status.ok()) << status.to_string();
    }
    driver.stream_end_capture(peers.streams[r], &graphs[r]);
    ASSERT_EQ(driver.graph_instantiate(&execs[r], graphs[r], 0), 0);
  }
  for (int replay = 0; replay < 3; ++replay)
    for (Rank r = 0; r < 3; ++r) {
      ASSERT_EQ(driver.graph_launch(execs[r], peers.streams[r]), 0);
      ASSERT_TRUE(
          peers.worlds[r]->launch(sum_in_place(plan, 5000, buffers[r]), peers.streams[r]).ok());
    }
  peers.synchronize();
  for (std::byte* b : buffers) {
    expect_numbers(b, 700, 19683);           // 3^9
    expect_numbers(b + 700 * 4, 4300, 729);  // 3^6
  }
  for (Rank r = 0; r < 3; ++r) driver.graph_exec_destroy(execs[r]), driver.graph_destroy(graphs[r]);
}

TEST(SharedDevice, CallsOnSeveralStreamsKeepTheirOrder) {
  Peers peers(2, false, 1);
  call_on_two_streams(peers);
}

// Ranks 0 and 1 wait for rank 2. One gives up; the other sees it, though it waits for a third.
TEST(SharedDevice, AbortEndsTheWaitsOfStreams) {
  Peers peers(3, false, 1);
  peers.make_well();
  const auto buffers = numbers(peers, 100, [](Rank) { return 1; });
  const PlanPtr plan = all_reduce_plan("direct_two_shot", 3, true);
  for (int call = 0; call < 3; ++call)  // waits of later calls end as well
    for (Rank r = 0; r < 2; ++r)
      ASSERT_TRUE(
          peers.worlds[r]->launch(sum_in_place(plan, 100, buffers[r]), peers.streams[r]).ok());
  for (Rank r = 0; r < 2; ++r) {
    std::optional<Rank> awaited;
    while (awaited != std::optional<Rank>(2)) awaited = peers.worlds[r]->take_awaited();
    EXPECT_FALSE(peers.passed(r));
    EXPECT_TRUE(peers.worlds[r]->error().ok());
    EXPECT_FALSE(peers.worlds[r]->needs_tending());
  }
  peers.worlds[0]->abort();
  peers.pass_all();
  EXPECT_TRUE(peers.worlds[0]->error().ok()) << "its own abort is no error";
  EXPECT_EQ(peers.worlds[1]->error().code(), Code::remote_error);
  EXPECT_NE(peers.worlds[1]->error().message().find("rank 0 left"), std::string::npos)
      << peers.worlds[1]->error().message();
}

// Whatever the calls are: other sizes (another number of gates), another plan, another operator.
TEST(SharedDevice, CallsThatDifferNameThePeer) {
  for (int difference = 0; difference < 3; ++difference) {
    Peers peers(2, false, 1);
    peers.make_well();
    const auto buffers = numbers(peers, 100000, [](Rank) { return 1; });
    for (Rank r = 0; r < 2; ++r) {
      const bool other = r == 1;
      const PlanPtr plan =
          all_reduce_plan(other && difference == 1 ? "ring" : "direct_two_shot", 2, true);
      PeerWorld::Call call = sum_in_place(plan, other && difference == 0 ? 100000 : 10, buffers[r]);
      call.signature = 7 + r;
      ASSERT_TRUE(peers.worlds[r]->launch(call, peers.streams[r]).ok());
    }
    peers.pass_all();
    for (Rank r = 0; r < 2; ++r) {
      const Status status = peers.worlds[r]->error();
      EXPECT_EQ(status.code(), Code::invalid_usage);
      EXPECT_NE(status.message().find("rank " + std::to_string(1 - r) + " made different calls"),
                std::string::npos)
          << status.message();
    }
  }
}

TEST(SharedDevice, AFailureReachesEveryRank) {
  for (const char* function : {"cuMemHostRegister", "cuMemHostAlloc", "cuIpcOpenMemHandle"}) {
    Peers peers(3, false, 1);
    peers.fake.fail(function, k_out_of_memory);
    for (const Status& status : peers.make()) {
      EXPECT_EQ(status.code(), Code::unsupported) << function;
      EXPECT_NE(status.message().find(function), std::string::npos) << status.message();
    }
    peers.make_well();
    peers.worlds.clear();
    EXPECT_EQ(peers.fake.registered, 0);
  }
  Peers peers(3, false, 1);
  peers.hide_page = 1;
  for (const Status& status : peers.make()) {
    EXPECT_EQ(status.code(), Code::unsupported);
    EXPECT_NE(status.message().find("no memory is shared with rank 1"), std::string::npos)
        << status.message();
  }
}

// A call of which only a part could be enqueued: the others do not wait for the rest.
TEST(SharedDevice, AHalfEnqueuedCallIsGivenUp) {
  Peers peers(2, false, 1);
  peers.make_well();
  const auto buffers = numbers(peers, 100, [](Rank) { return 1; });
  const PlanPtr plan = all_reduce_plan("direct_two_shot", 2, true);
  const auto launch = [&](Rank r) {
    return peers.worlds[r]->launch(sum_in_place(plan, 100, buffers[r]), peers.streams[r]);
  };
  peers.fake.fail("cuLaunchCooperativeKernel", k_too_large);
  EXPECT_EQ(launch(0).code(), Code::device_error) << "nothing was enqueued";
  for (Rank r = 0; r < 2; ++r) ASSERT_TRUE(launch(r).ok());
  peers.synchronize();
  expect_numbers(buffers[0], 100, 2);

  ASSERT_TRUE(launch(1).ok());
  peers.fake.fail("cuStreamBatchMemOp", k_too_large);
  for (int call = 0; call < 2; ++call) {
    const Status status = launch(0);
    EXPECT_EQ(status.code(), Code::device_error);
    EXPECT_NE(status.message().find("cuStreamBatchMemOp"), std::string::npos) << status.message();
  }
  peers.pass_all();
  EXPECT_EQ(peers.worlds[1]->error().code(), Code::remote_error);
  EXPECT_NE(peers.worlds[1]->error().message().find("rank 0 left"), std::string::npos)
      << peers.worlds[1]->error().message();
}

// Ranks of one process on one device stay where they are.
TEST(SharedDevice, OfOneProcessIsAnObstacle) {
  std::vector<PeerWorld::Member> members(2);
  for (auto& m : members) m.blocks = 4;
  EXPECT_EQ(PeerWorld::obstacle(members), "rank 0 and rank 1 of one process share a device");
  members[1].process = 1;
  EXPECT_EQ(PeerWorld::obstacle(members), "");
  EXPECT_EQ(PeerWorld::sharing(members), (std::pair<Rank, Rank>{0, 1}));
}

}  // namespace
}  // namespace tutti::cuda
