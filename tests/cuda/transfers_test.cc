// Sends and receives between devices: the kernel's code as threads on the host, and groups of them
// through worlds of ranks with a device each.
#include "src/cuda/transfers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <thread>

#include "src/cuda/build.h"
#include "src/cuda/host_block.h"
#include "src/cuda/transfer_launches.h"
#include "tests/cuda/host_windows.h"
#include "tests/cuda/peers.h"

namespace tutti::cuda {
namespace {

using Direction = Transfer::Direction;

// One message, its sender's bytes and its receiver's buffer. Buffers lie at any alignment.
struct Message {
  Rank from, to;
  Bytes content, received;
  uint32_t shift;
  std::byte* source = nullptr;
  std::byte* target = nullptr;
};

// A group of messages: every rank calls its ends in an order of its own, but for the order of each
// pair.
class Group {
 public:
  Group(uint32_t ranks, std::mt19937& random) : ranks_(ranks), random_(random) {}

  void add(Rank from, Rank to, size_t bytes) {
    Message m{from, to, Bytes(bytes + 16), Bytes(bytes + 16),
              4 * static_cast<uint32_t>(random_() % 3)};
    for (std::byte& b : m.content) b = static_cast<std::byte>(random_());
    messages_.push_back(std::move(m));
  }
  void add_some(size_t count, size_t most) {
    for (size_t i = 0; i < count; ++i)
      add(random_() % ranks_, random_() % ranks_, random_() % 5 == 0 ? 0 : random_() % most);
  }
  // Where both ends are, once all messages are known.
  template <class Upload>
  void place(Upload&& upload) {
    for (Message& m : messages_) {
      m.source = upload(m.from, m.content) + m.shift;
      m.target = upload(m.to, m.received) + 8 - m.shift;
    }
  }
  std::vector<Transfer> calls_of(Rank rank) {
    std::map<std::pair<Rank, Direction>, std::vector<Transfer>> queues;
    for (const Message& m : messages_) {
      const uint64_t bytes = m.content.size() - 16;
      if (m.from == rank)
        queues[{m.to, Direction::send}].push_back(
            {Direction::send, m.to, m.source, bytes, DType::uint8});
      if (m.to == rank)
        queues[{m.from, Direction::recv}].push_back(
            {Direction::recv, m.from, m.target, bytes, DType::uint8});
    }
    std::vector<Transfer> calls;
    while (!queues.empty()) {
      auto queue = std::next(queues.begin(), random_() % queues.size());
      calls.push_back(queue->second.front());
      queue->second.erase(queue->second.begin());
      if (queue->second.empty()) queues.erase(queue);
    }
    return calls;
  }
  void expect_received() const {
    for (size_t i = 0; i < messages_.size(); ++i) {
      const Message& m = messages_[i];
      const size_t bytes = m.content.size() - 16;
      ASSERT_EQ(std::memcmp(m.target, m.source, bytes), 0)
          << "message " << i << " of " << bytes << " bytes from " << m.from << " to " << m.to;
      ASSERT_EQ(std::memcmp(m.source, m.content.data() + m.shift, bytes), 0);
      for (size_t after = bytes; after < bytes + 8; ++after)  // nothing beyond it
        ASSERT_EQ(m.target[after], std::byte{0}) << "message " << i;
    }
  }

 private:
  uint32_t ranks_;
  std::mt19937& random_;
  std::vector<Message> messages_;
};

// --- the kernel's code on the host

class HostTransfers {
 public:
  HostTransfers(uint32_t ranks, WindowShape shape, uint32_t workers)
      : shape_(shape),
        workers_(ranks, workers),
        controls_(ranks),
        windows_(shape, ranks),
        links_(ranks) {
    shape_.ranks = ranks;
    for (Rank r = 0; r < ranks; ++r) {
      BuildRequest request{nullptr, r, shape_, windows_.all(), nullptr, &controls_[r], {}};
      for (Rank p = 0; p < ranks; ++p)
        links_[r].push_back(p == r ? TransferLinks() : transfer_links(request, p));
      programs_.push_back({links_[r].data(), &controls_[r], shape_.depth, shape_.slot_bytes});
    }
  }
  Control& control(Rank r) { return controls_[r]; }

  // Every rank's launches, one after the other, all ranks at the same time.
  void run(const std::vector<std::vector<Transfer>>& calls, uint32_t most_blocks,
           uint32_t threads) {
    std::vector<std::thread> ranks;
    for (Rank r = 0; r < calls.size(); ++r)
      ranks.emplace_back([&, r] {
        for (TransferLaunch& launch : transfer_launches(r, calls[r], workers_)) {
          launch.program = &programs_[r];
          run_grid(launch, transfer_blocks(launch, most_blocks), threads);
        }
      });
    for (std::thread& t : ranks) t.join();
  }

 private:
  static void run_grid(const TransferLaunch& launch, uint32_t blocks, uint32_t threads) {
    std::vector<std::thread> all;
    std::vector<std::unique_ptr<HostBarrier>> barriers;
    std::vector<std::unique_ptr<TransferState>> states;
    for (uint32_t b = 0; b < blocks; ++b) {
      barriers.push_back(std::make_unique<HostBarrier>(threads));
      states.push_back(std::make_unique<TransferState>());
      for (uint32_t t = 0; t < threads; ++t)
        all.emplace_back([&launch, b, blocks, t, &barrier = *barriers[b], &state = *states[b]] {
          TransferBlock<HostMemory, HostBlock>(launch, b, blocks, state, HostBlock(barrier, t))
              .run();
        });
    }
    for (std::thread& t : all) t.join();
  }

  WindowShape shape_;
  std::vector<uint32_t> workers_;
  std::vector<Control> controls_;
  HostWindows windows_;
  std::vector<std::vector<TransferLinks>> links_;
  std::vector<TransferProgram> programs_;
};

// The calls of every rank, in memory of the host; what is for self is done.
std::vector<std::vector<Transfer>> placed(Group& group, uint32_t ranks,
                                          std::vector<std::unique_ptr<Bytes>>& memory) {
  group.place([&](Rank, const Bytes& bytes) {
    memory.push_back(std::make_unique<Bytes>(bytes));
    return memory.back()->data();
  });
  std::vector<std::vector<Transfer>> calls;
  for (Rank r = 0; r < ranks; ++r) {
    calls.push_back(group.calls_of(r));
    auto copies = copies_to_self(r, calls[r]);
    EXPECT_TRUE(copies.ok()) << copies.status().to_string();
    for (const CopyToSelf& c : *copies) std::memcpy(c.to, c.from, c.bytes);
  }
  return calls;
}

// Groups one after the other on windows that stay, with as few blocks as one and threads that share
// them.
TEST(TransferKernel, GroupsInAnyOrderWithAnyBlocks) {
  std::mt19937 random(5);
  for (uint32_t workers : {1u, 3u}) {
    HostTransfers world(4, k_small, workers);
    for (int turn = 0; turn < 12; ++turn) {
      Group group(4, random);
      group.add_some(1 + random() % 12, turn % 3 == 0 ? 100000 : 3000);
      std::vector<std::unique_ptr<Bytes>> memory;
      const auto calls = placed(group, 4, memory);
      world.run(calls, workers + random() % 8, random() % 3 == 0 ? 3 : 1);
      group.expect_received();
      if (HasFatalFailure()) return;
    }
    for (Rank r = 0; r < 4; ++r) EXPECT_EQ(world.control(r).abort, 0u);
  }
}

TEST(TransferKernel, ManyMessagesAreSeveralLaunches) {
  std::mt19937 random(6);
  HostTransfers world(2, k_small, 2);
  Group group(2, random);
  for (int i = 0; i < 700; ++i) group.add(random() % 8 == 0 ? 1 : 0, random() % 8 == 0 ? 0 : 1, 40);
  std::vector<std::unique_ptr<Bytes>> memory;
  const auto calls = placed(group, 2, memory);
  const std::vector<uint32_t> workers(2, 2);
  EXPECT_GT(transfer_launches(0, calls[0], workers).size(), 3u);
  world.run(calls, 2, 1);
  group.expect_received();
}

// All of the largest world's messages fit in a launch, and no block has more than it can hold.
TEST(TransferKernel, TheLargestGroupsFit) {
  std::vector<Transfer> calls;
  std::byte memory[1];
  for (Rank peer = 1; peer < k_max_links; ++peer)
    for (Direction d : {Direction::send, Direction::recv})
      calls.push_back({d, peer, memory, 1 << 20, DType::int8});
  for (uint32_t most : {1u, 16u}) {
    const std::vector<uint32_t> workers(k_max_links, most);
    const auto launches = transfer_launches(0, calls, workers);
    ASSERT_EQ(launches.size(), 1u);
    EXPECT_EQ(launches[0].queues, 2 * (k_max_links - 1));
    EXPECT_EQ(launches[0].workers, most);
    EXPECT_LE(launches[0].queues * launches[0].workers,
              k_max_queues * transfer_blocks(launches[0], most));
  }
}

// Either end of a message that differs may find out first; both are told, whoever waits.
TEST(TransferKernel, MessagesThatDifferNameThePeer) {
  std::vector<std::byte> memory(200000);
  for (uint64_t theirs : {90u, 99u, 60000u})
    for (DType type : {DType::int8, DType::uint8}) {
      HostTransfers world(3, k_small, 2);
      // The second message is large: its sender has to wait for room.
      const auto call = [&](Direction d, Rank peer, uint64_t bytes, DType t) {
        return Transfer{d, peer, memory.data() + (d == Direction::send ? 0 : 100000), bytes, t};
      };
      const bool differ = theirs != 90 || type != DType::int8;
      world.run(
          {{call(Direction::send, 1, 90, DType::int8),
            call(Direction::send, 1, 50000, DType::int8)},
           {call(Direction::recv, 0, theirs, type), call(Direction::recv, 0, 50000, DType::int8)},
           {}},
          2, 1);
      EXPECT_EQ(world.control(0).mismatch, differ ? 2u : 0u) << theirs;
      EXPECT_EQ(world.control(1).mismatch, differ ? 1u : 0u) << theirs;
      EXPECT_EQ(world.control(2).abort, 0u);
    }
}

// --- worlds

struct World {
  uint32_t ranks, hosts;
  const char* network = "local";
  const char* fault = "";
};
void PrintTo(const World& w, std::ostream* out) {
  *out << w.ranks << " ranks on " << w.hosts << " hosts over " << w.network << " " << w.fault;
}

void launch(Peers& peers, Rank r, const std::vector<Transfer>& calls) {
  if (calls.empty()) return;
  const Status status = peers.worlds[r]->launch(calls, peers.streams[r]);
  ASSERT_TRUE(status.ok()) << status.to_string();
}
void run(Peers& peers, Group& group) {
  group.place([&](Rank r, const Bytes& bytes) { return peers.upload(r, bytes); });
  for (Rank r = 0; r < peers.ranks(); ++r) launch(peers, r, group.calls_of(r));
  peers.synchronize();
  for (auto& world : peers.worlds) ASSERT_TRUE(world->error().ok()) << world->error().to_string();
  group.expect_received();
}

class Transfers : public testing::TestWithParam<World> {};

TEST_P(Transfers, RandomGroups) {
  const World& w = GetParam();
  Peers peers(w.ranks, false, 0, w.hosts);
  peers.network = w.network;
  peers.fault = w.fault;
  peers.make_well();
  std::mt19937 random(w.ranks);
  for (int turn = 0; turn < 10; ++turn) {
    Group group(w.ranks, random);
    group.add_some(1 + random() % 10, turn % 2 == 0 ? 60000 : 2000);
    run(peers, group);
    if (HasFatalFailure()) return;
  }
}
INSTANTIATE_TEST_SUITE_P(Worlds, Transfers,
                         testing::Values(World{1, 1}, World{2, 1}, World{3, 1}, World{5, 1},
                                         World{8, 1}, World{2, 2}, World{4, 2}, World{4, 2, "tcp"},
                                         World{3, 3, "local", "delay:us=200;reorder:window=4"},
                                         World{4, 2, "tcp", "again:percent=30;seed=3"}));

// Collectives of all ranks and messages of some, again and again: their numbers are apart.
TEST(TransferTest, BetweenCollectivesOnlyThePairTakesPart) {
  for (uint32_t hosts : {1u, 2u}) {
    Peers peers(4, false, 0, hosts);
    peers.make_well();
    std::mt19937 random(hosts);
    const PlanPtr plan = all_reduce_plan("ring", 4, true);
    const auto buffers = numbers(peers, 700, [](Rank) { return 1; });
    for (uint32_t turn = 1; turn <= 4; ++turn) {
      Group group(4, random);
      const Rank from = random() % 4;
      for (int i = 0; i < 3; ++i) group.add(from, (from + turn % 3 + 1) % 4, random() % 9000);
      group.place([&](Rank r, const Bytes& bytes) { return peers.upload(r, bytes); });
      for (Rank r = 0; r < 4; ++r) {
        launch(peers, r, group.calls_of(r));
        ASSERT_TRUE(
            peers.worlds[r]->launch(sum_in_place(plan, 700, buffers[r]), peers.streams[r]).ok());
      }
      peers.synchronize();
      group.expect_received();
      expect_numbers(buffers[turn % 4], 700, 1u << (2 * turn));
    }
  }
}

// Ungrouped, in the order that would deadlock were there no slots, and one by one.
TEST(TransferTest, CallsOneByOne) {
  Peers peers(2);
  peers.make_well();
  std::mt19937 random(9);
  Group group(2, random);
  for (int i = 0; i < 5; ++i) group.add(0, 1, 300), group.add(1, 0, 500);
  group.place([&](Rank r, const Bytes& bytes) { return peers.upload(r, bytes); });
  for (Rank r = 0; r < 2; ++r) {
    std::vector<Transfer> calls = group.calls_of(r);
    std::stable_sort(calls.begin(), calls.end(), [](const Transfer& a, const Transfer& b) {
      return a.direction == Direction::send && b.direction == Direction::recv;
    });
    // Two slots a worker: so many may go before anything is received.
    for (size_t i : {0u, 1u, 5u, 6u, 2u, 7u, 3u, 8u, 4u, 9u}) launch(peers, r, {calls[i]});
  }
  peers.synchronize();
  group.expect_received();
}

TEST(TransferTest, GraphsReplayBetweenOtherCalls) {
  for (uint32_t hosts : {1u, 3u}) {
    Peers peers(3, false, 0, hosts);
    peers.make_well();
    const Driver& driver = *peers.fake.driver();
    std::mt19937 random(4);
    Group captured(3, random);
    captured.add_some(8, 5000);
    captured.add(0, 0, 100);
    captured.place([&](Rank r, const Bytes& bytes) { return peers.upload(r, bytes); });
    std::vector<Graph> graphs(3);
    std::vector<GraphExec> execs(3);
    for (Rank r = 0; r < 3; ++r) {
      driver.stream_begin_capture(peers.streams[r], k_capture_relaxed);
      launch(peers, r, captured.calls_of(r));
      driver.stream_end_capture(peers.streams[r], &graphs[r]);
      ASSERT_EQ(driver.graph_instantiate(&execs[r], graphs[r], 0), 0);
    }
    for (int replay = 0; replay < 3; ++replay) {
      Group other(3, random);
      other.add_some(5, 5000);
      other.place([&](Rank r, const Bytes& bytes) { return peers.upload(r, bytes); });
      for (Rank r = 0; r < 3; ++r) {
        ASSERT_EQ(driver.graph_launch(execs[r], peers.streams[r]), 0);
        launch(peers, r, other.calls_of(r));
      }
      peers.synchronize();
      other.expect_received();
    }
    captured.expect_received();
    for (Rank r = 0; r < 3; ++r)
      driver.graph_exec_destroy(execs[r]), driver.graph_destroy(graphs[r]);
  }
}

TEST(TransferTest, BlocksAreBounded) {
  Peers peers(4);
  peers.blocks = 2;
  peers.make_well();
  std::mt19937 random(2);
  Group group(4, random);
  for (Rank a = 0; a < 4; ++a)
    for (Rank b = 0; b < 4; ++b) group.add(a, b, 70000);
  run(peers, group);
  EXPECT_LE(peers.fake.largest_grid, 2u);
}

TEST(TransferTest, AbortEndsKernelsThatWaitForThisRank) {
  for (uint32_t hosts : {1u, 3u}) {
    Peers peers(3, false, 0, hosts);
    peers.make_well();
    std::byte* x = peers.upload(0, Bytes(100000));
    std::byte* y = peers.upload(1, Bytes(100000));
    // Rank 0 waits for rank 2, which never comes, and rank 1 for rank 0.
    launch(peers, 0,
           {{Direction::recv, 2, x, 10, DType::int8}, {Direction::recv, 1, x, 90000, DType::int8}});
    launch(peers, 1,
           {{Direction::send, 0, y, 90000, DType::int8}, {Direction::recv, 0, y, 10, DType::int8}});
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(peers.passed(0));
    EXPECT_FALSE(peers.passed(1));
    peers.worlds[0]->abort();
    peers.synchronize_one(0);
    EXPECT_TRUE(peers.worlds[0]->error().ok()) << "its own abort is no error";
    // The message that rank 0 was receiving may be through: then nobody but the host tells rank 1.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (!peers.passed(1)) peers.worlds[1]->abort();
    peers.synchronize();
  }
  Peers peers(2);
  peers.make_well();
  std::byte* x = peers.upload(0, Bytes(10));
  launch(peers, 0, {{Direction::recv, 1, x, 10, DType::int8}});
  std::byte* y = peers.upload(1, Bytes(10));
  launch(peers, 1, {{Direction::recv, 0, y, 10, DType::int8}});
  peers.worlds[0]->abort();
  peers.worlds[1]->abort();
  peers.synchronize();
}

TEST(TransferTest, ARankThatGivesUpIsNamed) {
  for (uint32_t hosts : {1u, 2u}) {
    Peers peers(2, false, 0, hosts);
    peers.make_well();
    std::byte* x = peers.upload(0, Bytes(1 << 20));
    std::byte* y = peers.upload(1, Bytes(1 << 20));
    // Rank 0 has room for little of it; its peer is in the middle of the same message.
    launch(
        peers, 0,
        {{Direction::send, 1, x, 1 << 20, DType::int8}, {Direction::recv, 1, x, 8, DType::int8}});
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    peers.worlds[0]->abort();
    peers.synchronize_one(0);
    launch(peers, 1, {{Direction::recv, 0, y, 1 << 20, DType::int8}});
    peers.synchronize();
    EXPECT_EQ(peers.worlds[1]->error().code(), Code::remote_error);
    EXPECT_NE(peers.worlds[1]->error().message().find("rank 0 left"), std::string::npos)
        << peers.worlds[1]->error().message();
    EXPECT_FALSE(peers.worlds[1]
                     ->launch(std::vector<Transfer>{{Direction::send, 0, y, 8, DType::int8}},
                              peers.streams[1])
                     .ok());
  }
}

TEST(TransferTest, CountsThatDifferNameThePeer) {
  for (uint32_t hosts : {1u, 2u}) {
    Peers peers(2, false, 0, hosts);
    peers.make_well();
    std::byte* x = peers.upload(0, Bytes(100000));
    std::byte* y = peers.upload(1, Bytes(100000));
    launch(
        peers, 0,
        {{Direction::send, 1, x, 100, DType::int8}, {Direction::send, 1, x, 100000, DType::int8}});
    launch(
        peers, 1,
        {{Direction::recv, 0, y, 96, DType::int8}, {Direction::recv, 0, y, 100000, DType::int8}});
    peers.synchronize();
    for (Rank r = 0; r < 2; ++r) {
      EXPECT_EQ(peers.worlds[r]->error().code(), Code::invalid_usage);
      EXPECT_NE(peers.worlds[r]->error().message().find("rank " + std::to_string(1 - r)),
                std::string::npos)
          << peers.worlds[r]->error().message();
    }
  }
}

TEST(TransferTest, SendsToSelfNeedReceives) {
  Peers peers(2);
  peers.make_well();
  std::byte* x = peers.upload(0, Bytes(100));
  const Status status = peers.worlds[0]->launch(
      std::vector<Transfer>{{Direction::send, 0, x, 8, DType::int8}}, peers.streams[0]);
  EXPECT_EQ(status.code(), Code::invalid_usage);
  EXPECT_EQ(peers.fake.cooperative, 0);
}

// The second of two launches of a group fails: the peer is not left waiting.
TEST(TransferTest, AGroupThatFailsHalfwayIsGivenUp) {
  for (int after : {0, 1}) {
    Peers peers(2);
    peers.make_well();
    std::byte* x = peers.upload(0, Bytes(100));
    std::byte* y = peers.upload(1, Bytes(100));
    std::vector<Transfer> sends(k_max_messages + 1, {Direction::send, 1, x, 8, DType::int8}),
        receives(k_max_messages + 1, {Direction::recv, 0, y, 8, DType::int8});
    peers.fake.fail("cuLaunchCooperativeKernel", k_too_large, 1, after);
    EXPECT_EQ(peers.worlds[0]->launch(sends, peers.streams[0]).code(), Code::device_error);
    if (after == 0) {  // as if it had not been called
      launch(peers, 0, sends);
      launch(peers, 1, receives);
      peers.synchronize();
      continue;
    }
    EXPECT_FALSE(peers.worlds[0]->launch(sends, peers.streams[0]).ok());
    launch(peers, 1, receives);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    peers.worlds[1]->abort();
    peers.synchronize();
  }
}

TEST(TransferTest, WindowsAreUsedAgain) {
  Peers peers(3);
  std::mt19937 random(1);
  for (int life = 0; life < 3; ++life) {
    peers.make_well();
    Group group(3, random);
    group.add_some(12, 30000);
    run(peers, group);
  }
  EXPECT_EQ(peers.fake.calls("cuIpcGetMemHandle"), 3);
}

}  // namespace
}  // namespace tutti::cuda
