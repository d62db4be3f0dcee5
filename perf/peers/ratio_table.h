// Collected results of several libraries and the table of ratios: best peer against tutti, per
// size.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tutti::perf {

struct RatioRow {
  size_t bytes = 0;
  double tutti_us = 0;      // private buffers; 0: not measured
  double mem_alloc_us = 0;  // 0: not measured
  double best_peer_us = 0;
  std::string best_peer;  // "openmpi rabenseifner"
  double ratio() const { return tutti_us > 0 ? best_peer_us / tutti_us : 0; }
  double mem_alloc_ratio() const { return mem_alloc_us > 0 ? best_peer_us / mem_alloc_us : 0; }
};

class RatioTable {
 public:
  // One line of --json-lines; lines with wrong values are counted, not used. False when malformed.
  bool add(const nlohmann::json& line);

  std::vector<uint32_t> rank_counts() const;
  // Medians over what was added, ascending by size.
  std::vector<RatioRow> rows(uint32_t ranks) const;
  uint64_t wrong(const std::string& library) const;

  // A section for docs/performance.md.
  std::string markdown(uint32_t ranks, const std::string& title) const;
  // Every configuration's median, a column each.
  std::string medians_markdown(uint32_t ranks) const;
  nlohmann::json to_json() const;

 private:
  using Samples = std::vector<double>;
  // ranks -> bytes -> "library configuration" -> us
  std::map<uint32_t, std::map<size_t, std::map<std::string, Samples>>> samples_;
  std::map<std::string, uint64_t> wrong_;
};

// 4 B, 64 KiB, 1.5 MiB.
std::string size_label(size_t bytes);

}  // namespace tutti::perf
