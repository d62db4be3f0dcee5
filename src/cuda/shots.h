// Small all_reduces over windows: what a block does of a call of one or two shots, on a device or,
// in tests, as threads on the host (Memory and Block as in interpreter.h, and besides
//
//   Memory::load_pair(p, a, b), store_pair(p, a, b)   two words in one access, each of them whole).
//
// The same algorithms as plans (src/algorithms/direct.h), to the bit, without what plans cost: no
// steps to read, no acks, no barrier before the end. One shot: every rank gives its input to all,
// each adds up in the order of the ranks. Two shots: rank r adds up slice r, its own part first and
// then those of the ranks behind it, and gives the result to all.
//
// Data travels as packets: 16 bytes of two words, each 4 bytes of data and a flag, the number of
// the message. A block owns a share of every slice, a message number and a place in every peer's
// window for its packets; block b speaks to block b of the other ranks and to nobody else. The
// first packet of a message is the call's signature, so that every block hears from every peer in
// every call, also where there is no data for it.
//
// Why two halves of that place are enough, used in turns: rank a writes message m of a block into
// rank b after a has ended message m-1, hence after it got b's signature of m-1, which b sent after
// it had ended m-2: kernels of a rank run one after the other. So b has read all of m-2, and m may
// lie where m-2 lay. One half would not do: a may be through with m-1, and begin m, while b still
// reads m-1. Both shots of a call lie in one half, apart from each other.
//
// A flag comes again after 2^32 messages. Long before, each half has all its places that a call
// leaves alone marked by their owner, to whom nobody writes there meanwhile.
#pragma once

#include "kernels/cuda/arithmetic.h"
#include "src/cuda/program.h"
#include "src/cuda/units.h"

namespace tutti::cuda {

// Ranks that a launch may run at once, as one grid.
inline constexpr uint32_t k_shot_ranks = 8;
// A block's number, once it gave up: it sends nothing any more.
inline constexpr uint64_t k_shot_over = ~uint64_t{0};
// Messages between two times that a half is marked anew.
inline constexpr uint64_t k_shot_lap = uint64_t{1} << 30;

// Where things lie in a window (WindowShape), in bytes from its begin.
struct ShotPlaces {
  uint64_t acks = 0;  // by peer, lane and worker; inboxes are at the begin
  uint64_t notices = 0;
  uint64_t signatures = 0, packets = 0;  // of half 0, from rank 0, for block 0
  uint64_t call_counters = 0, numbers = 0;
  uint32_t links = 0;       // inboxes and acks of a peer
  uint32_t plan_links = 0;  // those of them that plans use, which come first
  uint32_t blocks = 0;      // with a place
  uint32_t units = 0;       // that a block gets from a peer, at most; even
};

// What a launch says of one rank's call.
struct ShotCall {
  const std::byte* input = nullptr;
  std::byte* output = nullptr;
  uint64_t signature = 0;
  Factor factor{};  // premul_sum
  Control* control = nullptr;
  uint32_t rank = 0;
};

struct ShotLaunch {
  std::byte* windows[k_max_links];  // by rank
  ShotPlaces places;
  Operator op;
  uint32_t ranks;
  uint32_t bytes;   // of the buffers
  uint32_t slice;   // two shots: that each rank adds up; 0: one shot
  uint32_t share;   // of a slice (of the buffer) that falls to one block; whole units
  uint32_t blocks;  // of a rank
  ShotCall calls[k_shot_ranks];
};
static_assert(sizeof(ShotLaunch) <= 4096, "arguments of a kernel");

template <DType kType, Family kFamily, class Memory, class Block>
class ShotBlock {
 public:
  // Block `index` of `call`'s rank.
  TUTTI_HD ShotBlock(const ShotLaunch& launch, const ShotCall& call, uint32_t index, Block block)
      : launch_(launch),
        call_(call),
        places_(launch.places),
        window_(launch.windows[call.rank]),
        index_(index),
        block_(block),
        arithmetic_(launch.op) {}

  TUTTI_HD void run() {
    uint64_t* const own = at<uint64_t>(window_, places_.numbers) + index_;
    if (*own == k_shot_over) return;
    const uint64_t number = *own + 1;
    const uint64_t made = index_ == 0 ? calls()->made : 0;  // block 0 counts
    half_ = static_cast<uint32_t>(number % 2);
    flag_ = number << 32;
    if (launch_.op.scaled) factor_ = call_.factor.template value<kType>();
    send_signatures();
    bool alive = launch_.slice == 0 ? one_shot() : two_shots();
    alive = alive && await_signatures();
    if (number % k_shot_lap < 2) mark();
    alive = !block_.any(!alive);
    if (!alive) give_up();
    if (block_.thread() != 0) return;
    *own = alive ? number : k_shot_over;
    if (index_ == 0 && alive) calls()->made = made + 1;
  }

 private:
  static_assert(Memory::k_long_wait % 32 == 0);  // await()
  using A = Arithmetic<kType, kFamily>;
  using Element = typename A::Element;
  using Unit = Words<k_unit>;
  // Peers whose packets a thread has asked for before it looks at the first.
  static constexpr uint32_t k_flight = 8;

  // What falls to this block of a slice, in bytes of the buffers.
  struct Part {
    uint32_t offset, bytes;
    TUTTI_HD uint32_t units() const { return static_cast<uint32_t>(units_of(bytes)); }
  };
  TUTTI_HD Part part(uint32_t owner) const {
    const uint32_t whole = launch_.slice == 0 ? launch_.bytes : launch_.slice;
    const uint32_t slice = smaller(owner * launch_.slice, launch_.bytes);
    const uint32_t end = smaller(slice + whole, launch_.bytes);
    const uint32_t begin = smaller(slice + index_ * launch_.share, end);
    return {begin, smaller(launch_.share, end - begin)};
  }

  TUTTI_HD bool one_shot() {
    const Part mine = part(0);
    for (uint32_t u = block_.thread(); u < mine.units(); u += block_.threads())
      send_to_all(u, input_unit(mine, u));
    for (uint32_t u = block_.thread(); u < mine.units(); u += block_.threads()) {
      Unit result{};
      if (!add_up(0, u, input_unit(mine, u), result)) return false;
      store_unit<Element>(call_.output + mine.offset, mine.bytes, u, result);
    }
    return true;
  }

  // In place nothing is overwritten that is still to be read: a unit of any slice is read and
  // written by the same thread.
  TUTTI_HD bool two_shots() {
    const uint32_t n = launch_.ranks, second = places_.units / 2;
    const uint32_t most = static_cast<uint32_t>(units_of(launch_.share));
    for (uint32_t u = block_.thread(); u < most; u += block_.threads())
      for (uint32_t first = 1; first < n; first += k_flight) {
        Unit units[k_flight] = {};
        TUTTI_HD_UNROLL(8)
        for (uint32_t i = 0; i < k_flight; ++i) {
          if (first + i >= n) continue;
          const Part theirs = part(behind(first + i));
          if (u < theirs.units()) units[i] = input_unit(theirs, u);
        }
        TUTTI_HD_UNROLL(8)
        for (uint32_t i = 0; i < k_flight; ++i) {
          if (first + i >= n) continue;
          const uint32_t peer = behind(first + i);
          if (u < part(peer).units()) send(peer, u, units[i]);
        }
      }
    const Part mine = part(call_.rank);
    for (uint32_t u = block_.thread(); u < mine.units(); u += block_.threads()) {
      Unit result{};
      if (!add_up(call_.rank, u, input_unit(mine, u), result)) return false;
      send_to_all(second + u, result);
      store_unit<Element>(call_.output + mine.offset, mine.bytes, u, result);
    }
    for (uint32_t u = block_.thread(); u < most; u += block_.threads())
      for (uint32_t first = 1; first < n; first += k_flight) {
        Packet packets[k_flight] = {};
        TUTTI_HD_UNROLL(8)
        for (uint32_t i = 0; i < k_flight; ++i)
          if (first + i < n) packets[i] = look(behind(first + i), second + u);
        TUTTI_HD_UNROLL(8)
        for (uint32_t i = 0; i < k_flight; ++i) {
          if (first + i >= n) continue;
          const uint32_t peer = behind(first + i);
          const Part theirs = part(peer);
          if (u >= theirs.units()) continue;
          if (!arrived(packets[i]) && !await_packet(peer, second + u, packets[i])) return false;
          store_unit<Element>(call_.output + theirs.offset, theirs.bytes, u, data_of(packets[i]));
        }
      }
    return true;
  }

  // Unit u of all ranks, from rank `first` on.
  TUTTI_HD bool add_up(uint32_t first, uint32_t u, const Unit& own, Unit& result) {
    constexpr uint32_t k_each = k_unit / sizeof(Element);
    typename A::Wide acc[k_each] = {};
    for (uint32_t done = 0; done < launch_.ranks; done += k_flight) {
      Packet packets[k_flight] = {};
      TUTTI_HD_UNROLL(8)
      for (uint32_t i = 0; i < k_flight; ++i) {
        if (done + i >= launch_.ranks) continue;
        const uint32_t rank = around(first + done + i);
        if (rank != call_.rank) packets[i] = look(rank, u);
      }
      TUTTI_HD_UNROLL(8)
      for (uint32_t i = 0; i < k_flight; ++i) {
        if (done + i >= launch_.ranks) continue;
        const uint32_t rank = around(first + done + i);
        if (rank != call_.rank && !arrived(packets[i]) && !await_packet(rank, u, packets[i]))
          return false;
        const Unit data = rank == call_.rank ? own : data_of(packets[i]);
        TUTTI_HD_UNROLL(8)
        for (uint32_t e = 0; e < k_each; ++e) {
          const auto value = arithmetic_.load(data.template get<Element>(e));
          acc[e] = done + i == 0 ? value : arithmetic_.combine(acc[e], value);
        }
      }
    }
    result = Unit{};
    TUTTI_HD_UNROLL(8)
    for (uint32_t e = 0; e < k_each; ++e) result.put(e, arithmetic_.finish(acc[e]));
    return true;
  }

  // Whoever reads an input multiplies it by its owner's factor.
  TUTTI_HD Unit input_unit(const Part& p, uint32_t u) const {
    const Unit data = load_unit<Element>(call_.input + p.offset, p.bytes, u);
    if constexpr (kFamily == Family::sum)
      if (launch_.op.scaled) return times<kType>(data, factor_);
    return data;
  }

  // --- packets

  struct Packet {
    uint64_t first, second;
  };
  TUTTI_HD bool arrived(const Packet& p) const {
    return p.first >> 32 == flag_ >> 32 && p.second >> 32 == flag_ >> 32;
  }
  TUTTI_HD static Unit data_of(const Packet& p) {
    Unit data;
    data.w[0] = static_cast<uint32_t>(p.first);
    data.w[1] = static_cast<uint32_t>(p.second);
    return data;
  }
  // Place u of what `from` sends to this block of `to`.
  TUTTI_HD uint64_t* place(uint32_t to, uint32_t from, uint32_t u) const {
    const uint64_t block = (uint64_t{half_} * launch_.ranks + from) * places_.blocks + index_;
    return at<uint64_t>(launch_.windows[to], places_.packets) + 2 * (block * places_.units + u);
  }
  TUTTI_HD uint64_t* signature_place(uint32_t to, uint32_t from) const {
    const uint64_t block = (uint64_t{half_} * launch_.ranks + from) * places_.blocks + index_;
    return at<uint64_t>(launch_.windows[to], places_.signatures) + 2 * block;
  }
  TUTTI_HD void put(uint64_t* packet, uint32_t first, uint32_t second) const {
    Memory::store_pair(packet, flag_ | first, flag_ | second);
  }
  TUTTI_HD static Packet get(const uint64_t* packet) {
    Packet p;
    Memory::load_pair(packet, p.first, p.second);
    return p;
  }
  TUTTI_HD void send(uint32_t peer, uint32_t u, const Unit& data) const {
    put(place(peer, call_.rank, u), data.w[0], data.w[1]);
  }
  TUTTI_HD void send_to_all(uint32_t u, const Unit& data) const {
    for (uint32_t i = 1; i < launch_.ranks; ++i) send(behind(i), u, data);
  }
  TUTTI_HD Packet look(uint32_t peer, uint32_t u) const { return get(place(call_.rank, peer, u)); }
  TUTTI_HD bool await_packet(uint32_t peer, uint32_t u, Packet& p) {
    return await(peer, [&] {
      p = look(peer, u);
      return arrived(p);
    });
  }

  // By the last threads of the block: the first ones have data.
  TUTTI_HD void send_signatures() const {
    each_peer([&](uint32_t peer) {
      put(signature_place(peer, call_.rank), static_cast<uint32_t>(call_.signature),
          static_cast<uint32_t>(call_.signature >> 32));
    });
  }
  TUTTI_HD bool await_signatures() {
    bool alive = true;
    each_peer([&](uint32_t peer) {
      const auto here = [&] { return arrived(get(signature_place(call_.rank, peer))); };
      alive = alive && await(peer, here) && !differs(peer);
    });
    return alive;
  }
  // Whether the peer has said that it makes another call; then all is over.
  TUTTI_HD bool differs(uint32_t peer) const {
    const Packet p = get(signature_place(call_.rank, peer));
    if (!arrived(p)) return false;
    const uint64_t theirs = p.second << 32 | (p.first & 0xffffffff);
    if (theirs == call_.signature) return false;
    note(&call_.control->mismatch, peer, theirs);
    return true;
  }

  // Marks what this call leaves alone of its half, in the own window: peers write into it again
  // only after this rank's next call has begun.
  TUTTI_HD void mark() const {
    each_peer([&](uint32_t peer) {
      const uint32_t second = places_.units / 2;
      const uint32_t first_end = part(call_.rank).units();
      const uint32_t second_end = launch_.slice == 0 ? first_end : second + part(peer).units();
      for (uint32_t u = first_end; u < places_.units; ++u)
        if (launch_.slice == 0 || u < second || u >= second_end)
          put(place(call_.rank, peer, u), 0, 0);
    });
  }

  // --- waiting, and giving up

  // Until `done`; false when the host said to leave, or the peer left, or makes another call.
  template <class Done>
  TUTTI_HD bool await(uint32_t peer, Done&& done) const {
    for (uint32_t turn = 1;; ++turn) {
      if (done()) return true;
      if (turn % 32 == 0) {
        if (Memory::load(&call_.control->abort) != 0) return false;
        // For the host, which may know that nobody will come.
        if (turn % Memory::k_long_wait == 0)
          Memory::store(&call_.control->awaited, uint64_t{peer} + 1);
        if (differs(peer)) return false;
        // What a peer did before is done.
        if (went_by_plan(peer) && !done()) {
          note(&call_.control->mismatch, peer, 0);
          return false;
        }
        if (const uint64_t gone = left(peer); gone != 0 && !done()) {
          // Perhaps because this rank's host said so.
          if (Memory::load(&call_.control->abort) != 0) return false;
          const bool same = static_cast<uint32_t>(gone) == static_cast<uint32_t>(call_.signature);
          note(same ? &call_.control->left : &call_.control->mismatch, peer, gone);
          return false;
        }
      }
      Memory::pause();
    }
  }

  // Whether the peer runs this collective by a plan, or has come to a later one.
  TUTTI_HD bool went_by_plan(uint32_t peer) const {
    if (index_ != 0) return false;
    const uint64_t number = Memory::acquire(at<uint64_t>(window_, places_.notices) + peer);
    return number > calls()->made;
  }
  // What the peer said when it gave up, if it did: where plans look.
  TUTTI_HD uint64_t left(uint32_t peer) const {
    const uint64_t inbox = Memory::acquire(&inboxes(window_, peer)->left);
    return inbox != 0 ? inbox : Memory::acquire(&acks(window_, peer)->left);
  }
  TUTTI_HD void note(uint64_t* what, uint32_t peer, uint64_t theirs) const {
    Memory::store(&call_.control->their_signature, theirs);
    Memory::store(what, uint64_t{peer} + 1);
    Memory::store(&call_.control->abort, 1);
  }
  // Peers that wait are told, whatever they run.
  TUTTI_HD void give_up() const {
    const uint64_t word = uint64_t{1} << 32 | (call_.signature & 0xffffffff);
    each_peer([&](uint32_t peer) {
      for (uint32_t i = 0; i < places_.plan_links; ++i) {
        Memory::release(&(inboxes(launch_.windows[peer], call_.rank) + i)->left, word);
        Memory::release(&(acks(launch_.windows[peer], call_.rank) + i)->left, word);
      }
    });
  }

  // --- places

  template <class T>
  TUTTI_HD static T* at(std::byte* window, uint64_t offset) {
    return reinterpret_cast<T*>(window + offset);
  }
  TUTTI_HD CallCounters* calls() const { return at<CallCounters>(window_, places_.call_counters); }
  TUTTI_HD Inbox* inboxes(std::byte* window, uint32_t peer) const {
    return at<Inbox>(window, 0) + uint64_t{peer} * places_.links;
  }
  TUTTI_HD Ack* acks(std::byte* window, uint32_t peer) const {
    return at<Ack>(window, places_.acks) + uint64_t{peer} * places_.links;
  }
  TUTTI_HD uint32_t around(uint32_t rank) const {
    return rank < launch_.ranks ? rank : rank - launch_.ranks;
  }
  // The rank so far behind this one: rotated, so that not all rush at one.
  TUTTI_HD uint32_t behind(uint32_t distance) const { return around(call_.rank + distance); }
  TUTTI_HD static uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }
  // f(peer) for all of them, shared out among the threads from the last one on.
  template <class F>
  TUTTI_HD void each_peer(F&& f) const {
    for (uint32_t i = block_.threads() - block_.thread(); i < launch_.ranks; i += block_.threads())
      f(behind(i));
  }

  const ShotLaunch& launch_;
  const ShotCall& call_;
  const ShotPlaces& places_;
  std::byte* const window_;
  const uint32_t index_;
  mutable Block block_;
  const A arithmetic_;
  uint32_t half_ = 0;
  uint64_t flag_ = 0;
  uint64_t factor_ = 0;
};

}  // namespace tutti::cuda
