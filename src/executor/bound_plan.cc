#include "src/executor/bound_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <optional>
#include <set>

#include "src/executor/lane_run.h"

namespace tutti {
namespace {

// Longer lanes are read from the plan's closed form while they run: 1024 ranks as threads would
// otherwise hold 1024 tables of 4096 steps.
constexpr uint32_t k_table_steps = 1024;

}  // namespace

BoundPlan::BoundPlan() = default;
BoundPlan::~BoundPlan() = default;

LaneProgram::LaneProgram(const Plan& plan, Rank rank, Lane lane)
    : plan_(plan), rank_(rank), lane_(lane), steps_(plan.steps(rank, lane)) {
  if (steps_ > k_table_steps) return;
  table_.reserve(steps_);
  for (uint32_t i = 0; i < steps_; ++i) table_.push_back(plan.step_at(rank, lane, i));
}

Action LaneProgram::action(uint32_t index) const {
  Action a;
  a.first = index;
  a.step = step(index);
  a.last = a.step.last;
  uint32_t end = index + 1;
  Step previous = a.step;
  switch (a.step.op) {
    case Op::send:
      a.kind = Action::Kind::send;
      // Publish once: sends of the same chunks, one after the other, to different peers.
      for (; end < steps_; ++end) {
        const Step next = step(end);
        if (next.op != Op::send || next.src_buffer != a.step.src_buffer || next.src != a.step.src ||
            next.count != a.step.count || next.peer == previous.peer)
          break;
        previous = next;
      }
      break;
    case Op::recv_reduce:
    case Op::reduce:
      a.kind = Action::Kind::pass;
      for (; end < steps_; ++end) {
        const Step next = step(end);
        if (!continues_pass(previous, next)) break;
        a.last |= next.last;
        previous = next;
      }
      break;
    case Op::recv:
      a.kind = Action::Kind::recv;
      break;
    case Op::copy:
      a.kind = Action::Kind::copy;
      break;
    case Op::signal:
      a.kind = Action::Kind::signal;
      break;
    case Op::wait:
      a.kind = Action::Kind::wait;
      break;
  }
  a.steps = end - index;
  return a;
}

Result<std::unique_ptr<BoundPlan>> bind(const BindRequest& request, Rank rank) {
  const Plan& plan = *request.plan;
  const Shape& shape = plan.shape();
  if (shape.credits > k_endpoint_credits)
    return Status(
        Code::unsupported,
        fmt::format("plan {} needs {} messages in flight per connection, endpoints have {}",
                    plan.algorithm(), shape.credits, k_endpoint_credits));
  auto bound = std::make_unique<BoundPlan>();
  bound->request = request;
  const LayoutLimits limits = LayoutLimits::of(shape, request.slot_bytes, request.by_reference);
  bound->layout = Layout(shape, request.count, size_of(request.dtype), limits.max_chunk_bytes,
                         limits.min_chunk_bytes);
  bound->divisor = request.op == ReduceOp::avg ? shape.ranks : 0;

  for (Lane lane = 0; lane < shape.lanes; ++lane) {
    LaneProgram program(plan, rank, lane);
    if (!program.empty()) bound->lanes.push_back(std::move(program));
  }
  for (const LaneProgram& program : bound->lanes) bound->runs.emplace_back(program);
  bound->active.resize(bound->runs.size());
  if (shape.scratch > 0) {
    const uint64_t bytes = bound->layout.scratch_bytes(shape.scratch);
    bound->storage.reset(new (std::nothrow) std::byte[bytes + 64]);
    if (!bound->storage)
      return Status(
          Code::system_error,
          fmt::format("{} bytes of scratch for {} cannot be allocated", bytes, plan.algorithm()));
    const auto address = reinterpret_cast<uintptr_t>(bound->storage.get());
    bound->scratch = bound->storage.get() + (64 - address % 64) % 64;
  }
  return bound;
}

}  // namespace tutti
