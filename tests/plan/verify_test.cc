// verify() on hand-written plans: right ones pass, and each kind of wrong one fails the proof that
// is meant to catch it, with a sentence that names the place. The mutation test does it at large.
#include "src/plan/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/plan/sample_plans.h"

namespace tutti {
namespace {

using sample::copy;
using sample::recv;
using sample::recv_reduce;
using sample::reduce;
using sample::send;
using sample::signal;
using sample::wait;
using testing::HasSubstr;

constexpr Buffer in = Buffer::input, out = Buffer::output, tmp = Buffer::scratch;

Shape shape_of(Collective collective, uint32_t ranks, uint32_t chunks = 1, uint32_t scratch = 0) {
  Shape s;
  s.collective = collective;
  s.ranks = ranks;
  s.chunks = chunks;
  s.scratch = scratch;
  s.longest = 2;
  return s;
}

VerifyReport check(const Shape& shape, TablePlan::Table table) {
  return verify(TablePlan("hand", shape, std::move(table)));
}

// Two ranks, one chunk: both send their input and reduce what comes.
TablePlan::Table exchange() {
  return {{{send(1, in, 0), recv_reduce(1, out, 0, in, 0, true)}},
          {{send(0, in, 0), recv_reduce(0, out, 0, in, 0, true)}}};
}

TEST(Verify, RingOfManySizesIsProven) {
  for (uint32_t n : {2u, 3u, 4u, 5u, 8u, 33u, 100u})
    for (bool in_place : {false, true}) {
      const VerifyReport r = verify(sample::Ring(n, in_place));
      EXPECT_TRUE(r.ok()) << n << ": " << r.problem;
      EXPECT_EQ(r.steps, uint64_t{n} * 4 * (n - 1));
      EXPECT_EQ(r.problem, "");
    }
}

TEST(Verify, RacesNotAskedForAreUnproven) {
  VerifyOptions options;
  options.races = false;
  const VerifyReport r = verify(sample::Ring(4), options);
  EXPECT_EQ(r.pull_races, Verdict::unproven);
  EXPECT_FALSE(r.ok());
  EXPECT_TRUE(r.ok(/*races_required=*/false));
}

// ---- structure

struct BadStep {
  const char* what;
  Step step;
};

TEST(Verify, StructureRejectsMalformedSteps) {
  Step stray_source = recv(1, out, 0);
  stray_source.src = 1;
  Step stray_peer = copy(out, 0, in, 0);
  stray_peer.peer = 1;
  Step last_send = send(1, in, 0);
  last_send.last = true;
  Step empty_copy = copy(out, 0, in, 0, 0);
  const std::vector<BadStep> bad = {
      {"names rank 9", send(9, in, 0)},
      {"own rank", send(0, in, 0)},
      {"out of range", send(1, in, 2)},
      {"out of range", recv(1, out, 1, 2)},
      {"longest declared has 2", recv(1, out, 0, 3)},
      {"out of range", send(1, tmp, 0)},
      {"writes the input", recv(1, in, 0)},
      {"does not use", stray_source},
      {"does not use", stray_peer},
      {"marked last", last_send},
      {"no chunks", empty_copy},
      {"names lane 1", signal(1)},
      {"own lane", wait(0)},
      {"different lengths", copy(out, 1, in, 0)},
      {"overlap", reduce(out, 0, out, 0)},
  };
  for (const BadStep& b : bad) {
    const VerifyReport r = check(shape_of(Collective::all_reduce, 2, 2), {{{b.step}}, {{}}});
    EXPECT_EQ(r.structure, Verdict::failed) << b.what;
    EXPECT_THAT(r.problem, HasSubstr(b.what));
    EXPECT_THAT(r.problem, HasSubstr("rank 0 lane 0 step 0"));
    EXPECT_EQ(r.matching, Verdict::unproven);
  }
}

TEST(Verify, StructureRejectsBadShapes) {
  Shape s = shape_of(Collective::broadcast, 2);
  s.root = 2;
  EXPECT_EQ(check(s, {{{}}, {{}}}).structure, Verdict::failed);
  s = shape_of(Collective::broadcast, 2);
  s.credits = 0;
  EXPECT_EQ(check(s, {{{}}, {{}}}).structure, Verdict::failed);
  s = shape_of(Collective::all_to_all_v, 2);
  s.in_place = true;
  EXPECT_EQ(check(s, {{{}}, {{}}}).structure, Verdict::failed);
  s = shape_of(Collective::broadcast, 2);
  s.longest = 0;
  EXPECT_EQ(check(s, {{{}}, {{}}}).structure, Verdict::failed);
  s = shape_of(Collective::all_reduce, 0);
  EXPECT_EQ(check(s, {}).structure, Verdict::failed);
}

TEST(Verify, InPlaceMayNameTheOutputAsInputOnlyWhereTheyAreOne) {
  Shape s = shape_of(Collective::all_gather, 2);
  s.in_place = true;
  EXPECT_TRUE(
      check(s, {{{send(1, in, 0), recv(1, out, 1)}}, {{send(0, in, 0), recv(0, out, 0)}}}).ok());
  // Not in place, the own block must be copied.
  s.in_place = false;
  EXPECT_EQ(check(s, {{{send(1, in, 0), recv(1, out, 1)}}, {{send(0, in, 0), recv(0, out, 0)}}})
                .postcondition,
            Verdict::failed);
}

TEST(Verify, LastInsideAPassIsRefused) {
  const VerifyReport r =
      check(shape_of(Collective::all_reduce, 3, 1),
            {{{send(1, in, 0), send(2, in, 0), recv_reduce(1, out, 0, in, 0, true),
               recv_reduce(2, out, 0, out, 0)}},
             {{send(0, in, 0), recv(0, out, 0)}},
             {{send(0, in, 0), recv(0, out, 0)}}});
  EXPECT_EQ(r.structure, Verdict::failed);
  EXPECT_THAT(r.problem, HasSubstr("pass"));
}

// ---- matching

TEST(Verify, MatchingFindsLeftOversAndMissingMessages) {
  auto table = exchange();
  table[0][0].push_back(send(1, in, 0));
  VerifyReport r = check(shape_of(Collective::all_reduce, 2), table);
  EXPECT_EQ(r.matching, Verdict::failed);
  EXPECT_THAT(r.problem, HasSubstr("left over"));

  table = exchange();
  table[0][0].erase(table[0][0].begin());
  r = check(shape_of(Collective::all_reduce, 2), table);
  EXPECT_EQ(r.matching, Verdict::failed);
  EXPECT_THAT(r.problem, HasSubstr("waits for message 0 of rank 0"));
}

TEST(Verify, MatchingComparesCountsAndLengths) {
  Shape s = shape_of(Collective::all_gather, 2, 2);
  VerifyReport r =
      check(s, {{{copy(out, 0, in, 0, 2), send(1, in, 0, 2), recv(1, out, 2), recv(1, out, 3)}},
                {{copy(out, 2, in, 0, 2), send(0, in, 0, 2), recv(0, out, 0, 2)}}});
  EXPECT_EQ(r.matching, Verdict::failed);
  EXPECT_THAT(r.problem, HasSubstr("sends 2 chunks"));
  r = check(s, {{{copy(out, 0, in, 0, 2), send(1, in, 0), recv(1, out, 2, 2)}},
                {{copy(out, 2, in, 0, 2), send(0, in, 0, 2), recv(0, out, 1)}}});
  EXPECT_EQ(r.matching, Verdict::failed);
  EXPECT_THAT(r.problem, HasSubstr("different lengths"));
}

TEST(Verify, VectorLengthsBelongToPairs) {
  const Shape s = shape_of(Collective::all_to_all_v, 2);
  auto plan = [](uint32_t sent) -> TablePlan::Table {
    return {{{copy(out, 0, in, 0), send(1, in, sent), recv(1, out, 1)}},
            {{copy(out, 1, in, 1), send(0, in, 0), recv(0, out, 0)}}};
  };
  EXPECT_TRUE(check(s, plan(1)).ok());
  EXPECT_EQ(check(s, plan(0)).matching, Verdict::failed);
}

TEST(Verify, SignalsMatchWaits) {
  Shape s = shape_of(Collective::broadcast, 1);
  s.lanes = 2;
  EXPECT_TRUE(check(s, {{{copy(out, 0, in, 0), signal(1)}, {wait(0)}}}).ok());
  EXPECT_EQ(check(s, {{{copy(out, 0, in, 0), signal(1)}, {}}}).matching, Verdict::failed);
  EXPECT_EQ(check(s, {{{copy(out, 0, in, 0)}, {wait(0)}}}).matching, Verdict::failed);
}

// ---- progress

TEST(Verify, DeadlockIsFound) {
  const VerifyReport r = check(shape_of(Collective::all_reduce, 2),
                               {{{recv_reduce(1, out, 0, in, 0, true), send(1, in, 0)}},
                                {{recv_reduce(0, out, 0, in, 0, true), send(0, in, 0)}}});
  EXPECT_EQ(r.progress, Verdict::failed);
  EXPECT_THAT(r.problem, HasSubstr("waits for ever"));
}

TEST(Verify, ProgressNeedsTheDeclaredCredits) {
  Shape s = shape_of(Collective::all_gather, 2, 2);
  const TablePlan::Table table = {
      {{copy(out, 0, in, 0, 2), send(1, in, 0), send(1, in, 1), recv(1, out, 2), recv(1, out, 3)}},
      {{copy(out, 2, in, 0, 2), send(0, in, 0), send(0, in, 1), recv(0, out, 0), recv(0, out, 1)}}};
  EXPECT_EQ(check(s, table).progress, Verdict::failed);
  s.credits = 2;
  EXPECT_TRUE(check(s, table).ok());
}

TEST(Verify, AMessageOfAPassHoldsItsCreditUntilThePassIsComplete) {
  // One by one the two messages would pass through a single credit; a pass takes them together.
  Shape s = shape_of(Collective::reduce, 2, 1, 1);
  const TablePlan::Table table = {
      {{recv_reduce(1, out, 0, in, 0), recv_reduce(1, out, 0, out, 0, true)}},
      {{copy(tmp, 0, in, 0), send(0, tmp, 0), send(0, tmp, 0)}}};
  EXPECT_EQ(check(s, table).progress, Verdict::failed);
  s.credits = 2;
  EXPECT_EQ(check(s, table).progress, Verdict::ok);
}

TEST(Verify, PublishedRunsMustAlsoFitOneOutboxSlot) {
  // Rank 0 publishes a to 1 and 2, then b to 1 and 2. Rank 2 takes its a only after rank 1 has got
  // b. Per connection one credit is enough; one shared slot is held by rank 2's copy of a.
  Shape s = shape_of(Collective::broadcast, 3, 2);
  const TablePlan::Table table = {
      {{copy(out, 0, in, 0, 2), send(1, in, 0), send(2, in, 0), send(1, in, 1), send(2, in, 1)}},
      {{recv(0, out, 0), recv(0, out, 1), send(2, Buffer::input, 0, 0)}},
      {{recv(1, Buffer::input, 0, 0), recv(0, out, 0), recv(0, out, 1)}}};
  const VerifyReport r = check(s, table);
  EXPECT_EQ(r.progress, Verdict::failed);
  EXPECT_THAT(r.problem, HasSubstr("outbox"));
  EXPECT_EQ(r.postcondition, Verdict::ok);
  s.credits = 2;
  EXPECT_TRUE(check(s, table).ok());
}

// ---- postcondition and same bits

TEST(Verify, PostconditionCountsEveryContributionOnce) {
  const Shape s = shape_of(Collective::all_reduce, 2, 1, 1);
  EXPECT_TRUE(check(s, exchange()).ok());
  auto twice = exchange();
  twice[0][0].back().last = false;
  twice[0][0].push_back(reduce(out, 0, in, 0, true));
  EXPECT_EQ(check(s, twice).postcondition, Verdict::failed);
  auto undivided = exchange();
  undivided[1][0].back().last = false;
  const VerifyReport r = check(s, undivided);
  EXPECT_EQ(r.postcondition, Verdict::failed);
  EXPECT_THAT(r.problem, HasSubstr("last"));
  EXPECT_THAT(r.problem, HasSubstr("rank 1 output:0"));
}

TEST(Verify, ReadingOverwrittenInputWouldScaleTwice) {
  // In place, output:0 holds the sum when it is sent on as `input`.
  Shape s = shape_of(Collective::all_reduce, 2);
  s.in_place = true;
  auto plan = [](Buffer forwarded) -> TablePlan::Table {
    return {{{recv_reduce(1, out, 0, in, 0, true), send(1, forwarded, 0)}},
            {{send(0, in, 0), recv(0, out, 0)}}};
  };
  EXPECT_TRUE(check(s, plan(out)).ok());
  EXPECT_EQ(check(s, plan(in)).postcondition, Verdict::failed);
}

TEST(Verify, SameBitsNeedsTheSameExpression) {
  // Three ranks, all to all: each accumulates from its own rank on, so orders differ.
  auto rank = [](Rank r, Rank a, Rank b) -> std::vector<std::vector<Step>> {
    (void)r;
    return {{send(a, in, 0), send(b, in, 0), recv_reduce(a, out, 0, in, 0),
             recv_reduce(b, out, 0, out, 0, true)}};
  };
  const Shape s = shape_of(Collective::all_reduce, 3);
  VerifyReport r = check(s, {rank(0, 1, 2), rank(1, 2, 0), rank(2, 0, 1)});
  EXPECT_EQ(r.postcondition, Verdict::ok);
  EXPECT_EQ(r.same_bits, Verdict::failed);
  EXPECT_THAT(r.problem, HasSubstr("order"));
  // Rank 0 + rank 1 commute; rank 2 adds itself in last place through a copy.
  Shape with_scratch = shape_of(Collective::all_reduce, 3, 1, 1);
  TablePlan::Table same = {rank(0, 1, 2),
                           rank(1, 0, 2),
                           {{send(0, in, 0), send(1, in, 0), recv(0, out, 0),
                             recv_reduce(1, out, 0, out, 0), reduce(out, 0, in, 0, true)}}};
  r = check(with_scratch, same);
  EXPECT_TRUE(r.ok()) << r.problem;
}

TEST(Verify, APassIsNotTwoPasses) {
  // Rank 0 reduces in one pass, rank 1 in two with a copy between: another rounding.
  const Shape s = shape_of(Collective::all_reduce, 3, 1, 1);
  const VerifyReport r = check(
      s, {{{send(1, in, 0), recv_reduce(1, out, 0, in, 0), recv_reduce(2, out, 0, out, 0, true)}},
          {{send(0, in, 0), recv_reduce(0, tmp, 0, in, 0), recv_reduce(2, out, 0, tmp, 0, true)}},
          {{send(0, in, 0), send(1, in, 0), recv(0, out, 0)}}});
  EXPECT_EQ(r.matching, Verdict::failed);  // rank 2 expects a message of rank 0
  const VerifyReport r2 = check(
      s, {{{send(1, in, 0), recv_reduce(1, out, 0, in, 0), recv_reduce(2, out, 0, out, 0, true),
            send(2, out, 0)}},
          {{send(0, in, 0), recv_reduce(0, tmp, 0, in, 0), recv_reduce(2, out, 0, tmp, 0, true)}},
          {{send(0, in, 0), send(1, in, 0), recv(0, out, 0)}}});
  EXPECT_EQ(r2.postcondition, Verdict::ok) << r2.problem;
  EXPECT_EQ(r2.same_bits, Verdict::failed);
}

TEST(Verify, MovingCollectivesMustMoveTheRightBlocks) {
  Shape s = shape_of(Collective::scatter, 2);
  EXPECT_TRUE(check(s, {{{copy(out, 0, in, 0), send(1, in, 1)}}, {{recv(0, out, 0)}}}).ok());
  const VerifyReport r = check(s, {{{copy(out, 0, in, 0), send(1, in, 0)}}, {{recv(0, out, 0)}}});
  EXPECT_EQ(r.postcondition, Verdict::failed);
  EXPECT_THAT(r.problem, HasSubstr("rank 1 output:0"));
  EXPECT_THAT(r.problem, HasSubstr("rank 0's input:1"));
  s = shape_of(Collective::gather, 2);
  s.root = 1;
  EXPECT_TRUE(check(s, {{{send(1, in, 0)}}, {{copy(out, 1, in, 0), recv(0, out, 0)}}}).ok());
  EXPECT_EQ(check(s, {{{}}, {{copy(out, 1, in, 0)}}}).postcondition, Verdict::failed);
}

TEST(Verify, SendRecvMayLeavePairsOut) {
  const Shape s = shape_of(Collective::send_recv, 3);
  EXPECT_TRUE(check(s, {{{send(2, in, 2)}}, {{}}, {{recv(0, out, 0)}}}).ok());
  EXPECT_EQ(check(s, {{{send(2, in, 1)}}, {{}}, {{recv(0, out, 0)}}}).matching, Verdict::failed);
}

TEST(Verify, BarrierMustHearOfEveryRank) {
  const Shape s = shape_of(Collective::barrier, 3);
  auto to = [](Rank r) { return send(r, in, 0, 0); };
  auto from = [](Rank r) { return recv(r, in, 0, 0); };
  const TablePlan::Table good = {
      {{from(1), from(2), to(1), to(2)}}, {{to(0), from(0)}}, {{to(0), from(0)}}};
  EXPECT_TRUE(check(s, good).ok());
  const TablePlan::Table early = {
      {{from(1), to(1), from(2), to(2)}}, {{to(0), from(0)}}, {{to(0), from(0)}}};
  const VerifyReport r = check(s, early);
  EXPECT_EQ(r.postcondition, Verdict::failed);
  EXPECT_THAT(r.problem, HasSubstr("rank 1 may leave before rank 2"));
}

// ---- races

TEST(Verify, PullRaceOfRecursiveDoublingInPlace) {
  // Each rank overwrites output:0 while the partner may still be reading it.
  Shape s = shape_of(Collective::all_reduce, 2, 1, 0);
  s.in_place = true;
  const VerifyReport r = check(s, exchange());
  EXPECT_EQ(r.postcondition, Verdict::ok);
  EXPECT_EQ(r.pull_races, Verdict::failed);
  EXPECT_EQ(r.push_races, Verdict::failed);
  EXPECT_THAT(r.problem, HasSubstr("pull race"));
}

TEST(Verify, PushMayArriveBeforeTheReceiverHasReadItsChunk) {
  // Rank 1 reads its in-place block (send), then receives over it: fine for pull, since rank 0's
  // message follows its receive of the old value; a push that does not follow it would race.
  Shape s = shape_of(Collective::broadcast, 2, 1, 1);
  const TablePlan::Table ordered = {{{copy(out, 0, in, 0), send(1, in, 0)}}, {{recv(0, out, 0)}}};
  EXPECT_TRUE(check(s, ordered).ok());
  // Rank 1 uses scratch:0 in every round; rank 0 pushes round 2 without hearing that round 1 is
  // done.
  const TablePlan::Table reused = {{{copy(out, 0, in, 0), send(1, in, 0)}},
                                   {{recv(0, tmp, 0), copy(out, 0, tmp, 0)}}};
  const VerifyReport r = check(s, reused);
  EXPECT_EQ(r.pull_races, Verdict::ok) << r.problem;
  EXPECT_EQ(r.push_races, Verdict::failed);
  // A token back makes it safe.
  const TablePlan::Table answered = {{{copy(out, 0, in, 0), send(1, in, 0), recv(1, in, 0, 0)}},
                                     {{recv(0, tmp, 0), copy(out, 0, tmp, 0), send(0, in, 0, 0)}}};
  EXPECT_TRUE(check(s, answered).ok()) << check(s, answered).problem;
}

TEST(Verify, ScratchIsSharedBetweenRounds) {
  // Rank 0 sends from scratch, and refills it in the next round while rank 1 may still read.
  const Shape s = shape_of(Collective::broadcast, 2, 1, 1);
  const VerifyReport r = check(
      s, {{{copy(tmp, 0, in, 0), copy(out, 0, in, 0), send(1, tmp, 0)}}, {{recv(0, out, 0)}}});
  EXPECT_EQ(r.pull_races, Verdict::failed);
  EXPECT_EQ(r.push_races, Verdict::ok);  // a push reads its source at once
  EXPECT_EQ(r.postcondition, Verdict::ok);
}

TEST(Verify, LanesOfARankNeedASignalBetweenThem) {
  Shape s = shape_of(Collective::broadcast, 1, 1, 1);
  s.lanes = 2;
  const TablePlan::Table bare = {{{copy(tmp, 0, in, 0)}, {copy(out, 0, tmp, 0)}}};
  VerifyReport r = check(s, bare);
  EXPECT_EQ(r.pull_races, Verdict::failed);
  const TablePlan::Table one_way = {
      {{copy(tmp, 0, in, 0), signal(1)}, {wait(0), copy(out, 0, tmp, 0)}}};
  r = check(s, one_way);  // the next round's copy overtakes the reader
  EXPECT_EQ(r.pull_races, Verdict::failed);
  const TablePlan::Table both = {
      {{copy(tmp, 0, in, 0), signal(1), wait(1)}, {wait(0), copy(out, 0, tmp, 0), signal(0)}}};
  r = check(s, both);
  EXPECT_TRUE(r.ok()) << r.problem;
}

TEST(Verify, OrderThroughAThirdRankNeedsVectorClocks) {
  // Rank 1's reading of rank 0's scratch is known to rank 0 only through rank 2.
  const Shape s = shape_of(Collective::broadcast, 3, 1, 1);
  const TablePlan::Table table = {
      {{copy(tmp, 0, in, 0), copy(out, 0, in, 0), send(1, tmp, 0), recv(2, in, 0, 0)}},
      {{recv(0, out, 0), send(2, out, 0)}},
      {{recv(1, out, 0), send(0, in, 0, 0)}}};
  EXPECT_TRUE(check(s, table).ok()) << check(s, table).problem;
  VerifyOptions poor;
  poor.race_budget = 0;
  const VerifyReport r = verify(TablePlan("hand", s, table), poor);
  EXPECT_EQ(r.pull_races, Verdict::unproven);
  EXPECT_FALSE(r.ok());
  EXPECT_THAT(r.problem, HasSubstr("budget"));
}

}  // namespace
}  // namespace tutti
