// CPU executor: runs a bound plan on this rank. One progress loop polls the lanes of the rank; a
// lane runs until a message or a credit is missing. Rounds follow each other without a barrier: a
// lane that ends round r starts round r + 1 at once. In the steady state nothing is allocated: what
// a lane needs is kept with its binding.
#pragma once

#include <vector>

#include "src/executor/bound_plan.h"
#include "src/executor/lane_run.h"
#include "src/executor/waiter.h"

namespace tutti {

class CpuExecutor {
 public:
  CpuExecutor(Router& router, Monitor& monitor, const WaitPolicy& policy)
      : router_(router), monitor_(monitor), policy_(policy) {}

  // Runs to completion. `signature` is that of this very call: every message carries it, and one
  // that carries another is a mismatch between the ranks (invalid_usage naming the peer).
  Status run(BoundPlan& bound, const CallBuffers& buffers, uint64_t signature);

 private:
  Router& router_;
  Monitor& monitor_;
  WaitPolicy policy_;
  std::vector<std::byte> tiles_;  // staging for sources that only a system call can read
};

}  // namespace tutti
