// Every algorithm, every collective, many rank counts: proven by verify(), with races.
#include "src/algorithms/algorithms.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <tuple>
#include <vector>

#include "src/plan/verify.h"
#include "tests/plan/requests.h"

namespace tutti {
namespace {

using test::describe;
using test::for_each_request;

class EveryAlgorithm : public testing::TestWithParam<std::string_view> {
 protected:
  const Algorithm& algorithm() const { return *find_algorithm(GetParam()); }

  void prove(const PlanRequest& request) {
    const Result<PlanPtr> plan = make_plan(GetParam(), request);
    ASSERT_TRUE(plan.ok()) << describe(algorithm(), request) << ": " << plan.status().to_string();
    const VerifyReport report = verify(**plan);
    EXPECT_TRUE(report.ok()) << describe(algorithm(), request) << ": " << report.problem
                             << " (pull " << name(report.pull_races) << ", push "
                             << name(report.push_races) << ")";
    ++proven_;
  }

  int proven_ = 0;
};

TEST_P(EveryAlgorithm, HoldsForOneToThirtyThreeRanks) {
  for (uint32_t n = 1; n <= 33; ++n)
    for_each_request(algorithm(), n, [&](const PlanRequest& q) { prove(q); });
  EXPECT_GE(proven_, 33);
}

TEST_P(EveryAlgorithm, HoldsFor64And100Ranks) {
  for (uint32_t n : {64u, 100u})
    for_each_request(algorithm(), n, [&](const PlanRequest& q) { prove(q); });
  EXPECT_GE(proven_, 2);
}

TEST_P(EveryAlgorithm, HoldsForOtherChunkCounts) {
  for (uint32_t chunks : {1u, 2u, 3u, 40u})
    for (uint32_t n : {2u, 3u, 5u, 8u, 13u})
      for_each_request(algorithm(), n, [&](PlanRequest q) {
        q.chunks = chunks;
        prove(q);
      });
}

uint64_t total_steps(const Plan& plan) {
  uint64_t total = 0;
  for (Rank r = 0; r < plan.shape().ranks; ++r)
    for (Lane lane = 0; lane < plan.shape().lanes; ++lane) total += plan.steps(r, lane);
  return total;
}

// One request for each collective, until millions of steps have been proven: where every rank talks
// to every other, a plan has two million here.
TEST_P(EveryAlgorithm, HoldsFor1024Ranks) {
  uint64_t steps = 0;
  for (Collective collective : test::k_all_collectives) {
    PlanRequest q{collective, 1024, 0, true, 0, {}};
    if (test::has_root(collective)) q.root = 777;
    if (test::is_hierarchical(algorithm())) q.hierarchy = Hierarchy::even(1024, {8, 16});
    if (!algorithm().supports(q).ok()) q.in_place = false;
    if (!algorithm().supports(q).ok()) continue;
    steps += total_steps(*algorithm().make(q));
    if (proven_ == 0 || steps < 3'000'000) prove(q);
  }
  EXPECT_GE(proven_, 1);
}

// Calls f(step) for every message of the plan: peer, direction and chunks of a block.
template <class F>
void for_each_message(const Plan& plan, F&& f) {
  for (Rank r = 0; r < plan.shape().ranks; ++r)
    for (Lane lane = 0; lane < plan.shape().lanes; ++lane)
      for (uint32_t i = 0; i < plan.steps(r, lane); ++i)
        if (const Step s = plan.step_at(r, lane, i); s.op == Op::send || reads_message(s.op))
          f(r, lane, s);
}

// verify() proves that no message is longer than declared; a needlessly long one would cut rounds
// short.
TEST_P(EveryAlgorithm, DeclaresItsLongestMessage) {
  for (uint32_t n : {2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 12u, 13u, 16u, 17u, 24u, 33u, 64u})
    for_each_request(algorithm(), n, [&](const PlanRequest& q) {
      const PlanPtr plan = algorithm().make(q);
      uint32_t longest = 1;
      for_each_message(*plan,
                       [&](Rank, Lane, const Step& s) { longest = std::max(longest, s.count); });
      // A root in the middle splits the largest subtree's blocks into two runs.
      const bool split =
          (q.collective == Collective::gather || q.collective == Collective::scatter) && q.root > 0;
      EXPECT_TRUE(plan->shape().longest == longest || (split && plan->shape().longest > longest))
          << describe(algorithm(), q) << ": declared " << plan->shape().longest << ", has "
          << longest;
    });
}

TEST_P(EveryAlgorithm, DeclaresWhetherItsFormsExchangeTheSameMessages) {
  using Message = std::tuple<Rank, Lane, bool, Rank, uint32_t, uint32_t>;
  auto messages = [](const Plan& plan) {
    std::vector<Message> all;
    for_each_message(plan, [&](Rank r, Lane lane, const Step& s) {
      const bool send = s.op == Op::send;
      const uint32_t chunk = s.count == 0 ? 0 : (send ? s.src : s.dst) % plan.shape().chunks;
      all.emplace_back(r, lane, send, s.peer, s.count, chunk);
    });
    return all;
  };
  for (uint32_t n : {1u, 2u, 3u, 4u, 5u, 7u, 8u, 13u, 16u})
    for_each_request(algorithm(), n, [&](PlanRequest q) {
      if (q.in_place) return;
      const PlanPtr out = algorithm().make(q);
      q.in_place = true;
      if (!algorithm().supports(q).ok()) return;
      const PlanPtr in = algorithm().make(q);
      const bool differ =
          in->shape().chunks != out->shape().chunks || messages(*in) != messages(*out);
      EXPECT_EQ(algorithm().in_place_differs(q.collective, n), differ) << describe(algorithm(), q);
    });
}

TEST_P(EveryAlgorithm, AnswersTheSameTwice) {
  for (uint32_t n : {1u, 2u, 6u, 9u}) {
    for_each_request(algorithm(), n, [&](const PlanRequest& q) {
      const PlanPtr one = algorithm().make(q), two = algorithm().make(q);
      EXPECT_EQ(one->id(), two->id());
      EXPECT_EQ(one->shape(), two->shape());
      for (Rank r = 0; r < n; ++r) {
        for (Lane lane = 0; lane < one->shape().lanes; ++lane) {
          ASSERT_EQ(one->steps(r, lane), two->steps(r, lane));
          for (uint32_t i = one->steps(r, lane); i-- > 0;)  // backwards: no state between calls
            ASSERT_EQ(one->step_at(r, lane, i), two->step_at(r, lane, i))
                << describe(algorithm(), q);
        }
      }
    });
  }
}

TEST_P(EveryAlgorithm, CostIsFiniteAndNeedsAStep) {
  for (uint32_t n : {1u, 2u, 7u, 16u}) {
    for_each_request(algorithm(), n, [&](const PlanRequest& q) {
      const Cost cost = algorithm().cost(q);
      if (n == 1) {
        EXPECT_EQ(cost.steps, 0);
        return;
      }
      EXPECT_GE(cost.steps, 1) << describe(algorithm(), q);
      EXPECT_EQ(cost.bytes > 0, q.collective != Collective::barrier) << describe(algorithm(), q);
      const bool reduces = q.collective == Collective::all_reduce ||
                           q.collective == Collective::reduce ||
                           q.collective == Collective::reduce_scatter;
      EXPECT_EQ(cost.reduced > 0, reduces) << describe(algorithm(), q);
    });
  }
}

std::vector<std::string_view> names() {
  std::vector<std::string_view> result;
  for (const Algorithm& a : algorithms()) result.push_back(a.name);
  return result;
}
INSTANTIATE_TEST_SUITE_P(Algorithms, EveryAlgorithm, testing::ValuesIn(names()),
                         [](const auto& which) { return std::string(which.param); });

TEST(Algorithms, EveryCollectiveIsServedAtEveryRankCount) {
  for (Collective collective : test::k_all_collectives) {
    for (uint32_t n = 1; n <= 33; ++n) {
      for (bool in_place : {false, true}) {
        const bool never =
            collective == Collective::all_to_all_v || collective == Collective::send_recv;
        bool served = false;
        for (const Algorithm& a : algorithms())
          served |= a.supports({collective, n, 0, in_place, 0, {}}).ok();
        EXPECT_EQ(served, !(in_place && never)) << name(collective) << " n=" << n;
      }
    }
  }
}

TEST(Algorithms, NamesAreUniqueAndFound) {
  std::set<std::string_view> seen;
  for (const Algorithm& a : algorithms()) {
    EXPECT_TRUE(seen.insert(a.name).second) << a.name;
    EXPECT_EQ(find_algorithm(a.name), &a);
    EXPECT_FALSE(a.summary.empty());
  }
  EXPECT_EQ(find_algorithm("rng"), nullptr);
}

TEST(Algorithms, PlansOfDifferentAlgorithmsHaveDifferentIds) {
  std::set<uint64_t> ids;
  int made = 0;
  for (const Algorithm& a : algorithms())
    for_each_request(a, 12, [&](const PlanRequest& q) {
      ids.insert(a.make(q)->id());
      ++made;
    });
  EXPECT_EQ(ids.size(), static_cast<size_t>(made));
}

void expect_refused(std::string_view algorithm, const PlanRequest& request, Code code,
                    std::string_view says) {
  const Result<PlanPtr> plan = make_plan(algorithm, request);
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.status().code(), code);
  EXPECT_NE(plan.status().message().find(says), std::string::npos) << plan.status().message();
}

TEST(Algorithms, RefusalsNameTheReason) {
  const PlanRequest q{Collective::all_reduce, 4, 0, false, 0, {}};
  expect_refused("rng", q, Code::invalid_argument, "there is no algorithm 'rng'; there are ring");
  expect_refused("direct", q, Code::unsupported, "direct does not serve all_reduce");
  expect_refused("ring", {Collective::all_reduce, 0, 0, false, 0, {}}, Code::invalid_argument,
                 "at least one rank");
  expect_refused("binomial", {Collective::broadcast, 4, 4, false, 0, {}}, Code::invalid_argument,
                 "root 4 is not among 4 ranks");
  // Rounded up to slices they would be none.
  expect_refused("hierarchical_leader", {Collective::all_reduce, 4, 0, false, UINT32_MAX, {}},
                 Code::invalid_argument, "4294967295 chunks of a block, at most 65536");
  // Two steps for each would be none.
  expect_refused("ring", {Collective::broadcast, 4, 0, false, 1u << 31, {}}, Code::invalid_argument,
                 "at most 65536");
  expect_refused("pairwise", {Collective::send_recv, 4, 0, true, 0, {}}, Code::unsupported,
                 "never in place");
  expect_refused("direct", {Collective::all_to_all, 4, 0, true, 0, {}}, Code::unsupported,
                 "only pairwise");
  expect_refused("recursive_doubling", {Collective::all_gather, 6, 0, false, 0, {}},
                 Code::unsupported, "power of two, not 6 ranks");
}

TEST(Algorithms, HierarchiesThatDoNotFitAreRefused) {
  PlanRequest q{Collective::all_reduce, 4, 0, false, 0, {}};
  q.hierarchy.level = {{0, 0, 1}};
  expect_refused("hierarchical_scatter", q, Code::invalid_argument, "names 3 ranks of 4");
  q.hierarchy.level = {{0, 0, 1, 1}, {0, 1, 1, 1}};
  expect_refused("hierarchical_leader", q, Code::invalid_argument,
                 "group 0 of hierarchy level 0 is split at level 1 (rank 1)");
  q.hierarchy.level.assign(8, {0, 0, 0, 0});
  expect_refused("hierarchical_leader", q, Code::unsupported, "at most 7");
}

}  // namespace
}  // namespace tutti
