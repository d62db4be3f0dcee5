// Ranks of one process that meet in a group: their collective as one launch per device, between
// events that join their streams. Stream-ordered, capturable, and it waits for nothing on the host.
#pragma once

#include <vector>

#include "src/cuda/program.h"
#include "src/cuda/runtime.h"

namespace tutti::cuda {

struct GroupRank {
  int device = 0;
  Stream stream = nullptr;
  const void* send = nullptr;  // null where the rank has none
  void* recv = nullptr;
  Factor factor{};  // of premul_sum
};

struct GroupCall {
  Collective collective = Collective::all_reduce;
  uint64_t count = 0;  // elements of a block
  DType dtype = DType::int8;
  ReduceOp op = ReduceOp::sum;
  Rank root = 0;
  std::vector<GroupRank> ranks;  // all of the communicator, by rank
};

struct LaunchLimits {
  uint32_t blocks = 0;           // per device; 0: decide
  size_t copy_engine_bytes = 0;  // copies of at least so many bytes use no multiprocessor
};

// Whether launch_group() serves the call; if not, it goes another way.
bool group_serves(const GroupCall& call);

// Errors: device_error of the driver, unsupported when devices cannot reach each other,
// invalid_argument for a stream of another context. Buffers have been checked.
Status launch_group(Runtime& runtime, const GroupCall& call, const LaunchLimits& limits);

}  // namespace tutti::cuda
