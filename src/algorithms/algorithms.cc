// The table of contents: which algorithm serves which collective. Shapes and costs are in the
// chapters: ring.cc, direct.cc, tree.cc, exchange.cc, hierarchical.cc.
#include "src/algorithms/algorithms.h"

#include <fmt/format.h>

#include <array>

#include "src/algorithms/chapter.h"
#include "src/algorithms/levels.h"
#include "src/algorithms/solo.h"

namespace tutti {
namespace {

using chapters::Entry;
using chapters::formula;

struct Chapter {
  std::string_view name;
  std::string_view summary;
  std::span<const Entry> (*entries)();
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
    {"ring", "neighbours only; bandwidth-optimal, latency grows with the ranks", chapters::ring,
     nullptr},
    {"direct_one_shot", "everyone sends its whole block to everyone; small blocks",
     chapters::direct_one_shot, nullptr},
    {"direct_two_shot", "each rank reduces its own chunk, then gives it to everyone",
     chapters::direct_two_shot, nullptr},
    {"direct", "one message between each pair of ranks, nothing forwarded", chapters::direct,
     no_all_to_all_in_place},
    {"pairwise", "all-to-all as permutations; a lane per pair for vector calls", chapters::pairwise,
     nullptr},
    {"double_binary_tree", "two pipelined trees, half of the chunks each",
     chapters::double_binary_tree, nullptr},
    {"binomial", "the fewest steps from or to one root; small blocks", chapters::binomial, nullptr},
    {"recursive_doubling", "whole blocks exchanged across a hypercube; small blocks",
     chapters::recursive_doubling, power_of_two_but_all_reduce},
    {"halving_doubling", "reduce-scatter by halving, all-gather by doubling",
     chapters::halving_doubling, power_of_two_but_all_reduce},
    {"bruck", "logarithmic steps at any number of ranks; small blocks", chapters::bruck,
     no_all_to_all_in_place},
    {"hierarchical_leader", "leaders of groups all-reduce by a ring; few steps, many ranks",
     chapters::hierarchical_leader, nullptr},
    {"hierarchical_leader_doubling", "leaders of groups all-reduce by halving-doubling",
     chapters::hierarchical_leader_doubling, nullptr},
    {"hierarchical_scatter", "every rank of a group carries a part, by a ring on its rail",
     chapters::hierarchical_scatter, nullptr},
    {"hierarchical_scatter_doubling", "the same, by halving-doubling on the rail",
     chapters::hierarchical_scatter_doubling, nullptr},
    {"hierarchical_scatter_direct", "the same, by direct two-shot on the rail",
     chapters::hierarchical_scatter_direct, nullptr},
    {"dissemination", "barrier in ceil(log2 n) steps", chapters::dissemination, nullptr},
};
constexpr size_t k_count = std::size(k_chapters);

const Entry* find_entry(const Chapter& chapter, Collective collective) {
  for (const Entry& entry : chapter.entries())
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
  if (request.chunks > k_most_chunks)
    return {Code::invalid_argument,
            fmt::format("{} chunks of a block, at most {}", request.chunks, k_most_chunks)};
  if (request.in_place && (request.collective == Collective::all_to_all_v ||
                           request.collective == Collective::send_recv))
    return {Code::unsupported, fmt::format("{} is never in place", name(request.collective))};
  return Levels::check(request.hierarchy, request.ranks);
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

bool chapter_in_place_differs(const Chapter& chapter, Collective collective, uint32_t ranks) {
  const Entry* entry = find_entry(chapter, collective);
  return ranks > 1 && entry != nullptr && entry->in_place_differs;
}

// Algorithm holds plain function pointers, so each chapter gets four functions of its own.
template <size_t I>
constexpr Algorithm row() {
  return {k_chapters[I].name,
          k_chapters[I].summary,
          [](const PlanRequest& request) { return chapter_supports(k_chapters[I], request); },
          [](const PlanRequest& request) { return chapter_make(k_chapters[I], request); },
          [](const PlanRequest& request) { return chapter_cost(k_chapters[I], request); },
          [](Collective c, uint32_t n) { return chapter_in_place_differs(k_chapters[I], c, n); }};
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
