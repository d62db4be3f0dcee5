// Ranks with a device each: windows exchanged through CUDA IPC, one grid per rank. Every rank has a
// runtime of its own over the fake driver, so that to each other they are other processes, and
// windows lie at other addresses than their owners see.
#include "src/cuda/peer_world.h"

#include <gtest/gtest.h>

#include <barrier>
#include <chrono>
#include <thread>

#include "src/algorithms/algorithms.h"
#include "tests/cuda/fake_cuda.h"
#include "tests/cuda/oracle.h"

namespace tutti::cuda {
namespace {

constexpr WindowShape k_small{1, 4, 3, 2, 512, 1024};

class Peers {
 public:
  explicit Peers(uint32_t n, bool one_process = false) : fake(static_cast<int>(n)), barrier_(n) {
    fake.multiprocessors = 16;
    for (uint32_t r = 0; r < n; ++r) {
      runtimes_.push_back(one_process && r > 0 ? runtimes_[0] : fake.runtime());
      devices_.push_back(*runtimes_[r]->device(static_cast<int>(r)));
      streams.push_back(fake.stream(static_cast<int>(r)));
    }
    all_.resize(n);
  }
  ~Peers() {
    if (testing::Test::HasFailure())  // whatever still waits for another
      for (auto& world : worlds)
        if (world != nullptr) world->abort();
    for (Stream s : streams) fake.synchronize(s);
    worlds.clear();
  }

  uint32_t ranks() const { return static_cast<uint32_t>(streams.size()); }
  // What every rank is told.
  std::vector<Status> make(const WindowShape& shape = k_small) {
    std::vector<Status> told(ranks());
    worlds.clear();
    worlds.resize(ranks());
    fake.shared_memory = true;  // windows; a file each
    std::vector<std::thread> threads;
    for (Rank r = 0; r < ranks(); ++r)
      threads.emplace_back([&, r] {
        const auto gather = [&](const void* mine, void* all, size_t bytes) {
          return this->gather(r, mine, all, bytes);
        };
        const auto mine = PeerWorld::describe(*runtimes_[r], *devices_[r], 1, 0);
        std::vector<PeerWorld::Member> members(ranks());
        static_cast<void>(gather(&mine, members.data(), sizeof mine));
        EXPECT_EQ(PeerWorld::obstacle(members), "");
        auto made = PeerWorld::make(*runtimes_[r], *devices_[r], r, members, shape, gather);
        told[r] = made.status();
        if (made) worlds[r] = std::move(*made);
      });
    for (std::thread& t : threads) t.join();
    fake.shared_memory = false;
    return told;
  }
  void make_well() {
    for (const Status& status : make()) ASSERT_TRUE(status.ok()) << status.to_string();
  }
  Runtime& runtime(Rank r) { return *runtimes_[r]; }

  std::byte* upload(Rank r, const Bytes& bytes) {
    std::byte* p = fake.allocate(bytes.size() + 1, static_cast<int>(r));
    if (!bytes.empty()) std::memcpy(p, bytes.data(), bytes.size());
    return p;
  }
  void synchronize() {
    for (Stream s : streams) fake.synchronize(s);
  }

  FakeCuda fake;
  std::vector<Stream> streams;
  std::vector<std::unique_ptr<PeerWorld>> worlds;

 private:
  Status gather(Rank r, const void* mine, void* all, size_t bytes) {
    all_[r].assign(static_cast<const std::byte*>(mine),
                   static_cast<const std::byte*>(mine) + bytes);
    barrier_.arrive_and_wait();
    for (Rank from = 0; from < ranks(); ++from)
      std::memcpy(static_cast<std::byte*>(all) + from * bytes, all_[from].data(), bytes);
    barrier_.arrive_and_wait();
    return {};
  }

  std::vector<std::shared_ptr<Runtime>> runtimes_;
  std::vector<Device*> devices_;
  std::barrier<> barrier_;
  std::vector<Bytes> all_;
};

PlanPtr all_reduce_plan(const char* algorithm, uint32_t n, bool in_place) {
  PlanRequest request;
  request.ranks = n;
  request.in_place = in_place;
  return *make_plan(algorithm, request);
}

// Buffers of `count` int32 in place, all of them `value` of the rank.
std::vector<std::byte*> numbers(Peers& peers, size_t count,
                                const std::function<uint32_t(Rank)>& value) {
  std::vector<std::byte*> buffers;
  for (Rank r = 0; r < peers.ranks(); ++r) {
    Bytes bytes(count * 4);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t v = value(r);
      std::memcpy(&bytes[4 * i], &v, 4);
    }
    buffers.push_back(peers.upload(r, bytes));
  }
  return buffers;
}
void expect_numbers(const std::byte* buffer, size_t count, uint32_t value) {
  for (size_t i = 0; i < count; ++i) {
    uint32_t got = 0;
    std::memcpy(&got, buffer + 4 * i, 4);
    ASSERT_EQ(got, value) << "element " << i;
  }
}
PeerWorld::Call sum_in_place(const PlanPtr& plan, size_t count, std::byte* buffer) {
  return {plan, count, DType::int32, ReduceOp::sum, buffer, buffer, 1, {}};
}

void check(Peers& peers, const PlanPtr& plan, uint64_t count, DType dtype, ReduceOp op) {
  const Shape& shape = plan->shape();
  const uint32_t n = shape.ranks;
  const size_t block = count * size_of(dtype);
  const auto cut = peers.worlds[0]->cut(plan, count, dtype);
  if (cut.status().code() == Code::unsupported) return;
  ASSERT_TRUE(cut.ok()) << cut.status().to_string();
  std::vector<Bytes> inputs;
  std::vector<std::byte*> outputs;
  std::vector<PeerWorld::Call> calls;
  for (Rank r = 0; r < n; ++r) {
    inputs.push_back(random_elements(dtype, input_blocks(shape.collective, n) * count, 5 * r + 3));
    Memory m = lay_out(shape.collective, shape.in_place, r, n, block, inputs[r]);
    std::byte* recv = peers.upload(r, m.recv);
    std::byte* send = m.send.empty() ? recv + (m.input - m.recv.data()) : peers.upload(r, m.send);
    outputs.push_back(recv + (m.output - m.recv.data()));
    calls.push_back({plan, count, dtype, op, send, outputs[r], 42, factor_of(op, dtype, r)});
    const Status status = peers.worlds[r]->prepare(plan);
    if (status.code() == Code::unsupported) return;
    ASSERT_TRUE(status.ok()) << status.to_string();
  }
  for (Rank r = 0; r < n; ++r) {
    const Status status = peers.worlds[r]->launch(calls[r], peers.streams[r]);
    ASSERT_TRUE(status.ok()) << status.to_string();
  }
  peers.synchronize();
  const std::vector<Bytes> want = expected(*plan, dtype, op, cut->layout, inputs, block);
  for (Rank r = 0; r < n; ++r) {
    ASSERT_TRUE(peers.worlds[r]->error().ok());
    if (shape.output_chunks(r) == 0) continue;
    ASSERT_EQ(std::memcmp(outputs[r], want[r].data(), want[r].size()), 0)
        << plan->algorithm() << " " << name(shape.collective) << " rank " << r << " of " << n
        << " in place " << shape.in_place << ", " << count << " " << name(dtype) << " " << name(op)
        << " wire " << static_cast<int>(cut->wire) << " workers " << cut->workers << " rounds "
        << cut->layout.rounds();
  }
}

class PeerWorlds : public testing::TestWithParam<uint32_t> {};

TEST_P(PeerWorlds, EveryAlgorithmEqualsThePlan) {
  const uint32_t n = GetParam();
  Peers peers(n);
  peers.make_well();
  std::mt19937 random(n);
  for (const Algorithm& algorithm : algorithms())
    for (int c = 0; c < k_collectives; ++c)
      for (bool in_place : {false, true}) {
        PlanRequest request;
        request.collective = static_cast<Collective>(c);
        request.ranks = n;
        request.root = random() % n;
        request.in_place = in_place;
        request.hierarchy = Hierarchy::even(n, {n > 4 ? 4u : 2u});
        const bool by_pairs = request.collective == Collective::all_to_all_v ||
                              request.collective == Collective::send_recv;
        if (by_pairs || !algorithm.supports(request).ok()) continue;
        const PlanPtr plan = algorithm.make(request);
        for (uint64_t count : {3u, 4000u}) {
          check(peers, plan, count, static_cast<DType>(random() % k_dtypes),
                static_cast<ReduceOp>(random() % k_reduce_ops));
          if (HasFatalFailure()) return;
        }
      }
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
  peers.make_well();
  const PlanPtr plan = all_reduce_plan("direct_two_shot", 2, true);
  const auto buffers = numbers(peers, 3000, [](Rank) { return 1; });
  std::vector<Stream> second = {peers.fake.stream(0), peers.fake.stream(1)};
  for (int turn = 0; turn < 6; ++turn)
    for (Rank r = 0; r < 2; ++r) {
      const Stream stream = turn % 2 == 0 ? peers.streams[r] : second[r];
      if (turn == static_cast<int>(r))
        peers.fake.driver()->launch_host(
            stream, [](void*) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); },
            nullptr);
      ASSERT_TRUE(peers.worlds[r]->launch(sum_in_place(plan, 3000, buffers[r]), stream).ok());
    }
  for (Stream s : second) peers.fake.synchronize(s);
  peers.synchronize();
  for (std::byte* b : buffers) expect_numbers(b, 3000, 64);
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
  EXPECT_EQ(PeerWorld::obstacle(members), "rank 1 and rank 2 share a device");
  members[2].blocks = 0;
  EXPECT_NE(PeerWorld::obstacle(members).find("rank 2"), std::string::npos);
  members[1].host = 5;
  EXPECT_NE(PeerWorld::obstacle(members).find("different hosts"), std::string::npos);
  EXPECT_NE(PeerWorld::obstacle(std::vector<PeerWorld::Member>(65)).find("65 ranks"),
            std::string::npos);
}

}  // namespace
}  // namespace tutti::cuda
