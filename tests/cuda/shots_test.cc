// Small all_reduces in one and two shots: the kernel's code as threads on the host, ranks as late
// as they like, and through worlds of ranks with a device each, beside plans.
#include "src/cuda/shots.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "src/cuda/host_flags.h"
#include "src/cuda/shot_launches.h"
#include "tests/cuda/fake_cuda.h"
#include "tests/cuda/host_windows.h"
#include "tests/cuda/peers.h"

namespace tutti::cuda {
namespace {

// --- the kernel's code on the host

// A call as every rank makes it, and what must come of it. Buffers lie at any alignment.
struct ShotCase {
  PlanPtr plan;
  uint64_t count = 0;
  DType dtype = DType::int32;
  ReduceOp op = ReduceOp::sum;
  DeviceCut plan_cut;
  ShotCut cut;
  std::vector<Bytes> inputs, want;
  std::vector<Bytes> send, recv;  // in place: none to send
  std::vector<std::byte*> in, out;
};

class HostShots {
 public:
  explicit HostShots(uint32_t ranks, WindowShape shape = k_small, uint32_t blocks = 64)
      : shape_(shape), blocks_(blocks), controls_(ranks), windows_(shape, ranks) {
    shape_.ranks = ranks;
  }
  Control& control(Rank r) { return controls_[r]; }
  const WindowShape& shape() const { return shape_; }
  std::byte* window(Rank r) { return windows_.all()[r]; }
  uint32_t ranks() const { return shape_.ranks; }

  // Nothing where shots do not serve.
  std::optional<ShotCase> make(const char* algorithm, uint64_t count, DType dtype, ReduceOp op,
                               std::mt19937& random) {
    ShotCase c{all_reduce_plan(algorithm, ranks(), true),
               count,
               dtype,
               op,
               {},
               {},
               {},
               {},
               {},
               {},
               {},
               {}};
    const auto plan_cut = fit_cut(c.plan, count, dtype, shape_, blocks_, {});
    if (!plan_cut) return {};
    const auto cut = shot_cut(c.plan, *plan_cut, shape_, blocks_);
    if (!cut) return {};
    c.plan_cut = *plan_cut;
    c.cut = *cut;
    const size_t bytes = count * size_of(dtype);
    for (Rank r = 0; r < ranks(); ++r)
      c.inputs.push_back(random_elements(dtype, count, static_cast<uint32_t>(random())));
    c.want = expected(*c.plan, dtype, op, c.plan_cut.layout, c.inputs, bytes);
    const bool in_place = random() % 2 == 0;
    for (Rank r = 0; r < ranks(); ++r) {
      const size_t shift = random() % 3 * size_of(dtype);
      c.send.emplace_back(bytes + 32);
      c.recv.emplace_back(bytes + 32);
      c.out.push_back(c.recv[r].data() + shift);
      c.in.push_back(in_place ? c.out[r] : c.send[r].data() + random() % 3 * size_of(dtype));
      if (bytes > 0) std::memcpy(c.in[r], c.inputs[r].data(), bytes);
    }
    return c;
  }

  void run_rank(const ShotCase& c, Rank r, uint32_t threads, uint64_t signature = 7) {
    const Operator op = operator_of({c.plan, c.count, c.dtype, c.op, Wire::packets, 1});
    ShotLaunch launch = shot_launch(c.cut, op, shape_, windows_.all());
    launch.calls[0] = {c.in[r], c.out[r], signature, factor_of(c.op, c.dtype, r), &controls_[r], r};
    shot_grid(c.dtype, family_of(c.op), &launch, c.cut.blocks, threads)();
  }

  // Every rank makes the calls in order, as fast as it likes.
  void run(const std::vector<ShotCase>& cases, uint32_t threads, bool late = true) {
    std::vector<std::thread> all;
    for (Rank r = 0; r < ranks(); ++r)
      all.emplace_back([&, r] {
        std::mt19937 random(r);
        for (const ShotCase& c : cases) {
          if (late && random() % 4 == 0)
            std::this_thread::sleep_for(std::chrono::microseconds(random() % 500));
          run_rank(c, r, threads);
        }
      });
    for (std::thread& t : all) t.join();
  }

  void expect(const ShotCase& c) {
    const size_t bytes = c.count * size_of(c.dtype);
    for (Rank r = 0; r < ranks(); ++r) {
      ASSERT_EQ(controls_[r].abort, 0u);
      ASSERT_EQ(std::memcmp(c.out[r], c.want[r].data(), bytes), 0)
          << c.plan->algorithm() << " rank " << r << " of " << ranks() << ", " << c.count << " "
          << name(c.dtype) << " " << name(c.op) << " blocks " << c.cut.blocks;
      // Nothing before or beyond it.
      const auto outside = [&](const std::byte& b) {
        return &b < c.out[r] || &b >= c.out[r] + bytes;
      };
      for (const std::byte& b : c.recv[r]) ASSERT_TRUE(!outside(b) || b == std::byte{0});
    }
  }

 private:
  WindowShape shape_;
  uint32_t blocks_;
  std::vector<Control> controls_;
  HostWindows windows_;
};

ReduceOp any_op(std::mt19937& random) { return static_cast<ReduceOp>(random() % k_reduce_ops); }
DType any_type(std::mt19937& random) { return static_cast<DType>(random() % k_dtypes); }
const char* any_shots(std::mt19937& random) {
  return random() % 2 == 0 ? "direct_one_shot" : "direct_two_shot";
}

class Shots : public testing::TestWithParam<uint32_t> {};

// Sizes in any order, so that blocks take part in some calls and not in others.
TEST_P(Shots, EqualThePlan) {
  const uint32_t n = GetParam();
  std::mt19937 random(n);
  for (uint32_t threads : {1u, 3u}) {
    HostShots world(n);
    std::vector<ShotCase> cases;
    uint32_t one = 0, two = 0, most = 0;
    while (cases.size() < 40) {
      const DType dtype = any_type(random);
      const uint64_t count = random() % (random() % 2 == 0 ? 1700 : 300 * n) / size_of(dtype);
      const char* algorithm = any_shots(random);
      auto c = world.make(algorithm, count, dtype, any_op(random), random);
      if (!c) continue;
      (c->cut.slice == 0 ? one : two) += 1;
      most = std::max(most, c->cut.blocks);
      cases.push_back(std::move(*c));
    }
    EXPECT_GT(std::min(one, two), 5u);
    EXPECT_EQ(most, k_small.shot_blocks);
    world.run(cases, threads);
    for (const ShotCase& c : cases) {
      world.expect(c);
      if (HasFatalFailure()) return;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Ranks, Shots, testing::Values(2, 3, 4, 5, 6, 7, 8));

TEST(ShotKernel, EveryTypeAndOperator) {
  std::mt19937 random(1);
  HostShots world(3);
  std::vector<ShotCase> cases;
  for (int dtype = 0; dtype < k_dtypes; ++dtype)
    for (int op = 0; op < k_reduce_ops; ++op)
      for (const char* algorithm : {"direct_one_shot", "direct_two_shot"}) {
        auto c =
            world.make(algorithm, 41, static_cast<DType>(dtype), static_cast<ReduceOp>(op), random);
        ASSERT_TRUE(c.has_value());
        cases.push_back(std::move(*c));
      }
  world.run(cases, 1, false);
  for (const ShotCase& c : cases) {
    world.expect(c);
    if (HasFatalFailure()) return;
  }
}

// More ranks than a thread asks at once.
TEST(ShotKernel, ManyRanks) {
  std::mt19937 random(2);
  HostShots world(19);
  std::vector<ShotCase> cases;
  for (uint64_t count : {1u, 100u, 1000u, 0u, 30u})
    for (const char* algorithm : {"direct_one_shot", "direct_two_shot"})
      if (auto c = world.make(algorithm, count, DType::bfloat16, ReduceOp::avg, random))
        cases.push_back(std::move(*c));
  EXPECT_GE(cases.size(), 8u);
  world.run(cases, 1);
  for (const ShotCase& c : cases) {
    world.expect(c);
    if (HasFatalFailure()) return;
  }
}

// A flag of 32 bits comes again. What lies in a place since the last time must not be taken for
// what is to come, also where no call has written for so long.
TEST(ShotKernel, FlagsThatComeAgain) {
  constexpr uint64_t k_begin = (uint64_t{1} << 32) - 4;
  std::mt19937 random(3);
  for (const char* algorithm : {"direct_one_shot", "direct_two_shot"}) {
    HostShots world(3);
    const WindowShape& shape = world.shape();
    for (Rank r = 0; r < 3; ++r) {
      auto* numbers = reinterpret_cast<uint64_t*>(world.window(r) + shape.shot_numbers());
      for (uint32_t b = 0; b < shape.shot_blocks; ++b) numbers[b] = k_begin;
      // Left by messages 2^32 ago: those of the last call here.
      const uint64_t flag = (k_begin + 6) << 32;
      auto* word = reinterpret_cast<uint64_t*>(world.window(r) + shape.shot_packets(0, 0));
      auto* end = reinterpret_cast<uint64_t*>(world.window(r) + shape.shot_packets(2, 0));
      for (; word < end; ++word) *word = flag | 0xabcdef;
    }
    std::vector<ShotCase> cases;
    for (uint64_t count : {1, 1, 1, 1, 1, 380}) {
      auto c = world.make(algorithm, count, DType::int32, ReduceOp::sum, random);
      ASSERT_TRUE(c.has_value());
      cases.push_back(std::move(*c));
    }
    // Blocks that take no part in small calls are not so far yet.
    for (Rank r = 0; r < 3; ++r) {
      auto* numbers = reinterpret_cast<uint64_t*>(world.window(r) + shape.shot_numbers());
      for (uint32_t b = 1; b < shape.shot_blocks; ++b) numbers[b] = k_begin + 10;
    }
    std::vector<std::thread> all;
    for (Rank r = 0; r < 3; ++r)
      all.emplace_back([&, r] {
        for (const ShotCase& c : cases) {
          if (r == 0 && c.count > 1) std::this_thread::sleep_for(std::chrono::milliseconds(10));
          world.run_rank(c, r, 1);
        }
      });
    for (std::thread& t : all) t.join();
    for (const ShotCase& c : cases) {
      world.expect(c);
      if (HasFatalFailure()) return;
    }
  }
}

// Sizes that differ, which take another number of blocks or packets, and what only signatures tell.
TEST(ShotKernel, CallsThatDifferNameThePeer) {
  std::mt19937 random(4);
  for (uint64_t other : {10, 11, 300})
    for (uint32_t threads : {1u, 3u}) {
      HostShots world(3);
      const auto mine = world.make("direct_one_shot", 10, DType::int32, ReduceOp::sum, random);
      const auto theirs = world.make("direct_one_shot", other, DType::int32, ReduceOp::sum, random);
      ASSERT_TRUE(mine && theirs);
      std::vector<std::thread> all;
      for (Rank r = 0; r < 3; ++r)
        all.emplace_back(
            [&, r] { world.run_rank(r == 1 ? *theirs : *mine, r, threads, 7 + r % 2); });
      for (std::thread& t : all) t.join();
      EXPECT_EQ(world.control(0).mismatch, 2u) << other;
      EXPECT_TRUE(world.control(1).mismatch == 1 || world.control(1).mismatch == 3) << other;
      EXPECT_EQ(world.control(2).mismatch, 2u) << other;
    }
}

// Rank 0 waits and is told to leave; rank 1, which comes then, hears of it. Whatever rank 0
// launches later writes nothing into its peers' windows.
TEST(ShotKernel, WhoLeavesTellsAndWritesNoMore) {
  std::mt19937 random(5);
  for (const char* algorithm : {"direct_one_shot", "direct_two_shot"}) {
    HostShots world(2);
    const auto c = world.make(algorithm, 300, DType::float32, ReduceOp::sum, random);
    ASSERT_TRUE(c.has_value());
    std::thread waits([&] { world.run_rank(*c, 0, 1); });
    HostFlags::release(&world.control(0).abort, 1);
    waits.join();
    EXPECT_EQ(world.control(0).mismatch, 0u);
    EXPECT_EQ(world.control(0).left, 0u);
    const Bytes before(world.window(1), world.window(1) + world.shape().bytes());
    world.run_rank(*c, 0, 1);
    EXPECT_TRUE(std::equal(before.begin(), before.end(), world.window(1)));
    world.run_rank(*c, 1, 1);
    if (c->cut.slice == 0) {
      EXPECT_EQ(world.control(1).abort, 0u) << "it has all that rank 0 sent";
      continue;
    }
    EXPECT_EQ(world.control(1).left, 1u);
  }
}

// --- which calls go in shots

TEST(ShotCut, WhereWindowsHaveAPlaceAndAPlanTakesOneRound) {
  const WindowShape window = PeerWorld::default_shape(8);
  const auto cut = [&](const char* algorithm, uint64_t bytes, uint32_t blocks = 132,
                       std::optional<Wire> wire = {}) {
    const PlanPtr plan = all_reduce_plan(algorithm, 8, true);
    const auto plan_cut = fit_cut(plan, bytes, DType::uint8, window, blocks, wire);
    EXPECT_TRUE(plan_cut.ok());
    return shot_cut(plan, *plan_cut, window, blocks);
  };
  EXPECT_EQ(cut("direct_one_shot", 0)->blocks, 1u);
  EXPECT_EQ(cut("direct_one_shot", 8)->threads, 64u);
  EXPECT_EQ(cut("direct_one_shot", 4096)->blocks, 1u);
  EXPECT_EQ(cut("direct_one_shot", 32768)->blocks, 8u);
  EXPECT_EQ(cut("direct_one_shot", 65536)->blocks, 16u);
  EXPECT_FALSE(cut("direct_one_shot", 65537));
  EXPECT_EQ(cut("direct_two_shot", 8)->slice, 64u);
  EXPECT_EQ(cut("direct_two_shot", 8 * 32768)->blocks, 16u);
  EXPECT_FALSE(cut("direct_two_shot", 8 * 32768 + 1));
  EXPECT_FALSE(cut("direct_one_shot", 8, 132, Wire::slots));
  EXPECT_FALSE(cut("ring", 8));
  EXPECT_FALSE(cut("direct_one_shot", 32768, 7)) << "fewer blocks than the call needs";
  const WindowShape none = window.without_shots();
  const PlanPtr plan = all_reduce_plan("direct_one_shot", 8, true);
  EXPECT_FALSE(shot_cut(plan, *fit_cut(plan, 8, DType::uint8, none, 132, {}), none, 132));
  // Their part of a window stays small, whatever the number of ranks.
  for (uint32_t n : {2u, 8u, 64u}) {
    const WindowShape shape = PeerWorld::default_shape(n);
    EXPECT_LE(shape.shot_packets(2, 0) - shape.shot_packets(0, 0), uint64_t{4} << 20) << n;
    EXPECT_GE(shape.shot_blocks, 4u) << n;
  }
}

// --- worlds

// One buffer per rank, which a case's input goes into and its result comes from.
struct WorldCase {
  PlanPtr plan;
  uint64_t count;
  DType dtype;
  ReduceOp op;
  std::vector<Bytes> inputs;
  std::vector<std::byte*> in, out;
};

WorldCase world_case(Peers& peers, const char* algorithm, uint64_t count, DType dtype, ReduceOp op,
                     std::mt19937& random) {
  WorldCase c{all_reduce_plan(algorithm, peers.ranks(), true), count, dtype, op, {}, {}, {}};
  for (Rank r = 0; r < peers.ranks(); ++r) {
    c.inputs.push_back(random_elements(dtype, count, static_cast<uint32_t>(random())));
    Bytes room = c.inputs[r];
    room.resize(room.size() + 16);
    c.in.push_back(peers.upload(r, room));
    c.out.push_back(peers.upload(r, room) + random() % 2 * 8);
  }
  return c;
}
void launch(Peers& peers, Rank r, const WorldCase& c, bool by_plan) {
  PeerWorld::Call call{
      c.plan, c.count, c.dtype, c.op, c.in[r], c.out[r], 9, factor_of(c.op, c.dtype, r), {}};
  call.by_plan = by_plan;
  const Status status = peers.worlds[r]->launch(call, peers.streams[r]);
  ASSERT_TRUE(status.ok()) << status.to_string();
}

// The same calls in shots and by plans, in one world and in turns with calls that only plans run:
// bit for bit. Ranks differ in how late they are.
TEST(ShotWorlds, EqualPlansInOneWorld) {
  for (uint32_t n : {2u, 3u, 5u, 8u}) {
    Peers peers(n);
    peers.make_well();
    std::mt19937 random(n);
    std::vector<WorldCase> cases, again;
    for (int i = 0; i < 16; ++i) {
      const uint64_t count = random() % (i % 4 == 3 ? 9000 : 120);
      const std::mt19937 before = random;
      for (auto* list : {&cases, &again}) {
        random = before;
        list->push_back(
            world_case(peers, any_shots(random), count, any_type(random), any_op(random), random));
      }
    }
    for (Rank r = 0; r < n; ++r) {
      std::mt19937 own(r);
      for (size_t i = 0; i < cases.size(); ++i) {
        if (own() % 4 == 0)
          peers.fake.driver()->launch_host(
              peers.streams[r],
              [](void*) { std::this_thread::sleep_for(std::chrono::microseconds(300)); }, nullptr);
        launch(peers, r, i % 3 == 0 ? again[i] : cases[i], i % 3 == 0);
        launch(peers, r, i % 3 == 0 ? cases[i] : again[i], i % 3 != 0);
      }
    }
    peers.synchronize();
    EXPECT_GE(peers.fake.shots, static_cast<int>(8 * n));
    for (size_t i = 0; i < cases.size(); ++i)
      for (Rank r = 0; r < n; ++r) {
        ASSERT_TRUE(peers.worlds[r]->error().ok()) << peers.worlds[r]->error().to_string();
        const size_t bytes = cases[i].count * size_of(cases[i].dtype);
        ASSERT_EQ(std::memcmp(cases[i].out[r], again[i].out[r], bytes), 0)
            << cases[i].plan->algorithm() << " " << cases[i].count << " " << name(cases[i].dtype)
            << " " << name(cases[i].op) << " rank " << r << " of " << n;
        ASSERT_EQ(std::memcmp(cases[i].out[r], cases[i].out[0], bytes), 0);
      }
  }
}

// A graph of small, large and small calls; the first of all may be captured.
TEST(ShotWorlds, GraphsReplay) {
  Peers peers(3);
  peers.make_well();
  const Driver& driver = *peers.fake.driver();
  const PlanPtr one = all_reduce_plan("direct_one_shot", 3, true),
                two = all_reduce_plan("direct_two_shot", 3, true);
  const auto buffers = numbers(peers, 5000, [](Rank) { return 1; });
  std::vector<Graph> graphs(3);
  std::vector<GraphExec> execs(3);
  for (Rank r = 0; r < 3; ++r) {
    driver.stream_begin_capture(peers.streams[r], k_capture_relaxed);
    for (const auto& [plan, count] :
         {std::pair(one, 300u), std::pair(two, 5000u), std::pair(two, 300u), std::pair(one, 2u)}) {
      const Status status =
          peers.worlds[r]->launch(sum_in_place(plan, count, buffers[r]), peers.streams[r]);
      ASSERT_TRUE(status.ok()) << status.to_string();
    }
    driver.stream_end_capture(peers.streams[r], &graphs[r]);
    ASSERT_EQ(driver.graph_instantiate(&execs[r], graphs[r], 0), 0);
  }
  EXPECT_EQ(peers.fake.shots, 9);
  for (int replay = 0; replay < 3; ++replay)
    for (Rank r = 0; r < 3; ++r) ASSERT_EQ(driver.graph_launch(execs[r], peers.streams[r]), 0);
  peers.synchronize();
  for (std::byte* b : buffers) {
    expect_numbers(b, 2, 531441);  // 3 to the 12th
    expect_numbers(b + 8, 298, 19683);
    expect_numbers(b + 1200, 4700, 27);
  }
  for (Rank r = 0; r < 3; ++r) driver.graph_exec_destroy(execs[r]), driver.graph_destroy(graphs[r]);
}

TEST(ShotWorlds, CallsOnSeveralStreamsKeepTheirOrder) {
  Peers peers(2);
  call_on_two_streams(peers, 100);
  EXPECT_EQ(peers.fake.shots, 12);
}

// Ranks 0 and 1 wait for rank 2; rank 0 is told to leave, and rank 1 hears of it in two shots (in
// one it has all of rank 0).
TEST(ShotWorlds, AbortEndsGridsThatWait) {
  Peers peers(3);
  peers.make_well();
  const auto buffers = numbers(peers, 30, [](Rank) { return 1; });
  const PlanPtr plan = all_reduce_plan("direct_one_shot", 3, true);
  for (Rank r = 0; r < 2; ++r)
    ASSERT_TRUE(peers.worlds[r]->launch(sum_in_place(plan, 30, buffers[r]), peers.streams[r]).ok());
  std::optional<Rank> awaited;
  while (!awaited) awaited = peers.worlds[1]->take_awaited();  // what the watch would ask
  while (awaited != Rank{2})
    if (auto next = peers.worlds[1]->take_awaited()) awaited = next;
  EXPECT_FALSE(peers.passed(0));
  peers.worlds[0]->abort();
  peers.synchronize_one(0);
  EXPECT_TRUE(peers.worlds[0]->error().ok()) << "its own abort is no error";
  EXPECT_FALSE(peers.passed(1)) << "it waits for rank 2 alone";
  ASSERT_TRUE(peers.worlds[2]->launch(sum_in_place(plan, 30, buffers[2]), peers.streams[2]).ok());
  peers.synchronize();
  expect_numbers(buffers[1], 30, 3);
  // The next call of rank 1 waits for rank 0, which has gone.
  ASSERT_TRUE(peers.worlds[1]->launch(sum_in_place(plan, 30, buffers[1]), peers.streams[1]).ok());
  peers.synchronize();
  EXPECT_NE(peers.worlds[1]->error().message().find("rank 0 left"), std::string::npos)
      << peers.worlds[1]->error().to_string();
}

// One rank's call goes by plan, the others' in shots: through slots, through packets, and by a plan
// that has nothing to say to some of them. All end, and all are told.
TEST(ShotWorlds, ShotsAndPlansThatMeetAreAnError) {
  for (const auto& [algorithm, count] :
       {std::pair("direct_two_shot", size_t{100000}), std::pair("direct_two_shot", size_t{20}),
        std::pair("ring", size_t{10})})
    for (Rank odd : {0u, 3u}) {
      Peers peers(4);
      peers.make_well();
      const auto buffers = numbers(peers, 100000, [](Rank) { return 1; });
      for (int turn = 0; turn < 2; ++turn)  // some that all agree on
        for (Rank r = 0; r < 4; ++r) {
          PeerWorld::Call call = sum_in_place(all_reduce_plan("ring", 4, true), 10, buffers[r]);
          ASSERT_TRUE(peers.worlds[r]->launch(call, peers.streams[r]).ok());
        }
      for (Rank r = 0; r < 4; ++r) {
        const PlanPtr plan = all_reduce_plan(r == odd ? algorithm : "direct_one_shot", 4, true);
        PeerWorld::Call call = sum_in_place(plan, r == odd ? count : 10, buffers[r]);
        call.signature = r == odd ? 5 : 6;
        call.by_plan = r == odd;
        ASSERT_TRUE(peers.worlds[r]->launch(call, peers.streams[r]).ok());
      }
      peers.synchronize();
      for (Rank r = 0; r < 4; ++r)
        EXPECT_EQ(peers.worlds[r]->error().code(), Code::invalid_usage)
            << algorithm << " " << count << " rank " << r << ": "
            << peers.worlds[r]->error().to_string();
    }
}

// A root that has sent its broadcast and is in a later call: the others, in another call, wait for
// it in vain.
TEST(ShotWorlds, APeerThatIsPastTheCallIsAnError) {
  Peers peers(2);
  peers.make_well();
  PlanRequest request;
  request.collective = Collective::broadcast;
  request.ranks = 2;
  const PlanPtr broadcast = *make_plan("direct", request);
  const PlanPtr sum = all_reduce_plan("direct_one_shot", 2, true);
  const auto buffers = numbers(peers, 1000, [](Rank) { return 1; });
  PeerWorld::Call call = sum_in_place(broadcast, 10, buffers[0]);
  call.signature = 3;
  for (int turn = 0; turn < 2; ++turn)
    ASSERT_TRUE(peers.worlds[0]->launch(call, peers.streams[0]).ok());
  peers.synchronize();
  ASSERT_TRUE(peers.worlds[0]->error().ok());
  ASSERT_TRUE(peers.worlds[1]->launch(sum_in_place(sum, 10, buffers[1]), peers.streams[1]).ok());
  peers.synchronize();
  EXPECT_EQ(peers.worlds[1]->error().code(), Code::invalid_usage);
}

// Where one rank does without them, so do all.
TEST(ShotWorlds, AllRanksOrNone) {
  Peers peers(3);
  peers.without_shots = 1;
  peers.make_well();
  check(peers, all_reduce_plan("direct_one_shot", 3, true), 30, DType::float32, ReduceOp::sum);
  EXPECT_EQ(peers.fake.shots, 0);
  peers.without_shots.reset();
  peers.make_well();
  check(peers, all_reduce_plan("direct_one_shot", 3, true), 30, DType::float32, ReduceOp::sum);
  EXPECT_EQ(peers.fake.shots, 3);
}

// What a plan's call says at its beginning nobody waits for: a window is used again once it is
// there.
TEST(ShotWorlds, WindowsAreUsedAgain) {
  Peers peers(2);
  for (int life = 0; life < 3; ++life) {
    peers.make_well();
    const auto buffers = numbers(peers, 40, [](Rank) { return 1; });
    for (const char* algorithm : {"direct_one_shot", "ring", "direct_two_shot"})
      for (Rank r = 0; r < 2; ++r)
        ASSERT_TRUE(peers.worlds[r]
                        ->launch(sum_in_place(all_reduce_plan(algorithm, 2, true), 40, buffers[r]),
                                 peers.streams[r])
                        .ok());
    peers.synchronize();
    expect_numbers(buffers[0], 40, 8);
  }
  EXPECT_EQ(peers.fake.shots, 12);
  EXPECT_EQ(peers.fake.calls("cuIpcGetMemHandle"), 2);
}

}  // namespace
}  // namespace tutti::cuda
