// The interpreter of device programs: what one worker of one lane does, on a device or, in tests,
// as threads on the host. All that touches flags goes through Memory, all that synchronises threads
// through Block:
//
//   Memory::acquire(p), release(p, v)  64-bit flags, system scope
//   Memory::load(p), store(p, v)       64-bit words, relaxed: packets and the abort flag
//   Memory::pause()                    in a loop that polls
//   Memory::k_long_wait                polls that make a wait long; a multiple of 32
//   Block: thread(), threads(), sync()
//   Block: any(bool)                   a barrier that also tells whether someone said true
//
// Every rule of order is here: data is written, the block syncs, one thread releases a flag; a flag
// is acquired, the block syncs, data is read.
#pragma once

#include "kernels/cuda/reduce.h"
#include "src/cuda/program.h"
#include "src/cuda/units.h"

namespace tutti::cuda {

// Polls after which a range takes what is missing for lost.
inline constexpr uint32_t k_range_patience = 4096;

// What the threads of a block share.
struct BlockState {
  Counters out[k_max_links];
  Counters in[k_max_links];
  const std::byte* sources[k_max_links];
  uint64_t factors[k_max_links];     // of the sources (premul_sum)
  uint64_t own_factor;               // of this rank's input
  std::byte* pointers[k_max_links];  // slots that a message goes to or comes from
  uint32_t numbers[k_max_links];     // of those messages, as packets carry them
};

template <DType kType, Family kFamily, class Memory, class Block>
class Worker {
 public:
  TUTTI_HD Worker(const DeviceCut& cut, const DeviceCall& call, Operator op, uint32_t lane,
                  uint32_t worker, BlockState& state, Block block)
      : cut_(cut),
        call_(call),
        program_(*call.program),
        lane_(program_.lane[lane]),
        op_(op),
        worker_(worker),
        state_(state),
        block_(block) {}

  TUTTI_HD void run(const PlanRange& range) {
    const auto lane = static_cast<uint32_t>(&lane_ - program_.lane);
    Position at{}, end{cut_.layout.rounds(), 0};
    bool alive = true;
    if (!range.whole) {
      at = range.begin[lane];
      end = range.end[lane];
      patience_ = k_range_patience;
      alive = may_begin(range);
    }
    if (range.whole && lane == 0 && worker_ == 0) announce();
    if (lane_.action_count == 0) return;
    enter();
    round_ = at.round;
    for (uint32_t i = at.action; alive && (round_ < end.round || i < end.action);) {
      alive = step(lane_.actions[i]);
      if (++i < lane_.action_count) continue;
      i = 0;
      ++round_;
    }
    leave(alive);
  }

 private:
  static_assert(Memory::k_long_wait % 32 == 0);  // poll()
  using A = Arithmetic<kType, kFamily>;
  using Element = typename A::Element;
  using Verb = DeviceAction::Verb;

  // --- beginning and end of a call

  TUTTI_HD void enter() {
    if (op_.scaled) {
      if (block_.thread() == 0) state_.own_factor = call_.factor.template value<kType>();
      block_.sync();
    }
    each(lane_.out_count, [&](uint32_t i) {
      state_.out[i] = lane_.out[i].counters[worker_];
      if (cut_.wire != Wire::direct || lane_.out[i].ack == nullptr) return;
      // Published with the first flag that is released.
      Inbox& inbox = lane_.out[i].inbox[worker_];
      inbox.buffers = call_.buffers;
      inbox.buffers.base[static_cast<int>(Buffer::scratch)] = program_.scratch;
      inbox.signature = call_.signature;
      if (op_.scaled) inbox.factor = state_.own_factor;
    });
    each(lane_.in_count, [&](uint32_t i) { state_.in[i] = lane_.in[i].counters[worker_]; });
    block_.sync();
  }

  // Says at every peer that this collective is run by a plan (shots.h); by a thread that has little
  // else to do. The end of the kernel before was a fence: who sees this sees all that earlier calls
  // have sent.
  TUTTI_HD void announce() const {
    if (program_.calls == nullptr || block_.thread() + 1 != block_.threads()) return;
    const uint64_t number = program_.calls->made + 1;
    for (uint32_t peer = 0; peer < program_.ranks; ++peer)
      if (program_.notices[peer] != nullptr) Memory::store(program_.notices[peer], number);
    *program_.calls = {number, number};
  }

  // Ranges come one after the other on a stream: after one that failed, the others do nothing.
  TUTTI_HD bool may_begin(const PlanRange& range) {
    if (block_.any(Memory::load(&program_.control->abort) != 0)) return false;
    bool alive = true;
    if (range.gates != nullptr)
      each(range.peers, [&](uint32_t peer) {
        const uint64_t theirs = Memory::load(&range.gates[peer].signature);
        alive = same_call(peer, theirs, call_.signature) && alive;
      });
    return !block_.any(!alive);
  }

  // A rank completes only when what its peers read of it has been read. One that gives up tells its
  // peers, so that they do not wait for it.
  TUTTI_HD void leave(bool alive) {
    block_.sync();
    if (alive && cut_.wire == Wire::direct)
      each(lane_.out_count, [&](uint32_t i) {
        if (lane_.out[i].ack != nullptr)
          static_cast<void>(await_ack(lane_.out[i], state_.out[i].messages));
      });
    if (!alive) {
      const uint64_t left = tag(1);
      each(lane_.out_count, [&](uint32_t i) {
        if (lane_.out[i].ack != nullptr) Memory::release(&lane_.out[i].inbox[worker_].left, left);
      });
      each(lane_.in_count, [&](uint32_t i) {
        if (lane_.in[i].ack != nullptr) Memory::release(&lane_.in[i].ack[worker_].left, left);
      });
    }
    each(lane_.out_count, [&](uint32_t i) { lane_.out[i].counters[worker_] = state_.out[i]; });
    each(lane_.in_count, [&](uint32_t i) { lane_.in[i].counters[worker_] = state_.in[i]; });
  }

  // --- actions; false: aborted

  TUTTI_HD bool step(const DeviceAction& a) {
    switch (a.verb) {
      case Verb::send:
        return bytes(a.src_buffer, a.src, a.count) == 0 || send(a);
      case Verb::recv:
        return bytes(a.dst_buffer, a.dst, a.count) == 0 || receive(a);
      case Verb::pass:
        return bytes(a.dst_buffer, a.dst, a.count) == 0 || pass(a);
      case Verb::copy:
        return copy_chunks(a);
      case Verb::send_token:
        return send_token(a);
      case Verb::recv_token:
        return recv_token(a);
    }
    return false;
  }

  TUTTI_HD bool send(const DeviceAction& a) {
    if (cut_.wire == Wire::direct) {  // what was written before has been synced
      each(a.operands, [&](uint32_t i) {
        const uint32_t link = operand(a, i).link;
        Memory::release(&lane_.out[link].inbox[worker_].head, ++state_.out[link].messages);
      });
      block_.sync();
      return true;
    }
    if (!claim_slots(a)) return false;
    if (cut_.wire == Wire::packets) {
      send_packets(a);
    } else {
      fill_slots(a);
      block_.sync();
      each(a.operands, [&](uint32_t i) {
        const uint32_t link = operand(a, i).link;
        Memory::release(&lane_.out[link].inbox[worker_].head, state_.out[link].messages);
      });
    }
    block_.sync();
    return true;
  }

  // state_.pointers, numbers: where the next message of each reader goes, once there is room.
  TUTTI_HD bool claim_slots(const DeviceAction& a) {
    bool alive = true;
    each(a.operands, [&](uint32_t i) {
      const uint32_t link = operand(a, i).link;
      const uint64_t number = ++state_.out[link].messages;
      if (number > program_.depth)
        alive = await_ack(lane_.out[link], number - program_.depth) && alive;
      if (alive && lane_.out[link].relayed != 0)
        Memory::store(&lane_.out[link].inbox[worker_].sizes[number % program_.depth],
                      size_word(number, cut_.wire == Wire::packets, payload(a)));
      if (alive) Memory::store(tag_of(lane_.out[link], number), tag(number));
      state_.pointers[i] = slot(lane_.out[link], number);
      state_.numbers[i] = static_cast<uint32_t>(number);
    });
    return !block_.any(!alive);
  }

  // Bytes of the message that a send fills, flags left out.
  TUTTI_HD uint64_t payload(const DeviceAction& a) const {
    if (cut_.wire == Wire::slots) return bytes(a.src_buffer, a.src, a.count);
    uint64_t units = 0;
    for (uint32_t c = 0; c < a.count; ++c) units += units_of(slice(a.src_buffer, a.src + c).bytes);
    return units * k_unit;
  }

  TUTTI_HD void send_packets(const DeviceAction& a) {
    uint64_t at = 0;  // units of the message so far
    for (uint32_t c = 0; c < a.count; ++c) {
      const Slice s = slice(a.src_buffer, a.src + c);
      const std::byte* from = base(a.src_buffer) + s.offset;
      const uint64_t units = units_of(s.bytes);
      for (uint64_t u = block_.thread(); u < units; u += block_.threads()) {
        Words<k_unit> data = load_unit<Element>(from, s.bytes, u);
        if (scaled(a.src_buffer)) data = times<kType>(data, state_.own_factor);
        for (uint32_t i = 0; i < a.operands; ++i) {
          auto* packet = reinterpret_cast<uint64_t*>(state_.pointers[i]) + 2 * (at + u);
          const uint64_t flag = uint64_t{state_.numbers[i]} << 32;
          Memory::store(packet, flag | data.w[0]);
          Memory::store(packet + 1, flag | data.w[1]);
        }
      }
      at += units;
    }
  }

  TUTTI_HD void fill_slots(const DeviceAction& a) {
    uint64_t at = 0;
    for (uint32_t c = 0; c < a.count; ++c) {
      const Slice s = slice(a.src_buffer, a.src + c);
      const std::byte* from = base(a.src_buffer) + s.offset;
      for (uint32_t i = 0; i < a.operands; ++i) {
        copy_one(from, state_.pointers[i] + at, s.bytes, a.src_buffer, state_.own_factor);
      }
      at += s.bytes;
    }
  }

  TUTTI_HD bool receive(const DeviceAction& a) {
    if (!await_messages(a)) return false;
    bool alive = true;
    uint64_t at = 0;  // bytes (slots) or units (packets) of the message so far
    const Operand o = operand(a, 0);
    for (uint32_t c = 0; c < a.count; ++c) {
      const Slice s = slice(a.dst_buffer, a.dst + c);
      std::byte* to = base(a.dst_buffer) + s.offset;
      if (cut_.wire == Wire::packets) {
        for (uint64_t u = block_.thread(); u < units_of(s.bytes) && alive; u += block_.threads()) {
          Words<k_unit> data;
          alive = take_unit(a, 0, at + u, data);
          if (alive) store_unit<Element>(to, s.bytes, u, data);
        }
        at += units_of(s.bytes);
      } else {
        const std::byte* from = cut_.wire == Wire::slots
                                    ? state_.pointers[0] + at
                                    : peer_base(o) + slice(o.buffer, o.chunk + c).offset;
        // Only what is read where the peer has it may still lack its factor.
        if (cut_.wire == Wire::direct) {
          copy_one(from, to, s.bytes, o.buffer, peer_inbox(o).factor);
        } else {
          copy(team(), {&from, 1, &to, 1, s.bytes});
        }
        at += s.bytes;
      }
    }
    return consumed(a, alive);
  }

  TUTTI_HD bool pass(const DeviceAction& a) {
    if (!await_messages(a)) return false;
    const Operator op{a.last ? op_.divisor : 0, op_.max, op_.scaled};
    bool alive = true;
    uint64_t at = 0;
    for (uint32_t c = 0; c < a.count; ++c) {
      const Slice s = slice(a.dst_buffer, a.dst + c);
      std::byte* to = base(a.dst_buffer) + s.offset;
      each(a.operands, [&](uint32_t i) {
        state_.sources[i] = source(operand(a, i), i, c, at);
        if (op_.scaled) state_.factors[i] = factor_of(operand(a, i));
      });
      block_.sync();
      if (cut_.wire == Wire::packets) {
        alive = reduce_packets(a, op, s, to, at) && alive;
        at += units_of(s.bytes);
      } else {
        reduce<kType, kFamily>(
            team(), op,
            {state_.sources, a.operands, &to, 1, s.bytes, op_.scaled ? state_.factors : nullptr});
        at += s.bytes;
      }
      if (c + 1 < a.count) block_.sync();  // sources are about to change
    }
    return consumed(a, alive);
  }

  TUTTI_HD const std::byte* source(const Operand& o, uint32_t i, uint32_t c, uint64_t at) const {
    if (o.link == k_local) return base(o.buffer) + slice(o.buffer, o.chunk + c).offset;
    if (cut_.wire == Wire::packets) return nullptr;
    if (cut_.wire == Wire::slots) return state_.pointers[i] + at;
    return peer_base(o) + slice(o.buffer, o.chunk + c).offset;
  }

  // --- premul_sum: whoever reads an input multiplies it by its owner's factor

  TUTTI_HD bool scaled(Buffer from) const {
    return kFamily == Family::sum && op_.scaled && from == Buffer::input;
  }
  TUTTI_HD uint64_t factor_of(const Operand& o) const {
    const bool in_message = o.link != k_local && cut_.wire != Wire::direct;
    if (in_message || o.buffer != Buffer::input) return unit_factor<kType>();
    return o.link == k_local ? state_.own_factor : peer_inbox(o).factor;
  }
  TUTTI_HD void copy_one(const std::byte* from, std::byte* to, uint64_t bytes, Buffer buffer,
                         uint64_t factor) {
    if (!scaled(buffer)) return copy(team(), {&from, 1, &to, 1, bytes});
    reduce<kType, kFamily>(team(), Operator{}, {&from, 1, &to, 1, bytes, &factor});
  }

  TUTTI_HD bool reduce_packets(const DeviceAction& a, Operator op, const Slice& s, std::byte* to,
                               uint64_t at) {
    const A arithmetic(op);
    constexpr uint32_t k_each = k_unit / sizeof(Element);
    for (uint64_t u = block_.thread(); u < units_of(s.bytes); u += block_.threads()) {
      Words<k_unit> data;
      if (!operand_unit(a, 0, s, at, u, data)) return false;
      typename A::Wide acc[k_each];
      TUTTI_HD_UNROLL(8)
      for (uint32_t e = 0; e < k_each; ++e) acc[e] = arithmetic.load(data.template get<Element>(e));
      for (uint32_t i = 1; i < a.operands; ++i) {
        if (!operand_unit(a, i, s, at, u, data)) return false;
        TUTTI_HD_UNROLL(8)
        for (uint32_t e = 0; e < k_each; ++e)
          acc[e] = arithmetic.combine(acc[e], arithmetic.load(data.template get<Element>(e)));
      }
      Words<k_unit> result{};
      TUTTI_HD_UNROLL(8)
      for (uint32_t e = 0; e < k_each; ++e) result.put(e, arithmetic.finish(acc[e]));
      store_unit<Element>(to, s.bytes, u, result);
    }
    return true;
  }

  // Unit u of operand i: local memory, or a message as it arrives.
  TUTTI_HD bool operand_unit(const DeviceAction& a, uint32_t i, const Slice& s, uint64_t at,
                             uint64_t u, Words<k_unit>& data) const {
    if (state_.sources[i] == nullptr) return take_unit(a, i, at + u, data);
    data = load_unit<Element>(state_.sources[i], s.bytes, u);
    if (op_.scaled) data = times<kType>(data, state_.factors[i]);
    return true;
  }

  TUTTI_HD bool copy_chunks(const DeviceAction& a) {
    for (uint32_t c = 0; c < a.count; ++c) {
      const Slice s = slice(a.dst_buffer, a.dst + c);
      const std::byte* from = base(a.src_buffer) + slice(a.src_buffer, a.src + c).offset;
      std::byte* to = base(a.dst_buffer) + s.offset;
      if (s.bytes > 0) copy_one(from, to, s.bytes, a.src_buffer, state_.own_factor);
    }
    block_.sync();
    return true;
  }

  TUTTI_HD bool send_token(const DeviceAction& a) {
    each(a.operands, [&](uint32_t i) {
      const uint32_t link = operand(a, i).link;
      Memory::release(&lane_.out[link].inbox[worker_].tokens, ++state_.out[link].tokens);
    });
    block_.sync();
    return true;
  }

  TUTTI_HD bool recv_token(const DeviceAction& a) {
    bool alive = true;
    each(a.operands, [&](uint32_t i) {
      const uint32_t link = operand(a, i).link;
      const uint64_t number = ++state_.in[link].tokens;
      alive = await(lane_.in[link], &lane_.in[link].inbox[worker_].tokens, number) && alive;
    });
    return !block_.any(!alive);
  }

  // --- messages

  // Waits for every message of the action; of packets only for the tag: they are waited for one by
  // one as they are read.
  TUTTI_HD bool await_messages(const DeviceAction& a) {
    bool alive = true;
    each(a.operands, [&](uint32_t i) {
      const uint32_t link = operand(a, i).link;
      if (link == k_local) return;
      const uint64_t number = ++state_.in[link].messages;
      state_.numbers[i] = static_cast<uint32_t>(number);
      state_.pointers[i] = slot(lane_.in[link], number);
      alive = arrived(lane_.in[link], number) && alive;
    });
    return !block_.any(!alive);
  }

  // What all threads have read is given back.
  TUTTI_HD bool consumed(const DeviceAction& a, bool alive) {
    if (block_.any(!alive)) return false;
    each(a.operands, [&](uint32_t i) {
      const uint32_t link = operand(a, i).link;
      if (link != k_local)
        Memory::release(&lane_.in[link].ack[worker_].tail, state_.in[link].messages);
    });
    block_.sync();  // another thread may count the link's next message
    return true;
  }

  TUTTI_HD bool arrived(const Link& link, uint64_t number) {
    const Inbox& inbox = link.inbox[worker_];
    if (cut_.wire == Wire::direct)
      return await(link, &inbox.head, number) &&
             same_call(link.peer, inbox.signature, call_.signature);
    uint64_t theirs = 0;
    const auto here = [&] {
      theirs = Memory::load(tag_of(link, number));
      return theirs >> 32 == low(number);
    };
    return poll(link, &inbox.left, here) &&
           same_call(link.peer, low(theirs), low(call_.signature)) &&
           (cut_.wire == Wire::packets || await(link, &inbox.head, number));
  }
  // Each message has a tag, so that it can be told from what its place held before.
  TUTTI_HD uint64_t* tag_of(const Link& link, uint64_t number) const {
    return &link.inbox[worker_].tags[number % program_.depth];
  }
  TUTTI_HD uint64_t tag(uint64_t number) const { return number << 32 | low(call_.signature); }
  TUTTI_HD static uint64_t low(uint64_t word) { return word & 0xffffffff; }

  TUTTI_HD bool same_call(uint32_t peer, uint64_t theirs, uint64_t ours) const {
    if (theirs == ours) return true;
    Memory::store(&program_.control->their_signature, theirs);
    Memory::store(&program_.control->mismatch, uint64_t{peer} + 1);
    Memory::store(&program_.control->abort, 1);
    return false;
  }
  TUTTI_HD void note_left(const Link& link) const {
    Memory::store(&program_.control->left, uint64_t{link.peer} + 1);
    Memory::store(&program_.control->abort, 1);
  }

  TUTTI_HD bool await(const Link& link, const uint64_t* flag, uint64_t number) const {
    return poll(link, &link.inbox[worker_].left, [&] { return Memory::acquire(flag) >= number; });
  }
  TUTTI_HD bool await_ack(const Link& link, uint64_t number) const {
    const Ack& ack = link.ack[worker_];
    return poll(link, &ack.left, [&] { return Memory::acquire(&ack.tail) >= number; });
  }

  TUTTI_HD bool take_unit(const DeviceAction& a, uint32_t i, uint64_t unit,
                          Words<k_unit>& data) const {
    const auto* packet = reinterpret_cast<const uint64_t*>(state_.pointers[i]) + 2 * unit;
    const uint32_t number = state_.numbers[i];
    const auto here = [&] {
      const uint64_t first = Memory::load(packet), second = Memory::load(packet + 1);
      data.w[0] = static_cast<uint32_t>(first);
      data.w[1] = static_cast<uint32_t>(second);
      return first >> 32 == number && second >> 32 == number;
    };
    if (here()) return true;
    const Link& link = lane_.in[operand(a, i).link];
    return poll(link, &link.inbox[worker_].left, here);
  }

  // Until `done`; false when the host said to leave, or the peer has left without it. A range waits
  // for no peer: what is not there soon will not come.
  template <class Done>
  TUTTI_HD bool poll(const Link& link, const uint64_t* left, Done&& done) const {
    for (uint32_t turn = 1;; ++turn) {
      if (done()) return true;
      if (turn % 32 == 0) {
        if (Memory::load(&program_.control->abort) != 0) return false;
        // For the host, which may know that nobody will come.
        if (turn % Memory::k_long_wait == 0)
          Memory::store(&program_.control->awaited, uint64_t{link.peer} + 1);
        // What a peer did before it left is done.
        if (const uint64_t gone = Memory::acquire(left); gone != 0 && !done()) {
          if (same_call(link.peer, low(gone), low(call_.signature))) note_left(link);
          return false;
        }
        if (patience_ != 0 && turn >= patience_ && link.ack != nullptr) {
          note_left(link);
          return false;
        }
      }
      Memory::pause();
    }
  }

  TUTTI_HD std::byte* slot(const Link& link, uint64_t number) const {
    const uint64_t index = uint64_t{worker_} * program_.depth + number % program_.depth;
    if (cut_.wire == Wire::packets) return link.packets + index * 2 * cut_.slot_bytes;
    return link.slots + index * cut_.slot_bytes;
  }

  // --- places

  TUTTI_HD std::byte* base(Buffer buffer) const {
    return buffer == Buffer::scratch ? program_.scratch
                                     : call_.buffers.base[static_cast<int>(buffer)];
  }
  TUTTI_HD const std::byte* peer_base(const Operand& o) const {
    return peer_inbox(o).buffers.base[static_cast<int>(o.buffer)];
  }
  TUTTI_HD const Inbox& peer_inbox(const Operand& o) const {
    return lane_.in[o.link].inbox[worker_];
  }
  TUTTI_HD Slice slice(Buffer buffer, uint32_t chunk) const {
    return slice_of(cut_.layout.chunk(buffer, chunk, round_), worker_, cut_.share);
  }
  TUTTI_HD uint64_t bytes(Buffer buffer, uint32_t first, uint32_t count) const {
    uint64_t total = 0;
    for (uint32_t c = first; c < first + count; ++c) total += slice(buffer, c).bytes;
    return total;
  }
  TUTTI_HD const Operand& operand(const DeviceAction& a, uint32_t i) const {
    return lane_.operands[a.first_operand + i];
  }
  TUTTI_HD Team team() const { return {block_.thread(), block_.threads()}; }
  // f(i) for i < n, shared out among the threads.
  template <class F>
  TUTTI_HD void each(uint32_t n, F&& f) const {
    for (uint32_t i = block_.thread(); i < n; i += block_.threads()) f(i);
  }

  const DeviceCut& cut_;
  const DeviceCall& call_;
  const DeviceProgram& program_;
  const DeviceLane& lane_;
  Operator op_;
  uint32_t worker_;
  uint32_t round_ = 0;
  uint32_t patience_ = 0;  // polls for a peer; 0: without end
  BlockState& state_;
  mutable Block block_;
};

}  // namespace tutti::cuda
