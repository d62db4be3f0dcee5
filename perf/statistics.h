// Small statistics over samples: what the tables and comparisons print.
#pragma once

#include <span>
#include <vector>

namespace tutti::perf {

struct Summary {
  double min = 0, max = 0, mean = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0, stdev = 0;
  double cv_percent() const { return mean > 0 ? 100 * stdev / mean : 0; }
};

// All zero for no samples. p50 is the upper median; other percentiles are nearest-rank.
Summary summarise(std::span<const double> samples);
// Mean of the middle two for an even number; 0 for none.
double median(std::vector<double> samples);
// 0 for none; samples must be positive.
double geometric_mean(std::span<const double> samples);

}  // namespace tutti::perf
