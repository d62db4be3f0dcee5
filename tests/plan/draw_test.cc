// Drawings: every algorithm can be drawn as well-formed SVG with a box per step or pass and an
// arrow per message; what cannot be read is refused with a reason.
#include "src/plan/draw.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/algorithms/algorithms.h"
#include "src/plan/timeline.h"
#include "tests/plan/sample_plans.h"

namespace tutti {
namespace {

using testing::HasSubstr;

size_t count(const std::string& text, std::string_view what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

// Every tag is closed, in order; attributes are quoted.
bool well_formed(const std::string& svg) {
  std::vector<std::string> open;
  for (size_t at = svg.find('<'); at != std::string::npos; at = svg.find('<', at)) {
    const size_t end = svg.find('>', at);
    if (end == std::string::npos) return false;
    const std::string tag = svg.substr(at + 1, end - at - 1);
    at = end;
    if (count(tag, "\"") % 2 != 0) return false;
    const std::string word =
        tag.substr(tag[0] == '/', tag.find_first_of(" /", 1) - (tag[0] == '/'));
    if (tag.back() == '/') continue;
    if (tag[0] != '/') {
      open.push_back(word);
    } else {
      if (open.empty() || open.back() != word) return false;
      open.pop_back();
    }
  }
  return open.empty();
}

TEST(Draw, WellFormedIsNotAlwaysTrue) {
  EXPECT_TRUE(well_formed("<svg a=\"1\"><g/><t>x</t></svg>"));
  EXPECT_FALSE(well_formed("<svg><g></svg>"));
  EXPECT_FALSE(well_formed("<svg a=\"1></svg>"));
}

TEST(Draw, RingHasABoxForEveryStepAndAnArrowForEveryMessage) {
  const Result<std::string> svg = to_svg(sample::Ring(4));
  ASSERT_TRUE(svg) << svg.status().message();
  EXPECT_TRUE(well_formed(*svg));
  EXPECT_EQ(count(*svg, "<g class=\"b\">"), 4u * 12);
  EXPECT_EQ(count(*svg, "fill=\"none\""), 4u * 6);
  EXPECT_THAT(*svg, HasSubstr("sample_ring"));
  EXPECT_THAT(*svg, HasSubstr("rank 3 lane 0 step 11 (recv 2 output:1+1)"));
}

TEST(Draw, TimesFollowMessages) {
  const Result<Timeline> timeline = make_timeline(sample::Ring(3));
  ASSERT_TRUE(timeline);
  // Send, way, receive: a round of 3 units while data waits for data; sends overlap.
  EXPECT_EQ(timeline->end, 4 * 3);
  EXPECT_EQ(timeline->kinds, 3u);
  for (const Timeline::Arrow& a : timeline->arrows)
    EXPECT_GE(timeline->boxes[a.to].start, timeline->boxes[a.from].end + 1);
  // The data is followed: what a receive gets is what its send carried.
  for (const Timeline::Arrow& a : timeline->arrows)
    EXPECT_EQ(timeline->boxes[a.to].data, timeline->boxes[a.from].data);
}

TEST(Draw, EveryAlgorithmCanBeDrawn) {
  for (const Algorithm& a : algorithms())
    for (int c = 0; c < k_collectives; ++c)
      for (uint32_t n : {2u, 5u, 16u}) {
        PlanRequest request;
        request.collective = static_cast<Collective>(c);
        request.ranks = n;
        request.hierarchy = Hierarchy::even(n, {4});
        if (!a.supports(request).ok()) continue;
        const Result<std::string> svg = to_svg(*a.make(request));
        ASSERT_TRUE(svg) << a.name << ": " << svg.status().message();
        EXPECT_TRUE(well_formed(*svg)) << a.name;
        EXPECT_EQ(count(*svg, ">?<"), 0u) << a.name << " sends what it never had";
      }
}

TEST(Draw, TooLargeIsRefused) {
  EXPECT_THAT(to_svg(sample::Ring(33)).status().message(), HasSubstr("33 ranks"));
  DrawOptions few;
  few.max_steps = 10;
  EXPECT_THAT(to_svg(sample::Ring(4), few).status().message(), HasSubstr("48 steps"));
}

TEST(Draw, WrongPlansAreRefused) {
  Shape shape;
  shape.ranks = 2;
  const auto lane = [](Step s) { return std::vector<std::vector<Step>>{{s}}; };
  const TablePlan stuck("stuck", shape, {lane(sample::recv(1, Buffer::output, 0)), {}});
  EXPECT_FALSE(to_svg(stuck));
  TablePlan::Table deadlock = {
      {{sample::recv(1, Buffer::output, 0), sample::send(1, Buffer::input, 0)}},
      {{sample::recv(0, Buffer::output, 0), sample::send(0, Buffer::input, 0)}}};
  EXPECT_THAT(to_svg(TablePlan("deadlock", shape, deadlock)).status().message(),
              HasSubstr("waits for ever"));
}

}  // namespace
}  // namespace tutti
