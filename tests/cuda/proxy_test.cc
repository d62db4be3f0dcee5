// Ranks on several hosts: kernels write into mirrors of their peers' windows, and proxies move what
// they write. "Hosts" are what ranks say of themselves; between them lies a transport.
#include "src/cuda/proxy.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/cuda/peers.h"

namespace tutti::cuda {
namespace {

struct World {
  uint32_t ranks, hosts;
  const char* network = "local";
  const char* fault = "";
};
void PrintTo(const World& w, std::ostream* out) {
  *out << w.ranks << " ranks on " << w.hosts << " hosts over " << w.network << " " << w.fault;
}

class SeveralHosts : public testing::TestWithParam<World> {};

TEST_P(SeveralHosts, EveryAlgorithmEqualsThePlan) {
  const World world = GetParam();
  Peers peers(world.ranks, false, 0, world.hosts);
  peers.network = world.network;
  peers.fault = world.fault;
  peers.make_well();
  std::mt19937 random(world.ranks);
  size_t ran = 0;
  for_each_plan(world.ranks, random, [&](const PlanPtr& plan) {
    const uint64_t counts[] = {3, 300, 1500};  // packets, slots, several rounds of slots
    check(peers, plan, counts[random() % 3], static_cast<DType>(random() % k_dtypes),
          static_cast<ReduceOp>(random() % k_reduce_ops));
    ++ran;
  });
  EXPECT_GT(ran, 25u);
  const uint32_t each = world.ranks / world.hosts;
  EXPECT_EQ(peers.fake.mappings, static_cast<int>(world.ranks * (each - 1)));
}
INSTANTIATE_TEST_SUITE_P(Worlds, SeveralHosts,
                         testing::Values(World{2, 2}, World{4, 2}, World{4, 4}, World{4, 2, "tcp"},
                                         World{4, 2, "local", "delay:us=200;reorder:window=4"},
                                         World{3, 3, "tcp", "again:percent=30;seed=3"}));

// Far more rounds than slots, on several lanes and workers; both protocols by name.
TEST(Proxies, LargeCallsTakeManyRounds) {
  Peers peers(4, false, 0, 2);
  peers.make_well();
  for (const char* algorithm : {"direct_two_shot", "ring", "double_binary_tree"})
    for (const Wire wire : {Wire::packets, Wire::slots}) {
      const PlanPtr plan = all_reduce_plan(algorithm, 4, true);
      const auto buffers = numbers(peers, 30000, [](Rank r) { return r + 1; });
      for (Rank r = 0; r < 4; ++r) {
        PeerWorld::Call call = sum_in_place(plan, 30000, buffers[r]);
        call.wire = wire;
        const Status status = peers.worlds[r]->launch(call, peers.streams[r]);
        if (status.code() == Code::unsupported) break;  // packets of several lanes: no rank
        ASSERT_TRUE(status.ok()) << status.to_string();
      }
      peers.synchronize();
      const bool ran = wire == Wire::slots || plan->shape().lanes == 1;
      for (std::byte* b : buffers)
        if (ran) expect_numbers(b, 30000, 10);
    }
}

TEST(Proxies, GraphsReplayBetweenOtherCalls) {
  Peers peers(4, false, 0, 2);
  peers.make_well();
  const Driver& driver = *peers.fake.driver();
  const PlanPtr plan = all_reduce_plan("ring", 4, true);
  const auto buffers = numbers(peers, 3000, [](Rank) { return 1; });
  const auto launch = [&](Rank r) {
    return peers.worlds[r]->launch(sum_in_place(plan, 3000, buffers[r]), peers.streams[r]);
  };
  std::vector<Graph> graphs(4);
  std::vector<GraphExec> execs(4);
  for (Rank r = 0; r < 4; ++r) {
    driver.stream_begin_capture(peers.streams[r], k_capture_relaxed);
    ASSERT_TRUE(launch(r).ok());
    driver.stream_end_capture(peers.streams[r], &graphs[r]);
    ASSERT_EQ(driver.graph_instantiate(&execs[r], graphs[r], 0), 0);
  }
  for (int replay = 0; replay < 3; ++replay)
    for (Rank r = 0; r < 4; ++r) ASSERT_EQ(driver.graph_launch(execs[r], peers.streams[r]), 0);
  for (Rank r = 0; r < 4; ++r) ASSERT_TRUE(launch(r).ok());
  for (Rank r = 0; r < 4; ++r) ASSERT_EQ(driver.graph_launch(execs[r], peers.streams[r]), 0);
  peers.synchronize();
  for (std::byte* b : buffers) expect_numbers(b, 3000, 4 * 4 * 4 * 4 * 4);
  for (Rank r = 0; r < 4; ++r) driver.graph_exec_destroy(execs[r]), driver.graph_destroy(graphs[r]);
}

TEST(Proxies, CallsOnSeveralStreamsKeepTheirOrder) {
  Peers peers(2, false, 0, 2);
  call_on_two_streams(peers);
}

TEST(Proxies, TwoWorldsAtOnce) {
  Peers one(4, false, 0, 2);
  one.make_well();
  std::vector<std::unique_ptr<PeerWorld>> first;
  std::vector<std::unique_ptr<Relay>> relays;
  first.swap(one.worlds);
  relays.swap(one.relays);
  one.make_well();
  std::vector<Stream> others;
  for (Rank r = 0; r < 4; ++r) others.push_back(one.fake.stream(one.ordinal(r)));
  const auto a = numbers(one, 3000, [](Rank r) { return r; });
  const auto b = numbers(one, 3000, [](Rank r) { return 10 * r; });
  const PlanPtr in_place = all_reduce_plan("direct_two_shot", 4, true);
  for (Rank r = 0; r < 4; ++r) {
    ASSERT_TRUE(first[r]->launch(sum_in_place(in_place, 3000, a[r]), one.streams[r]).ok());
    const Rank other = 3 - r;
    ASSERT_TRUE(
        one.worlds[other]->launch(sum_in_place(in_place, 3000, b[other]), others[other]).ok());
  }
  one.synchronize();
  for (Stream s : others) one.fake.synchronize(s);
  expect_numbers(a[3], 3000, 6);
  expect_numbers(b[0], 3000, 60);
  relays.clear();
  first.clear();
}

// Around a ring rank 2 waits for rank 1 on the other host, and that one for rank 0, which is
// missing.
TEST(Proxies, AbortCrossesHosts) {
  for (size_t count : {30, 20000}) {  // packets, slots
    Peers peers(4, false, 0, 2);
    peers.make_well();
    const auto buffers = numbers(peers, count, [](Rank) { return 1; });
    const PlanPtr plan = all_reduce_plan("ring", 4, true);
    for (Rank r : {1u, 2u})
      ASSERT_TRUE(
          peers.worlds[r]->launch(sum_in_place(plan, count, buffers[r]), peers.streams[r]).ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(peers.passed(2));
    peers.worlds[1]->abort();
    peers.synchronize();
    EXPECT_TRUE(peers.worlds[1]->error().ok()) << "its own abort is no error";
    EXPECT_EQ(peers.worlds[2]->error().code(), Code::remote_error);
    EXPECT_NE(peers.worlds[2]->error().message().find("rank 1 left"), std::string::npos)
        << peers.worlds[2]->error().message();
  }
}

TEST(Proxies, CallsThatDifferNameThePeer) {
  for (size_t other : {11, 100000}) {  // the same wire, another one
    Peers peers(2, false, 0, 2);
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
    }
  }
}

// Whoever cannot pin its mirrors, all are told alike; and the next try works.
TEST(Proxies, MemoryThatCannotBePinnedIsEveryRanksReason) {
  Peers peers(4, false, 0, 2);
  // Every rank takes a page for control and then its mirrors: the last one of all has none.
  peers.fake.fail("cuMemHostAlloc", k_out_of_memory, 1, 7);
  for (const Status& status : peers.make()) {
    EXPECT_EQ(status.code(), Code::unsupported);
    EXPECT_NE(status.message().find("pinned memory for 2 ranks on other hosts: cuMemHostAlloc"),
              std::string::npos)
        << status.message();
  }
  peers.make_well();
  check(peers, all_reduce_plan("ring", 4, false), 500, DType::float32, ReduceOp::sum);
}

// The connection breaks while a kernel waits: the proxy says why, of that peer alone.
TEST(Proxies, ABrokenConnectionIsToldOfThatPeer) {
  Peers peers(3, false, 0, 3);
  peers.fault = "reset:after=6,rank=0,peer=2";
  peers.make_well();
  const PlanPtr plan = all_reduce_plan("direct_two_shot", 3, true);
  const auto buffers = numbers(peers, 100, [](Rank) { return 1; });
  const auto failed = [&] { return !peers.relays[0]->proxy().status(2).ok(); };
  for (int call = 0; call < 10 && !failed(); ++call) {
    for (Rank r = 0; r < 3; ++r)
      ASSERT_TRUE(
          peers.worlds[r]->launch(sum_in_place(plan, 100, buffers[r]), peers.streams[r]).ok());
    const auto all_passed = [&] { return peers.passed(0) && peers.passed(1) && peers.passed(2); };
    while (!all_passed() && !failed()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_TRUE(failed());
  EXPECT_TRUE(peers.relays[0]->proxy().status(1).ok());
  for (auto& world : peers.worlds) world->abort();
  peers.synchronize();
}

// --- one proxy, and a peer that sends what it likes

class Stranger {
 public:
  Stranger() : fake_(2), runtime_(fake_.runtime()) {
    mirrors_ = *Mirrors::make(*runtime_, **runtime_->device(0), k_small, {false, true});
    mirrors_->use(1, 1);
    std::vector<std::string> cards;
    for (Rank r = 0; r < 2; ++r) {
      TransportOptions options;
      options.rank = r;
      options.ranks = 2;
      options.job = "stranger";
      options.key.assign(32, std::byte{7});
      transports_.push_back(*make_transport("local", options, ""));
      cards.push_back(transports_[r]->card());
    }
    std::thread other([&] { connect(1, cards); });
    connect(0, cards);
    other.join();
    std::vector<std::unique_ptr<Transport>> of_proxy;
    of_proxy.push_back(std::move(transports_[0]));
    router_ =
        std::make_unique<Router>(0, std::move(of_proxy), std::vector<uint8_t>(2), size_t{4096});
    proxy_ = std::make_unique<Proxy>(*router_, *mirrors_);
    EXPECT_TRUE(proxy_->open().ok());
    endpoint_ = *transports_[1]->open(0, Proxy::k_lane, Proxy::endpoint_options(k_small));
  }

  // What the proxy says of the peer after this message.
  Status send(const std::vector<uint64_t>& words, uint64_t signature = Proxy::k_signature) {
    const iovec piece{const_cast<uint64_t*>(words.data()), words.size() * sizeof(uint64_t)};
    EXPECT_EQ(endpoint_->send(signature, {&piece, 1}), Io::done);
    EXPECT_TRUE(proxy_->turn());
    return proxy_->status(1);
  }
  const Inbox& inbox() const {
    return *reinterpret_cast<const Inbox*>(mirrors_->all()[1].here + mirrors_->shape().inbox(0, 0));
  }

 private:
  void connect(Rank r, const std::vector<std::string>& cards) {
    EXPECT_TRUE(transports_[r]->connect(cards, Clock::now() + std::chrono::seconds(30)).ok());
  }

  FakeCuda fake_;
  std::shared_ptr<Runtime> runtime_;
  std::unique_ptr<Mirrors> mirrors_;
  std::vector<std::unique_ptr<Transport>> transports_;
  std::unique_ptr<Router> router_;
  std::unique_ptr<Proxy> proxy_;
  Endpoint* endpoint_ = nullptr;
};

// kind, lane, worker, bytes
constexpr uint64_t note(uint64_t kind, uint64_t lane, uint64_t worker, uint64_t bytes) {
  return kind | lane << 8 | worker << 16 | bytes << 32;
}
constexpr uint64_t k_token = 1, k_slot = 4, k_packets = 5, k_first_tag = uint64_t{1} << 32;

TEST(ProxyAlone, TakesWhatMakesSense) {
  Stranger peer;
  EXPECT_TRUE(peer.send({note(k_token, 0, 0, 0), 7, note(k_slot, 0, 0, 8), k_first_tag, 99}).ok());
  EXPECT_EQ(peer.inbox().tokens, 7u);
  EXPECT_EQ(peer.inbox().head, 1u);
  EXPECT_TRUE(peer.send({note(k_packets, 0, 0, 16), 2 * k_first_tag, 1, 2}).ok());
  EXPECT_EQ(peer.inbox().tags[0], 2 * k_first_tag) << "of two slots";
}

TEST(ProxyAlone, RefusesWhatMakesNone) {
  std::vector<uint64_t> too_long(2 + 65);
  too_long[0] = note(k_packets, 0, 0, 65 * 8);
  too_long[1] = k_first_tag;
  const std::vector<uint64_t> nonsense[] = {
      {},                                           // no note
      {note(k_token, 0, 0, 0)},                     // half a note
      {note(k_token, 5, 0, 0), 1},                  // five lanes
      {note(k_token, 0, 3, 0), 1},                  // three workers
      {note(6, 0, 0, 0), 1},                        // no such kind
      {note(k_slot, 0, 0, 16), k_first_tag, 1},     // fewer bytes than it says
      {note(k_slot, 0, 0, 8), 2 * k_first_tag, 1},  // the second message first
      {note(k_packets, 0, 0, 16), k_first_tag, 1},  // likewise
      too_long,
      {note(k_slot, 0, 0, 0), k_first_tag, note(k_slot, 0, 0, 0), 2 * k_first_tag,
       note(k_slot, 0, 0, 0), 3 * k_first_tag},  // more than slots hold
  };
  for (const auto& words : nonsense) {
    Stranger peer;
    const Status status = peer.send(words);
    EXPECT_EQ(status.code(), Code::remote_error) << words.size();
    EXPECT_NE(status.message().find("rank 1"), std::string::npos) << status.message();
  }
  Stranger other;
  EXPECT_EQ(other.send({note(k_token, 0, 0, 0), 7}, 1).code(), Code::remote_error);
}

}  // namespace
}  // namespace tutti::cuda
