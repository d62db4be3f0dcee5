// The interpreter with numbers: what plans compute, that credits do not change it, that passes and
// rounds mean what plan.h says.
#include "src/plan/interpret.h"

#include <gtest/gtest.h>

#include "src/algorithms/algorithms.h"
#include "tests/plan/sample_plans.h"

namespace tutti {
namespace {

using Elements = std::vector<int64_t>;

// Integer sums over chunks of two elements; every rank multiplies its input by its own factor.
struct Integers {
  using Value = Elements;
  uint32_t divisor = 1;
  std::vector<size_t> arities;  // operands of each pass

  Elements input(Rank rank, uint32_t chunk, uint32_t round) {
    return {int64_t{rank} * 1000 + chunk, int64_t{round} + rank};
  }
  Elements blank(Rank, Buffer, uint32_t, uint32_t) { return {-1, -1}; }
  Elements read_input(Rank rank, const Elements& v) {
    return {v[0] * (rank + 2), v[1] * (rank + 2)};
  }
  Elements reduce(Rank, Buffer, uint32_t, std::span<const Elements> operands, bool last) {
    arities.push_back(operands.size());
    Elements sum(2, 0);
    for (const Elements& o : operands)
      for (size_t i = 0; i < 2; ++i) sum[i] += o[i];
    if (last)
      for (int64_t& s : sum) s /= divisor;
    return sum;
  }
};

Elements expected_sum(uint32_t ranks, uint32_t chunk, uint32_t round, uint32_t divisor) {
  Elements sum(2, 0);
  for (Rank r = 0; r < ranks; ++r) {
    sum[0] += (int64_t{r} * 1000 + chunk) * (r + 2);
    sum[1] += (int64_t{round} + r) * (r + 2);
  }
  for (int64_t& s : sum) s /= divisor;
  return sum;
}

TEST(Interpreter, EveryAllReduceSumsAndDividesOnceInEveryRound) {
  uint32_t plans = 0;
  for (const Algorithm& a : algorithms())
    for (uint32_t n : {2u, 3u, 4u, 7u})
      for (bool in_place : {false, true}) {
        PlanRequest request;
        request.ranks = n;
        request.in_place = in_place;
        request.hierarchy = Hierarchy::even(n, {2});
        if (!a.supports(request).ok()) continue;
        const PlanPtr plan = a.make(request);
        const PlanIndex index(*plan);
        ASSERT_TRUE(index.structure().ok() && index.matching().ok()) << a.name;
        for (uint32_t credits : {plan->shape().credits, 100u}) {
          Integers integers;
          integers.divisor = n;
          Interpreter<Integers> world(index, integers, {credits, 3});
          ASSERT_TRUE(world.run()) << a.name;
          for (uint32_t round = 0; round < 3; ++round)
            for (Rank r = 0; r < n; ++r)
              for (uint32_t c = 0; c < plan->shape().chunks; ++c)
                ASSERT_EQ(world.value(r, Buffer::output, c, round), expected_sum(n, c, round, n))
                    << a.name << " rank " << r << " chunk " << c << " round " << round;
        }
        ++plans;
      }
  EXPECT_GT(plans, 20u);
}

TEST(Interpreter, APassIsOneOperation) {
  Shape shape;
  shape.collective = Collective::reduce;
  shape.ranks = 3;
  shape.scratch = 1;
  using sample::recv_reduce;
  constexpr Buffer in = Buffer::input, out = Buffer::output;
  const TablePlan plan("hand", shape,
                       {{{recv_reduce(1, out, 0, in, 0), recv_reduce(2, out, 0, out, 0),
                          sample::reduce(out, 0, in, 0, true)}},
                        {{sample::send(0, in, 0)}},
                        {{sample::send(0, in, 0)}}});
  const PlanIndex index(plan);
  Integers integers;
  Interpreter<Integers> world(index, integers, {1});
  ASSERT_TRUE(world.run());
  EXPECT_EQ(integers.arities, std::vector<size_t>{4});
  EXPECT_EQ(world.value(0, out, 0)[0], 0 * 2 + 1000 * 3 + 2000 * 4 + 0 * 2);
}

TEST(Interpreter, SendsBufferTheirValue) {
  Shape shape;
  shape.collective = Collective::broadcast;
  shape.ranks = 2;
  shape.scratch = 1;
  shape.credits = 2;
  constexpr Buffer in = Buffer::input, out = Buffer::output, tmp = Buffer::scratch;
  // The scratch chunk is overwritten with garbage after its send.
  const TablePlan plan("hand", shape,
                       {{{sample::copy(out, 0, tmp, 0), sample::copy(tmp, 0, in, 0),
                          sample::send(1, tmp, 0), sample::copy(tmp, 0, out, 0)}},
                        {{sample::recv(0, out, 0)}}});
  const PlanIndex index(plan);
  Integers integers;
  Interpreter<Integers> world(index, integers, {2});
  ASSERT_TRUE(world.run());
  EXPECT_EQ(world.value(1, out, 0)[0], 0 * 2);
  EXPECT_EQ(world.value(0, tmp, 0)[0], -1);
}

TEST(Interpreter, InPlaceTableOfThePlanHeader) {
  struct Row {
    Collective collective;
    Rank rank;
    uint32_t input_chunk, output_chunk;  // the same memory
  };
  // 4 ranks, 3 chunks, root 2.
  const Row rows[] = {
      {Collective::all_reduce, 1, 2, 2},
      {Collective::reduce_scatter, 1, 1 * 3 + 2, 2},
      {Collective::all_gather, 1, 2, 1 * 3 + 2},
      {Collective::broadcast, 2, 1, 1},
      {Collective::reduce, 2, 1, 1},
      {Collective::all_to_all, 3, 7, 7},
      {Collective::gather, 2, 1, 2 * 3 + 1},
      {Collective::scatter, 2, 2 * 3 + 1, 1},
  };
  for (const Row& row : rows)
    for (bool in_place : {false, true}) {
      Shape shape;
      shape.collective = row.collective;
      shape.ranks = 4;
      shape.chunks = 3;
      shape.root = 2;
      shape.scratch = 5;
      shape.in_place = in_place;
      const CellMap map(shape, 2);
      for (uint32_t round : {0u, 1u})
        EXPECT_EQ(map.cell(row.rank, Buffer::input, row.input_chunk, round) ==
                      map.cell(row.rank, Buffer::output, row.output_chunk, round),
                  in_place)
            << name(row.collective);
      EXPECT_NE(map.cell(row.rank, Buffer::input, row.input_chunk, 0),
                map.cell(row.rank, Buffer::input, row.input_chunk, 1));
      EXPECT_EQ(map.cell(row.rank, Buffer::scratch, 4, 0),
                map.cell(row.rank, Buffer::scratch, 4, 1));
    }
}

}  // namespace
}  // namespace tutti
