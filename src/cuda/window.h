// The layout of a rank's window: where peers find inboxes, acks and slots. All ranks of a
// communicator have windows of one shape, so that an address is a base and an offset.
#pragma once

#include "src/cuda/program.h"
#include "src/cuda/units.h"

namespace tutti::cuda {

struct WindowShape {
  uint32_t ranks = 1;
  uint32_t lanes = 4;         // the most that a program may have; transfers have one more
  uint32_t workers = 8;       // likewise, per lane
  uint32_t depth = 4;         // messages in flight per link through slots
  uint32_t packet_bytes = 0;  // payload of a slot of packets, per worker
  uint32_t slot_bytes = 0;    // payload of a plain slot, per worker; 0: there are none
  // Calls of one and two shots (shots.h): blocks of a launch, at most, and the payload that each of
  // them gets from a peer. 0: there are none.
  uint32_t shot_blocks = 0;
  uint32_t shot_bytes = 0;

  // The lane of sends and receives (transfers.h).
  uint32_t transfer_lane() const { return lanes; }
  uint32_t all_lanes() const { return lanes + 1; }

  // Of worker 0 of a lane, towards or from `peer`.
  uint64_t inbox(uint32_t peer, uint32_t lane) const { return place(peer, lane) * sizeof(Inbox); }
  // Tokens from one lane to another of this rank.
  uint64_t signal(uint32_t from, uint32_t to) const {
    return inboxes() + (uint64_t{from} * lanes + to) * workers * sizeof(Inbox);
  }
  uint64_t ack(uint32_t peer, uint32_t lane) const {
    return signal(lanes, 0) + place(peer, lane) * sizeof(Ack);
  }
  uint64_t packets(uint32_t peer, uint32_t lane) const {
    return ack(ranks, 0) + place(peer, lane) * depth * 2 * packet_bytes;
  }
  uint64_t slots(uint32_t peer, uint32_t lane) const {
    return packets(ranks, 0) + place(peer, lane) * depth * slot_bytes;
  }
  bool shots() const { return shot_blocks > 0 && shot_bytes > 0; }
  // By peer: the number of the last collective that a plan ran there.
  uint64_t notice(uint32_t peer) const {
    return line(slots(ranks, 0)) + (shots() ? peer * sizeof(uint64_t) : 0);
  }
  // Of block 0: its call's signature as a packet, and packets of data, in one of two halves.
  uint64_t shot_signature(uint32_t half, uint32_t peer) const {
    return line(notice(ranks)) + shot(half, peer) * 2 * k_unit;
  }
  uint64_t shot_packets(uint32_t half, uint32_t peer) const {
    return line(shot_signature(2, 0)) + shot(half, peer) * 2 * shot_bytes;
  }
  // What the rank keeps to itself.
  uint64_t counters_out(uint32_t peer, uint32_t lane) const {
    return line(shot_packets(2, 0)) + place(peer, lane) * sizeof(Counters);
  }
  uint64_t counters_in(uint32_t peer, uint32_t lane) const {
    return counters_out(ranks, 0) + place(peer, lane) * sizeof(Counters);
  }
  uint64_t counters_signal(uint32_t from, uint32_t to, bool out) const {
    const uint64_t pair = (uint64_t{from} * lanes + to) * 2 + (out ? 1 : 0);
    return counters_in(ranks, 0) + pair * workers * sizeof(Counters);
  }
  uint64_t call_counters() const { return counters_signal(lanes, 0, false); }
  // By block, so many calls that it had a part of.
  uint64_t shot_numbers() const { return call_counters() + (shots() ? sizeof(CallCounters) : 0); }
  uint64_t bytes() const { return line(shot_numbers() + shot_blocks * sizeof(uint64_t)); }
  // What of a window two ranks use between them, as a window that has a place for one peer alone.
  WindowShape between_two() const {
    WindowShape shape = *this;
    shape.ranks = 1;
    return shape;
  }
  WindowShape without_shots() const {
    WindowShape shape = *this;
    shape.shot_blocks = shape.shot_bytes = 0;
    return shape;
  }
  uint64_t shared_bytes() const { return counters_out(0, 0); }

 private:
  uint64_t place(uint32_t peer, uint32_t lane) const {
    return (uint64_t{peer} * all_lanes() + lane) * workers;
  }
  uint64_t inboxes() const { return place(ranks, 0) * sizeof(Inbox); }
  uint64_t shot(uint32_t half, uint32_t peer) const {
    return shots() ? (uint64_t{half} * ranks + peer) * shot_blocks : 0;
  }
  static uint64_t line(uint64_t bytes) { return (bytes + 127) / 128 * 128; }
};

// What stands for the windows of this rank and a peer on another host (mirrors.h), each laid out as
// WindowShape::between_two().
struct Mirror {
  std::byte* there = nullptr;  // for the peer's: this rank's kernels write into it
  std::byte* here = nullptr;   // for this rank's own: its kernels read it
};

}  // namespace tutti::cuda
