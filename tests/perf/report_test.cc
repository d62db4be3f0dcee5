// Formats and numbers: nccl-tests' columns (third-party scripts parse them), JSON, sizes,
// statistics, and what must not leak.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "perf/json_report.h"
#include "perf/options.h"
#include "perf/table.h"

namespace tutti::perf {
namespace {

using testing::ElementsAre;

Point example_point() {
  Point point;
  point.bytes = 1 << 20;
  point.count = 1 << 18;
  point.out_of_place.measured = true;
  point.out_of_place.microseconds = 123.456;
  point.out_of_place.algorithm_bandwidth = 8.49346;
  point.out_of_place.bus_bandwidth = 14.86;
  point.in_place = point.out_of_place;
  point.in_place.wrong = 3;
  return point;
}

std::optional<int> parse(std::vector<std::string> arguments, PerfOptions* options,
                         std::optional<Collective> collective = Collective::all_reduce) {
  arguments.insert(arguments.begin(), "all_reduce_perf");
  std::vector<char*> argv;
  for (std::string& a : arguments) argv.push_back(a.data());
  return parse_options(static_cast<int>(argv.size()), argv.data(), collective, options);
}

TEST(Table, lines_have_the_columns_of_nccl_tests) {
  TableOptions options;
  EXPECT_EQ(point_line(example_point(), options, Collective::all_reduce, 0),
            "     1048576        262144     float     sum      -1"
            "   123.46    8.49   14.86       0   123.46    8.49   14.86       3");
  const std::vector<std::string> header = column_lines(options);
  EXPECT_EQ(header[1],
            "#       size         count      type   redop    root"
            "     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong");
  EXPECT_EQ(header[2],
            "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)"
            "             (us)  (GB/s)  (GB/s)");
}

TEST(Table, device_lines_match_the_parsers_expression) {
  const std::regex expression(
      R"(#\s+Rank\s+(\d+) Group\s+(\d+) Pid\s+(\d+) on\s+(\S+) device\s+(\d+) \[([0-9a-f:]+)\] (.+))");
  std::smatch match;
  const std::string line = device_line({3, 4711, "node1", "Some CPU"});
  ASSERT_TRUE(std::regex_match(line, match, expression)) << line;
  EXPECT_EQ(match[1], "3");
  EXPECT_EQ(match[3], "4711");
  EXPECT_EQ(match[4], "node1");
}

TEST(Table, numbers_lose_decimals_before_they_overflow) {
  EXPECT_EQ(fit_number(0.5, 7), "0.50");
  EXPECT_EQ(fit_number(1234.5, 7), "1234.50");
  EXPECT_EQ(fit_number(12345.67, 7), "12345.7");
  EXPECT_EQ(fit_number(1234567, 7), "1234567");
  EXPECT_EQ(fit_number(123456789.0, 7), "1.2e+08");
  EXPECT_LE(fit_number(99999.99, 6).size(), 6u);
}

TEST(Table, extra_columns_only_on_request) {
  TableOptions options;
  const size_t plain = point_line(example_point(), options, Collective::all_reduce, 10).size();
  options.ceilings = true;
  options.per_iteration = true;
  const std::string line = point_line(example_point(), options, Collective::all_reduce, 61.728);
  EXPECT_EQ(line.size(), plain + 2 * (8 + 4 * 9));
  EXPECT_THAT(line, testing::HasSubstr(" 50.00"));
}

TEST(Sizes, parse_like_nccl_tests_and_refuse_the_rest) {
  EXPECT_EQ(parse_size("8"), 8u);
  EXPECT_EQ(parse_size("4K"), 4096u);
  EXPECT_EQ(parse_size("1.5M"), 1572864u);
  EXPECT_EQ(parse_size("2GB"), 2147483648u);
  for (const char* bad : {"", "K", "-1", "4X", "nan", "1e30"}) EXPECT_FALSE(parse_size(bad)) << bad;
}

TEST(Sizes, of_a_sweep) {
  SweepOptions sweep;
  sweep.min_bytes = 8;
  sweep.max_bytes = 128;
  sweep.step_factor = 4;
  EXPECT_THAT(sizes_of(sweep), ElementsAre(8, 32, 128));
  sweep.step_factor = 1;
  sweep.step_bytes = 60;
  EXPECT_THAT(sizes_of(sweep), ElementsAre(8, 68, 128));
  sweep.step_bytes = 0;
  EXPECT_THAT(sizes_of(sweep), ElementsAre(8));
  sweep.min_bytes = 0;
  sweep.step_factor = 2;
  EXPECT_THAT(sizes_of(sweep), ElementsAre(0));
}

TEST(Sizes, per_rank_blocks_are_multiples_of_16_bytes) {
  const Extent extent = extent_of(Collective::all_gather, 1000, DType::float16, 3);
  EXPECT_EQ(extent.block, 160u);
  EXPECT_EQ(extent.bytes, 960u);
  EXPECT_EQ(extent.recv_count, 480u);
  EXPECT_EQ(extent_of(Collective::all_reduce, 1000, DType::float32, 3).block, 250u);
}

TEST(Bandwidth, factors_of_nccl_tests) {
  EXPECT_DOUBLE_EQ(bus_factor(Collective::all_reduce, 4), 1.5);
  EXPECT_DOUBLE_EQ(bus_factor(Collective::all_gather, 4), 0.75);
  EXPECT_DOUBLE_EQ(bus_factor(Collective::broadcast, 4), 1);
  EXPECT_DOUBLE_EQ(bus_factor(Collective::send_recv, 4), 1);
}

TEST(Options, flags_of_nccl_tests) {
  PerfOptions options;
  ASSERT_EQ(
      parse({"-b", "8", "-e", "4M",  "-f", "2",    "-g", "2", "-t", "3", "-n", "5", "-w", "2",
             "-c", "0", "-o", "all", "-d", "half", "-r", "1", "-a", "1", "-m", "4", "-I", "1"},
            &options),
      std::nullopt);
  EXPECT_EQ(options.sweep.min_bytes, 8u);
  EXPECT_EQ(options.sweep.max_bytes, 4u << 20);
  EXPECT_EQ(options.threads, 6u);
  EXPECT_EQ(options.sweep.ops.size(), 6u);
  EXPECT_THAT(options.sweep.dtypes, ElementsAre(DType::float16));
  EXPECT_EQ(options.sweep.across, Across::average);
  EXPECT_TRUE(options.sweep.per_iteration);
  EXPECT_FALSE(options.ceilings);
}

TEST(Options, gpu_flags_are_accepted_and_named) {
  PerfOptions options;
  ASSERT_EQ(parse({"-G", "3", "-y", "1", "-p", "1", "-D", "0"}, &options), std::nullopt);
  EXPECT_EQ(options.sweep.graph_launches, 3u);
  EXPECT_TRUE(options.null_stream);
  ASSERT_EQ(options.notes.size(), 1u);  // what has no effect, and is not 0
  EXPECT_THAT(options.notes[0], testing::HasSubstr("parallel_init"));
}

TEST(Options, bad_values_end_the_program) {
  for (const std::vector<std::string>& bad : {std::vector<std::string>{"-b", "lots"},
                                              {"-o", "xor"},
                                              {"-d", "float128"},
                                              {"-a", "4"},
                                              {"-J", "results.txt"},
                                              {"--ranks", "0"},
                                              {"--frobnicate"}}) {
    PerfOptions options;
    testing::internal::CaptureStderr();
    const std::optional<int> code = parse(bad, &options);
    const std::string told = testing::internal::GetCapturedStderr();
    ASSERT_TRUE(code.has_value()) << bad[0];
    EXPECT_NE(*code, 0) << bad[0];
    EXPECT_FALSE(told.empty()) << bad[0];
  }
}

TEST(Options, ranks_in_every_spelling) {
  for (const char* flag : {"-np", "--np", "--ranks"}) {
    PerfOptions options;
    ASSERT_EQ(parse({flag, "4"}, &options), std::nullopt) << flag;
    EXPECT_EQ(options.ranks, 4u);
    EXPECT_EQ(options.sweep.iterations, 20u);  // -n remains nccl-tests' iterations
  }
}

TEST(Json, version_3_document) {
  PerfOptions options;
  ASSERT_EQ(parse({"-f", "2", "-I", "1"}, &options), std::nullopt);
  Outcome outcome;
  outcome.points = {example_point()};
  outcome.wrong = 3;
  const nlohmann::json document =
      json_document(options, {{0, 12, "node", "cpu"}}, outcome, "now", nullptr);
  EXPECT_EQ(document["version"], 3);
  for (const char* key : {"start_time", "args", "env", "nccl_version", "config", "results",
                          "out_of_bounds", "average_bus_bandwidth", "errors", "end_time"})
    EXPECT_TRUE(document.contains(key)) << key;
  EXPECT_EQ(document["out_of_bounds"]["okay"], "false");  // strings, as nccl-tests writes them
  EXPECT_EQ(document["config"]["step_factor"], 2);
  const nlohmann::json& result = document["results"][0];
  EXPECT_DOUBLE_EQ(result["out_of_place"]["time"], 123.456);
  EXPECT_EQ(result["in_place"]["nwrong"], 3);
  EXPECT_TRUE(result.contains("in_place_per_iter"));
  EXPECT_EQ(result["type"], "float");
}

TEST(Json, environment_holds_no_secrets_and_nobody_elses_variables) {
  std::vector<std::string> variables = {
      "TUTTI_TUNE=x",         "NCCL_DEBUG=INFO", "HOME=/root",        "TUTTI_JOB_SECRET=abc",
      "NCCL_COMM_ID=1.2.3.4", "AWS_TOKEN=zzz",   "TUTTI_UNIQUE_ID=00"};
  std::vector<char*> environment;
  for (std::string& v : variables) environment.push_back(v.data());
  environment.push_back(nullptr);
  EXPECT_THAT(whitelisted_environment(environment.data()),
              ElementsAre("NCCL_DEBUG=INFO", "TUTTI_TUNE=x"));
}

TEST(Statistics, percentiles_medians_means) {
  std::vector<double> samples;
  for (int i = 100; i >= 1; --i) samples.push_back(i);
  const Summary s = summarise(samples);
  EXPECT_EQ(s.min, 1);
  EXPECT_EQ(s.max, 100);
  EXPECT_EQ(s.p50, 51);
  EXPECT_EQ(s.p90, 90);
  EXPECT_EQ(s.p99, 99);
  EXPECT_DOUBLE_EQ(s.mean, 50.5);
  EXPECT_NEAR(s.stdev, 28.866, 0.001);
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 2, 3}), 2.5);
  EXPECT_EQ(median({}), 0);
  EXPECT_DOUBLE_EQ(geometric_mean(std::vector<double>{1, 4, 16}), 4);
  EXPECT_EQ(summarise({}).p99, 0);
  EXPECT_EQ(summarise(std::vector<double>{7}).p99, 7);
}

}  // namespace
}  // namespace tutti::perf
