// Builds the levels of a hierarchy; see levels.h.
#include "src/algorithms/levels.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace tutti {
namespace {

using Partition = std::vector<uint32_t>;  // group of every rank

// Groups numbered 0, 1 ... by their first rank, so that equal partitions are equal vectors.
Partition normalised(const Partition& groups) {
  std::map<uint32_t, uint32_t> number;
  Partition result;
  for (uint32_t group : groups)
    result.push_back(number.emplace(group, static_cast<uint32_t>(number.size())).first->second);
  return result;
}

// From single ranks to all in one, each coarser than the one before.
std::vector<Partition> partitions(const Hierarchy& hierarchy, uint32_t ranks) {
  Partition single(ranks);
  for (Rank r = 0; r < ranks; ++r) single[r] = r;
  std::vector<Partition> result = {single};
  for (const auto& level : hierarchy.level)
    if (Partition p = normalised(level); p != result.back()) result.push_back(std::move(p));
  if (Partition all(ranks, 0); all != result.back()) result.push_back(std::move(all));
  return result;
}

}  // namespace

Status Levels::check(const Hierarchy& hierarchy, uint32_t ranks) {
  if (hierarchy.level.size() >= k_max)
    return {Code::unsupported, fmt::format("{} levels of hierarchy; at most {} are served",
                                           hierarchy.level.size(), k_max - 1)};
  for (size_t l = 0; l < hierarchy.level.size(); ++l)
    if (hierarchy.level[l].size() != ranks)
      return {Code::invalid_argument, fmt::format("level {} of the hierarchy names {} ranks of {}",
                                                  l, hierarchy.level[l].size(), ranks)};
  for (size_t l = 0; l + 1 < hierarchy.level.size(); ++l) {
    std::map<uint32_t, uint32_t> outer;
    for (Rank r = 0; r < ranks; ++r) {
      const uint32_t group = hierarchy.level[l][r], in = hierarchy.level[l + 1][r];
      if (outer.emplace(group, in).first->second != in)
        return {Code::invalid_argument,
                fmt::format("group {} of hierarchy level {} is split at level {} (rank {})", group,
                            l, l + 1, r)};
    }
  }
  return {};
}

Levels::Levels(const Hierarchy& hierarchy, uint32_t ranks, Rails policy, Rank first) {
  const std::vector<Partition> parts = partitions(hierarchy, ranks);
  std::vector<Rank> order(ranks);  // ranks in the order of indexes
  for (Rank r = 0; r < ranks; ++r) order[r] = r;
  if (first > 0) std::rotate(order.begin(), order.begin() + first, order.begin() + first + 1);

  // A rank still taking part has a rail: the indexes that it had so far, as one number.
  std::vector<uint64_t> rail(ranks, 0);
  std::vector<bool> active(ranks, true);
  for (size_t l = 0; l + 1 < parts.size(); ++l) {
    Level level;
    // The groups that meet in each outer group, in order; at least one rank of each is active.
    std::vector<std::vector<uint32_t>> inner(ranks);
    std::vector<uint32_t> place_of(ranks, ~uint32_t{0});
    for (Rank r : order) {
      uint32_t& place = place_of[parts[l][r]];
      if (place != ~uint32_t{0}) continue;
      auto& groups = inner[parts[l + 1][r]];
      place = static_cast<uint32_t>(groups.size());
      groups.push_back(parts[l][r]);
    }
    uint32_t smallest = ranks;
    for (const auto& groups : inner) {
      if (groups.empty()) continue;
      smallest = std::min(smallest, static_cast<uint32_t>(groups.size()));
      level.largest = std::max(level.largest, static_cast<uint32_t>(groups.size()));
    }
    level.rails = policy == Rails::one ? 1 : smallest;

    std::map<std::pair<uint32_t, uint64_t>, std::vector<Rank>> meeting;
    for (Rank r = 0; r < ranks; ++r) {
      if (!active[r]) continue;
      auto& members = meeting[{parts[l + 1][r], rail[r]}];
      members.resize(inner[parts[l + 1][r]].size());
      members[place_of[parts[l][r]]] = r;
    }
    level.begin.assign(ranks, 0);
    level.size.assign(ranks, 0);
    level.index.assign(ranks, 0);
    for (const auto& [key, members] : meeting) {
      for (uint32_t i = 0; i < members.size(); ++i) {
        const Rank r = members[i];
        level.begin[r] = static_cast<uint32_t>(level.members.size());
        level.size[r] = static_cast<uint32_t>(members.size());
        level.index[r] = i;
        active[r] = i < level.rails;
        rail[r] = rail[r] * level.rails + i;
      }
      level.members.insert(level.members.end(), members.begin(), members.end());
    }
    levels_.push_back(std::move(level));
  }
}

LevelPlace Levels::place(uint32_t level, Rank rank) const {
  const Level& l = levels_[level];
  return {l.members.data() + l.begin[rank], l.size[rank], l.index[rank], l.rails};
}

}  // namespace tutti
