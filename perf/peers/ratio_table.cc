// The table of ratios, see ratio_table.h.
#include "perf/peers/ratio_table.h"

#include <fmt/format.h>

#include "perf/statistics.h"

namespace tutti::perf {
namespace {

using nlohmann::json;

std::string figure(double us) {
  if (us <= 0) return "-";
  return us < 10     ? fmt::format("{:.2f}", us)
         : us < 1000 ? fmt::format("{:.1f}", us)
                     : fmt::format("{:.0f}", us);
}

std::string times(double ratio) { return ratio > 0 ? fmt::format("{:.2f}", ratio) : "-"; }

std::string mean_of(const std::vector<double>& ratios) { return times(geometric_mean(ratios)); }

}  // namespace

bool RatioTable::add(const json& line) {
  if (!line.is_object() || !line.contains("library") || !line.contains("ranks") ||
      !line.contains("bytes"))
    return false;
  // In place where measured, as in reference tables; otherwise out of place.
  const char* place = line.contains("in_place") ? "in_place" : "out_of_place";
  if (!line.contains(place)) return false;
  const std::string library = line["library"];
  const uint64_t wrong = line[place].value("wrong", uint64_t{0});
  wrong_[library] += wrong;
  const double us = line[place].value("us", 0.0);
  if (wrong > 0 || us <= 0) return wrong > 0;
  const std::string key = library + " " + line.value("configuration", std::string());
  samples_[line["ranks"]][line["bytes"]][key].push_back(us);
  return true;
}

std::vector<uint32_t> RatioTable::rank_counts() const {
  std::vector<uint32_t> counts;
  for (const auto& entry : samples_) counts.push_back(entry.first);
  return counts;
}

std::vector<RatioRow> RatioTable::rows(uint32_t ranks) const {
  std::vector<RatioRow> rows;
  const auto found = samples_.find(ranks);
  if (found == samples_.end()) return rows;
  for (const auto& [bytes, by_library] : found->second) {
    RatioRow row;
    row.bytes = bytes;
    for (const auto& [who, samples] : by_library) {
      const double us = median(samples);
      if (who == "tutti mem_alloc") {
        row.mem_alloc_us = us;
      } else if (who == "tutti private" || who == "tutti default" || who == "tutti ") {
        row.tutti_us = us;
      } else if (who.starts_with("tutti")) {
        continue;  // an override under study, neither tutti's own choice nor a peer
      } else if (row.best_peer.empty() || us < row.best_peer_us) {
        row.best_peer_us = us;
        row.best_peer = who;
      }
    }
    rows.push_back(row);
  }
  return rows;
}

uint64_t RatioTable::wrong(const std::string& library) const {
  const auto found = wrong_.find(library);
  return found == wrong_.end() ? 0 : found->second;
}

std::string RatioTable::markdown(uint32_t ranks, const std::string& title) const {
  std::string text = fmt::format(
      "### {}, {} ranks\n\n"
      "| size | tutti us | mem_alloc us | best peer us | which | best / tutti | best / mem_alloc "
      "|\n"
      "|---|---|---|---|---|---|---|\n",
      title, ranks);
  std::vector<double> ratios;
  std::vector<double> shared;
  for (const RatioRow& row : rows(ranks)) {
    text += fmt::format("| {} | {} | {} | {} | {} | {} | {} |\n", size_label(row.bytes),
                        figure(row.tutti_us), figure(row.mem_alloc_us), figure(row.best_peer_us),
                        row.best_peer.empty() ? "-" : row.best_peer, times(row.ratio()),
                        times(row.mem_alloc_ratio()));
    if (row.ratio() > 0) ratios.push_back(row.ratio());
    if (row.mem_alloc_ratio() > 0) shared.push_back(row.mem_alloc_ratio());
  }
  text += fmt::format("| geometric mean | | | | | {} | {} |\n", mean_of(ratios), mean_of(shared));
  return text;
}

std::string RatioTable::medians_markdown(uint32_t ranks) const {
  const auto found = samples_.find(ranks);
  if (found == samples_.end()) return "";
  std::map<std::string, bool> columns;
  for (const auto& by_size : found->second)
    for (const auto& by_library : by_size.second) columns[by_library.first] = true;
  std::string text = fmt::format("### Median us, {} ranks\n\n| size |", ranks);
  std::string rule = "|---|";
  for (const auto& column : columns) {
    text += fmt::format(" {} |", column.first);
    rule += "---|";
  }
  text += "\n" + rule + "\n";
  for (const auto& [bytes, by_library] : found->second) {
    text += fmt::format("| {} |", size_label(bytes));
    for (const auto& column : columns) {
      const auto cell = by_library.find(column.first);
      text += fmt::format(" {} |", cell == by_library.end() ? "-" : figure(median(cell->second)));
    }
    text += "\n";
  }
  return text;
}

json RatioTable::to_json() const {
  nlohmann::json tables = nlohmann::json::array();
  for (const auto& [ranks, by_size] : samples_) {
    std::vector<double> ratios;
    nlohmann::json list = nlohmann::json::array();
    for (const RatioRow& row : rows(ranks)) {
      if (row.ratio() > 0) ratios.push_back(row.ratio());
      nlohmann::json medians;
      for (const auto& [who, samples] : by_size.at(row.bytes)) medians[who] = median(samples);
      list.push_back({{"bytes", row.bytes},
                      {"tutti_us", row.tutti_us},
                      {"mem_alloc_us", row.mem_alloc_us},
                      {"best_peer_us", row.best_peer_us},
                      {"best_peer", row.best_peer},
                      {"ratio", row.ratio()},
                      {"medians_us", medians}});
    }
    tables.push_back(
        {{"ranks", ranks}, {"geometric_mean_ratio", geometric_mean(ratios)}, {"rows", list}});
  }
  return tables;
}

std::string size_label(size_t bytes) {
  static constexpr const char* k_units[] = {"B", "KiB", "MiB", "GiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit < 3) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.4g} {}", value, k_units[unit]);
}

}  // namespace tutti::perf
