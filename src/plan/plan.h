// A Plan: the schedule of one collective as data.
//
// A plan names chunks, peers and order, and nothing else: no pointer, byte size, element type,
// reduction operator or environment. One plan has one meaning and many readers: executors run it,
// the simulator times it, verify() proves it, draw and text show it.
//
// Meaning. Every rank has a few *lanes*; a lane is a sequential list of steps. Lanes talk by FIFO
// messages between (source rank, destination rank, lane) - lane l of the source talks to lane l of
// the destination - and, inside a rank, by signal/wait tokens. There is no receive-from-any, so a
// plan is a Kahn network: its result does not depend on scheduling.
//
// Chunks. A *block* is one rank's contribution (`count` elements of the call), cut into
// `Shape::chunks` chunks. Buffers, in chunks (n = ranks, C = Shape::chunks):
//
//   collective       input   output          in place: input chunk c is
//   all_reduce       C       C               output chunk c
//   reduce_scatter   n*C     C               output chunk c = input chunk rank*C + c
//   all_gather       C       n*C             input chunk c  = output chunk rank*C + c
//   broadcast        C       C               output chunk c (the root's; others have no input)
//   reduce           C       C               output chunk c (others have no output)
//   all_to_all       n*C     n*C             output chunk c
//   all_to_all_v     n*C     n*C             never in place; chunk lengths come from the counts
//   gather           C       n*C             root: output chunk root*C + c (others: no output)
//   scatter          n*C     C               root: output chunk c = input chunk root*C + c
//   send_recv        n*C     n*C             never in place; block p is what goes to / comes from p
//   barrier          0       0               -
//
// Scratch holds Shape::scratch chunks. The length of any chunk i, in any buffer, is that of chunk
// (i mod C) of a block (all_to_all_v and send_recv, which have C = 1 and no scratch, excepted).
// `input` is never written unless in place.
//
// A send or recv of zero chunks (count == 0) is a *token*: it carries no payload and is never
// elided. A step whose chunks all have zero bytes in a given call is elided at both ends.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tutti/types.h"

namespace tutti {

using Lane = uint32_t;

enum class Op : uint8_t {
  send,         // src -> peer
  recv,         // dst = message from peer
  recv_reduce,  // dst = src (op) message from peer
  copy,         // dst = src
  reduce,       // dst = dst (op) src
  signal,       // give a token to lane `peer` of this rank
  wait,         // take a token that lane `peer` of this rank signalled to this lane
};
inline constexpr int k_ops = 7;
std::string_view name(Op op);

enum class Buffer : uint8_t { input, output, scratch };
inline constexpr int k_buffers = 3;
std::string_view name(Buffer buffer);

// One step. Unused fields are zero. `dst`/`src` are first chunks of ranges of `count` chunks.
//
// Passes. A maximal run of consecutive steps of one lane, each recv_reduce or reduce, all into the
// same dst range, where each step after the first continues the accumulation (recv_reduce with
// src == dst; reduce always), is one *pass*: dst = src0 op r1 op r2 ..., accumulated in the wide
// type in step order and rounded once. Executors run a pass as one n-ary operation.
struct Step {
  Op op = Op::send;
  Buffer dst_buffer = Buffer::input;
  Buffer src_buffer = Buffer::input;
  bool last = false;   // this step makes the final value of dst: avg divides here
  uint32_t count = 0;  // chunks
  uint32_t peer = 0;   // rank for send/recv/recv_reduce; lane for signal/wait
  uint32_t dst = 0;    // chunk
  uint32_t src = 0;    // chunk

  bool operator==(const Step&) const = default;
};

inline bool reads_message(Op op) { return op == Op::recv || op == Op::recv_reduce; }
inline bool writes_dst(Op op) {
  return op == Op::recv || op == Op::recv_reduce || op == Op::copy || op == Op::reduce;
}
inline bool reads_src(Op op) {
  return op == Op::send || op == Op::recv_reduce || op == Op::copy || op == Op::reduce;
}
// True when `next`, which follows `step` in its lane, belongs to the same pass.
inline bool continues_pass(const Step& step, const Step& next) {
  auto reducing = [](Op op) { return op == Op::recv_reduce || op == Op::reduce; };
  return reducing(step.op) && reducing(next.op) && step.dst_buffer == next.dst_buffer &&
         step.dst == next.dst && step.count == next.count &&
         (next.op == Op::reduce || (next.src_buffer == next.dst_buffer && next.src == next.dst));
}

// Which ranks are near each other, innermost level first (GPU, NUMA node, host, rack ...).
// level[l][r] is the id of rank r's group at level l; groups of level l nest in those of l+1.
// No levels means flat. Groups may be uneven.
struct Hierarchy {
  std::vector<std::vector<uint32_t>> level;

  bool operator==(const Hierarchy&) const = default;
  // Contiguous ranks in even groups: even(32, {4, 2}) is groups of 4 ranks, and racks of 2 groups.
  static Hierarchy even(uint32_t ranks, const std::vector<uint32_t>& group_sizes);
};

// Everything a plan depends on. Two ranks with equal algorithm and shape have the same plan.
struct Shape {
  Collective collective = Collective::all_reduce;
  uint32_t ranks = 1;
  uint32_t chunks = 1;  // C: chunks of a block
  uint32_t lanes = 1;   // lanes per rank; some may be empty on some ranks
  Rank root = 0;        // broadcast, reduce, gather, scatter
  bool in_place = false;
  uint32_t scratch = 0;  // scratch chunks per rank
  uint32_t credits = 1;  // messages per (source, destination, lane) that must fit in flight
  uint32_t longest = 1;  // chunks of the longest message
  Hierarchy hierarchy;

  bool operator==(const Shape&) const = default;
  uint32_t input_chunks(Rank rank) const;   // 0 where the rank has no input
  uint32_t output_chunks(Rank rank) const;  // 0 where the rank has no output
};

// An indexable plan. steps() and step_at() are pure and safe to call from any thread.
class Plan {
 public:
  virtual ~Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  const Shape& shape() const { return shape_; }
  const std::string& algorithm() const { return algorithm_; }
  // 64-bit hash of algorithm, shape and the plan format version: part of every call's signature.
  uint64_t id() const { return id_; }

  virtual uint32_t steps(Rank rank, Lane lane) const = 0;
  virtual Step step_at(Rank rank, Lane lane, uint32_t index) const = 0;

 protected:
  Plan(std::string algorithm, Shape shape);

 private:
  std::string algorithm_;
  Shape shape_;
  uint64_t id_;
};

using PlanPtr = std::shared_ptr<const Plan>;

// A plan held as tables: for irregular algorithms, parsed text and mutants.
class TablePlan final : public Plan {
 public:
  // table[rank][lane] is that lane's steps.
  using Table = std::vector<std::vector<std::vector<Step>>>;
  TablePlan(std::string algorithm, Shape shape, Table table);
  uint32_t steps(Rank rank, Lane lane) const override;
  Step step_at(Rank rank, Lane lane, uint32_t index) const override;

 private:
  Table table_;
};

// Bumped whenever the meaning of a plan changes; ranks with different values refuse each other.
inline constexpr uint32_t k_plan_format = 1;

}  // namespace tutti
