// The ratio table: medians, the best peer, wrong results left out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perf/peers/ratio_table.h"

namespace tutti::perf {
namespace {

nlohmann::json line(const char* library, const char* configuration, size_t bytes, double us,
                    uint64_t wrong = 0) {
  return {{"library", library},
          {"configuration", configuration},
          {"ranks", 4},
          {"bytes", bytes},
          {"in_place", {{"us", us}, {"wrong", wrong}}}};
}

TEST(RatioTable, best_peer_by_median_of_repeats) {
  RatioTable table;
  for (double us : {5.0, 2.0, 2.0}) table.add(line("tutti", "private", 64, us));
  table.add(line("tutti", "mem_alloc", 64, 1));
  for (double us : {3.0, 100.0, 4.0}) table.add(line("openmpi", "ring", 64, us));
  for (double us : {1.0, 50.0, 50.0}) table.add(line("gloo", "ring", 64, us));
  const std::vector<RatioRow> rows = table.rows(4);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].best_peer, "openmpi ring");
  EXPECT_DOUBLE_EQ(rows[0].ratio(), 2);
  EXPECT_DOUBLE_EQ(rows[0].mem_alloc_ratio(), 4);
}

TEST(RatioTable, wrong_results_do_not_count) {
  RatioTable table;
  table.add(line("tutti", "private", 64, 2));
  table.add(line("mpich", "default", 64, 1, 7));
  table.add(line("gloo", "ring", 64, 8));
  EXPECT_EQ(table.rows(4)[0].best_peer, "gloo ring");
  EXPECT_EQ(table.wrong("mpich"), 7u);
  EXPECT_EQ(table.wrong("tutti"), 0u);
}

TEST(RatioTable, missing_sides_show_as_dashes) {
  RatioTable table;
  table.add(line("tutti", "private", 64, 2));
  table.add(line("tutti", "private", 1 << 20, 8));
  table.add(line("gloo", "ring", 1 << 20, 32));
  const std::string text = table.markdown(4, "all_reduce");
  EXPECT_THAT(text, testing::HasSubstr("| 64 B | 2.00 | - | - | - | - | - |"));
  EXPECT_THAT(text, testing::HasSubstr("| 1 MiB | 8.00 | - | 32.0 | gloo ring | 4.00 | - |"));
  EXPECT_THAT(text, testing::HasSubstr("| geometric mean | | | | | 4.00 | - |"));
  EXPECT_EQ(table.to_json()[0]["rows"][1]["best_peer"], "gloo ring");
}

TEST(RatioTable, overrides_under_study_have_a_column_but_no_ratio) {
  RatioTable table;
  table.add(line("tutti", "default", 64, 2));
  table.add(line("tutti", "ring", 64, 1));
  table.add(line("gloo", "bcube", 64, 8));
  EXPECT_DOUBLE_EQ(table.rows(4)[0].ratio(), 4);
  EXPECT_THAT(table.medians_markdown(4),
              testing::HasSubstr("| size | gloo bcube | tutti default | tutti ring |"));
  EXPECT_THAT(table.medians_markdown(4), testing::HasSubstr("| 64 B | 8.00 | 2.00 | 1.00 |"));
}

TEST(RatioTable, malformed_lines_are_refused) {
  RatioTable table;
  EXPECT_FALSE(table.add(nlohmann::json::array()));
  EXPECT_FALSE(table.add({{"library", "x"}}));
  EXPECT_FALSE(table.add({{"library", "x"}, {"ranks", 2}, {"bytes", 4}}));
  EXPECT_TRUE(table.rank_counts().empty());
}

TEST(SizeLabel, units) {
  EXPECT_EQ(size_label(4), "4 B");
  EXPECT_EQ(size_label(65536), "64 KiB");
  EXPECT_EQ(size_label(1572864), "1.5 MiB");
}

}  // namespace
}  // namespace tutti::perf
