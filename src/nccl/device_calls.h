// Calls on device buffers: enqueued on their streams, and back. docs/cuda.md has the whole picture.
//
// All ranks of a communicator that meet in one group of this process are served by a kernel (or the
// copy engines) over everybody's buffers. Everything else is staged: through pinned memory and the
// CPU executor, in stream order.
#pragma once

#include <memory>
#include <vector>

#include "src/cuda/group_launch.h"
#include "src/cuda/staging.h"
#include "src/nccl/comm.h"

namespace tutti::nccl {

// The driver and devices of this process, opened when they are first needed. Errors: device_error.
Result<std::shared_ptr<cuda::Runtime>> device_runtime();

struct DeviceTask {
  std::shared_ptr<Comm> comm;
  std::vector<Operation> operations;  // checked, on device
};

// Enqueues what a group (or one call) does on devices; waits for nothing. Errors: invalid_argument
// or invalid_usage naming rank and buffer; device_error.
Status enqueue_on_devices(std::vector<DeviceTask> tasks);

// What a communicator keeps for it.
struct DeviceState {
  std::shared_ptr<cuda::Runtime> runtime;  // outlives the staging
  std::unique_ptr<cuda::Staging> staging;
  cuda::LaunchLimits limits;
  bool shares_device = false;    // TUTTI_MULTI_RANK_GPU
  std::atomic<bool> met{false};  // the ranks have compared their devices
};

}  // namespace tutti::nccl
