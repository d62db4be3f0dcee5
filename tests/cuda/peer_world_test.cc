// Ranks with a device each: windows exchanged through CUDA IPC, one grid per rank.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/cuda/peers.h"

namespace tutti::cuda {
namespace {

class PeerWorlds : public testing::TestWithParam<uint32_t> {};

TEST_P(PeerWorlds, EveryAlgorithmEqualsThePlan) {
  const uint32_t n = GetParam();
  Peers peers(n);
  peers.make_well();
  std::mt19937 random(n);
  for_each_plan(n, random, [&](const PlanPtr& plan) {
    for (uint64_t count : {3u, 4000u}) {
      check(peers, plan, count, static_cast<DType>(random() % k_dtypes),
            static_cast<ReduceOp>(random() % k_reduce_ops));
      if (HasFatalFailure()) return;
    }
  });
  EXPECT_GT(peers.fake.cooperative, 50);
  EXPECT_EQ(peers.fake.mappings, static_cast<int>(n * (n - 1)));
}
INSTANTIATE_TEST_SUITE_P(Ranks, PeerWorlds, testing::Values(2, 3, 4, 5, 6, 7, 8));

TEST(PeerWorldTest, GraphsReplay) {
  Peers peers(3);
  peers.make_well();
  const Driver& driver = *peers.fake.driver();
  const PlanPtr plan = all_reduce_plan("direct_two_shot", 3, true);
  const auto buffers = numbers(peers, 5000, [](Rank) { return 1; });
  std::vector<Graph> graphs(3);
  std::vector<GraphExec> execs(3);
  for (Rank r = 0; r < 3; ++r) {  // the first call of all: also what it prepares may be captured
    driver.stream_begin_capture(peers.streams[r], k_capture_relaxed);
    const Status status =
        peers.worlds[r]->launch(sum_in_place(plan, 5000, buffers[r]), peers.streams[r]);
    ASSERT_TRUE(status.ok()) << status.to_string();
    driver.stream_end_capture(peers.streams[r], &graphs[r]);
    ASSERT_EQ(driver.graph_instantiate(&execs[r], graphs[r], 0), 0);
  }
  for (int replay = 0; replay < 4; ++replay)
    for (Rank r = 0; r < 3; ++r) ASSERT_EQ(driver.graph_launch(execs[r], peers.streams[r]), 0);
  peers.synchronize();
  for (std::byte* b : buffers) expect_numbers(b, 5000, 81);
  for (Rank r = 0; r < 3; ++r) driver.graph_exec_destroy(execs[r]), driver.graph_destroy(graphs[r]);
}

// One call after the other, though their streams know nothing of each other.
TEST(PeerWorldTest, CallsOnSeveralStreamsKeepTheirOrder) {
  Peers peers(2);
  call_on_two_streams(peers);
}

// The grids of ranks 0 and 1 wait for rank 2. One is told to leave, and takes along who waits for
// it: around a ring, rank 1 waits for rank 0. (In two shots a block of one thread looks at one peer
// at a time.)
TEST(PeerWorldTest, AbortEndsGridsThatWait) {
  for (size_t count : {30, 100000})  // packets, slots
    for (const char* algorithm : {"direct_two_shot", "ring"}) {
      Peers peers(3);
      peers.make_well();
      const auto buffers = numbers(peers, count, [](Rank) { return 1; });
      const PlanPtr plan = all_reduce_plan(algorithm, 3, true);
      for (Rank r = 0; r < 2; ++r)
        ASSERT_TRUE(
            peers.worlds[r]->launch(sum_in_place(plan, count, buffers[r]), peers.streams[r]).ok());
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      EXPECT_EQ(peers.fake.driver()->stream_query(peers.streams[0]), k_not_ready);
      peers.worlds[0]->abort();
      peers.fake.synchronize(peers.streams[0]);
      EXPECT_TRUE(peers.worlds[0]->error().ok()) << "its own abort is no error";
      const bool waits_for_0 = algorithm == std::string("ring");
      if (!waits_for_0) peers.worlds[1]->abort();
      peers.synchronize();
      if (!waits_for_0) continue;
      EXPECT_EQ(peers.worlds[1]->error().code(), Code::remote_error);
      EXPECT_NE(peers.worlds[1]->error().message().find("rank 0 left"), std::string::npos)
          << peers.worlds[1]->error().message();
    }
}

TEST(PeerWorldTest, CallsThatDifferNameThePeer) {
  for (size_t other : {11, 100000}) {  // the same wire, another one
    Peers peers(2);
    peers.make_well();
    const PlanPtr plan = all_reduce_plan("direct_two_shot", 2, true);
    const auto buffers = numbers(peers, 100000, [](Rank) { return 1; });
    for (Rank r = 0; r < 2; ++r) {
      PeerWorld::Call call = sum_in_place(plan, r == 0 ? 10 : other, buffers[r]);
      call.signature = 7 + r;
      ASSERT_TRUE(peers.worlds[r]->launch(call, peers.streams[r]).ok());
    }
    peers.synchronize();
    for (Rank r = 0; r < 2; ++r) {
      const Status status = peers.worlds[r]->error();
      EXPECT_EQ(status.code(), Code::invalid_usage);
      EXPECT_NE(status.message().find("rank " + std::to_string(1 - r) + " made different calls"),
                std::string::npos)
          << status.message();
      EXPECT_FALSE(
          peers.worlds[r]->launch(sum_in_place(plan, 10, buffers[r]), peers.streams[r]).ok());
    }
  }
}

// Whatever fails on one rank, all are told alike, and the next try works.
TEST(PeerWorldTest, AFailureReachesEveryRank) {
  for (const char* function : {"cuMemAlloc", "cuMemHostAlloc", "cuEventCreate", "cuIpcGetMemHandle",
                               "cuIpcOpenMemHandle", "cuModuleLoadDataEx", "cuModuleGetFunction"}) {
    Peers peers(3);
    peers.fake.fail(function, k_out_of_memory);
    for (const Status& status : peers.make()) {
      EXPECT_EQ(status.code(), Code::unsupported) << function;
      EXPECT_NE(status.message().find(function), std::string::npos) << status.message();
      EXPECT_EQ(status.message().rfind("rank ", 0), 0u) << status.message();
    }
    peers.make_well();
  }
}

TEST(PeerWorldTest, AFailedLaunchSaysSo) {
  Peers peers(2);
  peers.make_well();
  const auto buffers = numbers(peers, 10, [](Rank) { return 1; });
  const PlanPtr plan = all_reduce_plan("direct_one_shot", 2, true);
  for (const char* function :
       {"cuMemcpyHtoDAsync", "cuStreamIsCapturing", "cuLaunchCooperativeKernel"}) {
    peers.fake.fail(function, k_too_large);
    const Status status =
        peers.worlds[0]->launch(sum_in_place(plan, 10, buffers[0]), peers.streams[0]);
    EXPECT_EQ(status.code(), Code::device_error);
    EXPECT_NE(status.message().find(function), std::string::npos) << status.message();
  }
  for (Rank r = 0; r < 2; ++r)
    ASSERT_TRUE(peers.worlds[r]->launch(sum_in_place(plan, 10, buffers[r]), peers.streams[r]).ok());
  peers.synchronize();
  expect_numbers(buffers[1], 10, 2);
}

TEST(PeerWorldTest, RanksOfOneProcessNeedNoIpc) {
  {
    Peers peers(3, true);
    peers.make_well();
    EXPECT_EQ(peers.fake.mappings, 0);
    check(peers, all_reduce_plan("direct_two_shot", 3, false), 5000, DType::float32, ReduceOp::sum);
  }
  Peers apart(2, true);
  apart.fake.peers_reach = false;
  for (const Status& status : apart.make())
    EXPECT_NE(status.message().find("cannot reach the memory"), std::string::npos)
        << status.message();
}

TEST(PeerWorldTest, WindowsAreUsedAgain) {
  Peers peers(2);
  const PlanPtr plan = all_reduce_plan("direct_two_shot", 2, true);
  for (int life = 0; life < 3; ++life) {
    peers.make_well();
    const auto buffers = numbers(peers, 2000, [](Rank) { return 1; });
    for (int call = 0; call < 3; ++call)
      for (Rank r = 0; r < 2; ++r)
        ASSERT_TRUE(
            peers.worlds[r]->launch(sum_in_place(plan, 2000, buffers[r]), peers.streams[r]).ok());
    peers.synchronize();
    expect_numbers(buffers[0], 2000, 8);
  }
  EXPECT_EQ(peers.fake.calls("cuIpcGetMemHandle"), 2);
  EXPECT_EQ(peers.fake.mappings, 2);
  // Where a grid was told to leave, a peer may write late: that window is not.
  peers.worlds[0]->abort();
  peers.make_well();
  EXPECT_EQ(peers.fake.calls("cuIpcGetMemHandle"), 3);
}

TEST(PeerWorldTest, ObstaclesAreTheSameForAll) {
  std::vector<PeerWorld::Member> members(3);
  for (int r = 0; r < 3; ++r) {
    members[static_cast<size_t>(r)].blocks = 4;
    members[static_cast<size_t>(r)].uuid.bytes[0] = static_cast<char>(r);
  }
  EXPECT_EQ(PeerWorld::obstacle(members), "");
  members[2].uuid = members[1].uuid;
  EXPECT_EQ(PeerWorld::obstacle(members), "rank 1 and rank 2 of one process share a device");
  members[2].blocks = 0;
  EXPECT_NE(PeerWorld::obstacle(members).find("rank 2"), std::string::npos);
  members[2].blocks = 4;
  members[1].process = 1;
  EXPECT_EQ(PeerWorld::obstacle(members), "");
  members[0].host = 5;
  EXPECT_EQ(PeerWorld::obstacle(members),
            "rank 1 and rank 2 share a device, and others are on other hosts");
  EXPECT_NE(PeerWorld::obstacle(std::vector<PeerWorld::Member>(65)).find("65 ranks"),
            std::string::npos);
}

}  // namespace
}  // namespace tutti::cuda
