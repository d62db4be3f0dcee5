// Which calls run in one or two shots (shots.h), and their launches; pure.
#pragma once

#include <optional>
#include <vector>

#include "src/cuda/build.h"
#include "src/cuda/shots.h"

namespace tutti::cuda {

// How a call is cut; the same on every rank.
struct ShotCut {
  uint32_t bytes = 0;
  uint32_t slice = 0;   // that each rank adds up; 0: one shot
  uint32_t share = 0;   // of a slice, of one block
  uint32_t blocks = 0;  // of a rank
  uint32_t threads = 0;
};

// Nothing where windows have no place for it, or the plan is another one or would take more than
// one round of packets: then its bits may be others than those of two shots. `cut`: how the plan
// would run it. `blocks`: the most that a launch may take.
std::optional<ShotCut> shot_cut(const PlanPtr& plan, const DeviceCut& cut,
                                const WindowShape& window, uint32_t blocks);

// A launch but for its calls. `windows`: of every rank, as the device addresses them.
ShotLaunch shot_launch(const ShotCut& cut, Operator op, const WindowShape& window,
                       const std::vector<std::byte*>& windows);

}  // namespace tutti::cuda
