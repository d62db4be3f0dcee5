// What a hierarchical algorithm costs level by level: messages inside a node and between nodes have
// different prices.
#pragma once

#include <optional>
#include <vector>

#include "src/algorithms/algorithms.h"
#include "src/algorithms/levels.h"

namespace tutti {

struct LeveledCost {
  Rails rails = Rails::one;
  // By level of Levels(request.hierarchy, request.ranks, rails), innermost first. Their sum is
  // Algorithm::cost, but for trees whose root has fewer children than the tree is deep.
  std::vector<Cost> levels;
};

// Nothing for algorithms (and collectives) whose cost is not a sum over levels.
std::optional<LeveledCost> leveled_cost(const Algorithm& algorithm, const PlanRequest& request);

}  // namespace tutti
