// Fits: prices that are known are found again from what the model says at them, disturbed or not;
// and probes run what they say.
#include "perf/tune_fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "src/planner/planner.h"
#include "src/planner/tuner.h"

namespace tutti::perf {
namespace {

// Four ranks on a host with as many CPUs, and what a machine with these prices would measure.
ProbeSet measured(const Profile& truth, bool tcp) {
  ProbeSet set;
  Placement& p = set.placement;
  p.ranks = 4;
  p.host.assign(4, 0);
  p.cpu_pools = p.host;
  p.cpus = 4;
  p.sockets_inside = tcp;
  for (const auto& [collective, algorithm] : {std::pair{Collective::all_reduce, "ring"},
                                              {Collective::all_reduce, "recursive_doubling"},
                                              {Collective::broadcast, "binomial"},
                                              {Collective::all_to_all, "pairwise"}})
    for (const uint64_t bytes : {64u, 4096u, 65536u, 1u << 20}) {
      Probe probe{collective, algorithm, bytes};
      probe.seconds = predict_probe(p, truth, probe, false).simulated;
      set.probes.push_back(probe);
    }
  return set;
}
// A fifth of the probes takes three times as long, and its repetitions differ.
ProbeSet disturbed(ProbeSet set) {
  for (size_t i = 0; i < set.probes.size(); i += 5) {
    set.probes[i].seconds *= 3;
    set.probes[i].spread = 2;
  }
  return set;
}
// Lines, slots and references: dear small messages, a step, cheap bytes.
SizeCurve steps() { return {{{64, 0.3e-6}, {1024, 2e-6}, {16384, 3e-6}, {262144, 30e-6}}}; }

TEST(TuneFit, FindsPricesBySizeAmongDisturbances) {
  for (const bool tcp : {false, true}) {
    Profile truth = builtin_profile();
    (tcp ? *truth.network_ends : truth.ends).send_curve = steps();
    (tcp ? *truth.network_ends : truth.ends).recv_curve = steps();
    const ProbeSet clean = measured(truth, tcp);
    EXPECT_NEAR(misfit(truth, {clean}), 0, 1e-9);
    const std::vector<ProbeSet> seen = {disturbed(clean)};
    const Profile straight = fit(builtin_profile(), tcp ? loopback_knobs() : memory_knobs(), seen);
    const Profile curved = fit_curves(straight, tcp, seen);
    EXPECT_TRUE(curved.by_size());
    EXPECT_LT(misfit(curved, {clean}), 0.12) << tcp;
    EXPECT_LT(misfit(curved, {clean}), 0.7 * misfit(straight, {clean})) << tcp;
    const Result<Profile> back = parse_profile(to_json(curved));
    ASSERT_TRUE(back.ok()) << back.status().message();
    EXPECT_NEAR(misfit(*back, {clean}), misfit(curved, {clean}), 1e-9);
  }
}

TEST(TuneFit, KeepsStraightPricesWhereTheyExplainEnough) {
  const std::vector<ProbeSet> seen = {measured(builtin_profile(), false)};
  const Profile same = fit_curves(builtin_profile(), false, seen);
  EXPECT_EQ(same, builtin_profile());
  // A disturbed probe counts less the more its repetitions differ.
  ProbeSet one = seen[0];
  one.probes[0].seconds *= 3;
  const double before = misfit(builtin_profile(), {one});
  one.probes[0].spread = 4;
  EXPECT_LT(misfit(builtin_profile(), {one}), 0.5 * before);
}

TEST(TuneFit, CorrectionsMakePredictionsWhatWasMeasured) {
  for (const bool tcp : {false, true}) {
    ProbeSet seen = measured(builtin_profile(), tcp);
    double factor = 0.2;
    for (Probe& p : seen.probes) p.seconds *= factor *= 1.2;
    const Profile before = builtin_profile();
    const Profile after = corrected(before, seen);
    EXPECT_EQ(before.corrections.empty(), true);
    EXPECT_NEAR(misfit(after, {seen}), 0, 1e-3);
    for (const Probe& p : seen.probes) {
      EXPECT_NEAR(predict_probe(seen.placement, after, p).closed / p.seconds, 1, 1e-3)
          << p.algorithm;
      // Another kind of world has its own.
      Placement other = seen.placement;
      other.sockets_inside = !tcp;
      EXPECT_EQ(predict_probe(other, after, p).simulated,
                predict_probe(other, before, p).simulated);
    }
    // Once more: corrections do not pile up.
    EXPECT_EQ(corrected(after, seen), after);
    // What the tuner says follows.
    PlanRequest request;
    request.ranks = seen.placement.ranks;
    request.hierarchy = seen.placement.hierarchy;
    const Result<std::vector<Priced>> priced =
        price_candidates(seen.placement, after, request, 4096, DType::float32, ReduceOp::sum);
    ASSERT_TRUE(priced.ok());
    const auto found = std::find_if(priced->begin(), priced->end(), [](const Priced& p) {
      return p.simulated && !p.given_up && p.candidate.algorithm->name == "recursive_doubling";
    });
    const auto probe = std::find_if(seen.probes.begin(), seen.probes.end(), [](const Probe& p) {
      return p.algorithm == "recursive_doubling" && p.bytes == 4096;
    });
    ASSERT_NE(found, priced->end());
    EXPECT_NEAR(*found->simulated / probe->seconds, 1, 1e-3);
  }
}

TEST(TuneProbes, EveryCollectiveOfAnAlgorithmIsForced) {
  const std::vector<Probe> probes = {{Collective::all_reduce, "ring", 64},
                                     {Collective::all_reduce, "ring", 4096},
                                     {Collective::reduce, "ring", 64},
                                     {Collective::reduce, "binomial", 64},
                                     {Collective::reduce, "", 64}};
  const auto forced = [&](const std::string& algorithm) {
    const Result<std::vector<TuneRule>> rules = parse_tune(rules_for(algorithm, probes));
    EXPECT_TRUE(rules.ok());
    std::set<Collective> collectives;
    for (const TuneRule& r : *rules) {
      EXPECT_EQ(r.algorithm, algorithm);
      EXPECT_EQ(r.from, 0u);
      EXPECT_EQ(r.to, UINT64_MAX);
      EXPECT_TRUE(collectives.insert(r.collective).second);
    }
    return collectives;
  };
  EXPECT_EQ(forced("ring"), (std::set{Collective::all_reduce, Collective::reduce}));
  EXPECT_EQ(forced("binomial"), std::set{Collective::reduce});
  EXPECT_EQ(rules_for("", probes), "");
}

TEST(TuneFit, CurvesNeverFall) {
  const std::vector<uint64_t> sizes = {64, 1024, 16384};
  Profile p = with_curves(builtin_profile(), false, sizes);
  const std::vector<Knob> knobs = curve_knobs(builtin_profile(), false, sizes);
  ASSERT_EQ(knobs.size(), 3u);
  for (const Knob& k : knobs) EXPECT_NEAR(k.get(p), 1, 1e-9) << k.name;
  knobs[0].set(p, 20);
  knobs[2].set(p, 0.1);
  knobs[1].set(p, 3);
  for (const SizeCurve* curve : {&p.ends.send_curve, &p.ends.recv_curve})
    for (size_t i = 1; i < curve->knots.size(); ++i)
      EXPECT_GE(curve->knots[i].seconds, curve->knots[i - 1].seconds);
  EXPECT_NEAR(knobs[1].get(p), 3, 1e-9);
  EXPECT_TRUE(parse_profile(to_json(p)).ok());
}

}  // namespace
}  // namespace tutti::perf
