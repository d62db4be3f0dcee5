// The requests that the tests of the algorithms go through.
#pragma once

#include <string>
#include <vector>

#include "src/algorithms/algorithms.h"

namespace tutti::test {

inline constexpr Collective k_all_collectives[] = {
    Collective::all_reduce,   Collective::reduce_scatter, Collective::all_gather,
    Collective::broadcast,    Collective::reduce,         Collective::all_to_all,
    Collective::all_to_all_v, Collective::gather,         Collective::scatter,
    Collective::send_recv,    Collective::barrier};

inline bool has_root(Collective c) {
  return c == Collective::broadcast || c == Collective::reduce || c == Collective::gather ||
         c == Collective::scatter;
}
inline bool is_hierarchical(const Algorithm& a) { return a.name.starts_with("hierarchical"); }

// Flat; even and uneven groups, contiguous and scattered, of one to three levels.
inline std::vector<Hierarchy> hierarchies(uint32_t n) {
  Hierarchy scattered;
  scattered.level.resize(2, std::vector<uint32_t>(n));
  for (uint32_t r = 0; r < n; ++r) {
    scattered.level[0][r] = (7 * r + r / 3) % (n / 3 + 1);
    scattered.level[1][r] = scattered.level[0][r] % 2;
  }
  return {Hierarchy{},
          Hierarchy::even(n, {2}),
          Hierarchy::even(n, {n}),  // one group of all
          Hierarchy::even(n, {3, 2}),
          Hierarchy::even(n, {4, 2, 2}),
          scattered};
}

inline std::string describe(const Algorithm& a, const PlanRequest& q) {
  std::string text = std::string(a.name) + " " + std::string(name(q.collective)) +
                     " n=" + std::to_string(q.ranks) + (q.in_place ? " in place" : "") +
                     " root=" + std::to_string(q.root) + " chunks=" + std::to_string(q.chunks);
  for (const auto& level : q.hierarchy.level) {
    text += " level";
    for (size_t r = 0; r < level.size() && r < 16; ++r) text += " " + std::to_string(level[r]);
  }
  return text;
}

// Calls f(request) for every collective that `a` serves on n ranks, in place and out of place, for
// a few roots and, where `a` is hierarchical, all hierarchies.
template <class F>
void for_each_request(const Algorithm& a, uint32_t n, F&& f) {
  for (Collective collective : k_all_collectives) {
    for (bool in_place : {false, true}) {
      for (Rank root : {Rank{0}, n / 2, n - 1}) {
        if (root > 0 && (!has_root(collective) || (root == n / 2 && root == n - 1))) continue;
        for (const Hierarchy& hierarchy : hierarchies(n)) {
          if (!hierarchy.level.empty() && !is_hierarchical(a)) break;
          PlanRequest request{collective, n, root, in_place, 0, hierarchy};
          if (a.supports(request).ok()) f(request);
        }
      }
    }
  }
}

}  // namespace tutti::test
