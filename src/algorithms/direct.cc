// What the direct algorithms serve, in what shape, at what cost.
#include "src/algorithms/direct.h"

#include <algorithm>

#include "src/algorithms/chapter.h"

namespace tutti::chapters {
namespace {

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
    {Collective::all_reduce, formula<direct::OneShot>, one_shot, one_message_each_reduced,
     k_in_place_differs},
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

}  // namespace

std::span<const Entry> direct_one_shot() { return k_direct_one_shot; }
std::span<const Entry> direct_two_shot() { return k_direct_two_shot; }
std::span<const Entry> direct() { return k_direct; }

}  // namespace tutti::chapters
