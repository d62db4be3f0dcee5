// KahnRunner: runs all lanes of a plan, single-threaded, as a Kahn network with bounded FIFOs. It
// knows order and blocking; what a step does to data or clocks is up to its Hooks. The outcome
// (including deadlock) does not depend on the order in which lanes are tried.
//
// Blocking, as executors may do it: a send waits until its connection has a free credit; a credit
// returns when the message is consumed; the messages of a pass are awaited together and consumed
// together. With `share_outbox`, a maximal run of sends of one chunk range to different peers takes
// one slot of its lane's outbox (Limits::credits slots), free again when all its readers have
// consumed; its messages then need no credit of their connections unless `both` limits are asked.
//
// Hooks must have
//   void send(const At&, const Step&, uint32_t channel, uint64_t slot);     // send, signal
//   void recv(const At&, const Step&, uint32_t channel, uint64_t slot);     // recv, wait
//   void copy(const At&, const Step&);
//   void pass(const At&, std::span<const Step>, std::span<const Arrival>);  // (recv_)reduce
// where a slot identifies a message in flight: it is written by send and read by its receive.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "src/plan/plan_index.h"

namespace tutti {

struct RunLimits {
  uint32_t credits = 1;        // messages in flight per connection
  uint32_t rounds = 1;         // times that every lane runs its steps
  bool per_connection = true;  // limit messages in flight of each connection
  bool share_outbox = false;   // limit published runs in flight of each lane
};

class KahnLayout {  // message slots of every channel
 public:
  KahnLayout(const PlanIndex& index, const RunLimits& limits);
  uint64_t slots() const { return begin_.back(); }
  uint64_t slot(uint32_t channel, uint32_t sequence) const {
    const uint64_t begin = begin_[channel];
    const auto capacity = static_cast<uint32_t>(begin_[channel + 1] - begin);
    return capacity == 1 ? begin : begin + sequence % capacity;
  }
  uint64_t begin(uint32_t channel) const { return begin_[channel]; }
  uint32_t capacity(uint32_t channel) const {
    return static_cast<uint32_t>(begin_[channel + 1] - begin_[channel]);
  }

 private:
  std::vector<uint64_t> begin_;
};

// Where a step executes.
struct At {
  uint32_t lane_id = 0;  // rank * lanes + lane
  Rank rank = 0;
  uint32_t round = 0;
  uint32_t index = 0;  // of the (first) step in its lane
  uint32_t time = 0;   // 1 + round * steps + index: the lane's own clock
};

// A message of a pass. `operand` is the step's position in the pass.
struct Arrival {
  uint32_t channel = 0;
  uint32_t operand = 0;
  uint64_t slot = 0;
};

template <class Hooks>
class KahnRunner {
 public:
  KahnRunner(const PlanIndex& index, Hooks& hooks, const RunLimits& limits)
      : plan_(index.plan()),
        index_(index),
        hooks_(hooks),
        limits_(clamp(index, limits)),
        layout_(index, limits_),
        lanes_(index.lanes()),
        flow_(index.channels().size()) {
    if (limits_.share_outbox) {
      outbox_.resize(uint64_t{index.lanes()} * limits_.credits);
      run_of_slot_.resize(layout_.slots(), k_no_run);
    }
  }

  const KahnLayout& layout() const { return layout_; }

  // False: deadlock; see stuck().
  bool run() {
    const Shape& shape = index_.shape();
    queue_.reserve(lanes_.size());
    for (uint32_t id = 0; id < lanes_.size(); ++id) {
      lanes_[id].steps = plan_.steps(id / shape.lanes, id % shape.lanes);
      if (lanes_[id].steps > 0) queue_.push_back(id);
    }
    uint64_t live = queue_.size();
    std::vector<uint32_t> batch;
    while (!queue_.empty()) {
      batch.swap(queue_);
      queue_.clear();
      for (uint32_t id : batch) live -= advance(id);
    }
    return live == 0;
  }

  // The first lane that could not finish, as lane id and step index.
  struct Stuck {
    uint32_t lane_id = 0;
    uint32_t index = 0;
  };
  Stuck stuck() const {
    for (uint32_t id = 0; id < lanes_.size(); ++id)
      if (lanes_[id].round < limits_.rounds && lanes_[id].steps > 0) return {id, lanes_[id].index};
    return {};
  }

 private:
  // More credits than a lane has steps change nothing, but would cost memory.
  static RunLimits clamp(const PlanIndex& index, RunLimits limits) {
    uint32_t most = 1;
    const uint32_t per_rank = index.shape().lanes;
    for (uint32_t id = 0; id < index.lanes(); ++id)
      most = std::max(most, index.plan().steps(id / per_rank, id % per_rank));
    const uint64_t useful = uint64_t{most} * limits.rounds;
    limits.credits = static_cast<uint32_t>(std::min<uint64_t>(limits.credits, useful));
    return limits;
  }

  static constexpr uint32_t k_idle = ~uint32_t{0};           // not blocked
  static constexpr uint32_t k_on_outbox = ~uint32_t{0} - 1;  // blocked on an outbox slot
  static constexpr uint32_t k_no_run = ~uint32_t{0};

  struct LaneState {
    uint32_t steps = 0, index = 0, round = 0;
    uint32_t blocked = k_idle;  // channel, or k_on_outbox
    uint32_t out_hint = 0, in_hint = 0;
    uint32_t ready = 0;     // steps of the pass at `index` whose messages have arrived
    uint32_t run_left = 0;  // sends left in the current published run
    uint32_t run = 0;       // published runs so far
    bool has_step = false;
    Step step;  // steps[index], when has_step
  };
  struct Flow {
    uint32_t sent = 0, received = 0;
    uint32_t claimed = 0;   // messages that a waiting pass has already counted
    uint32_t run_mark = 0;  // last published run that used the channel
  };

  At at(uint32_t id) const {
    const LaneState& s = lanes_[id];
    return {id, index_.rank_of(id), s.round, s.index, 1 + s.round * s.steps + s.index};
  }
  Step fetch(uint32_t id, uint32_t i) const {
    const uint32_t per_rank = index_.shape().lanes;
    return plan_.step_at(id / per_rank, id % per_rank, i);
  }

  // Runs the lane until it blocks or ends; true when it ended.
  bool advance(uint32_t id) {
    LaneState& s = lanes_[id];
    s.blocked = k_idle;
    while (true) {
      if (s.index == s.steps) {
        s.index = 0;
        s.has_step = false;
        if (++s.round == limits_.rounds) return true;
      }
      if (!s.has_step) s.step = fetch(id, s.index);
      s.has_step = true;
      bool done = false;
      switch (s.step.op) {
        case Op::send:
        case Op::signal:
          done = try_send(id, s);
          break;
        case Op::recv:
        case Op::wait:
          done = try_recv(id, s);
          break;
        case Op::copy:
          hooks_.copy(at(id), s.step);
          next(s, 1);
          done = true;
          break;
        case Op::recv_reduce:
        case Op::reduce:
          done = try_pass(id, s);
          break;
      }
      if (!done) return false;
    }
  }

  static void next(LaneState& s, uint32_t steps) {
    s.index += steps;
    s.has_step = false;
  }

  bool block(LaneState& s, uint32_t on) {
    s.blocked = on;
    return false;
  }

  void wake(uint32_t id, uint32_t on) {
    if (lanes_[id].blocked != on) return;
    lanes_[id].blocked = k_idle;
    queue_.push_back(id);
  }

  bool try_send(uint32_t id, LaneState& s) {
    const uint32_t channel = index_.out_channel(id, index_.peer_key(s.step), s.out_hint);
    const Channel& c = index_.channels()[channel];
    Flow& f = flow_[channel];
    if (!c.signal) {
      if (limits_.share_outbox && !enter_outbox(id, s)) return block(s, k_on_outbox);
      const bool published = limits_.share_outbox && s.run_left > 0;
      if ((limits_.per_connection || !published) && f.sent - f.received >= limits_.credits)
        return block(s, channel);
    }
    const uint64_t slot = layout_.slot(channel, f.sent);
    if (!c.signal && limits_.share_outbox) tag_message(id, s, slot);
    hooks_.send(at(id), s.step, channel, slot);
    ++f.sent;
    next(s, 1);
    wake(c.to, channel);
    return true;
  }

  // At the first send of a published run: takes an outbox slot, or says that none is free.
  bool enter_outbox(uint32_t id, LaneState& s) {
    if (s.run_left > 0) return true;
    const uint32_t length = published_run(id, s);
    if (length < 2) return true;
    uint32_t& readers = outbox_[uint64_t{id} * limits_.credits + s.run % limits_.credits];
    if (readers > 0) return false;
    readers = length;
    s.run_left = length;
    ++s.run;
    return true;
  }

  // Length of the maximal run of sends of one chunk range to different peers that starts here.
  uint32_t published_run(uint32_t id, const LaneState& s) {
    uint32_t length = 1;
    ++run_mark_;
    uint32_t hint = s.out_hint;
    flow_[index_.out_channel(id, s.step.peer, hint)].run_mark = run_mark_;
    Step previous = s.step;
    for (uint32_t i = s.index + 1; i < s.steps; ++i, ++length) {
      const Step step = fetch(id, i);
      if (!continues_publish(previous, step)) break;
      Flow& f = flow_[index_.out_channel(id, step.peer, hint)];
      if (f.run_mark == run_mark_) break;
      f.run_mark = run_mark_;
      previous = step;
    }
    return length;
  }

  void tag_message(uint32_t id, LaneState& s, uint64_t slot) {
    run_of_slot_[slot] = k_no_run;
    if (s.run_left == 0) return;
    run_of_slot_[slot] = (s.run - 1) % limits_.credits;
    --s.run_left;
    (void)id;
  }

  void consume(uint32_t channel, uint64_t slot) {
    const Channel& c = index_.channels()[channel];
    ++flow_[channel].received;
    if (limits_.share_outbox && run_of_slot_[slot] != k_no_run) {
      uint32_t& readers = outbox_[uint64_t{c.from} * limits_.credits + run_of_slot_[slot]];
      if (--readers == 0) wake(c.from, k_on_outbox);
    }
    wake(c.from, channel);
  }

  bool try_recv(uint32_t id, LaneState& s) {
    const uint32_t channel = index_.in_channel(id, index_.peer_key(s.step), s.in_hint);
    Flow& f = flow_[channel];
    if (f.sent == f.received) return block(s, channel);
    const uint64_t slot = layout_.slot(channel, f.received);
    hooks_.recv(at(id), s.step, channel, slot);
    next(s, 1);
    consume(channel, slot);
    return true;
  }

  // Collects the steps of the pass, and checks from s.ready on that their messages are there.
  bool try_pass(uint32_t id, LaneState& s) {
    steps_.assign(1, s.step);
    uint32_t end = s.index + 1;
    bool ahead = false;  // steps[end] is known
    Step following;
    for (; end < s.steps; ++end) {
      following = fetch(id, end);
      ahead = true;
      if (!continues_pass(steps_.back(), following)) break;
      steps_.push_back(following);
      ahead = false;
    }
    for (; s.ready < steps_.size(); ++s.ready) {
      const Step& step = steps_[s.ready];
      if (step.op != Op::recv_reduce) continue;
      const uint32_t channel = index_.in_channel(id, step.peer, s.in_hint);
      Flow& f = flow_[channel];
      if (f.sent - f.received == f.claimed) return block(s, channel);
      ++f.claimed;
    }
    consume_pass(id, s);
    next(s, static_cast<uint32_t>(steps_.size()));
    s.step = following;
    s.has_step = ahead;
    return true;
  }

  void consume_pass(uint32_t id, LaneState& s) {
    arrivals_.clear();
    for (uint32_t i = 0; i < steps_.size(); ++i) {
      if (steps_[i].op != Op::recv_reduce) continue;
      const uint32_t channel = index_.in_channel(id, steps_[i].peer, s.in_hint);
      Flow& f = flow_[channel];
      // `claimed` counts down to zero again while slots count up.
      const uint64_t slot = layout_.slot(channel, f.received + nth(channel));
      arrivals_.push_back({channel, i, slot});
    }
    hooks_.pass(at(id), steps_, arrivals_);
    for (const Arrival& a : arrivals_) {
      flow_[a.channel].claimed = 0;
      consume(a.channel, a.slot);
    }
    s.ready = 0;
  }

  // How many messages of the channel this pass has already listed: passes rarely hear a peer twice.
  uint32_t nth(uint32_t channel) const {
    if (flow_[channel].claimed <= 1) return 0;
    return static_cast<uint32_t>(
        std::count_if(arrivals_.begin(), arrivals_.end(),
                      [channel](const Arrival& a) { return a.channel == channel; }));
  }

  const Plan& plan_;
  const PlanIndex& index_;
  Hooks& hooks_;
  const RunLimits limits_;
  KahnLayout layout_;
  std::vector<LaneState> lanes_;
  std::vector<Flow> flow_;
  std::vector<uint32_t> queue_;
  std::vector<uint32_t> outbox_;       // readers left, per lane and slot
  std::vector<uint32_t> run_of_slot_;  // outbox slot that a message in flight belongs to
  uint32_t run_mark_ = 0;
  std::vector<Step> steps_;  // of the pass at hand
  std::vector<Arrival> arrivals_;
};

}  // namespace tutti
