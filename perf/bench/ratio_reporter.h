// Prints, after Google Benchmark's own table, each figure as a share of its ceilings in the same
// run. Run with --benchmark_repetitions=R --benchmark_enable_random_interleaving=true: then the
// figures are medians of interleaved runs.
#pragma once

#include <benchmark/benchmark.h>

#include <map>
#include <string>
#include <vector>

namespace tutti::bench {

// Benchmark names are "what/level"; the columns are the levels, in order of appearance.
class RatioReporter : public benchmark::ConsoleReporter {
 public:
  RatioReporter() : ConsoleReporter(OO_Tabular) {}
  void ReportRuns(const std::vector<Run>& runs) override;
  void Finalize() override;

 private:
  double gigabytes(const std::string& what, const std::string& level) const;

  std::vector<std::string> whats_, levels_;
  std::map<std::string, std::vector<double>> samples_;  // GB/s of every repetition
};

}  // namespace tutti::bench
