// What host and kernels agree on: arguments, names and sizes of blocks.
#pragma once

#include "src/cuda/direct.h"

namespace tutti::cuda {

inline constexpr uint32_t k_block_threads = 512;
inline constexpr uint32_t k_max_grid_ranks = 64;

// A grid that runs device programs: rank after rank, lane after lane, worker after worker.
struct PlanLaunch {
  uint32_t lanes;
  Operator op;
  DeviceCut cut;
  PlanRange range;
  DeviceCall calls[k_max_grid_ranks];
};
static_assert(k_max_grid_ranks <= k_most_sources && k_max_links <= k_most_sources);
// What every device takes as arguments of a kernel.
static_assert(sizeof(PlanLaunch) <= 4096 && sizeof(DirectCall) <= 4096);

}  // namespace tutti::cuda
