// Calls on device buffers: enqueued on their streams, and back. docs/cuda.md has the whole picture.
//
// All ranks of a communicator that meet in one group of this process are served by a kernel (or the
// copy engines) over everybody's buffers. Ranks with a device each on one host run plans through
// each other's windows. Everything else is staged: through pinned memory and the CPU executor, in
// stream order. Which of the last two it is, ranks find out together at their first collective on
// device buffers.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "src/communicator/device_plan.h"
#include "src/cuda/group_launch.h"
#include "src/cuda/peer_world.h"
#include "src/cuda/staging.h"
#include "src/nccl/comm.h"

namespace tutti::nccl {

// The driver and devices of this process, opened when they are first needed. Errors: device_error.
Result<std::shared_ptr<cuda::Runtime>> device_runtime();

struct DeviceTask {
  std::shared_ptr<Comm> comm;
  std::vector<Operation> operations;  // checked, on device
};

// Enqueues what a group (or one call) does on devices. Waits for nothing but, once in a
// communicator's life, for all its ranks: at the first collective. Errors: invalid_argument or
// invalid_usage naming rank and buffer; device_error.
Status enqueue_on_devices(std::vector<DeviceTask> tasks);

// What a communicator keeps for it.
struct DeviceState {
  std::shared_ptr<cuda::Runtime> runtime;  // outlives the staging
  std::unique_ptr<cuda::Staging> staging;
  cuda::LaunchLimits limits;
  bool shares_device = false;    // TUTTI_MULTI_RANK_GPU
  std::string host_id;           // TUTTI_HOST_ID
  std::atomic<bool> met{false};  // the ranks have told each other what devices they have; then:
  std::unique_ptr<cuda::PeerWorld> peers;  // null: calls are staged
  std::map<std::tuple<Collective, Rank, bool, bool>, PlanPtr> plans;
};

}  // namespace tutti::nccl
