// Sends and receives between devices: what a block of their kernel does, on a device or, in tests,
// as threads on the host (Memory and Block as in interpreter.h).
//
// Only the two ranks of a message know of it, so nothing here depends on what other ranks call: a
// pair's messages have a lane of windows of their own, with counters of their own. A launch holds a
// group of messages as *queues*, one for each peer and direction, in order. A message is cut among
// as many workers as its length is worth, which both ends can tell; worker w of one end speaks to
// worker w of the other through slots.
//
// Which block serves which worker of which queue is each rank's own matter. A block never waits for
// one of them while another could move: it looks at all it has and moves what it can. So sends and
// receives of a group cannot wait for each other, in whatever order and with however few blocks.
#pragma once

#include "kernels/cuda/reduce.h"
#include "src/cuda/program.h"

namespace tutti::cuda {

inline constexpr uint32_t k_max_queues = 2 * k_max_links;
inline constexpr uint32_t k_max_messages = 144;  // of a launch
// A worker more for so many bytes of a message.
inline constexpr uint64_t k_transfer_worker_bytes = 16384;

// Workers that a message is cut among, of `most`.
TUTTI_HD constexpr uint32_t transfer_workers(uint64_t bytes, uint32_t most) {
  const uint64_t worth = bytes / k_transfer_worker_bytes;
  return worth < 1 ? 1 : worth < most ? static_cast<uint32_t>(worth) : most;
}

// Of a rank and one peer; worker w has the next ones of each.
struct TransferLinks {
  Link out, in;
};

// What a rank's launches read, in memory of the device.
struct TransferProgram {
  const TransferLinks* links = nullptr;  // by peer
  Control* control = nullptr;
  uint32_t depth = 1;
  uint32_t slot_bytes = 0;
};

// The messages of one direction between this rank and a peer: [first, first + count) of a launch.
struct TransferQueue {
  uint16_t peer = 0;
  uint16_t first = 0;
  uint16_t count = 0;
  uint8_t sends = 0;
  uint8_t workers = 1;  // that a message has at most; the same at both ends
};

struct TransferLaunch {
  const TransferProgram* program;
  uint32_t queues;
  uint32_t workers;  // the most of any message here
  TransferQueue queue[k_max_queues];
  // Of a message; its bytes are not 0.
  std::byte* memory[k_max_messages];
  uint64_t bytes[k_max_messages];
  uint32_t signature[k_max_messages];
};
static_assert(sizeof(TransferLaunch) <= 4096, "arguments of a kernel");

// A worker of a queue, and how far it is.
struct TransferTask {
  uint64_t sent = 0;  // chunks over this link ever (received, where the queue receives)
  uint64_t at = 0;    // of this worker's part of the message: next byte
  uint64_t end = 0;   // and its end
  uint32_t queue = 0;
  uint32_t worker = 0;
  uint32_t message = 0;  // queue's end: there is none any more
  uint32_t ready = 0;    // chunks that can move now
  uint32_t differs = 0;  // not zero: the peer's message is another one
};

struct TransferState {
  TransferTask task[k_max_queues];
};

// What a rank that gives up leaves at a peer: that its own message was another one, or just that.
inline constexpr uint64_t k_left_alone = uint64_t{1} << 32, k_left_differing = k_left_alone | 1;

template <class Memory, class Block>
class TransferBlock {
 public:
  // Block `index` of `blocks`, which are at least the launch's queues and workers over
  // k_max_queues.
  TUTTI_HD TransferBlock(const TransferLaunch& launch, uint32_t index, uint32_t blocks,
                         TransferState& state, Block block)
      : launch_(launch), program_(*launch.program), state_(state), block_(block) {
    const uint32_t all = launch.queues * launch.workers;
    tasks_ = index < all ? (all - index + blocks - 1) / blocks : 0;
    each([&](TransferTask& t, uint32_t i) { begin(t, index + i * blocks); });
    block_.sync();
  }

  TUTTI_HD void run() {
    bool alive = true;
    for (uint32_t turn = 1; alive; ++turn) {
      bool pending = false, moves = false, wrong = false;
      each([&](TransferTask& t, uint32_t) {
        look(t);
        pending = pending || !through(t);
        moves = moves || t.ready > 0;
        wrong = wrong || t.differs != 0;
      });
      if (!block_.any(pending)) break;
      if (block_.any(wrong)) {
        alive = false;
      } else if (block_.any(moves)) {
        for (uint32_t i = 0; i < tasks_; ++i)
          if (state_.task[i].ready > 0) move(state_.task[i]);
        block_.sync();
        turn = 0;
      } else {
        alive = !block_.any(!wait(turn));
      }
    }
    leave(alive);
  }

 private:
  // --- messages of a task

  TUTTI_HD void begin(TransferTask& t, uint32_t number) {
    t = TransferTask();
    t.queue = number % launch_.queues;
    t.worker = number / launch_.queues;
    t.message = queue(t).first;
    t.sent = link(t).counters[t.worker].messages;
    find_part(t);
  }

  // The first message from t.message on of which this worker has a part.
  TUTTI_HD void find_part(TransferTask& t) {
    for (; !through(t); ++t.message) {
      const uint64_t bytes = launch_.bytes[t.message];
      const uint32_t workers = transfer_workers(bytes, queue(t).workers);
      const Slice part = slice_of({0, bytes}, t.worker, share_of(bytes, workers));
      t.at = part.offset;
      t.end = part.offset + part.bytes;
      if (t.worker < workers && part.bytes > 0) return;
    }
  }

  // --- what can move

  TUTTI_HD void look(TransferTask& t) {
    t.ready = 0;
    if (through(t)) return;
    const Link& l = link(t);
    const uint64_t left = (t.end - t.at + program_.slot_bytes - 1) / program_.slot_bytes;
    if (queue(t).sends != 0) {
      const uint64_t room = Memory::acquire(&l.ack[t.worker].tail) + program_.depth - t.sent;
      t.ready = static_cast<uint32_t>(room < left ? room : left);
      return;
    }
    const Inbox& inbox = l.inbox[t.worker];
    const uint64_t here = Memory::acquire(&inbox.head) - t.sent;
    const auto most = static_cast<uint32_t>(here < left ? here : left);
    // Each chunk says which message it is of.
    for (; t.ready < most; ++t.ready) {
      const uint64_t tag = Memory::load(&inbox.tags[(t.sent + t.ready + 1) % program_.depth]);
      if (low(tag) == launch_.signature[t.message]) continue;
      if (t.ready == 0) note_difference(t);
      return;
    }
  }

  TUTTI_HD void move(TransferTask& t) {
    const Link& l = link(t);
    const bool sends = queue(t).sends != 0;
    const uint32_t ready = t.ready;
    const uint64_t sent = t.sent, end = t.end;
    uint64_t at = t.at;
    for (uint64_t number = sent + 1; number <= sent + ready; ++number) {
      const uint64_t bytes = end - at < program_.slot_bytes ? end - at : program_.slot_bytes;
      std::byte* user = launch_.memory[t.message] + at;
      std::byte* slot = l.slots + (uint64_t{t.worker} * program_.depth + number % program_.depth) *
                                      program_.slot_bytes;
      const std::byte* from = sends ? user : slot;
      std::byte* to = sends ? slot : user;
      copy({block_.thread(), block_.threads()}, {&from, 1, &to, 1, bytes});
      at += bytes;
      block_.sync();
      if (block_.thread() == 0) sends ? publish(t, number, bytes) : give_back(t, number);
    }
    if (block_.thread() == 0) {
      t.sent = sent + ready;
      t.at = at;
      if (at == end) {
        ++t.message;
        find_part(t);
      }
    }
    block_.sync();
  }

  TUTTI_HD void publish(const TransferTask& t, uint64_t number, uint64_t bytes) {
    const Link& l = link(t);
    Inbox& inbox = l.inbox[t.worker];
    if (l.relayed != 0)
      Memory::store(&inbox.sizes[number % program_.depth], size_word(number, false, bytes));
    Memory::store(&inbox.tags[number % program_.depth],
                  number << 32 | launch_.signature[t.message]);
    Memory::release(&inbox.head, number);
  }
  TUTTI_HD void give_back(const TransferTask& t, uint64_t number) {
    Memory::release(&link(t).ack[t.worker].tail, number);
  }

  // --- waiting, and giving up

  // Whether there is still something to wait for; each thread looks after its own tasks.
  TUTTI_HD bool wait(uint32_t turn) {
    bool goes_on = true;
    if (turn % 32 == 0) {
      goes_on = Memory::acquire(&program_.control->abort) == 0;
      each([&](TransferTask& t, uint32_t) {
        if (through(t)) return;
        // For the host, which may know that nobody will come.
        if (turn % Memory::k_long_wait == 0)
          Memory::store(&program_.control->awaited, uint64_t{queue(t).peer} + 1);
        const uint64_t* left =
            queue(t).sends != 0 ? &link(t).ack[t.worker].left : &link(t).inbox[t.worker].left;
        const uint64_t gone = Memory::acquire(left);
        if (gone == 0) return;
        // What a peer did before it left is done.
        look(t);
        if (t.ready > 0 || t.differs != 0) return;
        // It may have left because this rank's host said so.
        if (Memory::load(&program_.control->abort) != 0) {
          goes_on = false;
          return;
        }
        if (gone == k_left_differing) {
          note_difference(t);
        } else {
          note(&program_.control->left, t);
        }
        goes_on = false;
      });
    }
    Memory::pause();
    return goes_on;
  }

  TUTTI_HD void note_difference(TransferTask& t) {
    t.differs = 1;
    note(&program_.control->mismatch, t);
  }
  TUTTI_HD void note(uint64_t* what, const TransferTask& t) {
    Memory::store(what, uint64_t{queue(t).peer} + 1);
    Memory::release(&program_.control->abort, 1);
  }

  // Peers that wait are told, and the one whose message differs is told so by all blocks.
  TUTTI_HD void leave(bool alive) {
    block_.sync();
    const uint64_t culprit = alive ? 0 : Memory::load(&program_.control->mismatch);
    each([&](TransferTask& t, uint32_t) {
      if (!alive && !through(t)) {
        uint64_t* left =
            queue(t).sends != 0 ? &link(t).inbox[t.worker].left : &link(t).ack[t.worker].left;
        Memory::release(left,
                        culprit == uint64_t{queue(t).peer} + 1 ? k_left_differing : k_left_alone);
      }
      link(t).counters[t.worker].messages = t.sent;
    });
  }

  // --- places

  TUTTI_HD const TransferQueue& queue(const TransferTask& t) const {
    return launch_.queue[t.queue];
  }
  TUTTI_HD const Link& link(const TransferTask& t) const {
    const TransferLinks& links = program_.links[queue(t).peer];
    return queue(t).sends != 0 ? links.out : links.in;
  }
  TUTTI_HD bool through(const TransferTask& t) const {
    return t.message >= queue(t).first + queue(t).count;
  }
  TUTTI_HD static uint32_t low(uint64_t word) { return static_cast<uint32_t>(word); }
  // f(task, i) for all of them, shared out among the threads.
  template <class F>
  TUTTI_HD void each(F&& f) {
    for (uint32_t i = block_.thread(); i < tasks_; i += block_.threads()) f(state_.task[i], i);
  }

  const TransferLaunch& launch_;
  const TransferProgram& program_;
  TransferState& state_;
  Block block_;
  uint32_t tasks_ = 0;
};

}  // namespace tutti::cuda
