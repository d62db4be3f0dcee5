// The planner: whose word counts, that choices depend on nothing but shared input, and feedback.
#include "src/planner/planner.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>

#include "sim/simulator.h"
#include "src/algorithms/on_orders.h"
#include "src/planner/feedback.h"
#include "topology/orders.h"
#include "topology/spec.h"

namespace tutti {
namespace {

Placement hosts_of(uint32_t hosts, uint32_t each, bool tcp = false) {
  Placement p;
  p.ranks = hosts * each;
  p.hosts = hosts;
  p.cpus = 8;
  p.sockets_inside = tcp;
  for (Rank r = 0; r < p.ranks; ++r) p.host.push_back(r / each);
  p.cpu_pools = p.host;
  if (hosts < p.ranks) p.hierarchy.level.push_back(p.host);
  p.by_reference = hosts == 1 && !tcp;
  p.shared = p.by_reference;
  return p;
}
Planner planner_of(const Placement& p, const std::string& tune = "", bool deterministic = false) {
  Result<std::vector<TuneRule>> rules = parse_tune(tune);
  EXPECT_TRUE(rules.ok());
  return Planner(p, builtin_profile(), *rules, deterministic);
}
Planner::Call all_reduce(uint64_t bytes) {
  return {Collective::all_reduce, bytes, 0, DType::float32, ReduceOp::sum};
}

TEST(Planner, ServesEveryCollectiveEverywhere) {
  for (const Placement& p : {hosts_of(1, 1), hosts_of(1, 2), hosts_of(1, 7), hosts_of(5, 1),
                             hosts_of(3, 4), hosts_of(1, 9, true), hosts_of(1, 80)}) {
    Planner planner = planner_of(p);
    for (int c = 0; c < k_collectives; ++c)
      for (uint64_t bytes : {uint64_t{0}, uint64_t{4}, uint64_t{100'000}, uint64_t{1} << 40}) {
        const Planner::Call call{static_cast<Collective>(c), bytes, p.ranks - 1, DType::float16,
                                 ReduceOp::max};
        const Result<Choice> choice = planner.choose(call);
        ASSERT_TRUE(choice.ok()) << name(call.collective) << ": " << choice.status().message();
        for (bool in_place : {false, true}) {
          const bool never = call.collective == Collective::barrier ||
                             call.collective == Collective::all_to_all_v ||
                             call.collective == Collective::send_recv;
          if (in_place && never) continue;
          const Result<PlanPtr> plan = planner.plan(call, in_place);
          ASSERT_TRUE(plan.ok()) << name(call.collective) << ": " << plan.status().message();
          EXPECT_EQ((*plan)->shape().ranks, p.ranks);
        }
        const Result<double> seconds = planner.estimate(call);
        ASSERT_TRUE(seconds.ok()) << name(call.collective) << ": " << seconds.status().message();
        EXPECT_GE(*seconds, 0);
      }
  }
}

TEST(Planner, EqualInputsGiveEqualChoices) {
  const Placement p = hosts_of(4, 2);
  Planner a = planner_of(p), b = planner_of(p);
  for (uint64_t bytes = 1; bytes < (1 << 26); bytes = bytes * 3 + 1) {
    // In another order, and after other calls: what was asked before must not matter.
    const Result<Choice> second = b.choose(all_reduce((uint64_t{1} << 26) / bytes));
    ASSERT_TRUE(second.ok());
  }
  for (uint64_t bytes = 1; bytes < (1 << 26); bytes = bytes * 3 + 1)
    EXPECT_EQ(*a.choose(all_reduce(bytes)), *b.choose(all_reduce(bytes))) << bytes;
}

TEST(Planner, SizesMatterAcrossHosts) {
  Planner planner = planner_of(hosts_of(8, 4));
  std::set<std::string> chosen;
  for (uint64_t bytes : {uint64_t{8}, uint64_t{1} << 14, uint64_t{1} << 24})
    chosen.insert(planner.choose(all_reduce(bytes))->algorithm);
  EXPECT_GT(chosen.size(), 1u);
  // Each host's link carries every byte once.
  EXPECT_TRUE(planner.choose(all_reduce(1 << 20))->algorithm.starts_with("hierarchical"))
      << planner.choose(all_reduce(1 << 20))->algorithm;
}

// Ranks dealt to hosts in turns, as launchers do: in their own order a ring would leave its host at
// every step.
Placement in_turns(uint32_t hosts, uint32_t each) {
  Placement p = hosts_of(hosts, each);
  for (Rank r = 0; r < p.ranks; ++r) p.host[r] = r % hosts;
  p.cpu_pools = p.hierarchy.level[0] = p.host;
  p.orders = link_orders(p);
  return p;
}

TEST(Planner, OrdersFollowTheHosts) {
  EXPECT_TRUE(link_orders(hosts_of(4, 2)).empty()) << "their own order is as good";
  EXPECT_TRUE(link_orders(hosts_of(1, 7)).empty());
  const Placement p = in_turns(3, 2);
  EXPECT_EQ(p.orders, (std::vector<std::vector<Rank>>{{0, 3, 1, 4, 2, 5}}));
  Profile measured = builtin_profile();
  measured.name = "measured";
  Planner planner(p, measured, {}, false);
  const Planner::Call call = {Collective::reduce_scatter, 1 << 20, 0, DType::float32,
                              ReduceOp::sum};
  const Result<std::string> text = planner.explain(call);
  ASSERT_TRUE(text.ok());
  EXPECT_NE(text->find("ring along the links"), std::string::npos) << *text;
  const Planner::Call large = {Collective::all_gather, 16 << 20, 0, DType::float32, ReduceOp::sum};
  EXPECT_EQ(*planner.choose(large), (Choice{"ring", 0, 1})) << *planner.explain(large);
  // It is cheaper than the ring of the ranks' own order, and every rank sends to the next in line.
  Planner ordered(p, measured, *parse_tune("reduce_scatter:0-inf:ring"), false);
  Placement blind = p;
  blind.orders.clear();
  Planner other(blind, measured, *parse_tune("reduce_scatter:0-inf:ring"), false);
  EXPECT_LT(*ordered.estimate(call), 0.8 * *other.estimate(call));
  const Result<PlanPtr> plan = ordered.plan(call, false);
  ASSERT_TRUE(plan.ok());
  for (uint32_t i = 0; i < 6; ++i) {
    const Step step = (*plan)->step_at(p.orders[0][i], 0, 0);
    EXPECT_EQ(step.op == Op::send ? step.peer : p.orders[0][(i + 1) % 6], p.orders[0][(i + 1) % 6]);
  }
}

TEST(Planner, ATableAndRulesFollowTheLinksToo) {
  Planner table(in_turns(4, 4), builtin_profile(), {}, false);
  for (uint64_t bytes = 1; bytes < (1u << 28); bytes *= 7)
    for (bool in_place : {false, true}) EXPECT_TRUE(table.plan(all_reduce(bytes), in_place).ok());
  Planner rule(in_turns(4, 4), builtin_profile(), *parse_tune("all_reduce:0-inf:halving_doubling"),
               false);
  EXPECT_EQ(*rule.choose(all_reduce(1 << 20)), (Choice{"halving_doubling", 0, 1}));
  // The order of operands of deterministic runs is not a matter of where ranks are.
  Planner same(in_turns(4, 4), builtin_profile(), *parse_tune("all_reduce:0-inf:ring"), true);
  EXPECT_EQ(*same.choose(all_reduce(1 << 20)), (Choice{"ring", 0, 0}));
  // What was learnt elsewhere and cannot be played here is dropped.
  Planner moved(hosts_of(4, 4), builtin_profile(), {}, false);
  moved.learn(ShapeClass::of(Collective::reduce, 1 << 20, DType::float32, ReduceOp::sum),
              {"ring", 0, 1});
  EXPECT_EQ(moved.choose({Collective::reduce, 1 << 20, 0, DType::float32, ReduceOp::sum})->mapping,
            0u);
}

TEST(Planner, TheTableTakesHostsWhereThereAreMoreLevels) {
  Placement p = hosts_of(4, 4);
  std::vector<uint32_t> sockets, racks;
  for (Rank r = 0; r < p.ranks; ++r) {
    sockets.push_back(r / 2);
    racks.push_back(r / 8);
  }
  p.hierarchy.level = {sockets, p.host, racks};
  Planner planner(p, builtin_profile(), {}, false);
  const Choice choice = *planner.choose(all_reduce(1 << 16));
  EXPECT_EQ(choice, (Choice{"hierarchical_leader_doubling", 0, 2}));
  EXPECT_EQ((*planner.plan(all_reduce(1 << 16), false))->shape().hierarchy.level,
            (std::vector<std::vector<uint32_t>>{p.host}));
}

TEST(Planner, SharedWindowsServeAllReduceOnOneHost) {
  Planner planner = planner_of(hosts_of(1, 8));
  for (uint64_t bytes : {uint64_t{8}, uint64_t{1} << 14, uint64_t{1} << 24})
    EXPECT_EQ(planner.choose(all_reduce(bytes))->algorithm, "direct_two_shot");
}

TEST(Planner, ARuleOverridesAndTheExplanationSaysSo) {
  Planner planner =
      planner_of(hosts_of(8, 1), "all_reduce:0-64K:ring;64K-inf:double_binary_tree@8");
  EXPECT_EQ(*planner.choose(all_reduce(65535)), (Choice{"ring", 0, 0}));
  EXPECT_EQ(*planner.choose(all_reduce(65536)), (Choice{"double_binary_tree", 8, 0}));
  const Result<std::string> text = planner.explain(all_reduce(100));
  ASSERT_TRUE(text.ok());
  EXPECT_NE(text->find("the rule all_reduce:0-65536:ring of TUTTI_TUNE says so"), std::string::npos)
      << *text;
  EXPECT_NE(text->find("* ring"), std::string::npos) << *text;
  EXPECT_NE(text->find("halving_doubling"), std::string::npos) << *text;
  // Its own price, also where the tuner had not considered that number of chunks.
  EXPECT_GT(*planner.estimate(all_reduce(1 << 20)), *planner.estimate(all_reduce(100)));
  EXPECT_TRUE(planner.contenders(all_reduce(100)).size() < 2);
}

TEST(Planner, DeterministicIsTheSameForAllSizesAndProfiles) {
  Planner planner = planner_of(hosts_of(8, 4), "", true);
  Profile slow = builtin_profile();
  slow.network_ends->send = 1;
  Planner other(hosts_of(8, 4), slow, {}, true);
  const Choice first = *planner.choose(all_reduce(8));
  for (uint64_t bytes = 1; bytes < (1u << 28); bytes *= 7) {
    EXPECT_EQ(*planner.choose(all_reduce(bytes)), first);
    EXPECT_EQ(*other.choose(all_reduce(bytes)), first);
  }
  EXPECT_TRUE(planner.contenders(all_reduce(8)).size() < 2);
}

TEST(Planner, ATableDecidesUntilAProfileWasMeasured) {
  const Placement p = hosts_of(1, 8, true);
  Planner assumed = planner_of(p);
  EXPECT_EQ(assumed.choose(all_reduce(64))->algorithm, "direct_two_shot");
  EXPECT_EQ(assumed.choose(all_reduce(1 << 20))->algorithm, "halving_doubling");
  EXPECT_GT(assumed.contenders(all_reduce(1 << 20)).size(), 1u) << "feedback may know better";
  Result<std::string> text = assumed.explain(all_reduce(1 << 20));
  ASSERT_TRUE(text.ok());
  EXPECT_NE(text->find("a table of what was fastest elsewhere decides"), std::string::npos)
      << *text;
  Profile here = builtin_profile();
  here.machine = "here";
  Planner measured(p, here, {}, false);
  text = measured.explain(all_reduce(1 << 20));
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(text->find("elsewhere"), std::string::npos) << *text;
}

TEST(Planner, PricesDecide) {
  const Placement p = hosts_of(16, 1);
  Profile dear_messages = builtin_profile(), dear_bytes = builtin_profile();
  for (LinkCost& c : dear_messages.links[static_cast<int>(LinkClass::network)]) c.alpha = 1e-2;
  for (LinkCost& c : dear_bytes.links[static_cast<int>(LinkClass::network)]) {
    c.alpha = 1e-9;
    c.beta = 1e-6;
  }
  Planner few_steps(p, dear_messages, {}, false), few_bytes(p, dear_bytes, {}, false);
  // 4 steps of the whole block against 8 of parts.
  const std::set<std::string> shallow = {"recursive_doubling", "direct_one_shot",
                                         "direct_two_shot"};
  EXPECT_EQ(shallow.count(few_steps.choose(all_reduce(65536))->algorithm), 1u)
      << few_steps.choose(all_reduce(65536))->algorithm;
  EXPECT_EQ(shallow.count(few_bytes.choose(all_reduce(65536))->algorithm) == 1 &&
                few_bytes.choose(all_reduce(65536))->algorithm != "direct_two_shot",
            false);
}

// The depth of a pipeline is searched for by simulation, beside what closed forms propose.
TEST(Planner, WhatWasMeasuredCorrectsPrices) {
  const Placement p = hosts_of(1, 4, true);
  Profile profile = builtin_profile();
  profile.name = "measured";
  Planner before(p, profile, {}, false);
  const std::string first = before.choose(all_reduce(1 << 20))->algorithm;
  // Not what the model says: what it takes for the best is five times as slow.
  profile.corrections.set({"sockets", Collective::all_reduce, first}, 4, 1 << 20, {5, 5});
  Planner after(p, profile, {}, false);
  const Result<Choice> second = after.choose(all_reduce(1 << 20));
  EXPECT_NE(second->algorithm, first);
  EXPECT_GT(*after.estimate(all_reduce(1 << 20)), *before.estimate(all_reduce(1 << 20)));
  // Elsewhere nothing changes.
  EXPECT_EQ(
      Planner(hosts_of(1, 4), profile, {}, false).estimate(all_reduce(1 << 20)).value(),
      Planner(hosts_of(1, 4), builtin_profile(), {}, false).estimate(all_reduce(1 << 20)).value());
}

TEST(Tuner, PipelinesGetTheDepthThatIsBest) {
  const Placement p = hosts_of(2, 8);
  Profile profile = builtin_profile();
  profile.name = "measured";
  for (const Collective c : {Collective::broadcast, Collective::reduce})
    for (const uint64_t bytes : {uint64_t{16} << 10, uint64_t{128} << 10, uint64_t{1} << 20}) {
      PlanRequest q;
      q.collective = c;
      q.ranks = p.ranks;
      q.hierarchy = p.hierarchy;
      const auto priced = price_candidates(p, profile, q, bytes, DType::float32, ReduceOp::sum);
      ASSERT_TRUE(priced.ok()) << priced.status().message();
      ASSERT_TRUE(priced->front().simulated.has_value());
      EXPECT_FALSE(priced->front().given_up);
      for (const Priced& other : *priced)
        EXPECT_TRUE(!other.given_up || other.seconds() >= 1.5 * priced->front().seconds());
      double best = 1e9;
      for (const char* algorithm : {"ring", "double_binary_tree", "hierarchical_leader"})
        for (uint32_t chunks = 1; chunks <= 128; chunks *= 2) {
          q.chunks = chunks;
          q.hierarchy = algorithm[0] == 'h' ? p.hierarchy : Hierarchy();
          const Result<double> seconds = price_exactly(p, profile, *find_algorithm(algorithm), q,
                                                       bytes, DType::float32, ReduceOp::sum);
          ASSERT_TRUE(seconds.ok());
          best = std::min(best, *seconds);
        }
      EXPECT_LE(priced->front().seconds(), 1.05 * best) << name(c) << " " << bytes;
    }
}

// A ring for each of a host's NICs: they share the block, and each link carries what crosses it.
TEST(Tuner, SeveralRingsArePricedTogether) {
  const Result<Topology> cluster =
      make_cluster("node:4{nics=2x100Gb/s,lat=5us} gpu:8{bw=48GB/s,lat=1us}");
  ASSERT_TRUE(cluster.ok());
  const std::vector<std::vector<Rank>> rings = ring_orders(*cluster, 4).rings;
  ASSERT_EQ(rings.size(), 2u);
  const Profile profile;
  Predictor predictor(*cluster, profile);
  const Algorithm& ring = *find_algorithm("ring");
  const PlanRequest q{Collective::all_reduce, 32, 0, false, 0, {}};
  const uint64_t bytes = 64 << 20;
  const auto one =
      predictor.predict(ring, q, bytes, DType::float32, ReduceOp::sum, std::span(rings).first(1));
  const auto both = predictor.predict(ring, q, bytes, DType::float32, ReduceOp::sum, rings);
  ASSERT_TRUE(one.ok() && both.ok());
  EXPECT_NEAR(both->seconds / one->seconds, 0.5, 0.08);
  const Result<PlanPtr> plan = make_on_orders(ring, q, rings);
  ASSERT_TRUE(plan.ok());
  SimOptions options;
  options.segments = {{0, bytes}};
  const Result<SimReport> report = simulate(**plan, *cluster, profile, options);
  ASSERT_TRUE(report.ok());
  EXPECT_NEAR(report->seconds / both->seconds, 1, 0.15);
}

TEST(Tuner, WorkIsBounded) {
  const Placement p = hosts_of(4, 4);
  TunerLimits limits;
  const PlanRequest q{Collective::all_reduce, p.ranks, 0, false, 0, p.hierarchy};
  const auto with = [&](uint64_t work) {
    limits.work = work;
    const auto priced =
        price_candidates(p, builtin_profile(), q, 64 << 20, DType::float32, ReduceOp::sum, limits);
    EXPECT_TRUE(priced.ok());
    return std::count_if(priced->begin(), priced->end(),
                         [](const Priced& x) { return x.simulated.has_value(); });
  };
  EXPECT_EQ(with(10), 0);
  EXPECT_LT(with(10'000), with(100'000));
}

TEST(Planner, AThousandRanksAreNotSimulated) {
  const Placement p = hosts_of(128, 8);
  const auto priced = price_candidates(p, builtin_profile(),
                                       {Collective::all_reduce, p.ranks, 0, false, 0, p.hierarchy},
                                       1 << 20, DType::float32, ReduceOp::sum);
  ASSERT_TRUE(priced.ok());
  for (const Priced& c : *priced) EXPECT_FALSE(c.simulated.has_value());
  EXPECT_TRUE(std::is_sorted(priced->begin(), priced->end(), [](const Priced& a, const Priced& b) {
    return a.seconds() < b.seconds();
  }));
}

TEST(Tuner, PlacementsAndTopologiesHaveTheSamePrices) {
  Profile profile = builtin_profile();
  profile.cpus = 8;
  for (Placement p : {hosts_of(1, 6), hosts_of(4, 1), hosts_of(4, 3), hosts_of(2, 16)}) {
    const Result<Topology> topology = to_topology(p);
    ASSERT_TRUE(topology.ok());
    EXPECT_EQ(topology->ranks(), p.ranks);
    Predictor by_placement(p, profile), by_topology(*topology, profile);
    for (const Algorithm& a : algorithms()) {
      PlanRequest q;
      q.ranks = p.ranks;
      q.hierarchy = p.hierarchy;
      if (!a.supports(q).ok()) continue;
      const auto x = by_placement.predict(a, q, 100'000, DType::float32, ReduceOp::sum);
      const auto y = by_topology.predict(a, q, 100'000, DType::float32, ReduceOp::sum);
      ASSERT_TRUE(x.ok() && y.ok());
      // Messages between hosts also cross memory, in no time worth the name.
      EXPECT_NEAR(x->seconds, y->seconds, 0.05 * y->seconds) << a.name << " " << p.ranks;
    }
  }
}

TEST(Feedback, EveryChoiceHasItsTurnsAndTheFastestStays) {
  Planner planner = planner_of(hosts_of(8, 1));
  uint64_t bytes = 1;
  while (bytes < (1 << 26) && planner.contenders(all_reduce(bytes)).size() < 2) bytes *= 2;
  const std::vector<Choice> contenders = planner.contenders(all_reduce(bytes));
  ASSERT_GE(contenders.size(), 2u) << "no size has close prices";
  Feedback feedback;
  Trial* trial = feedback.trial_for(planner, all_reduce(bytes), bytes / 4);
  ASSERT_NE(trial, nullptr);
  EXPECT_EQ(feedback.trial_for(planner, all_reduce(bytes), bytes / 4), trial);
  EXPECT_EQ(feedback.trial_for(planner, all_reduce(bytes), bytes / 4 + 1), nullptr)
      << "another count of the class";
  for (size_t c = 0; c < contenders.size(); ++c) {
    EXPECT_EQ(trial->current(), contenders[c]);
    for (uint32_t call = 1; call <= Trial::k_warm_up + Trial::k_samples; ++call)
      EXPECT_EQ(trial->add(static_cast<double>(contenders.size() - c) + 1e-3 * call),
                call == Trial::k_warm_up + Trial::k_samples);
    EXPECT_EQ(trial->next(), c + 1 < contenders.size());
  }
  const std::vector<double> medians = trial->medians();
  EXPECT_NEAR(medians.back(), 1 + 1e-3 * (Trial::k_warm_up + (Trial::k_samples + 1) / 2), 1e-9);
  feedback.decide(planner, *trial, medians);
  EXPECT_EQ(*planner.choose(all_reduce(bytes)), contenders.back());
  EXPECT_EQ(feedback.trial_for(planner, all_reduce(bytes), bytes / 4), nullptr);
  EXPECT_NE(planner.explain(all_reduce(bytes))->find("fastest when measured"), std::string::npos);
}

TEST(Feedback, WhatWasLearntSurvivesTheFile) {
  std::map<ShapeClass, Choice> learnt;
  learnt[ShapeClass::of(Collective::all_reduce, 70'000, DType::bfloat16, ReduceOp::max)] = {"ring",
                                                                                            0, 0};
  learnt[ShapeClass::of(Collective::broadcast, 0, DType::int8, ReduceOp::sum)] = {
      "double_binary_tree", 32, 0};
  const std::string lines = to_text(learnt);
  EXPECT_EQ(
      lines,
      "all_reduce 131072 bfloat16 max ring 0 0\nbroadcast 1 float32 sum double_binary_tree 32 "
      "0\n");
  EXPECT_EQ(*parse_learnt(lines), learnt);

  std::string file = replace_section("", "here; 8 ranks", lines);
  file = replace_section(file, "there", "reduce 1 int32 min binomial 0 0\n");
  EXPECT_EQ(find_section(file, "here; 8 ranks"), lines);
  EXPECT_EQ(find_section(file, "there"), "reduce 1 int32 min binomial 0 0\n");
  EXPECT_EQ(find_section(file, "nowhere"), "");
  file = replace_section(file, "here; 8 ranks", "all_gather 4 float32 sum bruck 0 0\n");
  EXPECT_EQ(find_section(file, "here; 8 ranks"), "all_gather 4 float32 sum bruck 0 0\n");
  EXPECT_EQ(find_section(file, "there"), "reduce 1 int32 min binomial 0 0\n");

  // A file that ends in the middle of a section's name's line.
  EXPECT_EQ(find_section(replace_section("[here]", "here", lines), "here"), lines);

  // Sections of one placement that tell levels apart, and one whose name only begins alike.
  file = replace_section(file, "here; 8 ranks; 2 levels", lines);
  file = replace_section(file, "here; 8 ranks and more", "gather 1 float32 sum direct 0 0\n");
  const std::string sections = find_sections(file, "here; 8 ranks");
  EXPECT_EQ(find_section(sections, ""), "all_gather 4 float32 sum bruck 0 0\n");
  EXPECT_EQ(find_section(sections, "2 levels"), lines);
  EXPECT_EQ(sections.find("gather 1 "), std::string::npos) << sections;
  EXPECT_EQ(find_sections(file, "nowhere"), "");
}

TEST(Feedback, BadLinesAreNamed) {
  for (const char* line :
       {"all_reduce 1 float32 sum", "all_reduce 1 float32 sum nonsense 0 0",
        "all_reduce x float32 sum ring 0 0", "all_reduce 3 float32 sum ring 0 0",
        "all_deuce 4 float32 sum ring 0 0", "all_reduce 4 float33 sum ring 0 0",
        "all_reduce 4 float32 sum ring 0 0 0", "all_reduce 4 float32 sum ring -1 0",
        "broadcast 4 float32 sum ring 65537 0"}) {
    const auto parsed = parse_learnt(fmt::format("# title\n{}\n", line));
    ASSERT_FALSE(parsed.ok()) << line;
    EXPECT_NE(parsed.status().message().find("line 2"), std::string::npos)
        << parsed.status().message();
  }
}

// What devices do besides; calls on host buffers pass over "auto".
TEST(Tune, ProtocolsOfDevices) {
  Result<std::vector<TuneRule>> rules =
      parse_tune("all_reduce:0-4K:auto/packets;4K-1M:ring@8/slots;1M-inf:ring/packets");
  ASSERT_TRUE(rules.ok()) << rules.status().to_string();
  ASSERT_EQ(rules->size(), 3u);
  EXPECT_FALSE((*rules)[0].chooses());
  EXPECT_EQ((*rules)[0].protocol, WireProtocol::packets);
  EXPECT_EQ((*rules)[1].chunks, 8u);
  EXPECT_EQ((*rules)[1].protocol, WireProtocol::slots);
  EXPECT_EQ((*rules)[2].algorithm, "ring");
  for (const char* bad : {"all_reduce:0-inf:ring/", "all_reduce:0-inf:ring/LL",
                          "all_reduce:0-inf:/slots", "all_reduce:0-inf:ring@/slots"})
    EXPECT_EQ(parse_tune(bad).status().code(), Code::invalid_argument) << bad;
  Placement p;
  p.ranks = 4;
  Planner plain(p, builtin_profile(), {}, false);
  Planner ruled(p, builtin_profile(), *parse_tune("all_reduce:0-inf:auto/slots"), false);
  for (uint64_t bytes : {uint64_t{100}, uint64_t{1} << 20})
    EXPECT_EQ(*ruled.choose({Collective::all_reduce, bytes}),
              *plain.choose({Collective::all_reduce, bytes}));
}

}  // namespace
}  // namespace tutti
