#include "src/planner/tuner.h"

#include <algorithm>
#include <set>

#include "sim/simulator.h"
#include "src/algorithms/on_orders.h"
#include "src/plan/layout.h"

namespace tutti {
namespace {

// Ranks beyond which direct algorithms over windows are not used (SharedDirect::k_max_ranks).
constexpr uint32_t k_window_ranks = 64;
// What fits beside the flag of a shared window.
constexpr uint64_t k_line_bytes = 48;
// Pieces in which a large all_reduce passes the windows, and the most that one holds.
constexpr double k_pieces = 4;
constexpr double k_piece_bytes = 128 * 1024;

bool uses_windows(const Placement& placement, const Algorithm& algorithm, Collective collective) {
  return placement.shared && collective == Collective::all_reduce &&
         placement.ranks <= k_window_ranks &&
         (algorithm.name == "direct_one_shot" || algorithm.name == "direct_two_shot");
}

// How much simulating the plan asks for, in messages that meet nobody: where a rank talks to many
// at once, shares of links are computed for all of them whenever one comes or goes.
uint64_t work_of(const Plan& plan, uint64_t rounds) {
  constexpr uint64_t k_few = 4, k_flows = 16;
  const Shape& shape = plan.shape();
  uint64_t steps = 0;
  for (Rank r = 0; r < shape.ranks; ++r)
    for (Lane l = 0; l < shape.lanes; ++l) steps += plan.steps(r, l);
  std::set<Rank> peers;  // of one rank; the others are alike, and a root has the most
  for (Lane l = 0; l < shape.lanes; ++l)
    for (uint32_t i = 0; i < plan.steps(shape.root, l); ++i) {
      const Step step = plan.step_at(shape.root, l, i);
      if (step.op == Op::send || reads_message(step.op)) peers.insert(step.peer);
    }
  const uint64_t many = peers.size() > k_few ? peers.size() - k_few : 0;
  return steps * rounds * (1 + many * shape.ranks / k_flows);
}

bool along_links(const Candidate& c) {
  return c.mapping == 1 && !c.algorithm->name.starts_with("hierarchical");
}

// The shared-window executor takes the place of the direct plans.
void use_windows(std::vector<Priced>& priced, const Placement& placement, const Profile& profile,
                 uint64_t bytes, DType dtype, ReduceOp op) {
  std::erase_if(priced,
                [](const Priced& p) { return p.candidate.algorithm->name == "direct_one_shot"; });
  for (Priced& p : priced) {
    if (!uses_windows(placement, *p.candidate.algorithm, Collective::all_reduce)) continue;
    p.windows = true;
    p.candidate.prediction = {};
    p.candidate.prediction.seconds =
        shared_all_reduce_seconds(placement, profile, bytes, dtype, op);
  }
}

// Simulates candidates, the best predictions first, while the budget lasts.
class Simulations {
 public:
  Simulations(const Placement& placement, const Profile& profile, uint64_t bytes, DType dtype,
              ReduceOp op, uint64_t budget)
      : placement_(placement), profile_(profile), left_(budget), topology_(placement.topology) {
    if (placement.cpus > 0) profile_.cpus = placement.cpus;
    options_.segments = {{0, bytes}};
    options_.dtype = dtype;
    options_.op = op;
    options_.cpu_pools = placement.cpu_pools;
  }

  // Nothing when it would cost too much.
  Result<std::optional<double>> run(const Candidate& c) {
    PlanPtr plan;
    if (along_links(c)) {
      Result<PlanPtr> made =
          make_on_orders(*c.algorithm, c.request,
                         orders_for(*c.algorithm, c.request.collective, placement_.orders));
      if (!made) return made.status();
      plan = std::move(*made);
    } else {
      plan = c.algorithm->make(c.request);
    }
    const LayoutLimits limits =
        LayoutLimits::of(plan->shape(), placement_.slot_bytes, placement_.by_reference);
    options_.max_chunk_bytes = limits.max_chunk_bytes;
    options_.min_chunk_bytes = limits.min_chunk_bytes;
    const size_t element = size_of(options_.dtype);
    const Layout layout(plan->shape(), options_.segments[0].bytes / element, element,
                        limits.max_chunk_bytes, limits.min_chunk_bytes);
    const uint64_t work = work_of(*plan, layout.rounds());
    if (work > left_) return std::optional<double>();
    left_ -= work;
    if (topology_ == nullptr) {
      Result<Topology> made = to_topology(placement_);
      if (!made) return made.status();
      topology_ = std::make_shared<const Topology>(std::move(*made));
    }
    const Result<SimReport> report = simulate(*plan, *topology_, profile_, options_);
    if (!report) return report.status();
    return std::optional<double>(report->seconds);
  }

 private:
  const Placement& placement_;
  Profile profile_;
  uint64_t left_;
  SimOptions options_;
  std::shared_ptr<const Topology> topology_;
};

}  // namespace

double shared_all_reduce_seconds(const Placement& placement, const Profile& profile, uint64_t bytes,
                                 DType dtype, ReduceOp op) {
  const double crowd = placement.crowd(profile.cpus), n = placement.ranks;
  const double size = static_cast<double>(bytes);
  const double factor = crowd * profile.cache_factor(bytes);
  const double handover = profile.flag + (crowd > 1 ? profile.flag_handover * crowd : 0);
  const double copy = profile.copy * factor, gamma = profile.reduce_cost(dtype, op) * factor;
  const double call = profile.call_overhead * crowd;
  if (bytes <= k_line_bytes) return call + handover;
  const double publish = handover + size * copy + (n - 1) * size * gamma;
  const double pieces = std::max({1.0, std::min(k_pieces, size / 16384), size / k_piece_bytes});
  const double share = (n - 1) / n;
  const double staged = (pieces + 1) * handover + share * size * (2 * copy + gamma);
  return call + std::min(publish, staged);
}

Result<double> price_exactly(const Placement& placement, const Profile& profile,
                             const Algorithm& algorithm, const PlanRequest& request, uint64_t bytes,
                             DType dtype, ReduceOp op) {
  TUTTI_RETURN_IF_ERROR(algorithm.supports(request));
  if (uses_windows(placement, algorithm, request.collective))
    return shared_all_reduce_seconds(placement, profile, bytes, dtype, op);
  Simulations one(placement, profile, bytes, dtype, op, UINT64_MAX);
  const Result<std::optional<double>> seconds = one.run({&algorithm, request, 0, {}});
  if (!seconds) return seconds.status();
  return **seconds;
}

Result<std::vector<Priced>> price_candidates(const Placement& placement, const Profile& profile,
                                             const PlanRequest& request, uint64_t bytes,
                                             DType dtype, ReduceOp op, const TunerLimits& limits) {
  Predictor predictor(placement, profile);
  Result<std::vector<Candidate>> candidates =
      rank_candidates(predictor, request, bytes, dtype, op, placement.orders);
  if (!candidates) return candidates.status();
  std::vector<Priced> priced;
  for (Candidate& c : *candidates)
    if (placement.hosts > 1 || placement.hierarchy.level.size() > 1 ||
        !c.algorithm->name.starts_with("hierarchical"))
      priced.push_back({std::move(c), false, {}});
  if (placement.shared && request.collective == Collective::all_reduce &&
      placement.ranks <= k_window_ranks)
    use_windows(priced, placement, profile, bytes, dtype, op);
  const auto faster = [](const Priced& a, const Priced& b) {
    if (a.simulated.has_value() != b.simulated.has_value()) return a.simulated.has_value();
    return a.seconds() < b.seconds();
  };
  std::stable_sort(priced.begin(), priced.end(), faster);

  // No plan comes near the windows unless its closed form says so.
  constexpr double k_near_windows = 1.5;
  const double least = priced[0].seconds();
  const double within = priced[0].windows ? k_near_windows : limits.within;
  size_t near = 0;
  while (near < priced.size() && near < limits.best && priced[near].seconds() <= within * least)
    ++near;
  if (near < 2 || placement.ranks > limits.simulated_ranks) return priced;
  Simulations simulations(placement, profile, bytes, dtype, op, limits.messages);
  for (size_t i = 0; i < near; ++i) {
    if (priced[i].windows) {
      priced[i].simulated = priced[i].candidate.prediction.seconds;
      continue;
    }
    Result<std::optional<double>> seconds = simulations.run(priced[i].candidate);
    if (!seconds) return seconds.status();
    priced[i].simulated = *seconds;
  }
  // One simulated price says nothing about the others' order.
  const auto count = std::count_if(priced.begin(), priced.end(),
                                   [](const Priced& p) { return p.simulated.has_value(); });
  if (count < 2)
    for (Priced& p : priced) p.simulated.reset();
  std::stable_sort(priced.begin(), priced.end(), faster);
  return priced;
}

}  // namespace tutti
