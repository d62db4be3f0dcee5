#include "src/planner/planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "src/algorithms/algorithms.h"
#include "src/algorithms/on_orders.h"

namespace tutti {
namespace {

using Names = std::vector<std::string_view>;

constexpr uint64_t k_tiny = 4 * 1024;      // only steps count
constexpr uint64_t k_small = 16 * 1024;    // latency counts
constexpr uint64_t k_latency = 64 * 1024;  // a message's price is that of a latency and some bytes
constexpr uint64_t k_medium = 256 * 1024;  // steps still count, bytes too
constexpr uint32_t k_direct_ranks = 64;    // all-to-all among more ranks costs too many messages
constexpr uint32_t k_all_at_once = 16;     // ... over sockets

// Contenders are those that are priced below so many times the best.
constexpr double k_close = 1.5;
constexpr size_t k_contenders = 3;

// The table, algorithms in order of preference: the first that serves the request is taken. That of
// all_reduce was measured, in shared memory, over loopback and between four hosts, 2 to 8 ranks
// (docs/performance.md, Choices); it stands where no profile was measured, and it decides alone in
// deterministic runs.
Names all_reduce(const Placement& p, uint64_t bytes) {
  const bool few = p.ranks <= k_direct_ranks;
  if (p.shared && few) return {"direct_two_shot"};  // SharedDirect knows when one shot is better
  if (!p.hierarchy.level.empty() && p.hosts > 1) {
    if (bytes <= k_tiny && p.hosts <= k_direct_ranks) return {"hierarchical_scatter_direct"};
    // Ranks of a host share its NIC: the leader form puts the same bytes on it as the scatter form,
    // in fewer and longer flows. Rails are for hosts with several NICs.
    if (bytes <= k_latency) return {"hierarchical_leader_doubling", "recursive_doubling"};
    return {"hierarchical_leader", "ring"};
  }
  if (bytes <= k_tiny && p.ranks == 2) return {"direct_one_shot"};
  if (bytes <= k_tiny && p.ranks <= k_all_at_once) return {"direct_two_shot"};
  // A ring's bytes in logarithmically many steps, if nobody has to be folded in.
  const bool folds = (p.ranks & (p.ranks - 1)) != 0;
  if (!folds || bytes / p.ranks < k_latency) return {"halving_doubling", "ring"};
  return {"ring"};
}

Names preferences(Collective collective, const Placement& p, uint64_t bytes) {
  const bool few = p.ranks <= k_direct_ranks;
  switch (collective) {
    case Collective::all_reduce:
      return all_reduce(p, bytes);
    case Collective::reduce_scatter:
      if (p.shared) return {"direct", "direct_two_shot", "ring"};
      return bytes <= k_small ? Names{"halving_doubling", "pat", "bruck", "ring"} : Names{"ring"};
    case Collective::all_gather:
      if (p.shared) return {"direct", "ring"};
      return bytes <= k_small ? Names{"bruck", "recursive_doubling", "ring"} : Names{"ring"};
    case Collective::broadcast:
      if (p.shared) return {"direct", "binomial"};
      return bytes <= k_medium ? Names{"binomial", "double_binary_tree"}
                               : Names{"double_binary_tree", "chain", "ring", "binomial"};
    case Collective::reduce:
      if (p.shared) return {"direct", "binomial"};
      return bytes <= k_medium ? Names{"binomial", "double_binary_tree"}
                               : Names{"double_binary_tree", "chain", "ring", "binomial"};
    case Collective::gather:
    case Collective::scatter:
      return few ? Names{"direct", "binomial"} : Names{"binomial", "direct"};
    case Collective::all_to_all:
      if (!few && bytes <= 1024) return {"bruck", "pairwise"};
      return {"pairwise", "direct"};
    case Collective::barrier:
      return {"dissemination"};
    case Collective::all_to_all_v:
    case Collective::send_recv:
      return {"pairwise"};
  }
  return {};
}

}  // namespace

ShapeClass ShapeClass::of(Collective collective, uint64_t bytes, DType dtype, ReduceOp op) {
  ShapeClass shape;
  shape.collective = collective;
  shape.bytes = std::bit_ceil(std::min(bytes, uint64_t{1} << 62));
  if (collective == Collective::all_reduce || collective == Collective::reduce ||
      collective == Collective::reduce_scatter) {
    shape.dtype = dtype;
    shape.op = op;
  }
  return shape;
}

const TuneRule* Planner::rule_for(const Call& call) const {
  for (const TuneRule& rule : rules_)
    if (rule.applies(call.collective, call.bytes) && rule.chooses()) return &rule;
  return nullptr;
}

PlanRequest Planner::request(const Call& call, bool in_place, const Choice& choice) const {
  PlanRequest request;
  request.collective = call.collective;
  request.ranks = placement_.ranks;
  request.root = call.root;
  request.in_place = in_place;
  request.chunks = choice.chunks;
  request.hierarchy = placement_.hierarchy;
  if (choice.hierarchical() && choice.mapping > 0 &&
      choice.mapping <= placement_.hierarchy.level.size())
    request.hierarchy = {{placement_.hierarchy.level[choice.mapping - 1]}};
  return request;
}

// Both forms: ranks do not know of each other whether they are in place.
Status Planner::supports(const Call& call, const Choice& choice) const {
  const Algorithm* algorithm = find_algorithm(choice.algorithm);
  if (algorithm == nullptr)
    return {Code::unsupported, "there is no algorithm '" + choice.algorithm + "'"};
  if (choice.along_links()) {
    if (orders_for(*algorithm, call.collective, placement_.orders).empty())
      return {Code::unsupported, choice.algorithm + " gains nothing from the links"};
    TUTTI_RETURN_IF_ERROR(make(call, choice, false).status());
  }
  TUTTI_RETURN_IF_ERROR(algorithm->supports(request(call, false, choice)));
  const bool never_in_place = call.collective == Collective::barrier ||
                              call.collective == Collective::all_to_all_v ||
                              call.collective == Collective::send_recv;
  return never_in_place ? Status() : algorithm->supports(request(call, true, choice));
}

bool Planner::serves(const Call& call, const Priced& p) const {
  return supports(call, {std::string(p.candidate.algorithm->name), p.candidate.request.chunks,
                         p.candidate.mapping})
      .ok();
}

// Deterministic runs add up in the same order wherever the ranks are.
Choice Planner::on_links(Choice choice, const Call& call) const {
  if (deterministic_ || choice.hierarchical()) return choice;
  Choice along = choice;
  along.mapping = 1;
  return supports(call, along).ok() ? along : choice;
}

// The table was measured with hosts as the only level.
uint32_t Planner::mapping_of_hosts() const {
  const auto& levels = placement_.hierarchy.level;
  const auto hosts = std::find(levels.begin(), levels.end(), placement_.host);
  if (levels.size() < 2 || hosts == levels.end()) return 0;
  return static_cast<uint32_t>(hosts - levels.begin()) + 1;
}

// Deterministic runs take one row for all sizes.
Result<Choice> Planner::from_table(const Call& call) const {
  const uint64_t bytes = deterministic_ ? UINT64_MAX / 2 : call.bytes;
  for (std::string_view name : preferences(call.collective, placement_, bytes))
    if (Choice choice{std::string(name), 0,
                      name.starts_with("hierarchical") ? mapping_of_hosts() : 0};
        supports(call, choice).ok())
      return on_links(std::move(choice), call);
  for (const Algorithm& algorithm : algorithms())
    if (Choice choice{std::string(algorithm.name), 0, 0}; supports(call, choice).ok())
      return choice;
  return Status(Code::unsupported, fmt::format("no algorithm serves {} among {} ranks",
                                               name(call.collective), placement_.ranks));
}

// Prices do not depend on the root, so that they are the same for all roots.
Result<const std::vector<Priced>*> Planner::prices(const Call& call) {
  const ShapeClass shape = ShapeClass::of(call.collective, call.bytes, call.dtype, call.op);
  if (const auto it = prices_.find(shape); it != prices_.end()) return &it->second;
  Call rootless = call;
  rootless.root = 0;
  Result<std::vector<Priced>> priced = price_candidates(
      placement_, profile_, request(rootless, false, {}), shape.bytes, shape.dtype, shape.op);
  if (!priced) return priced.status();
  // A number says which mapping it was; the groups of a thousand ranks need not be kept.
  for (Priced& p : *priced) p.candidate.request.hierarchy = {};
  return &prices_.emplace(shape, std::move(*priced)).first->second;
}

bool Planner::in_measured_table(const Call& call) const {
  return assumed_ && call.collective == Collective::all_reduce &&
         placement_.ranks <= k_direct_ranks;
}

Result<Choice> Planner::choose(const Call& call) {
  if (const TuneRule* rule = rule_for(call)) {
    Choice choice{rule->algorithm, rule->chunks, 0};
    TUTTI_RETURN_IF_ERROR(supports(call, choice).with_context("tune: " + rule->algorithm));
    return on_links(std::move(choice), call);
  }
  // Vector and point-to-point calls have the bytes of each pair; there is nothing to price.
  if (deterministic_ || placement_.ranks == 1 || call.collective == Collective::all_to_all_v ||
      call.collective == Collective::send_recv)
    return from_table(call);
  if (const auto it =
          learnt_.find(ShapeClass::of(call.collective, call.bytes, call.dtype, call.op));
      it != learnt_.end() && supports(call, it->second).ok())
    return it->second;
  if (in_measured_table(call)) return from_table(call);
  const Result<const std::vector<Priced>*> priced = prices(call);
  if (!priced) return priced.status();
  for (const Priced& p : **priced)
    if (serves(call, p))
      return Choice{std::string(p.candidate.algorithm->name), p.candidate.request.chunks,
                    p.candidate.mapping};
  return from_table(call);
}

std::vector<Choice> Planner::contenders(const Call& call) {
  const Result<Choice> best = choose(call);
  if (!best) return {};
  std::vector<Choice> choices = {*best};
  const ShapeClass shape = ShapeClass::of(call.collective, call.bytes, call.dtype, call.op);
  if (rule_for(call) != nullptr || deterministic_ || learnt_.count(shape) > 0) return choices;
  const Result<const std::vector<Priced>*> priced = prices(call);
  if (!priced || (*priced)->empty()) return choices;
  for (const Priced& p : **priced) {
    Choice other{std::string(p.candidate.algorithm->name), p.candidate.request.chunks,
                 p.candidate.mapping};
    if (choices.size() < k_contenders && !(other == *best) && serves(call, p) &&
        p.seconds() <= k_close * (*priced)->front().seconds())
      choices.push_back(std::move(other));
  }
  return choices;
}

Result<PlanPtr> Planner::plan(const Call& call, bool in_place) {
  Result<Choice> choice = choose(call);
  if (!choice) return choice.status();
  return plan(call, *choice, in_place);
}

Result<PlanPtr> Planner::make(const Call& call, const Choice& choice, bool in_place) const {
  const PlanRequest wanted = request(call, in_place, choice);
  const Algorithm* algorithm = find_algorithm(choice.algorithm);
  if (!choice.along_links() || algorithm == nullptr) return make_plan(choice.algorithm, wanted);
  return make_on_orders(*algorithm, wanted,
                        orders_for(*algorithm, call.collective, placement_.orders));
}

Result<PlanPtr> Planner::plan(const Call& call, const Choice& choice, bool in_place) {
  PlanPtr& cached = plans_[{call.collective, choice.algorithm, choice.chunks, choice.mapping,
                            call.root, in_place}];
  if (cached == nullptr) {
    Result<PlanPtr> made = make(call, choice, in_place);
    if (!made) return made;
    cached = *made;
  }
  return cached;
}

Result<double> Planner::estimate(const Call& call) {
  const Result<Choice> choice = choose(call);
  if (!choice) return choice.status();
  const Result<const std::vector<Priced>*> priced = prices(call);
  if (!priced) return priced.status();
  for (const Priced& p : **priced)
    if (p.candidate.algorithm->name == choice->algorithm &&
        p.candidate.request.chunks == choice->chunks && p.candidate.mapping == choice->mapping)
      return p.seconds();
  // A rule's number of chunks, which the tuner did not consider.
  Predictor predictor(placement_, profile_);
  const Result<Prediction> p =
      predictor.predict(*find_algorithm(choice->algorithm), request(call, false, *choice),
                        call.bytes, call.dtype, call.op);
  if (!p) return p.status();
  return p->seconds;
}

Result<std::string> Planner::explain(const Call& call) {
  const Result<Choice> choice = choose(call);
  if (!choice) return choice.status();
  const Result<const std::vector<Priced>*> priced = prices(call);
  if (!priced) return priced.status();
  const ShapeClass shape = ShapeClass::of(call.collective, call.bytes, call.dtype, call.op);
  std::string text = fmt::format(
      "{} of {} B among {} ranks on {} host{}; prices: profile \"{}\", blocks of {} B\n\n"
      "  {:<30} {:>7} {:>14} {:>14}\n",
      name(call.collective), call.bytes, placement_.ranks, placement_.hosts,
      placement_.hosts == 1 ? "" : "s", profile_.name, shape.bytes, "algorithm", "chunks",
      "closed form us", "simulated us");
  bool marked = false;
  for (const Priced& p : **priced) {
    const bool chosen = !marked && p.candidate.algorithm->name == choice->algorithm &&
                        p.candidate.request.chunks == choice->chunks &&
                        p.candidate.mapping == choice->mapping;
    marked |= chosen;
    const std::string chunks = p.candidate.request.chunks == 0
                                   ? std::string("default")
                                   : fmt::format("{}", p.candidate.request.chunks);
    const std::string simulated =
        p.windows      ? "shared windows"
        : !p.simulated ? std::string("-")
                       : fmt::format("{}{:.2f}", p.given_up ? "> " : "", *p.simulated * 1e6);
    std::string label(p.candidate.algorithm->name);
    if (p.candidate.mapping > 0)
      label += label.starts_with("hierarchical")
                   ? fmt::format(", level {}", p.candidate.mapping - 1)
                   : std::string(" along the links");
    text += fmt::format("{} {:<30} {:>7} {:>14.2f} {:>14}\n", chosen ? "*" : " ", label, chunks,
                        p.candidate.prediction.seconds * 1e6, simulated);
  }
  std::string why = (*priced)->front().simulated ? "the least simulated time"
                                                 : "the least time by closed form; nothing else is "
                                                   "near, or simulating would take too long";
  if (const TuneRule* rule = rule_for(call)) {
    why = fmt::format(
        "the rule {}:{}-{}:{} of TUTTI_TUNE says so", name(rule->collective), rule->from,
        rule->to == UINT64_MAX ? std::string("inf") : fmt::format("{}", rule->to), rule->algorithm);
  } else if (deterministic_) {
    why = "TUTTI_DETERMINISTIC=1: the same for all sizes, from a table";
  } else if (learnt_.count(shape) > 0) {
    why = "it was the fastest when measured";
  } else if (in_measured_table(call)) {
    why =
        "no profile was measured here (tutti tune), so a table of what was fastest elsewhere "
        "decides";
  }
  return text + fmt::format("\n{}{}: {}\n", choice->algorithm,
                            choice->chunks > 0 ? fmt::format("@{}", choice->chunks) : "", why);
}

}  // namespace tutti
