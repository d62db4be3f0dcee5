// CPU executor: runs a bound plan on this rank. One progress loop polls the lanes of the rank; a
// lane runs until a message or a credit is missing. Rounds follow each other without a barrier: a
// lane that ends round r starts round r + 1 at once.
//
// Per message it chooses how the bytes travel: in the line that announces them (tiny), by the
// receiver reading the sender's memory (pull, where transport and plan allow), else through a slot.
#pragma once

#include <vector>

#include "src/executor/bound_plan.h"
#include "src/executor/waiter.h"

namespace tutti {

// The arguments of one call.
struct CallBuffers {
  const std::byte* input = nullptr;
  std::byte* output = nullptr;
};

class CpuExecutor {
 public:
  CpuExecutor(Router& router, Monitor& monitor, const WaitPolicy& policy)
      : router_(router), monitor_(monitor), policy_(policy) {}

  // Runs to completion. `signature` is that of this very call: every message carries it, and one
  // that carries another is a mismatch between the ranks (invalid_usage naming the peer).
  Status run(BoundPlan& bound, const CallBuffers& buffers, uint64_t signature);

 private:
  class LaneRun;
  friend class LaneRun;

  Router& router_;
  Monitor& monitor_;
  WaitPolicy policy_;
  std::vector<std::byte> tiles_;  // staging for sources that only a system call can read
};

// A mismatch of signatures: what the caller is told when peers do not make the same call.
Status mismatch(Rank peer, std::string_view what);

}  // namespace tutti
