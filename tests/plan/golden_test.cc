// Golden plans: the text of every algorithm and collective for 2..5 ranks, so that a change of a
// schedule shows in the diff. To regenerate after an intended change:
//
//   TUTTI_UPDATE_GOLDEN=1 build/bin/test_plan --gtest_filter='Golden*:Handbook*'
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "src/algorithms/algorithms.h"
#include "src/algorithms/handbook.h"
#include "src/plan/text.h"
#include "tests/plan/requests.h"

namespace tutti {
namespace {

namespace fs = std::filesystem;

const fs::path k_source = TUTTI_SOURCE_DIR;

bool updating() { return std::getenv("TUTTI_UPDATE_GOLDEN") != nullptr; }

std::string read(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}
void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

void compare(const fs::path& path, const std::string& text) {
  if (updating()) return write(path, text);
  ASSERT_TRUE(fs::exists(path)) << path << " is missing; see golden_test.cc";
  EXPECT_TRUE(read(path) == text) << path << " is not what the code makes; see golden_test.cc";
}

bool same_steps(const Plan& a, const Plan& b) {
  for (Rank r = 0; r < a.shape().ranks; ++r)
    for (Lane lane = 0; lane < a.shape().lanes; ++lane) {
      if (a.steps(r, lane) != b.steps(r, lane)) return false;
      for (uint32_t i = 0; i < a.steps(r, lane); ++i)
        if (a.step_at(r, lane, i) != b.step_at(r, lane, i)) return false;
    }
  return true;
}

PlanRequest golden_request(const Algorithm& a, Collective collective, uint32_t n) {
  PlanRequest q{collective, n, test::has_root(collective) ? 1u : 0u, false, 2, {}};
  if (test::is_hierarchical(a)) q.hierarchy = Hierarchy::even(n, {n == 5 ? 3u : 2u});
  return q;
}

// Empty where the algorithm serves none of the sizes.
std::string golden_text(const Algorithm& a, Collective collective) {
  std::string text;
  for (uint32_t n = 2; n <= 5; ++n) {
    PlanRequest q = golden_request(a, collective, n);
    if (!a.supports(q).ok()) continue;
    const PlanPtr plan = a.make(q);
    text += to_text(*plan) + "\n";
    q.in_place = true;
    if (!a.supports(q).ok()) continue;
    const PlanPtr in_place = a.make(q);
    text +=
        same_steps(*plan, *in_place) ? "# in place: the same steps\n\n" : to_text(*in_place) + "\n";
  }
  return text;
}

TEST(Golden, PlansOfTwoToFiveRanks) {
  const fs::path folder = k_source / "tests/golden/plans";
  std::set<std::string> expected;
  for (const Algorithm& a : algorithms()) {
    for (Collective collective : test::k_all_collectives) {
      const std::string text = golden_text(a, collective);
      if (text.empty()) continue;
      const std::string file = std::string(a.name) + "." + std::string(name(collective)) + ".txt";
      expected.insert(file);
      compare(folder / file, text);
    }
  }
  for (const auto& entry : fs::directory_iterator(folder))
    EXPECT_TRUE(expected.contains(entry.path().filename())) << entry.path() << " is left over";
}

TEST(Handbook, IsUpToDate) {
  const Result<std::vector<HandbookFile>> files = handbook();
  ASSERT_TRUE(files.ok()) << files.status().to_string();
  std::set<std::string> expected;
  for (const HandbookFile& file : *files) {
    compare(k_source / "docs" / file.path, file.text);
    expected.insert(fs::path(file.path).filename());
  }
  for (const Algorithm& a : algorithms())
    for (Collective collective : test::k_all_collectives) {
      if (golden_text(a, collective).empty()) continue;
      const std::string page = std::string(a.name) + "." + std::string(name(collective)) + ".svg";
      EXPECT_TRUE(expected.contains(page)) << "the handbook has no page for " << page;
    }
  for (const auto& entry : fs::directory_iterator(k_source / "docs/img/algorithms"))
    EXPECT_TRUE(expected.contains(entry.path().filename())) << entry.path() << " is left over";
}

}  // namespace
}  // namespace tutti
