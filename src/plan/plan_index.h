// PlanIndex: one scan over a plan that everything later leans on. It checks the structure of every
// step, gives each (source lane, destination lane) connection a dense channel number, and checks
// that the k-th send of a channel meets the k-th receive of equal shape.
//
// Signals inside a rank are channels too: lane l of a rank signals lane m of the same rank under
// the peer key ranks + m. So executors of the plan's meaning see one kind of connection only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/plan/plan.h"
#include "tutti/status.h"

namespace tutti {

// Where chunks live: a rank's memory as cells (one per chunk), with in-place aliasing resolved.
// A rank's cells are its scratch, then for every round its input and output.
class CellMap {
 public:
  explicit CellMap(const Shape& shape, uint32_t rounds = 1);

  uint64_t cells() const { return total_; }
  uint64_t cell(Rank rank, Buffer buffer, uint32_t chunk, uint32_t round = 0) const {
    const Memory& m = memory_[rank];
    if (buffer == Buffer::scratch) return m.base + chunk;
    const uint64_t io = m.base + scratch_ + uint64_t{round} * m.io;
    return io + (buffer == Buffer::input ? m.input : m.output) + chunk;
  }
  // True when the input chunk is also an output chunk (in place).
  bool input_is_output(const Shape& shape, Rank rank, uint32_t chunk) const;
  // First cell after the rank's scratch: cells below it, from base on, are shared by all rounds.
  bool is_scratch(Rank rank, uint64_t cell) const { return cell - memory_[rank].base < scratch_; }
  // Cells of a rank start here; base(ranks) is cells().
  uint64_t base(Rank rank) const { return memory_[rank].base; }

 private:
  struct Memory {
    uint64_t base = 0;    // first cell of the rank
    uint64_t io = 0;      // cells of input and output in one round
    uint64_t input = 0;   // offset of input chunk 0 in a round
    uint64_t output = 0;  // offset of output chunk 0 in a round
  };
  std::vector<Memory> memory_;
  uint64_t scratch_ = 0;
  uint64_t total_ = 0;
};

// Lanes are numbered rank * Shape::lanes + lane.
struct Channel {
  uint32_t from = 0;       // source lane
  uint32_t to = 0;         // destination lane
  uint32_t messages = 0;   // in one round
  uint32_t max_count = 0;  // chunks of the longest message
  bool signal = false;     // tokens inside a rank: never blocks
};

class PlanIndex {
 public:
  explicit PlanIndex(const Plan& plan);

  // ok, or the first step that is out of range, malformed or writes what it must not.
  const Status& structure() const { return structure_; }
  // ok, or the first send and receive that do not fit. Only meaningful when structure() is ok.
  const Status& matching() const { return matching_; }

  const Plan& plan() const { return *plan_; }
  const Shape& shape() const { return plan_->shape(); }
  uint64_t steps() const { return steps_; }
  uint32_t lanes() const { return shape().ranks * shape().lanes; }
  Rank rank_of(uint32_t lane) const { return lane / shape().lanes; }
  // True when some lane sends one chunk range to several peers in a row.
  bool publishes() const { return publishes_; }

  const std::vector<Channel>& channels() const { return channels_; }
  // Peer key of a step: the peer's rank, or ranks + lane for signal and wait.
  uint32_t peer_key(const Step& step) const {
    const bool local = step.op == Op::signal || step.op == Op::wait;
    return local ? shape().ranks + step.peer : step.peer;
  }
  // Channel of a sending step (send, signal) of `lane`; `hint` speeds up repeated look-ups.
  uint32_t out_channel(uint32_t lane, uint32_t key, uint32_t& hint) const {
    return find(out_, lane, key, hint);
  }
  // The channel on which `lane` sends to the peer key, or k_none.
  uint32_t find_out(uint32_t lane, uint32_t key) const {
    uint32_t hint = 0;
    return find(out_, lane, key, hint);
  }
  // Channel of a receiving step (recv, recv_reduce, wait) of `lane`.
  uint32_t in_channel(uint32_t lane, uint32_t key, uint32_t& hint) const {
    return in_channel_[find(in_, lane, key, hint)];
  }
  static constexpr uint32_t k_none = ~uint32_t{0};

 private:
  // For every lane, the sorted keys of the peers it talks to.
  struct Peers {
    std::vector<uint32_t> begin;
    std::vector<uint32_t> key;
  };
  struct Flow;  // what one end of a channel says
  class Scan;

  static uint32_t find(const Peers& peers, uint32_t lane, uint32_t key, uint32_t& hint) {
    const uint32_t begin = peers.begin[lane], end = peers.begin[lane + 1];
    if (begin + hint < end && peers.key[begin + hint] == key) return begin + hint;
    if (begin + hint + 1 < end && peers.key[begin + hint + 1] == key) return begin + ++hint;
    return search(peers, lane, key, hint);
  }
  static uint32_t search(const Peers& peers, uint32_t lane, uint32_t key, uint32_t& hint);

  const Plan* plan_;
  Status structure_;
  Status matching_;
  Peers out_, in_;
  std::vector<uint32_t> in_channel_;
  std::vector<Channel> channels_;
  uint64_t steps_ = 0;
  bool publishes_ = false;
};

// "rank 3 lane 0 step 17 (recv 2 output:4+1)"
std::string describe_step(const Plan& plan, Rank rank, Lane lane, uint32_t index);

// True when `next`, which follows `step` in its lane, publishes the same chunks to another reader.
inline bool continues_publish(const Step& step, const Step& next) {
  return step.op == Op::send && next.op == Op::send && step.count > 0 && step.count == next.count &&
         step.src_buffer == next.src_buffer && step.src == next.src && step.peer != next.peer;
}

}  // namespace tutti
