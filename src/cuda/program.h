// A device program: a bound plan of one rank as plain data that a kernel reads.
//
// A lane runs as W *workers* (blocks). Worker w owns 1/W of every chunk, and flags of its own
// towards worker w of the same lane on other ranks: the workers are W independent runs of the plan
// on disjoint parts of the data, so what verify() proves of the plan holds for each of them.
//
// Ranks talk through *windows*, memory of each rank that its peers can reach (same process, or CUDA
// IPC; for peers on other hosts, mirrors of them: mirror.h). For every (peer, lane, worker) a
// window has an inbox, which the peer writes, and an ack, which tells this rank how much the peer
// has consumed. Message numbers only grow and live in device memory from call to call, so a
// captured graph can be replayed.
//
// A program says who talks to whom, in which order; how a call is cut into bytes is its DeviceCut,
// which is an argument of the launch. So one program serves every size and type of a plan.
//
// Three wire protocols, one per call, the same on every rank:
//   packets  small: 4 bytes of data and 4 bytes of flag in each 8-byte word; nothing else to wait
//   for slots    the sender copies the message into the receiver's window, then raises the flag
//   direct   the receiver reads the sender's buffer between the flag and its ack (pull)
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/words.h"
#include "src/plan/layout.h"

namespace tutti::cuda {

inline constexpr uint32_t k_local = ~uint32_t{0};  // an operand in this rank's own memory
// Operands of a pass, or readers of a publication; also links of a lane in one direction.
inline constexpr uint32_t k_max_links = 64;
// Messages in flight per link through slots, at most.
inline constexpr uint32_t k_max_depth = 8;

enum class Wire : uint8_t { packets, slots, direct };

// The buffers of one call; scratch belongs to the program.
struct Buffers {
  std::byte* base[k_buffers] = {};  // by Buffer
};

// Written by the sender's worker, read by the receiver's.
struct alignas(128) Inbox {
  uint64_t head;       // number of the latest message (slots, direct)
  uint64_t tokens;     // tokens sent so far
  Buffers buffers;     // of the sender's current call (direct)
  uint64_t signature;  // of that call
  uint64_t factor;     // premul_sum: of the sender
  // Packets, slots: by message number modulo the depth, the number (high half) and half of the
  // call's signature, written as one word.
  uint64_t tags[k_max_depth];
  uint64_t left;  // not zero: the sender gave up; like a tag, with number 1
  // Likewise, where a proxy passes messages on: what it has to know of them (size_word()).
  uint64_t sizes[k_max_depth];
};
static_assert(sizeof(Inbox) == 256);
struct alignas(128) Ack {
  uint64_t tail;  // number of the latest message that the receiver has consumed
  uint64_t left;  // as in Inbox, of the receiver
};
// What one end of a link remembers between calls; nobody else looks at it.
struct Counters {
  uint64_t messages;
  uint64_t tokens;
};

// What a rank has called so far; nobody else looks at it.
struct CallCounters {
  uint64_t made;     // collectives
  uint64_t by_plan;  // the last of them that a plan ran
};

// One direction of a connection as a lane's worker 0 sees it; worker w has the next ones.
struct Link {
  Inbox* inbox = nullptr;        // in the receiver's window
  Ack* ack = nullptr;            // in the sender's window
  std::byte* packets = nullptr;  // in the receiver's window: `depth` slots a worker
  std::byte* slots = nullptr;    // likewise
  Counters* counters = nullptr;  // of this end
  uint32_t peer = 0;
  uint32_t relayed = 0;  // not zero: the peer is on another host, a proxy passes messages on
};

struct Operand {
  uint32_t link = k_local;
  Buffer buffer = Buffer::input;  // of this rank; for a message, where the sender has it
  uint32_t chunk = 0;
};

// A send to several readers, a pass, ...: what a worker does at once.
struct DeviceAction {
  enum class Verb : uint8_t { send, recv, pass, copy, send_token, recv_token };
  Verb verb = Verb::copy;
  bool last = false;  // avg divides
  Buffer dst_buffer = Buffer::input;
  Buffer src_buffer = Buffer::input;
  uint32_t count = 0;  // chunks
  uint32_t dst = 0;
  uint32_t src = 0;
  uint32_t first_operand = 0;  // send: links out; recv, pass: operands; tokens: links
  uint32_t operands = 0;
};

struct DeviceLane {
  const DeviceAction* actions = nullptr;
  const Operand* operands = nullptr;
  const Link* out = nullptr;
  const Link* in = nullptr;
  uint32_t action_count = 0;
  uint32_t out_count = 0;
  uint32_t in_count = 0;
};

// In memory that the host can write at any time.
struct Control {
  uint64_t abort = 0;     // not zero: every worker leaves as soon as it sees it
  uint64_t mismatch = 0;  // 1 + the peer whose call differs
  uint64_t their_signature = 0;
  uint64_t left = 0;     // 1 + the peer that gave up a call like ours
  uint64_t awaited = 0;  // 1 + a peer that a worker has waited for for long
};

// What one rank's stream writes into another's gates (gates.h), in memory of the host.
struct alignas(64) Gate {
  uint32_t reached[2];  // how far the writer has come, in either set
  uint64_t signature;   // of its call; written before the first number of a call
  uint32_t left;        // not zero: the writer gave up
};
static_assert(sizeof(Gate) == 64);

// A place in a lane's run: action `action` of round `round` is the next one.
struct Position {
  uint32_t round = 0;
  uint32_t action = 0;
  bool operator==(const Position&) const = default;
};
inline constexpr uint32_t k_max_range_lanes = 4;
// The part of a call that a launch runs: all of it, waiting for peers where it has to; or a range
// for which everything is there before it starts (ranges.h), so that it never waits for a peer.
struct PlanRange {
  bool whole = true;
  Position begin[k_max_range_lanes], end[k_max_range_lanes];  // by lane
  // Not null: the peers' gates, `peers` of them, whose signatures must be that of this call.
  const Gate* gates = nullptr;
  uint32_t peers = 0;
};

struct DeviceProgram {
  uint32_t lanes = 0;
  uint32_t depth = 1;  // messages in flight per link (packets, slots)
  const DeviceLane* lane = nullptr;
  std::byte* scratch = nullptr;
  Control* control = nullptr;
  // Where windows serve calls of one and two shots (shots.h), else null: what this rank has called,
  // and by rank where its peers look for the number of the last call that a plan ran.
  CallCounters* calls = nullptr;
  uint64_t* const* notices = nullptr;
  uint32_t ranks = 0;
};

// How a call is cut; the same on every rank.
struct DeviceCut {
  Layout layout;
  Wire wire = Wire::direct;
  uint32_t workers = 1;
  uint32_t slot_bytes = 0;  // payload of a slot
  uint64_t share = 0;       // bytes of a full chunk that fall to one worker
};

// What premul_sum multiplies a rank's input by: an element in the low bytes of `bits`, or in memory
// that the device reads when the call runs.
struct Factor {
  uint64_t bits = 0;
  const std::byte* at = nullptr;

  template <DType kType>
  TUTTI_HD uint64_t value() const {
    using Element = typename Premultiplier<kType>::Element;
    return at == nullptr ? bits : static_cast<uint64_t>(load_element<Element>(at));
  }
};

// What a launch says of one rank's call.
struct DeviceCall {
  const DeviceProgram* program = nullptr;
  Buffers buffers;
  uint64_t signature = 0;
  Factor factor{};
};

// Part `index` of an extent, in shares of `share` bytes. A worker's share is that of a full chunk
// in every round: what it owns of a scratch chunk is the same bytes also where the last round is
// shorter.
struct Slice {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};
TUTTI_HD inline Slice slice_of(const Extent& extent, uint32_t index, uint64_t share) {
  const uint64_t begin = index * share < extent.bytes ? index * share : extent.bytes;
  const uint64_t left = extent.bytes - begin;
  return {extent.offset + begin, left < share ? left : share};
}
// Shares are whole cache lines: parts have no line in common where chunks have none.
TUTTI_HD constexpr uint64_t share_of(uint64_t bytes, uint32_t parts) {
  constexpr uint64_t k_line = 64;
  return ((bytes + parts - 1) / parts + k_line - 1) / k_line * k_line;
}

// What the sender tells the proxy of a message, in one word: its number (high half), how it lies in
// its slot, and its bytes, flags left out.
inline constexpr uint32_t k_in_packets = uint32_t{1} << 31;
TUTTI_HD constexpr uint64_t size_word(uint64_t number, bool packets, uint64_t bytes) {
  return number << 32 | (packets ? k_in_packets : 0) | bytes;
}

}  // namespace tutti::cuda
