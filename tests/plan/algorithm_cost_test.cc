// The closed-form costs against the plans: steps on the critical path are counted by running the
// plan with a clock, in which a message takes one unit of time and nothing else takes any.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <tuple>

#include "src/algorithms/algorithms.h"
#include "src/algorithms/formula.h"
#include "tests/plan/requests.h"

namespace tutti {
namespace {

// When the last step that moves or makes data is done. `port`: a lane sends one message at a time;
// otherwise all messages of a lane may leave at once.
double critical_path(const Plan& plan, bool port) {
  const Shape& shape = plan.shape();
  std::map<std::tuple<uint32_t, uint32_t, uint32_t, bool>, std::deque<double>> sent;
  std::vector<double> now(shape.ranks * shape.lanes, 0);
  std::vector<uint32_t> next(now.size(), 0);
  double end = 0;
  auto advance = [&](Rank r, Lane lane) {
    const uint32_t id = r * shape.lanes + lane;
    bool moved = false;
    for (; next[id] < plan.steps(r, lane); ++next[id], moved = true) {
      const Step s = plan.step_at(r, lane, next[id]);
      if (s.op == Op::send) {
        if (port) now[id] += 1;
        sent[{r, s.peer, lane, false}].push_back(now[id] + (port ? 0 : 1));
      } else if (s.op == Op::signal) {
        sent[{r, lane, s.peer, true}].push_back(now[id]);
      } else if (s.op == Op::wait || reads_message(s.op)) {
        auto& queue =
            s.op == Op::wait ? sent[{r, s.peer, lane, true}] : sent[{s.peer, r, lane, false}];
        if (queue.empty()) return moved;
        now[id] = std::max(now[id], queue.front());
        queue.pop_front();
      }
      if (s.count > 0 || shape.collective == Collective::barrier) end = std::max(end, now[id]);
    }
    return moved;
  };
  for (bool moved = true; moved;) {
    moved = false;
    for (Rank r = 0; r < shape.ranks; ++r)
      for (Lane lane = 0; lane < shape.lanes; ++lane) moved |= advance(r, lane);
  }
  return end;
}

constexpr uint32_t k_ranks[] = {2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 31, 32, 33};

bool pipelined(const Algorithm& a, Collective c) {
  return a.name == "double_binary_tree" ||
         (test::has_root(c) && (a.name == "ring" || test::is_hierarchical(a)));
}

// Not pipelined: the depth is the formula's, at every rank count, with these exceptions.
// - One-shot in place sends a second chunk after the first; blocks of up to 64 bytes have none, and
//   the formula speaks of those.
// - A binomial tree with a last level that is not full, and a cube with few folded ranks, can be
// one
//   step less deep: the formula counts one message of a rank after the other.
TEST(AlgorithmCost, StepsAreTheDepthOfThePlan) {
  for (const Algorithm& a : algorithms()) {
    for (uint32_t n : k_ranks) {
      test::for_each_request(a, n, [&](const PlanRequest& q) {
        if (pipelined(a, q.collective)) return;
        const double depth = critical_path(*a.make(q), false), steps = a.cost(q).steps;
        const double second_chunk = a.name == "direct_one_shot" && q.in_place ? 1 : 0;
        const bool ragged =
            lowest_bit(n) != n && (a.name == "binomial" || a.name == "recursive_doubling");
        EXPECT_LE(depth, steps + second_chunk) << test::describe(a, q);
        EXPECT_GE(depth, steps + second_chunk - (ragged ? 1 : 0)) << test::describe(a, q);
      });
    }
  }
}

TEST(AlgorithmCost, ChainStepsAreThoseOfAPipeline) {
  const Algorithm& ring = *find_algorithm("ring");
  for (uint32_t n : k_ranks)
    for (uint32_t chunks : {1u, 2u, 7u, 16u})
      for (Collective c : {Collective::broadcast, Collective::reduce}) {
        const PlanRequest q{c, n, n / 2, false, chunks, {}};
        // In reduce, the token of a parent that waits for nobody leaves first.
        const double token = c == Collective::reduce && n > 2 ? 1 : 0;
        const double steps = critical_path(*ring.make(q), true);
        EXPECT_GE(steps, ring.cost(q).steps) << test::describe(ring, q);
        EXPECT_LE(steps, ring.cost(q).steps + token) << test::describe(ring, q);
      }
}

// The trees' formulas are upper bounds; a plan is no worse, and not idle most of the time either.
TEST(AlgorithmCost, TreeStepsAreBounded) {
  for (std::string_view name : {"double_binary_tree", "hierarchical_leader"}) {
    const Algorithm& tree = *find_algorithm(name);
    for (uint32_t n : k_ranks) {
      for (uint32_t chunks : {2u, 16u, 64u}) {
        test::for_each_request(tree, n, [&](PlanRequest q) {
          if (!test::has_root(q.collective) && name == "hierarchical_leader") return;
          q.chunks = chunks;
          const double steps = critical_path(*tree.make(q), true), bound = tree.cost(q).steps + 2;
          EXPECT_LE(steps, bound) << test::describe(tree, q);
          const bool busy = n > 2 && q.collective != Collective::reduce;
          EXPECT_GE((busy ? 4 : 8) * steps, bound) << test::describe(tree, q);
        });
      }
    }
  }
}

TEST(AlgorithmCost, TextbookFigures) {
  auto steps = [](std::string_view name, PlanRequest q) {
    return find_algorithm(name)->cost(q).steps;
  };
  const PlanRequest thousand{Collective::all_reduce, 1024, 0, false, 0, {}};
  EXPECT_EQ(steps("ring", thousand), 2046);
  EXPECT_EQ(steps("recursive_doubling", thousand), 10);
  EXPECT_EQ(steps("halving_doubling", thousand), 20);
  EXPECT_EQ(steps("direct_two_shot", thousand), 2);
  PlanRequest grouped = thousand;
  grouped.hierarchy = Hierarchy::even(1024, {8});
  EXPECT_EQ(steps("hierarchical_leader", grouped), 2 + 2 * 127);
  EXPECT_EQ(steps("hierarchical_scatter", grouped), 2 + 2 * 127);
  // Every byte crosses every level once: as many bytes as the flat ring.
  EXPECT_DOUBLE_EQ(find_algorithm("hierarchical_scatter")->cost(grouped).bytes, 2 * 1023.0 / 1024);
}

}  // namespace
}  // namespace tutti
