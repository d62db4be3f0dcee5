#include "src/algorithms/staged_cost.h"

#include "src/algorithms/recursive_doubling.h"

namespace tutti {
namespace {

using recursive_doubling::Fold;

// Partners across dimension k; folded ranks rest.
std::vector<Rank> across(const Fold& fold, uint32_t ranks, uint32_t k) {
  std::vector<Rank> to(ranks);
  for (Rank r = 0; r < ranks; ++r) to[r] = fold.idle(r) ? r : fold.rank(fold.corner(r) ^ (1u << k));
  return to;
}

// Folded ranks to those that stand for them, or back.
std::vector<Rank> folding(const Fold& fold, uint32_t ranks, bool back) {
  std::vector<Rank> to(ranks);
  for (Rank r = 0; r < ranks; ++r) {
    to[r] = r;
    if (fold.idle(r) && !back) to[r] = r - 1;
    if (back && r + 1 < ranks && fold.idle(r + 1)) to[r] = r + 1;
  }
  return to;
}

}  // namespace

std::vector<Stage> staged_cost(const Algorithm& algorithm, const PlanRequest& request) {
  const bool halving = algorithm.name == "halving_doubling";
  const uint32_t n = request.ranks;
  if (n < 2 || (!halving && algorithm.name != "recursive_doubling")) return {};
  const Fold fold(n);
  std::vector<Stage> stages;
  const bool all_reduce = request.collective == Collective::all_reduce;
  const double token = all_reduce && !halving && n == 2 && request.in_place;
  if (fold.extra > 0) stages.push_back({{1, 1, 1}, folding(fold, n, false)});
  for (uint32_t k = 0; k < fold.dimensions; ++k) {
    const double size = 1u << k;
    Cost cost;
    if (!all_reduce) {
      cost = {1, size, request.collective == Collective::reduce_scatter ? size : 0};
    } else if (halving) {
      cost = {2, 1 / size, 0.5 / size};
    } else {
      cost = {1 + token, 1, 1};
    }
    stages.push_back({cost, across(fold, n, k)});
  }
  if (fold.extra > 0) stages.push_back({{1, 1, 0}, folding(fold, n, true)});
  return stages;
}

}  // namespace tutti
