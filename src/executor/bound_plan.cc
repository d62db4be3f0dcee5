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
// A message over a network costs as much as some kilobytes: smaller chunks are not worth one.
constexpr uint64_t k_network_chunk = 4096;
// Steps that longest_message() reads before it samples.
constexpr uint64_t k_scan_steps = uint64_t{1} << 18;
constexpr uint64_t k_compare_steps = uint64_t{1} << 16;

uint32_t longest_message(const Plan& plan, Rank rank) {
  uint32_t longest = 0;
  for (Lane lane = 0; lane < plan.shape().lanes; ++lane) {
    const uint32_t n = plan.steps(rank, lane);
    for (uint32_t i = 0; i < n; ++i) {
      const Step s = plan.step_at(rank, lane, i);
      if (s.op == Op::send || reads_message(s.op)) longest = std::max(longest, s.count);
    }
  }
  return longest;
}

// The ranks to read when a plan is looked at as a whole: all of them while `steps` allow it, else
// evenly spaced ones, the last and the root.
std::set<Rank> sample_ranks(const Plan& plan, uint64_t steps) {
  const uint32_t n = plan.shape().ranks;
  uint64_t per_rank = 1;
  for (Lane lane = 0; lane < plan.shape().lanes; ++lane) per_rank += plan.steps(n / 2, lane);
  const uint64_t take = std::clamp<uint64_t>(steps / per_rank, 1, n);
  std::set<Rank> sample{n - 1, plan.shape().root};
  for (uint64_t i = 0; i < take; ++i) sample.insert(static_cast<Rank>(i * n / take));
  return sample;
}

// The next message at or after `index`, or nothing.
std::optional<Step> next_message(const Plan& plan, Rank rank, Lane lane, uint32_t* index) {
  for (const uint32_t n = plan.steps(rank, lane); *index < n; ++*index) {
    const Step s = plan.step_at(rank, lane, *index);
    if (s.op == Op::send || reads_message(s.op)) return s;
  }
  return std::nullopt;
}

bool same_messages(const Plan& a, const Plan& b, Rank rank, Lane lane) {
  auto chunk = [](const Plan& p, const Step& s) {
    return (s.op == Op::send ? s.src : s.dst) % std::max(1u, p.shape().chunks);
  };
  for (uint32_t i = 0, j = 0;; ++i, ++j) {
    const std::optional<Step> x = next_message(a, rank, lane, &i),
                              y = next_message(b, rank, lane, &j);
    if (!x || !y) return !x && !y;
    if ((x->op == Op::send) != (y->op == Op::send) || x->peer != y->peer || x->count != y->count ||
        (x->count > 0 && chunk(a, *x) != chunk(b, *y)))
      return false;
  }
}

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

uint32_t longest_message(const Plan& plan) {
  uint32_t longest = 0;
  for (Rank r : sample_ranks(plan, k_scan_steps))
    longest = std::max(longest, longest_message(plan, r));
  return longest;
}

bool same_messages(const Plan& a, const Plan& b) {
  if (a.shape().chunks != b.shape().chunks || a.shape().lanes != b.shape().lanes) return false;
  for (Rank r : sample_ranks(a, k_compare_steps))
    for (Lane lane = 0; lane < a.shape().lanes; ++lane)
      if (!same_messages(a, b, r, lane)) return false;
  return true;
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
  // A message of one chunk is contiguous; one of several may not be, and then goes through a slot.
  const uint32_t longest = std::max(1u, longest_message(plan));
  const bool any_size = request.by_reference && longest == 1;
  const uint64_t max_chunk = any_size ? 0 : std::max<uint64_t>(1, request.slot_bytes / longest);
  bound->layout = Layout(shape, request.count, size_of(request.dtype), max_chunk,
                         request.by_reference
                             ? 64
                             : std::min<uint64_t>(k_network_chunk, request.slot_bytes / longest));
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
