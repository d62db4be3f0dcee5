// Prices of traffic patterns, and the closed forms at these prices.
#include "src/planner/predict.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "src/algorithms/leveled_cost.h"
#include "src/algorithms/on_orders.h"
#include "src/algorithms/staged_cost.h"

namespace tutti {

Predictor::Predictor(const Topology& topology, const Profile& profile)
    : profile_(profile), traffic_(std::make_unique<TopologyTraffic>(topology, profile)) {}
Predictor::Predictor(const Placement& placement, const Profile& profile)
    : profile_(profile), world_(world_of(placement)) {
  if (placement.topology != nullptr) {
    traffic_ = std::make_unique<TopologyTraffic>(*placement.topology, profile,
                                                 placement.crowd(profile.cpus));
  } else {
    traffic_ = std::make_unique<PlacementTraffic>(placement, profile);
  }
}

namespace {

TrafficPrice dearer(const TrafficPrice& a, const TrafficPrice& b) {
  return {std::max(a.alpha, b.alpha),     std::max(a.mean_alpha, b.mean_alpha),
          std::max(a.beta, b.beta),       std::max(a.mean_beta, b.mean_beta),
          std::max(a.ends, b.ends),       std::max(a.busy, b.busy),
          std::max(a.sending, b.sending), std::max(a.credits, b.credits)};
}

}  // namespace

Result<Prediction> Predictor::predict(const Algorithm& algorithm, const PlanRequest& request,
                                      uint64_t bytes, DType dtype, ReduceOp op,
                                      std::span<const std::vector<Rank>> orders) {
  TUTTI_RETURN_IF_ERROR(algorithm.supports(request));
  if (request.ranks > traffic_->ranks())
    return Status(Code::invalid_argument, fmt::format("{} ranks do not fit a topology of {}",
                                                      request.ranks, traffic_->ranks()));
  const double size = static_cast<double>(bytes);
  const double work = traffic_->crowd() * profile_.cache_factor(bytes);
  Prediction p;
  p.latency = profile_.call_overhead * traffic_->crowd();
  const double gamma = profile_.reduce_cost(dtype, op) * work;
  // Steps that follow one another; then those of a pipeline, which come as fast as the slower of
  // the link and the thread that takes, reduces and passes them on.
  // `mean`: what is passed on meets every hop in turn.
  auto charge = [&](const Cost& cost, const TrafficPrice& price, bool mean = false) {
    const double fill = cost.steps > 0 ? (cost.steps - cost.overlapped) / cost.steps : 1;
    const double alpha = mean ? price.mean_alpha : price.alpha;
    p.latency += (cost.steps - cost.overlapped) * std::max(alpha, price.credits);
    p.transfer += fill * cost.bytes * size * (mean ? price.mean_beta : price.beta);
    p.reduce += fill * cost.reduced * size * gamma;
    if (cost.overlapped == 0) return;
    const double each = cost.bytes * size / cost.steps;
    const double thread = price.ends + each * price.busy + cost.reduced * size * gamma / cost.steps;
    const double link = each * (price.beta - price.busy);
    const double between = std::max(price.ends, price.credits);
    p.latency += cost.overlapped * between;
    p.transfer += cost.overlapped * (std::max({thread, link, price.credits}) - between);
  };
  // Messages that a rank sends or takes beside each other still keep its thread busy one by one.
  const bool rooted =
      request.collective == Collective::broadcast || request.collective == Collective::reduce ||
      request.collective == Collective::gather || request.collective == Collective::scatter;
  auto beside = [&](double step_count, uint32_t members, const TrafficPrice& price) {
    if (members > 2) p.latency += step_count * (members - 2) * price.ends * (rooted ? 0.5 : 1);
  };
  // Of one message; so many `others` are sent beside each other in a step.
  const auto bytes_each = [&](const Cost& cost, uint32_t others) {
    return cost.steps > 0 ? cost.bytes * size / cost.steps / others : 0.0;
  };
  std::vector<Rank> to(request.ranks);
  // A pattern of the plan's ranks, as those play it that stand in the orders: all at once, each
  // with its share of the bytes, and the thread of a rank has a message of each to see to.
  auto price = [&](const std::vector<Rank>& pattern, double message) {
    if (orders.empty()) return traffic_->price({&pattern, 1}, message);
    message /= static_cast<double>(orders.size());
    std::vector<std::vector<Rank>> played(orders.size(), std::vector<Rank>(request.ranks));
    for (size_t o = 0; o < orders.size(); ++o)
      for (Rank v = 0; v < request.ranks; ++v) played[o][orders[o][v]] = orders[o][pattern[v]];
    TrafficPrice all = traffic_->price(played, message);
    const double others = static_cast<double>(orders.size() - 1);
    all.alpha += others * all.ends;
    all.mean_alpha += others * all.ends;
    all.beta = (all.beta - all.busy) / (others + 1) + all.busy;
    all.mean_beta = std::max(0.0, all.mean_beta - all.busy) / (others + 1) + all.busy;
    all.ends *= others + 1;
    return all;
  };
  if (const std::vector<Stage> stages = staged_cost(algorithm, request); !stages.empty()) {
    for (const Stage& stage : stages)
      charge(stage.cost, price(stage.to, bytes_each(stage.cost, 1)));
  } else if (const std::optional<LeveledCost> leveled = leveled_cost(algorithm, request)) {
    const Levels levels(request.hierarchy, request.ranks, leveled->rails);
    for (uint32_t l = 0; l < levels.count(); ++l) {
      for (Rank r = 0; r < request.ranks; ++r) {
        const LevelPlace place = levels.place(l, r);
        to[r] = place.size < 2 ? r : place.members[(place.index + 1) % place.size];
      }
      const bool direct = request.collective == Collective::all_reduce &&
                          (l + 1 < levels.count() || algorithm.name.ends_with("_direct"));
      const uint32_t others = direct ? std::max(levels.largest(l), 2u) - 1 : 1;
      const TrafficPrice traffic = price(to, bytes_each(leveled->levels[l], others));
      charge(leveled->levels[l], traffic);
      if (direct) beside(leveled->levels[l].steps, levels.largest(l), traffic);
    }
  } else {
    const bool ring = algorithm.name == "ring";
    const Cost cost = algorithm.cost(request);
    auto shifted = [&](uint32_t by) {
      for (Rank r = 0; r < request.ranks; ++r) to[r] = (r + by) % request.ranks;
      const bool direct = algorithm.name.starts_with("direct");
      return price(to, bytes_each(cost, direct ? request.ranks - 1 : 1));
    };
    TrafficPrice traffic = shifted(1);
    // Where ranks are dealt to hosts in turns, the next one may be farther than the one half way
    // round.
    if (!ring && request.ranks > 3) traffic = dearer(traffic, shifted(request.ranks / 2));
    charge(cost, traffic, ring);
    if (algorithm.name.starts_with("direct")) {
      beside(cost.steps, request.ranks, traffic);
      // The bytes of one message are copied at the ends while another's are on the links. A root is
      // at one end of all messages, the others at the other end of one.
      const bool out =
          request.collective == Collective::broadcast || request.collective == Collective::scatter;
      const double links = traffic.beta - traffic.busy;
      const double there = !rooted ? 0 : out ? traffic.busy - traffic.sending : traffic.sending;
      const double here = traffic.busy - there;
      p.transfer = cost.bytes * size * std::max(links, here) +
                   std::min(1.0, cost.bytes) * size * (std::min(links, here) + there);
    }
    // The slowest hop has to carry everything.
    if (ring && cost.overlapped == 0)
      p.transfer = std::max(p.transfer, cost.bytes * size * traffic.beta - p.latency);
  }
  const double factor = profile_.corrections
                            .of({world_, request.collective, std::string(algorithm.name)},
                                request.ranks, bytes, request.chunks > 0)
                            .closed;
  for (double* part : {&p.latency, &p.transfer, &p.reduce}) *part *= factor;
  p.seconds = p.latency + p.transfer + p.reduce;
  return p;
}

namespace {

// Depths of a pipeline to choose from; 0: its default.
constexpr uint32_t k_depths[] = {0, 1, 2, 4, 8, 32, 64, 128};

// The numbers of chunks worth pricing: the request's, or the default and what else is best. Where
// chunks are slices on lanes of their own, the form knows no difference: one slice is tried too.
std::vector<uint32_t> chunk_choices(Predictor& predictor, const Algorithm& algorithm,
                                    PlanRequest request, uint64_t bytes, DType dtype, ReduceOp op) {
  std::vector<uint32_t> choices = {request.chunks};
  if (request.chunks > 0) return choices;
  const auto cost = [&](uint32_t chunks) {
    request.chunks = chunks;
    return algorithm.cost(request).steps;
  };
  if (cost(1) != cost(k_depths[std::size(k_depths) - 1])) {
    double least = std::numeric_limits<double>::infinity();
    uint32_t best = 0;
    for (uint32_t depth : k_depths) {
      request.chunks = depth;
      const Result<Prediction> p = predictor.predict(algorithm, request, bytes, dtype, op);
      if (!p || p->seconds >= least) continue;
      least = p->seconds;
      best = depth;
    }
    if (best > 0) choices.push_back(best);
  } else if (algorithm.name.starts_with("hierarchical_scatter")) {
    choices.push_back(1);
  }
  return choices;
}

// Adds the algorithm on the orders that it takes, where it can be played on them.
void add_along_links(Predictor& predictor, Candidate c, uint64_t bytes, DType dtype, ReduceOp op,
                     const std::vector<std::vector<Rank>>& orders,
                     std::vector<Candidate>* candidates) {
  c.request.hierarchy = {};
  const auto mine = orders_for(*c.algorithm, c.request.collective, orders);
  if (mine.empty() || !make_on_orders(*c.algorithm, c.request, mine).ok()) return;
  for (uint32_t chunks : chunk_choices(predictor, *c.algorithm, c.request, bytes, dtype, op)) {
    c.request.chunks = chunks;
    const Result<Prediction> p = predictor.predict(*c.algorithm, c.request, bytes, dtype, op, mine);
    if (!p) continue;
    c.prediction = *p;
    candidates->push_back(c);
  }
}

}  // namespace

std::vector<std::vector<Rank>> orders_for(const Algorithm& algorithm, Collective collective,
                                          const std::vector<std::vector<Rank>>& orders) {
  constexpr std::string_view k_others[] = {"recursive_doubling", "halving_doubling",
                                           "double_binary_tree", "binomial", "chain"};
  if (orders.empty() || collective == Collective::barrier ||
      collective == Collective::all_to_all_v || collective == Collective::send_recv)
    return {};
  if (algorithm.name == "ring") return orders;
  if (std::find(std::begin(k_others), std::end(k_others), algorithm.name) == std::end(k_others) ||
      std::is_sorted(orders[0].begin(), orders[0].end()))
    return {};
  return {orders[0]};
}

Result<std::vector<Candidate>> rank_candidates(Predictor& predictor, const PlanRequest& request,
                                               uint64_t bytes, DType dtype, ReduceOp op,
                                               const std::vector<std::vector<Rank>>& orders) {
  std::vector<Hierarchy> hierarchies = {request.hierarchy};
  if (request.hierarchy.level.size() > 1)
    for (const auto& level : request.hierarchy.level) hierarchies.push_back({{level}});
  std::vector<Candidate> candidates;
  for (const Algorithm& algorithm : algorithms()) {
    const bool hierarchical = algorithm.name.starts_with("hierarchical");
    if (hierarchical && request.hierarchy.level.empty()) continue;
    for (size_t h = 0; h < hierarchies.size(); ++h) {
      Candidate c{&algorithm, request, static_cast<uint32_t>(h), {}};
      c.request.hierarchy = hierarchical ? hierarchies[h] : Hierarchy();
      if (algorithm.supports(c.request).ok())
        for (uint32_t chunks : chunk_choices(predictor, algorithm, c.request, bytes, dtype, op)) {
          c.request.chunks = chunks;
          const Result<Prediction> p = predictor.predict(algorithm, c.request, bytes, dtype, op);
          if (!p) return p.status();
          c.prediction = *p;
          candidates.push_back(c);
        }
      if (!hierarchical) break;
    }
    if (!hierarchical)
      add_along_links(predictor, {&algorithm, request, 1, {}}, bytes, dtype, op, orders,
                      &candidates);
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
