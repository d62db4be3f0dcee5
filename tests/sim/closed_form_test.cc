// The closed forms against the simulator, on a contention-free network: full bisection, one class
// of links, one link per rank. Where a Cost is exact the two agree to rounding; where it is a bound
// or an approximation, the test says how far it may be off.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "sim/simulator.h"
#include "src/algorithms/levels.h"
#include "src/planner/predict.h"
#include "tests/plan/requests.h"
#include "topology/spec.h"

namespace tutti {
namespace {

constexpr uint32_t k_ranks[] = {2, 3, 4, 5, 7, 8, 12, 13, 16};
constexpr double k_alpha = 4e-6;  // two links of 2 us

struct Pair {
  double closed = 0, simulated = 0;
};

Pair price(const Algorithm& a, const PlanRequest& q, double gamma, uint32_t chunk_bytes) {
  const Result<Topology> star = make_cluster(fmt::format("rank:{}{{bw=1GB/s,lat=2us}}", q.ranks));
  EXPECT_TRUE(star.ok());
  Profile profile;
  profile.gamma = gamma;
  profile.credits = 1u << 31;
  const PlanPtr plan = a.make(q);
  const uint64_t bytes =
      q.collective == Collective::barrier ? 0 : uint64_t{chunk_bytes} * plan->shape().chunks;
  SimOptions options;
  options.segments = {{0, bytes}};
  const Result<SimReport> report = simulate(*plan, *star, profile, options);
  EXPECT_TRUE(report.ok()) << report.status().message();
  Predictor predictor(*star, profile);
  const Result<Prediction> p = predictor.predict(a, q, bytes, DType::float32, ReduceOp::sum);
  EXPECT_TRUE(p.ok());
  return {p->seconds, report->seconds};
}

bool power_of_two(uint32_t n) { return std::has_single_bit(n); }

// The sizes of groups, innermost level first; empty where those of a level differ.
std::vector<uint32_t> even_groups(const PlanRequest& q) {
  const Levels levels(q.hierarchy, q.ranks, Rails::one);
  std::vector<uint32_t> sizes;
  for (uint32_t l = 0; l < levels.count(); ++l) {
    sizes.push_back(levels.largest(l));
    for (Rank r = 0; r < q.ranks; ++r)
      if (const LevelPlace place = levels.place(l, r); place.size > 0 && place.size != sizes[l])
        return {};
  }
  return sizes;
}

// How the simulated time relates to the closed form: between least and most times it, and so many
// alphas more.
struct Relation {
  double least = 1, most = 1;
  double alphas = 0;

  bool exact() const { return least == 1 && most == 1; }
};

// Where a folded rank's block and the first partner's message meet at one port, the time depends on
// which of alpha, beta and gamma is large: no sum of the three.
constexpr Relation k_folded = {0.65, 1.5};

Relation hierarchical(const Algorithm& a, const PlanRequest& q, bool gamma) {
  const std::vector<uint32_t> groups = even_groups(q);
  // The form has every group as busy as the largest one; leftovers meet smaller parts.
  if (groups.empty())
    return q.collective == Collective::all_reduce ? Relation{0.85, 1.85} : Relation{0.3, 1.3};
  // Partial sums of the smaller subtrees wait for, or meet, those of the larger.
  if (q.collective == Collective::reduce) return {0.5, 1.36};
  if (q.collective == Collective::broadcast) return {};
  if (a.name.ends_with("doubling") && !power_of_two(groups.back())) return {0.9, 1.3};
  // One slice's sums are formed while another's are on their way.
  if (a.name.starts_with("hierarchical_scatter"))
    return gamma && q.chunks != 1 ? Relation{0.93, 1} : Relation{};
  // A leader of several levels serves them one after the other.
  return gamma && groups.size() > 2 ? Relation{1, 1.1} : Relation{};
}

Relation relation(const Algorithm& a, const PlanRequest& q, bool gamma) {
  const uint32_t n = q.ranks;
  if (test::is_hierarchical(a)) return hierarchical(a, q, gamma);
  // How long the ports of inner ranks are shared while the pipeline fills depends on alpha / beta.
  if (a.name == "double_binary_tree") return {0.75, 1.42};
  if (a.name == "binomial" && !power_of_two(n)) {
    // Sums of a last level that is not full: some ranks add up fewer children before they send.
    if (q.collective == Collective::reduce) return {0.5, 1};
    // The only rank of its subtree sends at once, beside others.
    if (q.collective != Collective::broadcast && n > 3 && power_of_two(n - 1)) return {0.95, 1};
  }
  if (a.name == "pairwise" && q.in_place) return {0.5, 1.35};  // ranks wait for their turns
  if (!power_of_two(n) && q.collective == Collective::all_reduce && a.name.ends_with("_doubling"))
    return k_folded;
  // The token that gives back the last scratch comes after the last data.
  const bool blocks = q.collective == Collective::gather || q.collective == Collective::scatter;
  if (a.name == "binomial" && blocks && n > 3 && power_of_two(n)) return {1, 1, 1};
  if (a.name == "ring" && q.collective == Collective::reduce_scatter && n > 2) return {1, 1, 1};
  // The second chunk's messages: blocks of up to 64 bytes have none.
  if (a.name == "direct_one_shot" && q.in_place) return {1, 1, 1};
  return {};
}

TEST(ClosedForm, AgreesWithTheSimulator) {
  uint32_t exact = 0, all = 0;
  for (const Algorithm& a : algorithms())
    for (uint32_t n : k_ranks)
      test::for_each_request(a, n, [&](PlanRequest q) {
        if (q.collective == Collective::all_to_all_v || q.collective == Collective::send_recv)
          return;  // their bytes are the caller's, pair by pair
        for (uint32_t chunks : {0u, 1u}) {
          if (chunks > 0 && !test::is_hierarchical(a)) continue;
          q.chunks = chunks;
          for (double gamma : {0.0, 0.3e-9})
            for (uint32_t chunk_bytes : {64u, 64000u}) {
              const Pair p = price(a, q, gamma, chunk_bytes);
              const Relation r = relation(a, q, gamma > 0);
              const double more = r.alphas * k_alpha, rounding = 1e-6 * p.closed;
              const auto what = [&] {
                return fmt::format("{} {} B, gamma {}, ratio {}", test::describe(a, q), chunk_bytes,
                                   gamma, p.simulated / p.closed);
              };
              EXPECT_GE(p.simulated, p.closed * r.least + more - rounding) << what();
              EXPECT_LE(p.simulated, p.closed * r.most + more + rounding) << what();
              exact += r.exact();
              ++all;
            }
        }
      });
  RecordProperty("exact", static_cast<int>(exact));
  RecordProperty("compared", static_cast<int>(all));
  EXPECT_GT(exact, all * 9 / 20) << "most closed forms are exact";
}

TEST(ClosedForm, OverheadsAreInEveryStep) {
  const Result<Topology> star = make_cluster("rank:8{bw=1GB/s,lat=2us}");
  Profile profile;
  profile.ends.send = 1e-6;
  profile.ends.recv = 0.5e-6;
  profile.call_overhead = 3e-6;
  Predictor predictor(*star, profile);
  const Algorithm& ring = *find_algorithm("ring");
  const PlanRequest q{Collective::all_reduce, 8, 0, false, 0, {}};
  SimOptions options;
  options.segments = {{0, 8 * 64000}};
  const Result<SimReport> report = simulate(*ring.make(q), *star, profile, options);
  ASSERT_TRUE(report.ok());
  const Result<Prediction> p = predictor.predict(ring, q, 8 * 64000, DType::float32, ReduceOp::sum);
  ASSERT_TRUE(p.ok());
  EXPECT_NEAR(p->seconds, 3e-6 + 14 * (5.5e-6 + 64e-6), 1e-9);
  EXPECT_NEAR(report->seconds, p->seconds, 1e-9);
}

// Prices that depend on the size of a message: where all messages of an algorithm (of a stage of
// it) are alike the forms agree with the simulator to rounding.
TEST(ClosedForm, PricesBySizeAreTheSimulators) {
  const Result<Topology> star = make_cluster("rank:8{bw=1GB/s,lat=2us}");
  ASSERT_TRUE(star.ok());
  Profile profile;
  profile.credits = 1u << 31;
  profile.ends.send_curve.knots = {{64, 0.2e-6}, {4096, 3e-6}, {65536, 8e-6}};
  profile.ends.recv_curve.knots = {{0, 0.5e-6}, {1024, 0.5e-6}, {65536, 20e-6}};
  for (LinkCost& cost : profile.links[static_cast<int>(LinkClass::network)])
    cost.curve.knots = {{0, 2e-6}, {2048, 7e-6}, {102048, 57e-6}};
  Predictor predictor(*star, profile);
  uint32_t compared = 0;
  for (const auto& [name, collective] : {std::pair{"ring", Collective::all_reduce},
                                         {"ring", Collective::all_gather},
                                         {"recursive_doubling", Collective::all_reduce},
                                         {"recursive_doubling", Collective::all_gather},
                                         {"halving_doubling", Collective::all_reduce},
                                         {"halving_doubling", Collective::reduce_scatter},
                                         {"bruck", Collective::all_to_all},
                                         {"binomial", Collective::broadcast}})
    for (const uint64_t chunk : {64u, 640u, 6400u, 64000u, 640000u}) {
      const Algorithm& a = *find_algorithm(name);
      const PlanRequest q{collective, 8, 0, false, 0, {}};
      ASSERT_TRUE(a.supports(q).ok()) << name;
      const PlanPtr plan = a.make(q);
      const uint64_t bytes = chunk * plan->shape().chunks;
      SimOptions options;
      options.segments = {{0, bytes}};
      const Result<SimReport> report = simulate(*plan, *star, profile, options);
      const Result<Prediction> p = predictor.predict(a, q, bytes, DType::float32, ReduceOp::sum);
      ASSERT_TRUE(report.ok() && p.ok());
      // Bruck's messages and copies are of several sizes; and forms leave the tokens' ends out.
      const bool tokens =
          (a.name == "recursive_doubling" && collective == Collective::all_reduce) ||
          (a.name == "halving_doubling" && collective == Collective::reduce_scatter);
      const double near = a.name == "bruck" ? 0.1 : tokens ? 0.05 : 1e-6;
      EXPECT_NEAR(report->seconds / p->seconds, 1, near) << name << " " << chunk;
      ++compared;
    }
  EXPECT_EQ(compared, 40u);
}

// Two levels: closed forms per level against the simulator, where neighbours contend for NICs.
TEST(ClosedForm, HierarchiesArePricedLevelByLevel) {
  const Result<Topology> cluster =
      make_cluster("node:4{nics=2x100Gb/s,lat=5us} gpu:8{bw=48GB/s,lat=1us}");
  ASSERT_TRUE(cluster.ok());
  const Profile profile;
  Predictor predictor(*cluster, profile);
  for (const Algorithm& a : algorithms()) {
    if (!test::is_hierarchical(a) && a.name != "ring") continue;
    for (uint64_t bytes : {uint64_t{1} << 12, uint64_t{1} << 20, uint64_t{1} << 26}) {
      PlanRequest q{Collective::all_reduce, 32, 0, false, 1, {cluster->groups()}};
      if (!test::is_hierarchical(a)) q.hierarchy = {};
      SimOptions options;
      options.segments = {{0, bytes}};
      const Result<SimReport> report = simulate(*a.make(q), *cluster, profile, options);
      ASSERT_TRUE(report.ok()) << report.status().message();
      const Result<Prediction> p = predictor.predict(a, q, bytes, DType::float32, ReduceOp::sum);
      ASSERT_TRUE(p.ok());
      EXPECT_NEAR(report->seconds / p->seconds, 1, 0.15) << a.name << " " << bytes;
    }
  }
}

TEST(ClosedForm, CandidatesAreRankedAndErrorsNamed) {
  const Result<Topology> cluster =
      make_cluster("node:4{nics=8x100Gb/s,lat=5us} gpu:8{bw=48GB/s,lat=1us}");
  ASSERT_TRUE(cluster.ok());
  const Profile profile;
  Predictor predictor(*cluster, profile);
  PlanRequest q{Collective::all_reduce, 32, 0, false, 0, {cluster->groups()}};
  auto best = [&](uint64_t bytes) {
    const auto c = rank_candidates(predictor, q, bytes, DType::float32, ReduceOp::sum);
    EXPECT_TRUE(c.ok());
    for (size_t i = 1; i < c->size(); ++i)
      EXPECT_LE((*c)[i - 1].prediction.seconds, (*c)[i].prediction.seconds);
    return std::string(c->front().algorithm->name);
  };
  EXPECT_EQ(best(8), "direct_one_shot");
  EXPECT_TRUE(best(uint64_t{1} << 28).starts_with("hierarchical_scatter"));
  q.ranks = 33;
  q.hierarchy = {};
  const auto c = rank_candidates(predictor, q, 8, DType::float32, ReduceOp::sum);
  ASSERT_FALSE(c.ok());
  EXPECT_EQ(c.status().message(), "33 ranks do not fit a topology of 32");
}

}  // namespace
}  // namespace tutti
