// See ratio_reporter.h.
#include "perf/bench/ratio_reporter.h"

#include <algorithm>
#include <cstdio>

namespace tutti::bench {
namespace {

void remember(std::vector<std::string>& list, const std::string& name) {
  if (std::find(list.begin(), list.end(), name) == list.end()) list.push_back(name);
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

void RatioReporter::ReportRuns(const std::vector<Run>& runs) {
  ConsoleReporter::ReportRuns(runs);
  for (const Run& run : runs) {
    const auto rate = run.counters.find("bytes_per_second");
    if (run.run_type != Run::RT_Iteration || rate == run.counters.end()) continue;
    const std::string name = run.run_name.function_name;
    const size_t slash = name.rfind('/');
    remember(whats_, name.substr(0, slash));
    remember(levels_, name.substr(slash + 1));
    samples_[name].push_back(rate->second.value / 1e9);
  }
}

double RatioReporter::gigabytes(const std::string& what, const std::string& level) const {
  const auto found = samples_.find(what + "/" + level);
  return found == samples_.end() ? 0 : median(found->second);
}

void RatioReporter::Finalize() {
  ConsoleReporter::Finalize();
  std::printf("\nmedian GB/s of one buffer (share of a+=b, share of fp32 sum)\n%-28s", "");
  for (const std::string& level : levels_) std::printf("%22s", level.c_str());
  for (const std::string& what : whats_) {
    std::printf("\n%-28s", what.c_str());
    for (const std::string& level : levels_) {
      const double rate = gigabytes(what, level);
      const double add = gigabytes("ceiling a+=b", level);
      const double sum = gigabytes("float32 sum", level);
      std::printf("%8.2f (%4.0f%%,%4.0f%%)", rate, add > 0 ? 100 * rate / add : 0,
                  sum > 0 ? 100 * rate / sum : 0);
    }
  }
  std::printf("\n");
}

}  // namespace tutti::bench
