// What the hierarchical algorithms serve, in what shape, at what cost.
#include "src/algorithms/hierarchical.h"

#include <algorithm>

#include "src/algorithms/chapter.h"
#include "src/algorithms/direct.h"
#include "src/algorithms/halving_doubling.h"
#include "src/algorithms/hierarchical_tree.h"
#include "src/algorithms/leveled_cost.h"
#include "src/algorithms/ring.h"

namespace tutti {
namespace chapters {
namespace {

// The algorithms of the top level: chunks for m ranks, the longest message, and the cost on a
// block of M bytes.
struct RingTop : ring::AllReduce {
  static uint32_t longest(uint32_t) { return 1; }
  static uint32_t chunks(uint32_t m) { return m; }
  static Cost cost(double m) { return {2 * (m - 1), 2 * (m - 1) / m, (m - 1) / m}; }
};
struct TwoShotTop : direct::TwoShot {
  static uint32_t longest(uint32_t) { return 1; }
  static uint32_t chunks(uint32_t m) { return m; }
  static Cost cost(double m) { return {2, 2 * (m - 1) / m, (m - 1) / m}; }
};
struct DoublingTop : halving_doubling::AllReduce {
  static uint32_t longest(uint32_t m) { return half(m); }
  static uint32_t chunks(uint32_t m) { return 1u << floor_log2(m); }
  static Cost cost(double m) {
    const double f = chunks(static_cast<uint32_t>(m)), folded = m > f, share = (f - 1) / f;
    return {2 * levels(f) + 2 * folded, 2 * share + 2 * folded, share + folded};
  }
};

// Slices of the block that overlap, a lane each, where the request leaves it open: leader is for
// small blocks, which gain nothing; of scatter's two, one is across while the other is inside.
constexpr uint32_t default_slices(Rails rails) { return rails == Rails::one ? 1 : 2; }
constexpr uint32_t k_max_slices = 16;

template <class Top, Rails policy>
void all_reduce_form(const PlanRequest& request, Shape& shape) {
  const Levels levels(request.hierarchy, request.ranks, policy);
  const uint32_t slice = hierarchical::slice_chunks(levels, Top::chunks(levels.top_size()));
  shape.lanes = request.chunks == 0 ? default_slices(policy)
                                    : std::min((request.chunks + slice - 1) / slice, k_max_slices);
  shape.chunks = shape.lanes * slice;
  // Inside the innermost groups a rail's whole share of a slice is one message.
  shape.longest = levels.count() > 1 ? slice / levels.rails(0) : Top::longest(levels.top_size());
  shape.hierarchy = request.hierarchy;
}

template <class Top, Rails policy>
PlanPtr make_all_reduce(std::string_view algorithm, Shape shape) {
  const uint32_t m = Levels(shape.hierarchy, shape.ranks, policy).top_size();
  return std::make_shared<hierarchical::AllReducePlan<Top>>(
      std::string(algorithm), std::move(shape), policy, Top::chunks(m));
}

// What each level costs, innermost first; levels.count() entries.
template <class Top, Rails policy>
std::vector<Cost> all_reduce_levels(const PlanRequest& request) {
  const Levels levels(request.hierarchy, request.ranks, policy);
  std::vector<Cost> costs;
  double share = 1;  // of the block that a rank carries
  for (uint32_t l = 0; l + 1 < levels.count(); ++l) {
    const double others = levels.largest(l) - 1;
    share /= levels.rails(l);
    costs.push_back(others == 0 ? Cost{} : Cost{2, 2 * others * share, others * share});
  }
  const Cost top = Top::cost(levels.top_size());
  costs.push_back({top.steps, share * top.bytes, share * top.reduced});
  return costs;
}

template <class Top, Rails policy>
Cost all_reduce_cost(double, double, const PlanRequest& request) {
  Cost total;
  for (const Cost& cost : all_reduce_levels<Top, policy>(request)) {
    total.steps += cost.steps;
    total.bytes += cost.bytes;
    total.reduced += cost.reduced;
  }
  return total;
}

template <class Top, Rails policy>
constexpr Entry all_reduce_entry() {
  return {Collective::all_reduce, make_all_reduce<Top, policy>, all_reduce_form<Top, policy>,
          all_reduce_cost<Top, policy>};
}

hierarchical::Tree tree_of(const Hierarchy& hierarchy, uint32_t ranks, Rank root) {
  return {Levels(hierarchy, ranks, Rails::one, root), ranks};
}
PlanPtr make_tree(std::string_view algorithm, Shape shape) {
  hierarchical::Tree tree = tree_of(shape.hierarchy, shape.ranks, shape.root);
  return std::make_shared<hierarchical::TreePlan>(std::string(algorithm), std::move(shape),
                                                  std::move(tree));
}
void tree_broadcast(const PlanRequest& request, Shape& shape) {
  pipelined(request, shape);
  shape.hierarchy = request.hierarchy;
}
void tree_reduce(const PlanRequest& request, Shape& shape) {
  tree_broadcast(request, shape);
  shape.scratch = request.ranks > 2 ? shape.chunks : 0;
}
Cost tree_broadcast_cost(double n, double c, const PlanRequest& request) {
  const auto tree = tree_of(request.hierarchy, static_cast<uint32_t>(n), request.root);
  const double steps = tree.rounds + tree.most_kids * (c - 1);
  return {steps, steps / c, 0, steps - tree.depth};
}
// The root has as many children on a level as the level is deep.
std::vector<Cost> tree_levels(const PlanRequest& request) {
  const Levels levels(request.hierarchy, request.ranks, Rails::one, request.root);
  Shape shape;
  pipelined(request, shape);
  const double c = shape.chunks, reduced = request.collective == Collective::reduce;
  std::vector<Cost> costs;
  for (uint32_t l = 0; l < levels.count(); ++l) {
    const uint32_t groups = levels.largest(l);
    const double rounds = ceil_log2(groups), depth = groups > 0 ? floor_log2(groups) : 0;
    costs.push_back({rounds * c, rounds, rounds * reduced, rounds * c - depth});
  }
  return costs;
}
Cost tree_reduce_cost(double n, double c, const PlanRequest& request) {
  const Cost cost = tree_broadcast_cost(n, c, request);
  return {cost.steps, cost.bytes, cost.bytes, cost.overlapped};
}

constexpr Entry k_hierarchical_leader[] = {
    all_reduce_entry<RingTop, Rails::one>(),
    {Collective::broadcast, make_tree, tree_broadcast, tree_broadcast_cost},
    {Collective::reduce, make_tree, tree_reduce, tree_reduce_cost},
};
constexpr Entry k_hierarchical_leader_doubling[] = {all_reduce_entry<DoublingTop, Rails::one>()};
constexpr Entry k_hierarchical_scatter[] = {all_reduce_entry<RingTop, Rails::all>()};
constexpr Entry k_hierarchical_scatter_doubling[] = {all_reduce_entry<DoublingTop, Rails::all>()};
constexpr Entry k_hierarchical_scatter_direct[] = {all_reduce_entry<TwoShotTop, Rails::all>()};

struct LevelForm {
  std::string_view name;
  std::vector<Cost> (*costs)(const PlanRequest& request);
  Rails rails;
};
constexpr LevelForm k_level_forms[] = {
    {"hierarchical_leader", all_reduce_levels<RingTop, Rails::one>, Rails::one},
    {"hierarchical_leader_doubling", all_reduce_levels<DoublingTop, Rails::one>, Rails::one},
    {"hierarchical_scatter", all_reduce_levels<RingTop, Rails::all>, Rails::all},
    {"hierarchical_scatter_doubling", all_reduce_levels<DoublingTop, Rails::all>, Rails::all},
    {"hierarchical_scatter_direct", all_reduce_levels<TwoShotTop, Rails::all>, Rails::all},
};

}  // namespace

std::span<const Entry> hierarchical_leader() { return k_hierarchical_leader; }
std::span<const Entry> hierarchical_leader_doubling() { return k_hierarchical_leader_doubling; }
std::span<const Entry> hierarchical_scatter() { return k_hierarchical_scatter; }
std::span<const Entry> hierarchical_scatter_doubling() { return k_hierarchical_scatter_doubling; }
std::span<const Entry> hierarchical_scatter_direct() { return k_hierarchical_scatter_direct; }

}  // namespace chapters

std::optional<LeveledCost> leveled_cost(const Algorithm& algorithm, const PlanRequest& request) {
  if (request.ranks < 2 || !algorithm.name.starts_with("hierarchical") ||
      !algorithm.supports(request).ok())
    return std::nullopt;
  if (request.collective != Collective::all_reduce)
    return LeveledCost{Rails::one, chapters::tree_levels(request)};
  for (const chapters::LevelForm& form : chapters::k_level_forms)
    if (form.name == algorithm.name) return LeveledCost{form.rails, form.costs(request)};
  return std::nullopt;
}

}  // namespace tutti
