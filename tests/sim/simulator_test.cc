// What the simulator does with messages, credits, rounds, protocols and disturbances; mistakes.
#include "sim/simulator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "src/algorithms/algorithms.h"
#include "topology/spec.h"

namespace tutti {
namespace {

using testing::HasSubstr;

Topology star(uint32_t ranks) {
  Result<Topology> t = make_cluster("rank:" + std::to_string(ranks) + "{bw=1GB/s,lat=2us}");
  EXPECT_TRUE(t.ok());
  return std::move(*t);
}
PlanPtr plan(std::string_view algorithm, Collective c, uint32_t ranks, uint32_t chunks = 0) {
  Result<PlanPtr> p = make_plan(algorithm, {c, ranks, 0, false, chunks, {}});
  EXPECT_TRUE(p.ok()) << p.status().message();
  return *p;
}
SimOptions block(uint64_t bytes) {
  SimOptions o;
  o.segments = {{0, bytes}};
  return o;
}
SimReport run(const Plan& p, const Topology& t, const Profile& profile, const SimOptions& o) {
  Result<SimReport> r = simulate(p, t, profile, o);
  EXPECT_TRUE(r.ok()) << r.status().message();
  return r.ok() ? std::move(*r) : SimReport();
}

// A chain of two: C chunks of 1000 bytes, 1 us each, 4 us away.
TEST(Simulator, AConnectionDeliversInOrder) {
  SimOptions o = block(10 * 64 * 16);
  o.credits = 100;
  const SimReport r = run(*plan("ring", Collective::broadcast, 2, 10), star(2), Profile(), o);
  // 10 chunks of 1024 bytes: the last byte leaves at 10.24 us.
  EXPECT_NEAR(r.seconds, 10.24e-6 + 4e-6, 1e-11);
  EXPECT_EQ(r.messages, 10u);
  ASSERT_EQ(r.links.size(), 2u);
  EXPECT_EQ(r.links[0].bytes, 10240);
  EXPECT_NEAR(r.links[0].utilisation, 10.24 / 14.24, 1e-9);
}

TEST(Simulator, CreditsLimitWhatIsInFlight) {
  SimOptions o = block(10 * 64);
  o.credits = 1;
  // Each message: 64 ns, 4 us there, and 4 us until the sender knows.
  const SimReport r = run(*plan("ring", Collective::broadcast, 2, 10), star(2), Profile(), o);
  EXPECT_NEAR(r.seconds, 10 * 64e-9 + 19 * 4e-6, 1e-11);
  o.credits = 100;
  EXPECT_NEAR(run(*plan("ring", Collective::broadcast, 2, 10), star(2), Profile(), o).seconds,
              10 * 64e-9 + 4e-6, 1e-11);
}

TEST(Simulator, RendezvousWaitsForTheReceiver) {
  Profile p;
  p.eager_bytes = 1000;
  const SimReport r = run(*plan("ring", Collective::broadcast, 2, 1), star(2), p, block(1024));
  EXPECT_NEAR(r.seconds, 4e-6 + 1.024e-6 + 4e-6, 1e-11);
}

TEST(Simulator, RoundsPipeline) {
  SimOptions o = block(1 << 20);
  o.max_chunk_bytes = 1 << 14;
  const PlanPtr p = plan("ring", Collective::broadcast, 4, 1);
  const SimReport whole = run(*p, star(4), Profile(), block(1 << 20)),
                  cut = run(*p, star(4), Profile(), o);
  // One chunk: three times in full. 64 rounds: once in full, two more rounds to fill the chain.
  EXPECT_NEAR(whole.seconds, 3 * (1048.576e-6 + 4e-6), 1e-9);
  EXPECT_NEAR(cut.seconds, (64 + 2) * 16.384e-6 + 3 * 4e-6, 1e-9);
}

// Ranks that outnumber the CPUs keep all of them busy: nobody books one ahead of those who are
// there before.
TEST(Simulator, CrowdedCpusAreNeverIdleWhileThereIsWork) {
  Profile profile;
  profile.ends.recv = 10e-6;
  const PlanPtr p = plan("direct", Collective::all_gather, 8);
  const double alone = run(*p, star(8), profile, block(64)).seconds;
  EXPECT_NEAR(alone, 7 * 10e-6 + 4e-6, 1e-6);
  const Result<Topology> host = make_cluster("cpu:8{bw=1GB/s,lat=2us}");
  ASSERT_TRUE(host.ok());
  for (const uint32_t cpus : {1u, 2u, 3u, 8u}) {
    profile.cpus = cpus;
    const double seconds = run(*p, *host, profile, block(64)).seconds;
    EXPECT_GE(seconds, 8 * 70e-6 / cpus - 1e-9) << cpus;
    EXPECT_LE(seconds, 1.15 * (8 * 70e-6 / cpus + 4e-6)) << cpus;
  }
}

// The first rounds stand for all: every plan that settles comes out as if all had been run.
TEST(Simulator, FewRoundsTellOfMany) {
  Profile profile;
  profile.ends = {.send = 1e-6, .recv = 2e-6, .send_byte = 0, .recv_byte = 1e-10};
  profile.gamma = 1e-10;
  for (const char* algorithm : {"ring", "recursive_doubling", "halving_doubling", "direct_two_shot",
                                "double_binary_tree"}) {
    const PlanPtr p = plan(algorithm, Collective::all_reduce, 6);
    SimOptions o = block((50 * p->shape().chunks * uint64_t{4096}) + 12'000);
    o.max_chunk_bytes = 4096;
    const SimReport all = run(*p, star(6), profile, o);
    o.most_rounds = 8;
    const SimReport few = run(*p, star(6), profile, o);
    // The ways up and down of the trees drift apart.
    const double near = p->shape().lanes > 1 ? 0.06 : 0.02;
    EXPECT_NEAR(few.seconds / all.seconds, 1, near) << algorithm;
    EXPECT_LT(few.messages * 6, all.messages + 100) << algorithm;
    EXPECT_LT(few.work * 3, all.work) << algorithm;
    ASSERT_EQ(few.links.size(), all.links.size());
    for (size_t i = 0; i < few.links.size(); ++i)
      EXPECT_NEAR(few.links[i].bytes / all.links[i].bytes, 1, 0.02) << algorithm;
  }
  // A chain to the last digit; and no more rounds than there are.
  SimOptions o = block(1 << 20);
  o.max_chunk_bytes = 1 << 14;
  o.most_rounds = 4;
  const PlanPtr chain = plan("ring", Collective::broadcast, 4, 1);
  EXPECT_NEAR(run(*chain, star(4), Profile(), o).seconds, (64 + 2) * 16.384e-6 + 3 * 4e-6, 1e-9);
  o.most_rounds = 1000;
  EXPECT_NEAR(run(*chain, star(4), Profile(), o).seconds, (64 + 2) * 16.384e-6 + 3 * 4e-6, 1e-9);
}

TEST(Simulator, EndsEarlyOnRequest) {
  const PlanPtr p = plan("ring", Collective::all_reduce, 8);
  const SimReport whole = run(*p, star(8), Profile(), block(1 << 20));
  EXPECT_TRUE(whole.finished);
  EXPECT_GE(whole.work, whole.events);
  SimOptions o = block(1 << 20);
  o.stop_after = whole.seconds / 2;
  const SimReport half = run(*p, star(8), Profile(), o);
  EXPECT_FALSE(half.finished);
  EXPECT_GT(half.seconds, o.stop_after);
  EXPECT_LT(half.seconds, 0.7 * whole.seconds);
  o.stop_after = 2 * whole.seconds;
  EXPECT_EQ(run(*p, star(8), Profile(), o).seconds, whole.seconds);
  o.stop_after = 1e300;
  EXPECT_TRUE(run(*p, star(8), Profile(), o).finished);
  o = block(1 << 20);
  o.most_work = whole.work;
  EXPECT_TRUE(run(*p, star(8), Profile(), o).finished);
  o.most_work = whole.work / 3;
  const SimReport third = run(*p, star(8), Profile(), o);
  EXPECT_FALSE(third.finished);
  EXPECT_GT(third.work, o.most_work);
}

TEST(Simulator, SerialLanesSendOneAfterTheOther) {
  Profile p;
  const PlanPtr direct = plan("direct", Collective::broadcast, 5);
  SimOptions o = block(1 << 20);
  const SimReport serial = run(*direct, star(5), p, o);
  p.serial_lanes = false;
  const SimReport shared = run(*direct, star(5), p, o);
  EXPECT_NEAR(serial.seconds, 4 * 1048.576e-6 + 4e-6, 1e-9);
  EXPECT_NEAR(shared.seconds, serial.seconds, 1e-9);
  // The root's last byte leaves at the same time, but the first reader is served sooner.
  EXPECT_NEAR(serial.rank_seconds[1], 1048.576e-6 + 4e-6, 1e-9);
  EXPECT_NEAR(shared.rank_seconds[1], shared.rank_seconds[4], 1e-9);
}

TEST(Simulator, ManyToOneSharesItsLink) {
  const SimReport r =
      run(*plan("direct", Collective::gather, 5), star(5), Profile(), block(1 << 20));
  EXPECT_NEAR(r.seconds, 4 * 1048.576e-6 + 4e-6, 1e-9);
}

TEST(Simulator, TakesOversubscriptionIntoAccount) {
  const PlanPtr p = plan("pairwise", Collective::all_to_all, 16);
  auto seconds = [&](const char* spec) {
    const Result<Topology> t = make_cluster(spec);
    EXPECT_TRUE(t.ok());
    return run(*p, *t, Profile(), block(1 << 20)).seconds;
  };
  const double full = seconds("rack:4{over=1} rank:4{bw=1GB/s}"),
               half = seconds("rack:4{over=2} rank:4{bw=1GB/s}");
  EXPECT_NEAR(full, 15 * 1048.576e-6, 1e-6);
  EXPECT_GT(half, 1.4 * full);
  EXPECT_LE(half, 2 * full * (1 + 1e-9));
}

TEST(Simulator, SegmentsOverlapWithWhatMakesThem) {
  const PlanPtr p = plan("ring", Collective::all_reduce, 4);
  const Topology t = star(4);
  const double one = run(*p, t, Profile(), block(1 << 20)).seconds;
  SimOptions o;
  o.segments = {{1e-3, 1 << 20}, {1.5e-3, 1 << 20}, {20e-3, 1 << 20}};
  const SimReport r = run(*p, t, Profile(), o);
  ASSERT_EQ(r.segment_seconds.size(), 3u);
  EXPECT_NEAR(r.segment_seconds[0], 1e-3 + one, 1e-9);
  EXPECT_NEAR(r.segment_seconds[1], 1e-3 + 2 * one, 1e-6);
  EXPECT_NEAR(r.segment_seconds[2], 20e-3 + one, 1e-9);
}

TEST(Simulator, DisturbancesDelayAndRepeat) {
  const PlanPtr p = plan("ring", Collective::all_reduce, 8);
  const Topology t = star(8);
  Profile profile;
  profile.gamma = 1e-10;
  const double calm = run(*p, t, profile, block(1 << 16)).seconds;
  SimOptions jitter = block(1 << 16);
  jitter.jitter = 0.5;
  const double once = run(*p, t, profile, jitter).seconds;
  EXPECT_GT(once, calm);
  EXPECT_EQ(run(*p, t, profile, jitter).seconds, once);
  jitter.seed = 2;
  EXPECT_NE(run(*p, t, profile, jitter).seconds, once);
  SimOptions slow = block(1 << 16);
  slow.stragglers = {{3, 2.0}};
  EXPECT_GT(run(*p, t, profile, slow).seconds, 1.2 * calm);
  SimOptions late = block(1 << 16);
  late.skew = 1e-3;
  const double skewed = run(*p, t, profile, late).seconds;
  EXPECT_GT(skewed, calm);
  EXPECT_LT(skewed, calm + 1e-3);
}

TEST(Simulator, TheCriticalPathAddsUp) {
  SimOptions o = block(1 << 16);
  o.record = true;
  const PlanPtr p = plan("ring", Collective::all_reduce, 4);
  const SimReport r = run(*p, star(4), Profile(), o);
  EXPECT_EQ(r.critical_path.size(), 6u);
  EXPECT_NEAR(r.path_queue + r.path_transfer + r.path_latency, r.seconds, 1e-10);
  EXPECT_EQ(r.trace.size(), r.messages);
  const auto trace = nlohmann::json::parse(to_chrome_trace(r, *p), nullptr, false);
  ASSERT_FALSE(trace.is_discarded());
  EXPECT_EQ(trace["traceEvents"].size(), 4 + 3 * r.messages);
}

TEST(Simulator, RanksOfANodeAndPlacements) {
  const PlanPtr p = plan("ring", Collective::all_reduce, 4);
  const Result<Topology> t = make_cluster("node:2{bw=100MB/s} gpu:2{bw=10GB/s}");
  ASSERT_TRUE(t.ok());
  SimOptions o = block(1 << 20);
  const double good = run(*p, *t, Profile(), o).seconds;
  o.placement = {0, 2, 1, 3};  // every hop crosses the nodes
  EXPECT_GT(run(*p, *t, Profile(), o).seconds, 1.5 * good);
}

// Every algorithm and collective comes to its end, with tokens and empty chunks, in several rounds,
// with either protocol, in a cluster with contention.
TEST(Simulator, RunsEveryPlan) {
  const Result<Topology> t =
      make_cluster("rack:2{over=4,lat=1us} node:2{nics=1x10Gb/s,lat=5us} gpu:[3,4,2,4]{bw=48GB/s}");
  ASSERT_TRUE(t.ok());
  ASSERT_EQ(t->ranks(), 13u);
  for (const Algorithm& a : algorithms())
    for (int c = 0; c < k_collectives; ++c)
      for (bool in_place : {false, true}) {
        PlanRequest q{static_cast<Collective>(c), 13, 0, in_place, 0, {}};
        if (a.name.starts_with("hierarchical")) q.hierarchy = {t->groups()};
        if (!a.supports(q).ok()) continue;
        double last = -1;
        for (uint64_t bytes : {0u, 4u, 1000u, 300000u}) {
          for (uint64_t eager : {uint64_t{0}, uint64_t{4096}, UINT64_MAX})
            for (bool serial : {false, true}) {
              Profile profile;
              profile.eager_bytes = eager;
              profile.serial_lanes = serial;
              profile.gamma = 1e-10;
              profile.ends.send = 1e-7;
              SimOptions o = block(bytes);
              o.max_chunk_bytes = 8192;
              o.jitter = serial ? 0.1 : 0;
              const Result<SimReport> r = simulate(*a.make(q), *t, profile, o);
              ASSERT_TRUE(r.ok()) << a.name << " " << name(q.collective) << " " << bytes
                                  << " B: " << r.status().message();
              if (eager == UINT64_MAX && serial) {
                EXPECT_GE(r->seconds, last) << a.name << " " << name(q.collective);
                last = r->seconds;
              }
              for (const SimLinkUse& l : r->links) EXPECT_LE(l.utilisation, 1 + 1e-6);
            }
        }
      }
}

TEST(Simulator, SaysWhatIsWrong) {
  const PlanPtr p = plan("ring", Collective::all_reduce, 4);
  const Topology t = star(4);
  auto error = [&](auto&& change) {
    SimOptions o = block(64);
    change(o);
    const Result<SimReport> r = simulate(*p, t, Profile(), o);
    EXPECT_FALSE(r.ok());
    return r.ok() ? std::string() : r.status().message();
  };
  EXPECT_THAT(error([](SimOptions& o) { o.segments.clear(); }), HasSubstr("no segments"));
  EXPECT_THAT(error([](SimOptions& o) { o.segments[0].ready = -1; }), HasSubstr("segment 0"));
  EXPECT_THAT(error([](SimOptions& o) { o.jitter = -1; }), HasSubstr("jitter of -1"));
  EXPECT_THAT(error([](SimOptions& o) { o.skew = 1e9; }), HasSubstr("skew"));
  EXPECT_THAT(error([](SimOptions& o) { o.stop_after = -1; }), HasSubstr("stops after -1 s"));
  EXPECT_THAT(error([](SimOptions& o) {
                o.segments.resize(2);
                o.most_rounds = 3;
              }),
              HasSubstr("most_rounds is for one segment"));
  EXPECT_THAT(error([](SimOptions& o) { o.placement = {0, 1, 2}; }), HasSubstr("placement of 3"));
  EXPECT_THAT(error([](SimOptions& o) {
                o.placement = {0, 1, 2, 9};
              }),
              HasSubstr("rank 3 is placed on 9 of 4"));
  EXPECT_THAT(error([](SimOptions& o) {
                o.stragglers = {{9, 2}};
              }),
              HasSubstr("straggler 9 is not among 4 ranks"));
  EXPECT_THAT(error([](SimOptions& o) { o.stragglers = {{1, 0.5}}; }), HasSubstr("0.5 times"));
  EXPECT_THAT(error([](SimOptions& o) { o.segments[0].bytes = uint64_t{1} << 60; }),
              HasSubstr("2^50"));
  const Result<SimReport> small = simulate(*p, star(3), Profile(), block(64));
  ASSERT_FALSE(small.ok());
  EXPECT_THAT(small.status().message(), HasSubstr("4 ranks do not fit a topology of 3"));
  const Result<Topology> slow = make_cluster("rank:4{bw=1B/s}");
  ASSERT_TRUE(slow.ok());
  const Result<SimReport> years = simulate(*p, *slow, Profile(), block(uint64_t{1} << 40));
  ASSERT_FALSE(years.ok());
  EXPECT_THAT(years.status().message(), HasSubstr("more than 100 days"));
}

TEST(Simulator, ADeadlockNamesTheStep) {
  Shape shape;
  shape.collective = Collective::barrier;
  shape.ranks = 2;
  TablePlan::Table table(2, std::vector<std::vector<Step>>(1));
  for (uint32_t r = 0; r < 2; ++r) {
    Step in, out;
    in.op = Op::recv;
    out.op = Op::send;
    in.peer = out.peer = 1 - r;
    table[r][0] = {in, out};
  }
  const Result<SimReport> r =
      simulate(TablePlan("stuck", shape, table), star(2), Profile(), block(0));
  ASSERT_FALSE(r.ok());
  EXPECT_THAT(r.status().message(), HasSubstr("rank 0 lane 0 step 0"));
  EXPECT_THAT(r.status().message(), HasSubstr("waits for ever"));
}

}  // namespace
}  // namespace tutti
