#include "src/cost/corrections.h"

#include <algorithm>
#include <cmath>

namespace tutti {
namespace {

// `share` of the way from a to b, in logarithms.
CorrectionFactors between(const CorrectionFactors& a, const CorrectionFactors& b, double share) {
  const auto mix = [share](double from, double to) { return from * std::pow(to / from, share); };
  return {mix(a.simulated, b.simulated), mix(a.closed, b.closed)};
}

// What `read` says at `at`, from the entries of a map around it.
template <class Map, class Read>
CorrectionFactors interpolated(const Map& map, typename Map::key_type at, const Read& read) {
  const auto above = map.lower_bound(at);
  if (above == map.end()) return read(std::prev(above)->second);
  if (above == map.begin() || above->first == at) return read(above->second);
  const auto below = std::prev(above);
  // Sizes may be 0.
  const auto logarithm = [](auto key) { return std::log(static_cast<double>(key) + 1); };
  return between(read(below->second), read(above->second),
                 (logarithm(at) - logarithm(below->first)) /
                     (logarithm(above->first) - logarithm(below->first)));
}

double rounded(double factor) {
  const double digits = std::pow(10, 3 - std::floor(std::log10(factor)));
  return std::round(factor * digits) / digits;
}

}  // namespace

void Corrections::set(const Key& key, uint32_t ranks, uint64_t bytes, CorrectionFactors factors) {
  for (double* factor : {&factors.simulated, &factors.closed})
    *factor = std::clamp(rounded(std::clamp(*factor, k_least, k_most)), k_least, k_most);
  known_[key][ranks][bytes] = factors;
}

void Corrections::forget(const std::string& world, uint32_t ranks) {
  for (auto& [key, by_ranks] : known_)
    if (key.world == world) by_ranks.erase(ranks);
  std::erase_if(known_, [](const auto& known) { return known.second.empty(); });
}

Corrections Corrections::around(uint32_t ranks, const std::vector<std::string>& worlds) const {
  Corrections part;
  for (const auto& [key, by_ranks] : known_) {
    if (std::find(worlds.begin(), worlds.end(), key.world) == worlds.end()) continue;
    const auto above = by_ranks.lower_bound(ranks);
    if (above != by_ranks.end()) part.known_[key].insert(*above);
    if (above != by_ranks.begin() && (above == by_ranks.end() || above->first != ranks))
      part.known_[key].insert(*std::prev(above));
  }
  return part;
}

CorrectionFactors Corrections::of(const Key& key, uint32_t ranks, uint64_t bytes,
                                  bool variant) const {
  const auto found = known_.find(key);
  if (found == known_.end()) return {};
  CorrectionFactors factors = interpolated(found->second, ranks, [bytes](const Knots& knots) {
    return interpolated(knots, bytes, [](const CorrectionFactors& f) { return f; });
  });
  if (variant) {
    factors.simulated = std::max(factors.simulated, 1.0) * k_doubt;
    factors.closed = std::max(factors.closed, 1.0) * k_doubt;
  }
  return factors;
}

}  // namespace tutti
