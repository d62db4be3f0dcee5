// Which plan runs a collective between devices that write into each other's windows: everyone
// reaches everyone, so nothing is forwarded. By size alone; nobody has measured it on devices yet.
#pragma once

#include "src/plan/plan.h"
#include "tutti/status.h"
#include "tutti/types.h"

namespace tutti {

struct DevicePlanRequest {
  Collective collective = Collective::all_reduce;
  uint32_t ranks = 1;
  Rank root = 0;
  bool small = false;     // is_small_on_devices()
  bool in_place = false;  // this rank's own matter: its peers exchange the same messages either way
};

// Blocks for which one step of more bytes beats two steps.
bool is_small_on_devices(Collective collective, uint64_t block_bytes);
// Errors: unsupported.
Result<PlanPtr> device_plan(const DevicePlanRequest& request);

}  // namespace tutti
