// Plans on other orders of ranks: proven by verify(), relabelled step by step, refused where torn.
#include "src/plan/braid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "src/algorithms/on_orders.h"
#include "src/plan/verify.h"
#include "tests/plan/requests.h"

namespace tutti {
namespace {

using testing::HasSubstr;

std::vector<Rank> shuffled(uint32_t n, std::mt19937& random) {
  std::vector<Rank> order(n);
  for (Rank r = 0; r < n; ++r) order[r] = r;
  for (uint32_t i = n; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  return order;
}

TEST(Braid, EveryAlgorithmRelabelledIsProvenOrRefusedByName) {
  std::mt19937 random(3);
  uint32_t proven = 0, refused = 0;
  for (const Algorithm& a : algorithms())
    for (uint32_t n : {2u, 3u, 5u, 8u})
      test::for_each_request(a, n, [&](const PlanRequest& request) {
        const std::vector<Rank> order = shuffled(n, random);
        const Result<PlanPtr> plan = make_on_orders(a, request, {order});
        if (!plan) {
          EXPECT_EQ(plan.status().code(), Code::unsupported) << test::describe(a, request);
          EXPECT_THAT(plan.status().message(), HasSubstr("another order tears apart"));
          ++refused;
          return;
        }
        EXPECT_EQ((*plan)->shape().root, request.root);
        const VerifyReport report = verify(**plan);
        EXPECT_TRUE(report.ok()) << test::describe(a, request) << ": " << report.problem;
        ++proven;
      });
  EXPECT_GT(proven, 500u);
  EXPECT_GT(refused, 0u);
}

TEST(Braid, SeveralRingsShareTheChunks) {
  std::mt19937 random(9);
  for (Collective c : {Collective::all_reduce, Collective::reduce_scatter, Collective::all_gather,
                       Collective::broadcast, Collective::reduce})
    for (bool in_place : {false, true})
      for (uint32_t n : {2u, 3u, 4u, 8u})
        for (uint32_t strands : {1u, 2u, 3u, 6u}) {
          std::vector<std::vector<Rank>> orders;
          for (uint32_t s = 0; s < strands; ++s) orders.push_back(shuffled(n, random));
          const PlanRequest request{
              c,        n, c == Collective::broadcast || c == Collective::reduce ? n - 1 : 0,
              in_place, 0, {}};
          const Result<PlanPtr> plan = make_on_orders(*find_algorithm("ring"), request, orders);
          ASSERT_TRUE(plan.ok()) << plan.status().message();
          EXPECT_EQ((*plan)->shape().lanes, strands);
          const VerifyReport report = verify(**plan);
          EXPECT_TRUE(report.ok())
              << name(c) << " n=" << n << " strands=" << strands << ": " << report.problem;
        }
}

TEST(Braid, StepsAreThoseOfThePlanWithOtherNames) {
  const PlanRequest request{Collective::all_gather, 4, 0, false, 0, {}};
  const PlanPtr plain = *make_plan("ring", request);
  const std::vector<Rank> order = {2, 0, 3, 1};
  const PlanPtr moved = *braid("ring", {{plain, order}});
  for (Rank v = 0; v < 4; ++v) {
    ASSERT_EQ(moved->steps(order[v], 0), plain->steps(v, 0));
    for (uint32_t i = 0; i < plain->steps(v, 0); ++i) {
      Step want = plain->step_at(v, 0, i);
      if (want.op == Op::send || want.op == Op::recv) want.peer = order[want.peer];
      if (writes_dst(want.op)) want.dst = order[want.dst];
      if (want.op == Op::send && want.src_buffer == Buffer::output) want.src = order[want.src];
      EXPECT_EQ(moved->step_at(order[v], 0, i), want) << v << " " << i;
    }
  }
  EXPECT_NE(moved->id(), plain->id());
  EXPECT_NE((*braid("ring", {{plain, {0, 1, 2, 3}}}))->id(), moved->id());
}

TEST(Braid, RefusesWhatMakesNoSense) {
  const PlanPtr four = *make_plan("ring", {Collective::all_reduce, 4, 0, false, 0, {}});
  const PlanPtr five = *make_plan("ring", {Collective::all_reduce, 5, 0, false, 0, {}});
  EXPECT_THAT(braid("x", {}).status().message(), HasSubstr("no strands"));
  EXPECT_THAT(braid("x", {{four, {0, 1, 2}}}).status().message(),
              HasSubstr("an order of 3 ranks for 4"));
  EXPECT_THAT(braid("x", {{four, {0, 1, 2, 2}}}).status().message(),
              HasSubstr("rank 2 of 4 comes twice"));
  EXPECT_THAT(braid("x", {{four, {0, 1, 2, 9}}}).status().message(), HasSubstr("rank 9 of 4"));
  EXPECT_THAT(braid("x", {{four, {0, 1, 2, 3}}, {five, {0, 1, 2, 3, 4}}}).status().message(),
              HasSubstr("strand 1 is for another call"));
}

}  // namespace
}  // namespace tutti
