// The drawing of a run has every message and every lane, and refuses what cannot be read.
#include "sim/draw.h"

#include <gtest/gtest.h>

#include "src/algorithms/algorithms.h"
#include "topology/spec.h"

namespace tutti {
namespace {

size_t count(const std::string& text, const std::string& what) {
  size_t found = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
  return found;
}

SimReport run_of(const Plan& plan, const char* cluster, bool record) {
  SimOptions options;
  options.segments = {{0, 1 << 20}};
  options.record = record;
  return *simulate(plan, *make_cluster(cluster), {}, options);
}

TEST(SimDrawing, HasEveryMessageAndMarksTheCriticalPath) {
  const PlanPtr plan = *make_plan("ring", {Collective::all_reduce, 4, 0, false, 0, {}});
  const SimReport report = run_of(*plan, "rank:4{bw=1GB/s,lat=2us}", true);
  const Result<std::string> svg = to_svg(report, *plan);
  ASSERT_TRUE(svg.ok()) << svg.status().message();
  EXPECT_TRUE(svg->starts_with("<svg ") && svg->ends_with("</svg>\n"));
  EXPECT_EQ(count(*svg, "stroke-opacity"), report.trace.size());
  EXPECT_EQ(count(*svg, "stroke-width=\"1.8\""), report.critical_path.size());
  EXPECT_EQ(count(*svg, ">rank "), report.trace.size() + 4) << "titles and labels";
}

TEST(SimDrawing, RefusesWhatCannotBeRead) {
  const PlanPtr small = *make_plan("ring", {Collective::all_reduce, 4, 0, false, 0, {}});
  EXPECT_NE(
      to_svg(run_of(*small, "rank:4{bw=1GB/s}", false), *small).status().message().find("recorded"),
      std::string::npos);
  const PlanPtr large = *make_plan("ring", {Collective::all_reduce, 70, 0, false, 0, {}});
  EXPECT_NE(to_svg(run_of(*large, "rank:70{bw=1GB/s}", true), *large)
                .status()
                .message()
                .find("can be read"),
            std::string::npos);
}

}  // namespace
}  // namespace tutti
