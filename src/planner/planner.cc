#include "src/planner/planner.h"

#include <fmt/format.h>

#include "src/algorithms/algorithms.h"

namespace tutti {
namespace {

using Names = std::vector<std::string_view>;

constexpr uint64_t k_small = 16 * 1024;    // latency counts
constexpr uint64_t k_medium = 256 * 1024;  // steps still count, bytes too
constexpr uint32_t k_direct_ranks = 64;    // all-to-all among more ranks costs too many messages

// Algorithms in order of preference; the first that serves the request is taken.
Names all_reduce(const Placement& p, uint64_t bytes) {
  const bool few = p.ranks <= k_direct_ranks;
  if (p.shared && few) return {"direct_two_shot"};  // SharedDirect knows when one shot is better
  const bool grouped = !p.hierarchy.level.empty() && p.hosts > 1;
  // Ranks of a host share its NIC: the leader form puts the same bytes on it as the scatter form, in
  // fewer and longer flows (measured, docs/performance.md). Rails are for hosts with several NICs.
  if (grouped && bytes <= k_small) return {"hierarchical_leader_doubling", "recursive_doubling"};
  if (grouped) return {"hierarchical_leader", "ring"};
  // A ring's bytes in logarithmically many steps, if nobody has to be folded in.
  if ((p.ranks & (p.ranks - 1)) == 0) return {"halving_doubling", "ring"};
  if (bytes <= k_small) return {"recursive_doubling", "ring"};
  if (bytes <= k_medium) return {"halving_doubling", "ring"};
  if (p.ranks > 256 && bytes / p.ranks < 4096) return {"halving_doubling", "ring"};
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

PlanRequest Planner::request(Collective collective, Rank root, bool in_place) const {
  PlanRequest request;
  request.collective = collective;
  request.ranks = placement_.ranks;
  request.root = root;
  request.in_place = in_place;
  request.hierarchy = placement_.hierarchy;
  return request;
}

// Both forms: ranks do not know of each other whether they are in place.
Status Planner::supports(const Algorithm& algorithm, Collective collective, Rank root) const {
  TUTTI_RETURN_IF_ERROR(algorithm.supports(request(collective, root, false)));
  const bool never_in_place = collective == Collective::barrier ||
                              collective == Collective::all_to_all_v ||
                              collective == Collective::send_recv;
  return never_in_place ? Status() : algorithm.supports(request(collective, root, true));
}

Result<Planner::Choice> Planner::choose(Collective collective, uint64_t bytes, Rank root) const {
  for (const TuneRule& rule : rules_) {
    if (rule.collective != collective || bytes < rule.from || bytes >= rule.to) continue;
    TUTTI_RETURN_IF_ERROR(supports(*find_algorithm(rule.algorithm), collective, root)
                              .with_context("tune: " + rule.algorithm));
    return Choice{rule.algorithm, rule.chunks};
  }
  // Deterministic: one algorithm and order for all sizes.
  const uint64_t effective = deterministic_ ? UINT64_MAX / 2 : bytes;
  for (std::string_view name : preferences(collective, placement_, effective)) {
    const Algorithm* algorithm = find_algorithm(name);
    if (algorithm != nullptr && supports(*algorithm, collective, root).ok())
      return Choice{std::string(name), 0};
  }
  for (const Algorithm& algorithm : algorithms())
    if (supports(algorithm, collective, root).ok()) return Choice{std::string(algorithm.name), 0};
  return Status(Code::unsupported, fmt::format("no algorithm serves {} among {} ranks",
                                               name(collective), placement_.ranks));
}

Result<PlanPtr> Planner::plan(Collective collective, uint64_t bytes, Rank root, bool in_place) {
  Result<Choice> choice = choose(collective, bytes, root);
  if (!choice) return choice.status();
  PlanPtr& cached = cache_[{collective, choice->algorithm, choice->chunks, root, in_place}];
  if (cached == nullptr) {
    PlanRequest wanted = request(collective, root, in_place);
    wanted.chunks = choice->chunks;
    Result<PlanPtr> made = make_plan(choice->algorithm, wanted);
    if (!made) return made;
    cached = *made;
  }
  return cached;
}

}  // namespace tutti
