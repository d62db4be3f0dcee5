// Algorithms on orders of ranks that follow the links (topology/orders.h): one order relabels the
// plan, several share the chunks among them, each on lanes of its own.
#pragma once

#include <vector>

#include "src/algorithms/algorithms.h"

namespace tutti {

// Errors: those of make_plan() and braid().
Result<PlanPtr> make_on_orders(const Algorithm& algorithm, const PlanRequest& request,
                               const std::vector<std::vector<Rank>>& orders);

// Every ring also backwards, which uses the other direction of its cables.
std::vector<std::vector<Rank>> both_ways(const std::vector<std::vector<Rank>>& rings);

}  // namespace tutti
