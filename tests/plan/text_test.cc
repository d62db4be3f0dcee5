// The text form: exact round trips over every algorithm, errors that name the line and what was
// expected there, and no crash on damaged text.
#include "src/plan/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "src/algorithms/algorithms.h"
#include "tests/plan/sample_plans.h"

namespace tutti {
namespace {

using testing::HasSubstr;

constexpr std::string_view k_exchange = R"(tutti plan 1
algorithm hand made
collective all_reduce
ranks 2
chunks 1
lanes 2
root 0
in_place true
scratch 3
credits 2
longest 1
level 0 1
rank 0 lane 0
  send 1 input:0+1
  recv_reduce 1 output:0+1 <- input:0 last
  copy scratch:0+1 <- output:0
  reduce output:0+1 <- scratch:2
  signal 1
rank 0 lane 1
  wait 0
  send 1 token
rank 1 lane 0
  recv 0 scratch:1+1
  recv 0 scratch:2+1
rank 1 lane 1
  recv 0 token
)";

void expect_same(const Plan& a, const Plan& b) {
  EXPECT_EQ(a.algorithm(), b.algorithm());
  EXPECT_EQ(a.shape(), b.shape());
  EXPECT_EQ(a.id(), b.id());
  for (Rank r = 0; r < a.shape().ranks; ++r)
    for (Lane l = 0; l < a.shape().lanes; ++l) {
      ASSERT_EQ(a.steps(r, l), b.steps(r, l)) << r << " " << l;
      for (uint32_t i = 0; i < a.steps(r, l); ++i)
        EXPECT_EQ(a.step_at(r, l, i), b.step_at(r, l, i));
    }
}

std::string problem(std::string_view text) {
  const Result<PlanPtr> plan = parse_text(text);
  return plan ? "" : plan.status().message();
}

std::string with(std::string_view from, std::string_view to) {
  std::string text(k_exchange);
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(PlanText, EveryStepFormRoundTrips) {
  const Result<PlanPtr> plan = parse_text(k_exchange);
  ASSERT_TRUE(plan) << plan.status().message();
  EXPECT_EQ(to_text(**plan), k_exchange);
  EXPECT_TRUE((*plan)->shape().in_place);
  EXPECT_EQ((*plan)->shape().hierarchy.level, (std::vector<std::vector<uint32_t>>{{0, 1}}));
  EXPECT_EQ((*plan)->step_at(0, 0, 1),
            sample::recv_reduce(1, Buffer::output, 0, Buffer::input, 0, true));
  EXPECT_EQ((*plan)->step_at(1, 1, 0), sample::recv(0, Buffer::input, 0, 0));
}

TEST(PlanText, EveryAlgorithmRoundTrips) {
  for (const Algorithm& a : algorithms())
    for (int c = 0; c < k_collectives; ++c)
      for (uint32_t n : {1u, 2u, 5u, 8u}) {
        PlanRequest request;
        request.collective = static_cast<Collective>(c);
        request.ranks = n;
        request.hierarchy = Hierarchy::even(n, {2});
        if (!a.supports(request).ok()) continue;
        const PlanPtr plan = a.make(request);
        const std::string text = to_text(*plan);
        const Result<PlanPtr> again = parse_text(text);
        ASSERT_TRUE(again) << a.name << ": " << again.status().message();
        expect_same(*plan, **again);
        EXPECT_EQ(to_text(**again), text);
      }
}

TEST(PlanText, CommentsAndSpaceDoNotMatter) {
  const std::string text =
      with("  send 1 input:0+1", "\n# two\n \t send  1   input : 0 + 1  # one\r");
  const Result<PlanPtr> plan = parse_text(text);
  ASSERT_TRUE(plan) << plan.status().message();
  EXPECT_EQ(to_text(**plan), k_exchange);
}

TEST(PlanText, ErrorsNameTheLineAndWhatWasExpected) {
  struct Case {
    std::string_view from, to, line, expected;
  };
  const Case cases[] = {
      {"tutti plan 1", "tutti plan 2", "line 1", "plan format 1"},
      {"algorithm hand made", "algorithm", "line 2", "algorithm's name"},
      {"all_reduce", "all_reduces", "line 3", "collective's name"},
      {"ranks 2", "ranks -2", "line 4", "ranks (a number)"},
      {"ranks 2", "ranks 99999999", "line 4", "at most 1048576"},
      {"ranks 2", "ranks 02", "line 4", "a number"},
      {"chunks 1", "chunks 4294967296", "line 5", "chunks (a number)"},
      {"in_place true", "in_place yes", "line 8", "'true' or 'false'"},
      {"credits 2\n", "", "line 10", "'credits', got 'longest'"},
      {"longest 1\n", "", "line 11", "'longest', got 'level'"},
      {"level 0 1", "level 0", "line 12", "a group for every rank"},
      {"level 0 1", "level 0 1 2", "line 12", "end of the line, got '2'"},
      {"rank 0 lane 0", "rank 2 lane 0", "line 13", "a rank of at most 1"},
      {"rank 0 lane 1", "rank 0 lane 0", "line 19", "ascending order"},
      {"send 1 input:0+1", "sent 1 input:0+1", "line 14", "a step or 'rank', got 'sent'"},
      {"send 1 input:0+1", "send 1 inpt:0+1", "line 14", "a buffer"},
      {"send 1 input:0+1", "send 1 input:0", "line 14", "'+', got the end of the line"},
      {"<- input:0 last", "-> input:0 last", "line 15", "'<-'"},
      {"<- input:0 last", "<- input:0 lost", "line 15", "'last' or the end"},
      {"signal 1", "signal", "line 18", "a lane (a number)"},
      {"copy scratch:0+1", "copy token", "line 16", "a buffer"},
  };
  for (const Case& c : cases) {
    const std::string got = problem(with(c.from, c.to));
    EXPECT_THAT(got, HasSubstr(c.line)) << c.to;
    EXPECT_THAT(got, HasSubstr(c.expected)) << c.to;
  }
}

TEST(PlanText, SizesAreCapped) {
  // Far more lanes than memory: refused by the header, before anything is allocated.
  EXPECT_THAT(problem(with("lanes 2", "lanes 65537")), HasSubstr("at most 65536"));
  std::string text = with("ranks 2", "ranks 1048576");
  text = text.replace(text.find("lanes 2"), 7, "lanes 65536");
  EXPECT_THAT(problem(text), HasSubstr("lanes in all"));
  EXPECT_EQ(problem(""), "plan text line 0: expected 'tutti', got the end of the line");
}

TEST(PlanText, TruncatedAndDamagedTextNeverCrashes) {
  const std::string whole(k_exchange);
  uint32_t accepted = 0;
  for (size_t n = 0; n < whole.size(); ++n) accepted += parse_text(whole.substr(0, n)).ok();
  EXPECT_GT(accepted, 0u);  // cut after a step: a shorter plan
  EXPECT_LT(accepted, whole.size() / 4);
  std::mt19937 random(1);
  const std::string_view pieces[] = {"rank", "lane", " ",  "\n",    "4294967295",
                                     "+",    ":",    "<-", "token", "\0"};
  for (int i = 0; i < 20000; ++i) {
    std::string text = whole;
    for (uint32_t changes = 1 + random() % 3; changes > 0; --changes) {
      const size_t at = random() % text.size();
      if (random() % 2 == 0)
        text[at] = static_cast<char>(random());
      else
        text.insert(at, pieces[random() % std::size(pieces)]);
    }
    const Result<PlanPtr> plan = parse_text(text);
    if (!plan) continue;
    // What is accepted has one canonical text.
    const std::string canonical = to_text(**plan);
    const Result<PlanPtr> again = parse_text(canonical);
    ASSERT_TRUE(again) << again.status().message() << "\n" << canonical;
    EXPECT_EQ(to_text(**again), canonical);
  }
}

}  // namespace
}  // namespace tutti
