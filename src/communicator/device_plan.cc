#include "src/communicator/device_plan.h"

#include "src/algorithms/algorithms.h"

namespace tutti {
namespace {

constexpr uint64_t k_small = 32768;

}  // namespace

bool is_small_on_devices(Collective collective, uint64_t block_bytes) {
  return collective == Collective::all_reduce && block_bytes <= k_small;
}

Result<PlanPtr> device_plan(const DevicePlanRequest& request) {
  PlanRequest wanted;
  wanted.collective = request.collective;
  wanted.ranks = request.ranks;
  wanted.root = request.root;
  switch (request.collective) {
    case Collective::all_reduce:
      // The form in place reads its input once, before it writes: it serves two buffers as well.
      wanted.in_place = true;
      return make_plan(request.small ? "direct_one_shot" : "direct_two_shot", wanted);
    case Collective::all_to_all:
      // Every block is sent, by copy, before its place is received into: it serves one buffer as
      // well.
      return make_plan("direct", wanted);
    default:
      wanted.in_place = request.in_place;
      return make_plan("direct", wanted);
  }
}

}  // namespace tutti
