// bind: a size-free plan meets one call's sizes, types and endpoints.
//
// Binding is the expensive step and is cached by the communicator: it fixes the layout, the number
// of rounds, the scratch memory, and decodes each lane of this rank into *actions*: what an
// executor does at once. Decoding is where the peepholes are: a run of sends of one chunk is one
// publication to many readers, a pass is one k-way reduction. Short lanes are decoded into a table;
// long ones (a ring over 2048 ranks) action by action while they run, from the plan's closed form.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "src/executor/router.h"
#include "src/plan/layout.h"
#include "src/plan/plan.h"
#include "tutti/status.h"

namespace tutti {

// Steps [first, first + steps) of a lane, executed as one.
struct Action {
  enum class Kind : uint8_t { send, recv, pass, copy, signal, wait };
  Kind kind = Kind::copy;
  bool last = false;  // some step of a pass is `last`
  uint32_t first = 0;
  uint32_t steps = 1;
  Step step;  // the first of them
};

// One lane of this rank.
class LaneProgram {
 public:
  LaneProgram(const Plan& plan, Rank rank, Lane lane);
  Lane lane() const { return lane_; }
  bool empty() const { return steps_ == 0; }
  uint32_t steps() const { return steps_; }

  Step step(uint32_t index) const {
    return table_.empty() ? plan_.step_at(rank_, lane_, index) : table_[index];
  }
  // The action that begins at step `index`.
  Action action(uint32_t index) const;

 private:
  const Plan& plan_;
  Rank rank_;
  Lane lane_;
  uint32_t steps_;
  std::vector<Step> table_;  // empty when too long to be worth it
};

// What the bytes of a call are; pointers are arguments of the call, not of the binding.
struct BindRequest {
  PlanPtr plan;
  uint64_t count = 0;  // elements of a block
  DType dtype = DType::int8;
  ReduceOp op = ReduceOp::sum;
  uint64_t slot_bytes = 0;    // the most that a message through a slot may carry
  bool by_reference = false;  // contiguous messages of any length are read where they are
};

class LaneRun;

struct BoundPlan {
  BoundPlan();
  ~BoundPlan();

  BindRequest request;
  Layout layout;
  uint32_t divisor = 0;                  // avg: the number of ranks
  std::vector<LaneProgram> lanes;        // the non-empty ones of this rank
  std::vector<LaneRun> runs;             // their state while a call runs
  std::vector<uint32_t> active;          // indices of runs that are not done
  std::unique_ptr<std::byte[]> storage;  // of scratch
  std::byte* scratch = nullptr;          // 64-byte aligned
};

// Errors: unsupported when the plan needs more credits than endpoints have; system_error when the
// scratch memory cannot be had.
Result<std::unique_ptr<BoundPlan>> bind(const BindRequest& request, Rank rank);

}  // namespace tutti
