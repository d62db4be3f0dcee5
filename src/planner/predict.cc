// Prices of traffic patterns, and the closed forms at these prices.
#include "src/planner/predict.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/algorithms/leveled_cost.h"

namespace tutti {

Predictor::Predictor(const Topology& topology, const Profile& profile)
    : topology_(topology),
      profile_(profile),
      routes_(topology),
      crowd_(topology.links().size(), 0) {}

Predictor::Price Predictor::price(const std::vector<Rank>& to) {
  Price result;
  double alphas = 0;
  uint32_t flows = 0;
  used_.clear();
  const auto each_way = [&](auto&& visit) {
    for (Rank r = 0; r < to.size(); ++r)
      if (to[r] != r && routes_.find(r, to[r], &way_)) visit();
  };
  each_way([&] {
    double latency = 0;
    for (LinkId l : way_) {
      latency += profile_.alpha(topology_.links()[l]);
      if (crowd_[l]++ == 0) used_.push_back(l);
    }
    const double alpha = latency + profile_.send_overhead + profile_.recv_overhead;
    result.alpha = std::max(result.alpha, alpha);
    result.credits = std::max(result.credits, 2 * latency / profile_.credits);
    alphas += alpha;
    ++flows;
  });
  double betas = 0;
  each_way([&] {
    double beta = 0;
    for (LinkId l : way_)
      beta = std::max(beta, crowd_[l] / profile_.bandwidth(topology_.links()[l]));
    result.beta = std::max(result.beta, beta);
    betas += beta;
  });
  for (LinkId l : used_) crowd_[l] = 0;
  if (flows == 0) return result;
  result.mean_alpha = alphas / flows;
  result.mean_beta = betas / flows;
  return result;
}

Result<Prediction> Predictor::predict(const Algorithm& algorithm, const PlanRequest& request,
                                      uint64_t bytes, DType dtype, ReduceOp op) {
  TUTTI_RETURN_IF_ERROR(algorithm.supports(request));
  if (request.ranks > topology_.ranks())
    return Status(Code::invalid_argument, fmt::format("{} ranks do not fit a topology of {}",
                                                      request.ranks, topology_.ranks()));
  const double size = static_cast<double>(bytes);
  Prediction p;
  p.latency = profile_.call_overhead;
  auto charge = [&](const Cost& cost, const Price& price) {
    const double between = std::max(profile_.send_overhead + profile_.recv_overhead, price.credits);
    p.latency += (cost.steps - cost.overlapped) * std::max(price.alpha, price.credits) +
                 cost.overlapped * between;
    p.transfer += cost.bytes * size * price.beta;
    p.reduce += cost.reduced * size * profile_.reduce_cost(dtype, op);
  };
  std::vector<Rank> to(request.ranks);
  if (const std::optional<LeveledCost> leveled = leveled_cost(algorithm, request)) {
    const Levels levels(request.hierarchy, request.ranks, leveled->rails);
    for (uint32_t l = 0; l < levels.count(); ++l) {
      for (Rank r = 0; r < request.ranks; ++r) {
        const LevelPlace place = levels.place(l, r);
        to[r] = place.size < 2 ? r : place.members[(place.index + 1) % place.size];
      }
      charge(leveled->levels[l], price(to));
    }
  } else {
    const bool ring = algorithm.name == "ring";
    const uint32_t far = ring ? 1 : std::max(1u, request.ranks / 2);
    for (Rank r = 0; r < request.ranks; ++r) to[r] = (r + far) % request.ranks;
    const Cost cost = algorithm.cost(request);
    Price traffic = price(to);
    const double crowded = cost.bytes * size * traffic.beta;
    if (ring && cost.overlapped == 0) {
      traffic.alpha = traffic.mean_alpha;
      traffic.beta = traffic.mean_beta;
    }
    charge(cost, traffic);
    p.transfer = std::max(p.transfer, crowded - p.latency);
  }
  p.seconds = p.latency + p.transfer + p.reduce;
  return p;
}

Result<std::vector<Candidate>> rank_candidates(Predictor& predictor, const PlanRequest& request,
                                               uint64_t bytes, DType dtype, ReduceOp op) {
  std::vector<Hierarchy> hierarchies = {request.hierarchy};
  if (request.hierarchy.level.size() > 1)
    for (const auto& level : request.hierarchy.level) hierarchies.push_back({{level}});
  std::vector<Candidate> candidates;
  for (const Algorithm& algorithm : algorithms()) {
    const bool hierarchical = algorithm.name.starts_with("hierarchical");
    if (hierarchical && request.hierarchy.level.empty()) continue;
    for (const Hierarchy& hierarchy : hierarchies) {
      Candidate c{&algorithm, request, {}};
      c.request.hierarchy = hierarchical ? hierarchy : Hierarchy();
      if (algorithm.supports(c.request).ok()) {
        const Result<Prediction> p = predictor.predict(algorithm, c.request, bytes, dtype, op);
        if (!p) return p.status();
        c.prediction = *p;
        candidates.push_back(std::move(c));
      }
      if (!hierarchical) break;
    }
  }
  if (candidates.empty())
    return Status(Code::unsupported,
                  fmt::format("no algorithm serves {}{}", name(request.collective),
                              request.in_place ? " in place" : ""));
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) {
                     return a.prediction.seconds < b.prediction.seconds;
                   });
  return candidates;
}

}  // namespace tutti
