// The table of contents: which algorithm serves which collective, with what shape and at what cost.
#include "src/algorithms/algorithms.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "src/algorithms/binomial.h"
#include "src/algorithms/bruck.h"
#include "src/algorithms/direct.h"
#include "src/algorithms/dissemination.h"
#include "src/algorithms/double_binary_tree.h"
#include "src/algorithms/halving_doubling.h"
#include "src/algorithms/pairwise.h"
#include "src/algorithms/recursive_doubling.h"
#include "src/algorithms/ring.h"
#include "src/algorithms/solo.h"

namespace tutti {
namespace {

constexpr uint32_t k_pipeline_chunks = 16;  // default depth of a pipelined chain or tree

// One line of the table: how an algorithm serves one collective.
struct Entry {
  Collective collective;
  PlanPtr (*make)(std::string_view algorithm, Shape shape);
  // Fills chunks, lanes, scratch and credits.
  void (*form)(const PlanRequest& request, Shape& shape);
  Cost (*cost)(double n, double chunks, const PlanRequest& request);
};

template <class Formula>
PlanPtr formula(std::string_view algorithm, Shape shape) {
  return std::make_shared<FormulaPlan<Formula>>(std::string(algorithm), std::move(shape));
}

void one_chunk(const PlanRequest&, Shape&) {}
void chunk_per_rank(const PlanRequest& request, Shape& shape) { shape.chunks = request.ranks; }
void pipelined(const PlanRequest& request, Shape& shape) {
  shape.chunks = request.chunks > 0 ? request.chunks : k_pipeline_chunks;
}
Cost one_message_each(double n, double, const PlanRequest&) { return {1, n - 1, 0}; }
Cost one_message_each_reduced(double n, double, const PlanRequest&) { return {1, n - 1, n - 1}; }

// ---- ring

void ring_reduce_scatter(const PlanRequest& request, Shape& shape) {
  shape.scratch = request.ranks > 2 ? 2 : 0;
}
void chain_reduce(const PlanRequest& request, Shape& shape) {
  pipelined(request, shape);
  shape.scratch = request.ranks > 2 ? shape.chunks : 0;
}
Cost ring_all_reduce_cost(double n, double, const PlanRequest&) {
  return {2 * (n - 1), 2 * (n - 1) / n, (n - 1) / n};
}
Cost ring_reduce_scatter_cost(double n, double, const PlanRequest&) {
  return {n - 1, n - 1, n - 1};
}
Cost ring_all_gather_cost(double n, double, const PlanRequest&) { return {n - 1, n - 1, 0}; }
Cost chain_broadcast_cost(double n, double c, const PlanRequest&) {
  return {n - 2 + c, (n - 2 + c) / c, 0};
}
Cost chain_reduce_cost(double n, double c, const PlanRequest&) {
  return {n - 2 + c, (n - 2 + c) / c, (n - 2 + c) / c};
}
constexpr Entry k_ring[] = {
    {Collective::all_reduce, formula<ring::AllReduce>, chunk_per_rank, ring_all_reduce_cost},
    {Collective::reduce_scatter, formula<ring::ReduceScatter>, ring_reduce_scatter,
     ring_reduce_scatter_cost},
    {Collective::all_gather, formula<ring::AllGather>, one_chunk, ring_all_gather_cost},
    {Collective::broadcast, formula<ring::Broadcast>, pipelined, chain_broadcast_cost},
    {Collective::reduce, formula<ring::Reduce>, chain_reduce, chain_reduce_cost},
};

// ---- direct

void one_shot(const PlanRequest& request, Shape& shape) {
  if (!request.in_place) return;
  shape.chunks = 2;
  shape.scratch = 4;
}
Cost two_shot_cost(double n, double, const PlanRequest&) {
  return {2, 2 * (n - 1) / n, (n - 1) / n};
}
Cost token_cost(double, double, const PlanRequest&) { return {1, 0, 0}; }
constexpr Entry k_direct_one_shot[] = {
    {Collective::all_reduce, formula<direct::OneShot>, one_shot, one_message_each_reduced},
};
constexpr Entry k_direct_two_shot[] = {
    {Collective::all_reduce, formula<direct::TwoShot>, chunk_per_rank, two_shot_cost},
};
constexpr Entry k_direct[] = {
    {Collective::reduce_scatter, formula<direct::ReduceScatter>, one_chunk,
     one_message_each_reduced},
    {Collective::all_gather, formula<direct::AllGather>, one_chunk, one_message_each},
    {Collective::broadcast, formula<direct::Broadcast>, one_chunk, one_message_each},
    {Collective::reduce, formula<direct::Reduce>, one_chunk, one_message_each_reduced},
    {Collective::gather, formula<direct::Gather>, one_chunk, one_message_each},
    {Collective::scatter, formula<direct::Scatter>, one_chunk, one_message_each},
    {Collective::all_to_all, formula<direct::AllToAll>, one_chunk, one_message_each},
    {Collective::barrier, formula<direct::Barrier>, one_chunk, token_cost},
};

// ---- pairwise, dissemination

void pairwise_form(const PlanRequest& request, Shape& shape) {
  shape.scratch = request.in_place ? request.ranks : 0;
}
void pair_lanes(const PlanRequest& request, Shape& shape) { shape.lanes = 2 * request.ranks; }
Cost pairwise_cost(double n, double, const PlanRequest&) { return {n - 1, n - 1, 0}; }
Cost dissemination_cost(double n, double, const PlanRequest&) {
  return {static_cast<double>(ceil_log2(static_cast<uint32_t>(n))), 0, 0};
}
constexpr Entry k_pairwise[] = {
    {Collective::all_to_all, formula<pairwise::AllToAll>, pairwise_form, pairwise_cost},
    {Collective::all_to_all_v, formula<pairwise::PairLanes>, pair_lanes, one_message_each},
    {Collective::send_recv, formula<pairwise::PairLanes>, pair_lanes, one_message_each},
};
constexpr Entry k_dissemination[] = {
    {Collective::barrier, formula<dissemination::Barrier>, one_chunk, dissemination_cost},
};

// ---- trees

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
double levels(double n) { return ceil_log2(static_cast<uint32_t>(n)); }
Cost all_reduce_tree_cost(double n, double c, const PlanRequest&) {
  const double steps = 4 * levels(n) + 2 * c;
  return {steps, steps / c, 1 + 2 * levels(n) / c};
}
Cost broadcast_tree_cost(double n, double c, const PlanRequest&) {
  const double steps = 2 * levels(n) + c;
  return {steps, steps / c, 0};
}
Cost reduce_tree_cost(double n, double c, const PlanRequest&) {
  const double steps = 2 * levels(n) + c;
  return {steps, steps / c, 1 + 2 * levels(n) / c};
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
}
Cost binomial_broadcast_cost(double n, double, const PlanRequest&) {
  return {levels(n), levels(n), 0};
}
Cost binomial_reduce_cost(double n, double, const PlanRequest&) {
  return {levels(n), levels(n), levels(n)};
}
Cost binomial_blocks_cost(double n, double, const PlanRequest&) {
  return {levels(n) + 2, n - 1, 0};
}
constexpr Entry k_binomial[] = {
    {Collective::broadcast, formula<binomial::Broadcast>, one_chunk, binomial_broadcast_cost},
    {Collective::reduce, formula<binomial::Reduce>, binomial_reduce, binomial_reduce_cost},
    {Collective::gather, formula<binomial::Gather>, binomial_blocks, binomial_blocks_cost},
    {Collective::scatter, formula<binomial::Scatter>, binomial_blocks, binomial_blocks_cost},
};

// ---- logarithmic exchanges

void doubling_all_reduce(const PlanRequest& request, Shape& shape) {
  shape.scratch = recursive_doubling::scratch_chunks({request.ranks, 1, 0, request.in_place});
}
Cost doubling_all_reduce_cost(double n, double, const PlanRequest&) {
  const recursive_doubling::Fold fold(static_cast<uint32_t>(n));
  const double m = fold.dimensions, folded = fold.extra > 0;
  return {m + 2 * folded, m + 2 * folded, m + folded};
}
Cost logarithmic_gather_cost(double n, double, const PlanRequest&) { return {levels(n), n - 1, 0}; }
Cost logarithmic_reduce_cost(double n, double, const PlanRequest&) {
  return {levels(n), n - 1, n - 1};
}
constexpr Entry k_recursive_doubling[] = {
    {Collective::all_reduce, formula<recursive_doubling::AllReduce>, doubling_all_reduce,
     doubling_all_reduce_cost},
    {Collective::all_gather, formula<recursive_doubling::AllGather>, one_chunk,
     logarithmic_gather_cost},
};

void halving_all_reduce(const PlanRequest& request, Shape& shape) {
  shape.chunks = 1u << floor_log2(request.ranks);
}
void halving_reduce_scatter(const PlanRequest& request, Shape& shape) {
  shape.scratch = request.ranks > 2 ? request.ranks / 2 : 0;
}
Cost halving_all_reduce_cost(double n, double f, const PlanRequest&) {
  const double folded = n > f, share = (f - 1) / f;
  return {2 * levels(f) + 2 * folded, 2 * share + 2 * folded, share + folded};
}
constexpr Entry k_halving_doubling[] = {
    {Collective::all_reduce, formula<halving_doubling::AllReduce>, halving_all_reduce,
     halving_all_reduce_cost},
    {Collective::reduce_scatter, formula<halving_doubling::ReduceScatter>, halving_reduce_scatter,
     logarithmic_reduce_cost},
    {Collective::all_gather, formula<halving_doubling::AllGather>, one_chunk,
     logarithmic_gather_cost},
};

void two_credits(const PlanRequest&, Shape& shape) { shape.credits = 2; }
void bruck_reduce_scatter(const PlanRequest& request, Shape& shape) {
  shape.credits = 2;
  shape.scratch = request.ranks > 2 ? bruck::held(request.ranks, 1) : 0;
}
void bruck_all_to_all(const PlanRequest& request, Shape& shape) {
  shape.credits = 2;
  shape.scratch = bruck::all_to_all_scratch(request.ranks);
}
Cost bruck_all_to_all_cost(double n, double, const PlanRequest&) {
  double blocks = 0;
  for (uint32_t k = 0; k < levels(n); ++k) blocks += bruck::with_bit(static_cast<uint32_t>(n), k);
  return {levels(n) + 1, blocks, 0};
}
constexpr Entry k_bruck[] = {
    {Collective::all_gather, formula<bruck::AllGather>, two_credits, logarithmic_gather_cost},
    {Collective::reduce_scatter, formula<bruck::ReduceScatter>, bruck_reduce_scatter,
     logarithmic_reduce_cost},
    {Collective::all_to_all, formula<bruck::AllToAll>, bruck_all_to_all, bruck_all_to_all_cost},
};

// ---- the table

struct Chapter {
  std::string_view name;
  std::string_view summary;
  std::span<const Entry> entries;
  Status (*limits)(const PlanRequest& request);  // beyond the collectives; may be null
};

Status no_all_to_all_in_place(const PlanRequest& request) {
  if (request.collective == Collective::all_to_all && request.in_place)
    return {Code::unsupported, "all_to_all in place: only pairwise"};
  return {};
}
Status power_of_two_but_all_reduce(const PlanRequest& request) {
  if (request.collective != Collective::all_reduce && lowest_bit(request.ranks) != request.ranks)
    return {Code::unsupported,
            fmt::format("{} by doubling or halving needs a power of two, not {} ranks: bruck",
                        name(request.collective), request.ranks)};
  return {};
}

constexpr Chapter k_chapters[] = {
    {"ring", "neighbours only; bandwidth-optimal, latency grows with the ranks", k_ring, nullptr},
    {"direct_one_shot", "everyone sends its whole block to everyone; small blocks",
     k_direct_one_shot, nullptr},
    {"direct_two_shot", "each rank reduces its own chunk, then gives it to everyone",
     k_direct_two_shot, nullptr},
    {"direct", "one message between each pair of ranks, nothing forwarded", k_direct,
     no_all_to_all_in_place},
    {"pairwise", "all-to-all as permutations; a lane per pair for vector calls", k_pairwise,
     nullptr},
    {"double_binary_tree", "two pipelined trees, half of the chunks each", k_double_binary_tree,
     nullptr},
    {"binomial", "the fewest steps from or to one root; small blocks", k_binomial, nullptr},
    {"recursive_doubling", "whole blocks exchanged across a hypercube; small blocks",
     k_recursive_doubling, power_of_two_but_all_reduce},
    {"halving_doubling", "reduce-scatter by halving, all-gather by doubling", k_halving_doubling,
     power_of_two_but_all_reduce},
    {"bruck", "logarithmic steps at any number of ranks; small blocks", k_bruck,
     no_all_to_all_in_place},
    {"dissemination", "barrier in ceil(log2 n) steps", k_dissemination, nullptr},
};
constexpr size_t k_count = std::size(k_chapters);

const Entry* find_entry(const Chapter& chapter, Collective collective) {
  for (const Entry& entry : chapter.entries)
    if (entry.collective == collective) return &entry;
  return nullptr;
}

bool has_root(Collective c) {
  return c == Collective::broadcast || c == Collective::reduce || c == Collective::gather ||
         c == Collective::scatter;
}

// What no algorithm can serve.
Status check_request(const PlanRequest& request) {
  if (request.ranks == 0) return {Code::invalid_argument, "a plan needs at least one rank"};
  if (has_root(request.collective) && request.root >= request.ranks)
    return {Code::invalid_argument,
            fmt::format("root {} is not among {} ranks", request.root, request.ranks)};
  if (request.in_place && (request.collective == Collective::all_to_all_v ||
                           request.collective == Collective::send_recv))
    return {Code::unsupported, fmt::format("{} is never in place", name(request.collective))};
  for (const auto& level : request.hierarchy.level)
    if (level.size() != request.ranks)
      return {Code::invalid_argument, fmt::format("a level of the hierarchy names {} ranks of {}",
                                                  level.size(), request.ranks)};
  return {};
}

Status chapter_supports(const Chapter& chapter, const PlanRequest& request) {
  TUTTI_RETURN_IF_ERROR(check_request(request));
  if (find_entry(chapter, request.collective) == nullptr)
    return {Code::unsupported,
            fmt::format("{} does not serve {}", chapter.name, name(request.collective))};
  return chapter.limits == nullptr ? Status() : chapter.limits(request);
}

Shape plain_shape(const PlanRequest& request) {
  Shape shape;
  shape.collective = request.collective;
  shape.ranks = request.ranks;
  shape.root = has_root(request.collective) ? request.root : 0;
  shape.in_place = request.in_place;
  return shape;
}

PlanPtr solo(std::string_view algorithm, Shape shape) {
  switch (shape.collective) {
    case Collective::all_reduce:
    case Collective::reduce:
    case Collective::reduce_scatter:
      return formula<SoloReduce>(algorithm, std::move(shape));
    case Collective::barrier:
      return formula<SoloBarrier>(algorithm, std::move(shape));
    default:
      return formula<SoloMove>(algorithm, std::move(shape));
  }
}

PlanPtr chapter_make(const Chapter& chapter, const PlanRequest& request) {
  if (!chapter_supports(chapter, request).ok()) return nullptr;
  const Entry& entry = *find_entry(chapter, request.collective);
  Shape shape = plain_shape(request);
  if (request.ranks == 1) return solo(chapter.name, std::move(shape));
  entry.form(request, shape);
  return entry.make(chapter.name, std::move(shape));
}

Cost chapter_cost(const Chapter& chapter, const PlanRequest& request) {
  if (request.ranks == 1 || !chapter_supports(chapter, request).ok()) return {};
  const Entry& entry = *find_entry(chapter, request.collective);
  Shape shape = plain_shape(request);
  entry.form(request, shape);
  return entry.cost(request.ranks, shape.chunks, request);
}

// Algorithm holds plain function pointers, so each chapter gets three functions of its own.
template <size_t I>
constexpr Algorithm row() {
  return {k_chapters[I].name, k_chapters[I].summary,
          [](const PlanRequest& request) { return chapter_supports(k_chapters[I], request); },
          [](const PlanRequest& request) { return chapter_make(k_chapters[I], request); },
          [](const PlanRequest& request) { return chapter_cost(k_chapters[I], request); }};
}
template <size_t... I>
constexpr std::array<Algorithm, sizeof...(I)> rows(std::index_sequence<I...>) {
  return {row<I>()...};
}
constexpr auto k_algorithms = rows(std::make_index_sequence<k_count>());

}  // namespace

std::span<const Algorithm> algorithms() { return k_algorithms; }

const Algorithm* find_algorithm(std::string_view name) {
  for (const Algorithm& algorithm : k_algorithms)
    if (algorithm.name == name) return &algorithm;
  return nullptr;
}

Result<PlanPtr> make_plan(std::string_view algorithm, const PlanRequest& request) {
  const Algorithm* found = find_algorithm(algorithm);
  if (found == nullptr) {
    std::string known;
    for (const Algorithm& each : k_algorithms)
      known += fmt::format("{}{}", known.empty() ? "" : ", ", each.name);
    return Status(Code::invalid_argument,
                  fmt::format("there is no algorithm '{}'; there are {}", algorithm, known));
  }
  TUTTI_RETURN_IF_ERROR(found->supports(request));
  return found->make(request);
}

}  // namespace tutti
