// Percentiles, medians and means, see statistics.h.
#include "perf/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace tutti::perf {
namespace {

double nearest_rank(const std::vector<double>& sorted, size_t percent) {
  const size_t rank = (sorted.size() * percent + 99) / 100;
  return sorted[std::min(sorted.size(), std::max<size_t>(rank, 1)) - 1];
}

}  // namespace

Summary summarise(std::span<const double> samples) {
  Summary s;
  if (samples.empty()) return s;
  std::vector<double> sorted(samples.begin(), samples.end());
  std::sort(sorted.begin(), sorted.end());
  const auto n = static_cast<double>(sorted.size());
  s.min = sorted.front();
  s.max = sorted.back();
  s.mean = std::accumulate(sorted.begin(), sorted.end(), 0.0) / n;
  s.p50 = sorted[sorted.size() / 2];
  s.p90 = nearest_rank(sorted, 90);
  s.p95 = nearest_rank(sorted, 95);
  s.p99 = nearest_rank(sorted, 99);
  double squares = 0;
  for (double v : sorted) squares += (v - s.mean) * (v - s.mean);
  s.stdev = std::sqrt(squares / n);
  return s;
}

double median(std::vector<double> samples) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  const size_t middle = samples.size() / 2;
  return samples.size() % 2 == 1 ? samples[middle] : (samples[middle - 1] + samples[middle]) / 2;
}

double geometric_mean(std::span<const double> samples) {
  if (samples.empty()) return 0;
  double logs = 0;
  for (double v : samples) logs += std::log(v);
  return std::exp(logs / static_cast<double>(samples.size()));
}

}  // namespace tutti::perf
