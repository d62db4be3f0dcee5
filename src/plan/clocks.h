// What lanes know of each other: happens-before over the steps of all lanes, in two forms with one
// interface. Edges are program order, message (send to its receive) and signal to wait; credits
// give none.
//
//   NeighbourClocks  knows only direct messages between two lanes: cheap, and enough for most
//                    steps of most plans. A "no" means "not known", never "not ordered".
//   VectorClocks<T>  knows everything: a "no" is a fact. Costs a join of one word per lane for
//                    every message.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "src/plan/kahn.h"
#include "src/plan/plan_index.h"

namespace tutti {

// A step of a lane, by the lane's own clock (At::time).
struct Epoch {
  uint32_t lane_id = 0;
  uint32_t time = 0;  // 0: never
};

class NeighbourClocks {
 public:
  static constexpr bool k_complete = false;
  NeighbourClocks(const PlanIndex& index, const KahnLayout& layout)
      : index_(index), sent_(layout.slots()), heard_(index.channels().size()) {}

  void send(const At& at, uint32_t, uint64_t slot) { sent_[slot] = at.time; }
  void receive(const At& at, uint32_t channel, uint64_t slot) {
    heard_[channel] = {sent_[slot], at.time};
  }
  // Does `e` (already run) happen before the step at hand?
  bool before(const Epoch& e, const At& at) const {
    if (e.lane_id == at.lane_id) return true;
    const uint32_t channel = channel_between(e.lane_id, at.lane_id);
    return channel != PlanIndex::k_none && heard_[channel].sent >= e.time;
  }
  // Does `e` happen before the send of the message in `slot`?
  bool before_send(const Epoch& e, uint32_t channel, uint64_t slot) const {
    const uint32_t sender = index_.channels()[channel].from;
    if (e.lane_id == sender) return e.time <= sent_[slot];
    const uint32_t between = channel_between(e.lane_id, sender);
    return between != PlanIndex::k_none && heard_[between].sent >= e.time &&
           heard_[between].received <= sent_[slot];
  }
  bool overflow() const { return false; }

 private:
  struct Heard {
    uint32_t sent = 0, received = 0;  // clocks of the last message's two ends
  };
  uint32_t channel_between(uint32_t from, uint32_t to) const;

  const PlanIndex& index_;
  std::vector<uint32_t> sent_;  // clock of the send, per message in flight
  std::vector<Heard> heard_;    // per channel
};

template <class T>
class VectorClocks {
 public:
  static constexpr bool k_complete = true;
  // More clocks than this are not kept (see overflow()).
  static constexpr uint64_t k_max_bytes = uint64_t{2} << 30;

  VectorClocks(const PlanIndex& index, const KahnLayout& layout);

  void send(const At& at, uint32_t, uint64_t slot) {
    Message& m = messages_[slot];
    m.time = at.time;
    m.clock = lane_clock_[at.lane_id];
    if (m.clock != k_zero) ++references_[m.clock];
  }
  void receive(const At& at, uint32_t channel, uint64_t slot);
  bool before(const Epoch& e, const At& at) const {
    return e.lane_id == at.lane_id || knows(lane_clock_[at.lane_id], e);
  }
  bool before_send(const Epoch& e, uint32_t channel, uint64_t slot) const {
    const Message& m = messages_[slot];
    if (e.lane_id == index_.channels()[channel].from) return e.time <= m.time;
    return knows(m.clock, e);
  }
  // True when memory ran out and answers mean nothing.
  bool overflow() const { return overflow_; }

 private:
  static constexpr uint32_t k_zero = ~uint32_t{0};  // the clock that knows nothing
  struct Message {
    uint32_t time = 0;
    uint32_t clock = k_zero;  // what the sender knew; its own component is `time`
  };

  T* data(uint32_t clock) const { return clocks_[clock].get(); }
  bool knows(uint32_t clock, const Epoch& e) const {
    return clock != k_zero && static_cast<uint32_t>(data(clock)[position_[e.lane_id]]) >= e.time;
  }
  uint32_t allocate();
  void release(uint32_t clock);

  const PlanIndex& index_;
  std::vector<uint32_t> position_;  // of a lane in a clock: lanes without steps have none
  uint32_t width_ = 0;
  std::vector<std::unique_ptr<T[]>> clocks_;
  std::vector<uint32_t> references_, free_;
  std::vector<uint32_t> lane_clock_;
  std::vector<Message> messages_;
  bool overflow_ = false;
};

extern template class VectorClocks<int16_t>;
extern template class VectorClocks<int32_t>;

}  // namespace tutti
