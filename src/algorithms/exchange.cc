// What pairwise, dissemination, recursive doubling, halving-doubling and bruck serve.
#include <algorithm>

#include "src/algorithms/bruck.h"
#include "src/algorithms/chapter.h"
#include "src/algorithms/dissemination.h"
#include "src/algorithms/halving_doubling.h"
#include "src/algorithms/pairwise.h"
#include "src/algorithms/recursive_doubling.h"

namespace tutti::chapters {
namespace {

void pairwise_form(const PlanRequest& request, Shape& shape) {
  shape.scratch = request.in_place ? request.ranks : 0;
}
void pair_lanes(const PlanRequest& request, Shape& shape) { shape.lanes = 2 * request.ranks; }
// In place the ranks of a pair take turns, and the pairs wait for each other: up to four times the
// bytes are on the critical path.
Cost pairwise_cost(double n, double, const PlanRequest& request) {
  return request.in_place ? Cost{3, 4 * (n - 1), 0} : Cost{n - 1, n - 1, 0};
}
Cost dissemination_cost(double n, double, const PlanRequest&) {
  return {static_cast<double>(ceil_log2(static_cast<uint32_t>(n))), 0, 0};
}
constexpr Entry k_pairwise[] = {
    {Collective::all_to_all, formula<pairwise::AllToAll>, pairwise_form, pairwise_cost,
     k_in_place_differs},
    {Collective::all_to_all_v, formula<pairwise::PairLanes>, pair_lanes, one_message_each},
    {Collective::send_recv, formula<pairwise::PairLanes>, pair_lanes, one_message_each},
};
constexpr Entry k_dissemination[] = {
    {Collective::barrier, formula<dissemination::Barrier>, one_chunk, dissemination_cost},
};

void doubling_all_reduce(const PlanRequest& request, Shape& shape) {
  shape.scratch = recursive_doubling::scratch_chunks({request.ranks, 1, 0, request.in_place});
}
Cost doubling_all_reduce_cost(double n, double, const PlanRequest& request) {
  const recursive_doubling::Fold fold(static_cast<uint32_t>(n));
  const double m = fold.dimensions, folded = fold.extra > 0;
  const double token = n == 2 && request.in_place;
  return {m + 2 * folded + token, m + 2 * folded, m + folded};
}
void halved_blocks(const PlanRequest& request, Shape& shape) {
  shape.longest = half(request.ranks);
}
Cost logarithmic_gather_cost(double n, double, const PlanRequest&) { return {levels(n), n - 1, 0}; }
Cost logarithmic_reduce_cost(double n, double, const PlanRequest&) {
  return {levels(n), n - 1, n - 1};
}
constexpr Entry k_recursive_doubling[] = {
    {Collective::all_reduce, formula<recursive_doubling::AllReduce>, doubling_all_reduce,
     doubling_all_reduce_cost, k_in_place_differs},
    {Collective::all_gather, formula<recursive_doubling::AllGather>, halved_blocks,
     logarithmic_gather_cost},
};

void halving_all_reduce(const PlanRequest& request, Shape& shape) {
  shape.chunks = 1u << floor_log2(request.ranks);
  shape.longest = half(request.ranks);
}
void halving_reduce_scatter(const PlanRequest& request, Shape& shape) {
  shape.scratch = request.ranks > 2 ? request.ranks / 2 : 0;
  shape.longest = half(request.ranks);
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
    {Collective::all_gather, formula<halving_doubling::AllGather>, halved_blocks,
     logarithmic_gather_cost},
};

void bruck_all_gather(const PlanRequest& request, Shape& shape) {
  shape.credits = 2;
  shape.longest = std::max(1u, request.ranks / 2);
}
void bruck_reduce_scatter(const PlanRequest& request, Shape& shape) {
  bruck_all_gather(request, shape);
  shape.scratch = request.ranks > 2 ? bruck::held(request.ranks, 1) : 0;
}
void bruck_all_to_all(const PlanRequest& request, Shape& shape) {
  bruck_all_gather(request, shape);
  shape.scratch = bruck::all_to_all_scratch(request.ranks);
}
Cost bruck_all_to_all_cost(double n, double, const PlanRequest&) {
  double blocks = 0;
  for (uint32_t k = 0; k < levels(n); ++k) blocks += bruck::with_bit(static_cast<uint32_t>(n), k);
  return {levels(n) + 1, blocks, 0};
}
constexpr Entry k_bruck[] = {
    {Collective::all_gather, formula<bruck::AllGather>, bruck_all_gather, logarithmic_gather_cost},
    {Collective::reduce_scatter, formula<bruck::ReduceScatter>, bruck_reduce_scatter,
     logarithmic_reduce_cost},
    {Collective::all_to_all, formula<bruck::AllToAll>, bruck_all_to_all, bruck_all_to_all_cost},
};

}  // namespace

std::span<const Entry> pairwise() { return k_pairwise; }
std::span<const Entry> dissemination() { return k_dissemination; }
std::span<const Entry> recursive_doubling() { return k_recursive_doubling; }
std::span<const Entry> halving_doubling() { return k_halving_doubling; }
std::span<const Entry> bruck() { return k_bruck; }

}  // namespace tutti::chapters
