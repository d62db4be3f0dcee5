// What the binomial and the double binary tree serve, in what shape, at what cost.
#include <algorithm>

#include "src/algorithms/binomial.h"
#include "src/algorithms/chapter.h"
#include "src/algorithms/double_binary_tree.h"

namespace tutti::chapters {
namespace {

void all_reduce_tree(const PlanRequest& request, Shape& shape) {
  pipelined(request, shape);
  shape.lanes = 4;
}
void broadcast_tree(const PlanRequest& request, Shape& shape) {
  pipelined(request, shape);
  shape.lanes = 2;
}
void reduce_tree(const PlanRequest& request, Shape& shape) {
  broadcast_tree(request, shape);
  shape.scratch = request.ranks > 2 ? shape.chunks : 0;
}
// Messages from the root of one of the two trees over m ranks to its last leaf.
double height(double m) { return m < 2 ? 0 : 1 + floor_log2(static_cast<uint32_t>(m) - 1); }

Cost all_reduce_tree_cost(double n, double c, const PlanRequest&) {
  // Up and down share the ports of inner ranks; two and three ranks have fewer neighbours.
  const double fill = 4 * levels(n) - (n < 4 ? 4 : 0), steps = fill + std::min(n, 4.0) / 2 * c;
  return {steps, steps / c, 1 + 2 * levels(n) / c, steps - 2 * height(n)};
}
// The root is above both trees.
Cost broadcast_tree_cost(double n, double c, const PlanRequest&) {
  const double steps = (n > 2 ? 2 * levels(n - 1) - 1 : 0) + c;
  return {steps, steps / c, 0, steps - 1 - height(n - 1)};
}
Cost reduce_tree_cost(double n, double c, const PlanRequest& request) {
  Cost cost = broadcast_tree_cost(n, c, request);
  cost.reduced = 1 + 2 * levels(n) / c;
  return cost;
}
constexpr Entry k_double_binary_tree[] = {
    {Collective::all_reduce, formula<double_binary_tree::AllReduce>, all_reduce_tree,
     all_reduce_tree_cost},
    {Collective::broadcast, formula<double_binary_tree::Broadcast>, broadcast_tree,
     broadcast_tree_cost},
    {Collective::reduce, formula<double_binary_tree::Reduce>, reduce_tree, reduce_tree_cost},
};

void binomial_reduce(const PlanRequest& request, Shape& shape) {
  shape.scratch = request.ranks > 2 ? 1 : 0;
}
// The largest subtree below the root that forwards anything.
void binomial_blocks(const PlanRequest& request, Shape& shape) {
  for (uint32_t v = 1; v < request.ranks; v *= 2)
    if (const uint32_t reach = binomial::reach(v, request.ranks); reach > 1)
      shape.scratch = std::max(shape.scratch, reach);
  shape.credits = 2;
  shape.longest = std::max(1u, shape.scratch);
}
// Where the last level is not full, the last rank is one message less deep, behind as many sends.
Cost binomial_broadcast_cost(double n, double, const PlanRequest&) {
  return {levels(n), levels(n), 0, levels(n) - floor_log2(static_cast<uint32_t>(n))};
}
// A rank adds up all its children in one pass, after the last has come: 1 + 2 + ... on the way up.
Cost binomial_reduce_cost(double n, double, const PlanRequest&) {
  return {levels(n), levels(n), levels(n) * (levels(n) + 1) / 2};
}
Cost binomial_blocks_cost(double n, double, const PlanRequest&) {
  return {n > 3 ? levels(n) + 1 : 1, n - 1, 0};
}
constexpr Entry k_binomial[] = {
    {Collective::broadcast, formula<binomial::Broadcast>, one_chunk, binomial_broadcast_cost},
    {Collective::reduce, formula<binomial::Reduce>, binomial_reduce, binomial_reduce_cost},
    {Collective::gather, formula<binomial::Gather>, binomial_blocks, binomial_blocks_cost},
    {Collective::scatter, formula<binomial::Scatter>, binomial_blocks, binomial_blocks_cost},
};

}  // namespace

std::span<const Entry> double_binary_tree() { return k_double_binary_tree; }
std::span<const Entry> binomial() { return k_binomial; }

}  // namespace tutti::chapters
