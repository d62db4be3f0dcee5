#include "src/planner/tuner.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

// Measured over simulated, where that is known.
double factor_of(const Placement& placement, const Profile& profile, const Algorithm& algorithm,
                 const PlanRequest& request, uint64_t bytes) {
  return profile.corrections
      .of({world_of(placement), request.collective, std::string(algorithm.name)}, request.ranks,
          bytes, request.chunks > 0)
      .simulated;
}

// Steps of one round.
uint64_t steps_of(const Plan& plan) {
  const Shape& shape = plan.shape();
  uint64_t steps = 0;
  for (Rank r = 0; r < shape.ranks; ++r)
    for (Lane l = 0; l < shape.lanes; ++l) steps += plan.steps(r, l);
  return steps;
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
        shared_all_reduce_seconds(placement, profile, bytes, dtype, op) *
        factor_of(placement, profile, *p.candidate.algorithm, p.candidate.request, bytes);
  }
}

// Simulates candidates while the budget lasts.
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
    if (budget != UINT64_MAX) options_.most_rounds = k_rounds;
  }

  // Nothing when it would cost too much. Beyond `enough` seconds (0: none) it is given up. Seconds
  // are corrected by `factor`.
  Result<std::optional<SimReport>> run(const Plan& plan, double enough, double factor) {
    const uint64_t steps = steps_of(plan);
    const uint64_t budget = left_ - std::min(left_, kept_);
    if (steps > budget) return std::optional<SimReport>();
    const LayoutLimits limits =
        LayoutLimits::of(plan.shape(), placement_.slot_bytes, placement_.by_reference);
    options_.max_chunk_bytes = limits.max_chunk_bytes;
    options_.min_chunk_bytes = limits.min_chunk_bytes;
    options_.stop_after = enough / factor;
    options_.most_work = budget;
    if (topology_ == nullptr) {
      Result<Topology> made = to_topology(placement_);
      if (!made) return made.status();
      topology_ = std::make_shared<const Topology>(std::move(*made));
    }
    Result<SimReport> report = simulate(plan, *topology_, profile_, options_);
    if (!report) return report.status();
    const bool too_much = !report->finished && report->work >= budget;
    left_ -= std::min(left_, report->work + steps);
    if (too_much) return std::optional<SimReport>();
    report->seconds *= factor;
    return std::optional<SimReport>(std::move(*report));
  }
  bool spent() const { return left_ == 0; }
  // So much of the budget is for later.
  void keep(uint64_t work) { kept_ = work; }

 private:
  static constexpr uint32_t k_rounds =
      8;  // what is in flight has settled, and the later half tells

  const Placement& placement_;
  Profile profile_;
  uint64_t left_, kept_ = 0;
  SimOptions options_;
  std::shared_ptr<const Topology> topology_;
};

// The candidates of one call and their prices.
class Contest {
 public:
  Contest(const Placement& placement, const Profile& profile, uint64_t bytes, Predictor& predictor,
          Simulations& simulations, std::vector<Priced>& priced)
      : placement_(placement),
        profile_(profile),
        bytes_(bytes),
        predictor_(predictor),
        simulations_(simulations),
        priced_(priced) {}

  Status simulate_first(size_t count) {
    for (size_t i = 0; i < count; ++i) TUTTI_RETURN_IF_ERROR(price(priced_[i]));
    return {};
  }

  // Other depths of the best pipelines (slices of hierarchical algorithms): twice and half, as long
  // as that helps.
  Status deepen(DType dtype, ReduceOp op) {
    constexpr size_t k_most = 3;
    constexpr double k_near = 1.25;
    std::vector<Priced> winners;
    for (const Priced& p : priced_)
      if (p.simulated && !p.given_up && !p.windows && *p.simulated <= k_near * best_)
        winners.push_back(p);
    std::stable_sort(winners.begin(), winners.end(),
                     [](const Priced& a, const Priced& b) { return *a.simulated < *b.simulated; });
    if (winners.size() > k_most) winners.resize(k_most);
    for (const Priced& p : winners)
      for (const bool deeper : {true, false}) {
        Result<bool> better = climb(p, deeper, dtype, op);
        if (!better) return better.status();
        if (*better) break;
      }
    return {};
  }

 private:
  // Whether a depth on that side was faster.
  Result<bool> climb(Priced at, bool deeper, DType dtype, ReduceOp op) {
    constexpr uint32_t k_deepest = 256;
    bool better = false;
    while (!simulations_.spent()) {
      const Result<PlanPtr> plan = make(at.candidate);
      if (!plan) return plan.status();
      const uint32_t chunks = (*plan)->shape().chunks;
      Priced next = at;
      next.candidate.request.chunks = deeper ? 2 * chunks : chunks / 2;
      if (next.candidate.request.chunks == 0 || next.candidate.request.chunks > k_deepest) break;
      const Result<PlanPtr> other = make(next.candidate);
      if (!other) return other.status();
      if ((*other)->shape().chunks == chunks || known(**other, next.candidate)) break;
      const Result<Prediction> p =
          predictor_.predict(*next.candidate.algorithm, next.candidate.request, bytes_, dtype, op,
                             orders_of(next.candidate));
      if (!p) return p.status();
      next.candidate.prediction = *p;
      next.simulated.reset();
      TUTTI_RETURN_IF_ERROR(price(next));
      if (!next.simulated) break;
      priced_.push_back(next);
      if (next.given_up || *next.simulated >= *at.simulated) break;
      at = next;
      better = true;
    }
    return better;
  }

  // Whether a plan of that many chunks has a price.
  bool known(const Plan& plan, const Candidate& c) const {
    for (const Priced& p : priced_) {
      if (p.candidate.algorithm != c.algorithm || p.candidate.mapping != c.mapping || !p.simulated)
        continue;
      const Result<PlanPtr> other = make(p.candidate);
      if (other && (*other)->shape().chunks == plan.shape().chunks) return true;
    }
    return false;
  }

  Result<PlanPtr> make(const Candidate& c) const {
    if (!along_links(c)) return c.algorithm->make(c.request);
    return make_on_orders(*c.algorithm, c.request, orders_of(c));
  }
  std::vector<std::vector<Rank>> orders_of(const Candidate& c) const {
    if (!along_links(c)) return {};
    return orders_for(*c.algorithm, c.request.collective, placement_.orders);
  }

  Status price(Priced& p) {
    // Contenders are within k_worth of the best; what is slower need not be known exactly.
    constexpr double k_worth = 1.5;
    if (p.windows) {
      p.simulated = p.candidate.prediction.seconds;
    } else {
      const Result<PlanPtr> plan = make(p.candidate);
      if (!plan) return plan.status();
      const Result<std::optional<SimReport>> report = simulations_.run(
          **plan, std::isfinite(best_) ? k_worth * best_ : 0,
          factor_of(placement_, profile_, *p.candidate.algorithm, p.candidate.request, bytes_));
      if (!report) return report.status();
      if (!*report) return {};
      p.simulated = (*report)->seconds;
      p.given_up = !(*report)->finished;
    }
    if (!p.given_up) best_ = std::min(best_, *p.simulated);
    return {};
  }

  const Placement& placement_;
  const Profile& profile_;
  uint64_t bytes_;  // of a block
  Predictor& predictor_;
  Simulations& simulations_;
  std::vector<Priced>& priced_;
  double best_ = std::numeric_limits<double>::infinity();
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
  const double factor = factor_of(placement, profile, algorithm, request, bytes);
  if (uses_windows(placement, algorithm, request.collective))
    return shared_all_reduce_seconds(placement, profile, bytes, dtype, op) * factor;
  Simulations one(placement, profile, bytes, dtype, op, UINT64_MAX);
  const Result<std::optional<SimReport>> report = one.run(*algorithm.make(request), 0, factor);
  if (!report) return report.status();
  return (*report)->seconds;
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
  Simulations simulations(placement, profile, bytes, dtype, op, limits.work);
  Contest contest(placement, profile, bytes, predictor, simulations, priced);
  simulations.keep(limits.work / 3);
  TUTTI_RETURN_IF_ERROR(contest.simulate_first(near));
  simulations.keep(0);
  TUTTI_RETURN_IF_ERROR(contest.deepen(dtype, op));
  // One simulated price says nothing about the others' order.
  const auto count = std::count_if(priced.begin(), priced.end(),
                                   [](const Priced& p) { return p.simulated.has_value(); });
  if (count < 2)
    for (Priced& p : priced) p.simulated.reset();
  std::stable_sort(priced.begin(), priced.end(), faster);
  return priced;
}

}  // namespace tutti
