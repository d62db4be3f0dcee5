#include "src/algorithms/on_orders.h"

#include <algorithm>

#include "src/plan/braid.h"

namespace tutti {

Result<PlanPtr> make_on_orders(const Algorithm& algorithm, const PlanRequest& request,
                               const std::vector<std::vector<Rank>>& orders) {
  std::vector<Strand> strands;
  TUTTI_RETURN_IF_ERROR(algorithm.supports(request).with_context(std::string(algorithm.name)));
  for (const std::vector<Rank>& order : orders)
    if (order.size() != request.ranks ||
        std::any_of(order.begin(), order.end(), [&](Rank r) { return r >= request.ranks; }))
      return Status(Code::invalid_argument, "an order of other ranks than the plan's");
  for (const std::vector<Rank>& order : orders) {
    PlanRequest played = request;
    if (is_rooted(request.collective))
      played.root =
          static_cast<Rank>(std::find(order.begin(), order.end(), request.root) - order.begin());
    if (request.chunks > 0)
      played.chunks = std::max<uint32_t>(1, request.chunks / static_cast<uint32_t>(orders.size()));
    for (size_t l = 0; l < played.hierarchy.level.size(); ++l)
      for (size_t v = 0; v < order.size(); ++v)
        played.hierarchy.level[l][v] = request.hierarchy.level[l][order[v]];
    Result<PlanPtr> plan = make_plan(algorithm.name, played);
    if (!plan) return plan.status();
    strands.push_back({std::move(*plan), order});
  }
  return braid(algorithm.name, std::move(strands));
}

std::vector<std::vector<Rank>> both_ways(const std::vector<std::vector<Rank>>& rings) {
  std::vector<std::vector<Rank>> result = rings;
  for (const std::vector<Rank>& ring : rings)
    if (ring.size() > 2) result.emplace_back(ring.rbegin(), ring.rend());
  return result;
}

}  // namespace tutti
