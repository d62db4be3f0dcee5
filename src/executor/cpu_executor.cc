#include "src/executor/cpu_executor.h"

namespace tutti {

Status CpuExecutor::run(BoundPlan& bound, const CallBuffers& buffers, uint64_t signature) {
  LaneRun::Shared shared{router_, bound, tiles_, buffers, signature};
  size_t active = 0;
  for (LaneRun& lane : bound.runs) lane.start(shared);
  for (active = 0; active < bound.runs.size(); ++active)
    bound.active[active] = static_cast<uint32_t>(active);

  Waiter waiter(policy_, monitor_);
  while (active > 0) {
    bool moved = false;
    for (size_t i = 0; i < active;) {
      LaneRun& lane = bound.runs[bound.active[i]];
      const LaneRun::Advance advance = lane.advance();
      if (advance == LaneRun::Advance::failed) return lane.status();
      moved |= advance != LaneRun::Advance::blocked;
      if (advance == LaneRun::Advance::done) {
        std::swap(bound.active[i], bound.active[--active]);
      } else {
        ++i;
      }
    }
    if (moved) {
      waiter.moved();
    } else if (active > 0) {
      TUTTI_RETURN_IF_ERROR(waiter.idle(bound.runs[bound.active[0]].waiting_for()));
    }
  }
  return {};
}

}  // namespace tutti
