// What ring serves, in what shape, at what cost.
#include "src/algorithms/ring.h"

#include <algorithm>

#include "src/algorithms/chapter.h"

namespace tutti::chapters {
namespace {

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
  return {n - 2 + c, (n - 2 + c) / c, 0, c - 1};
}
Cost chain_reduce_cost(double n, double c, const PlanRequest&) {
  return {n - 2 + c, (n - 2 + c) / c, (n - 2 + c) / c, c - 1};
}
constexpr Entry k_ring[] = {
    {Collective::all_reduce, formula<ring::AllReduce>, chunk_per_rank, ring_all_reduce_cost},
    {Collective::reduce_scatter, formula<ring::ReduceScatter>, ring_reduce_scatter,
     ring_reduce_scatter_cost},
    {Collective::all_gather, formula<ring::AllGather>, one_chunk, ring_all_gather_cost},
    {Collective::broadcast, formula<ring::Broadcast>, pipelined, chain_broadcast_cost},
    {Collective::reduce, formula<ring::Reduce>, chain_reduce, chain_reduce_cost},
};

}  // namespace

std::span<const Entry> ring() { return k_ring; }

}  // namespace tutti::chapters
