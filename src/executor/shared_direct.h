// Shared direct: all_reduce and barrier for ranks that share memory windows (one host, one
// process).
//
// An executor specialisation for the recognised plans direct_one_shot and direct_two_shot: a chunk
// is published once for all readers instead of being sent to each. Operands are joined in the order
// of the ranks, as in direct_one_shot, whatever the size and the path: equal inputs give equal
// bits. Four ways to move the bytes, the same choice on every rank:
//
//   line      <= 272 B: the payload travels in the cache line of the flag, and in more lines with
//             flags of their own: all are on their way at once
//   publish   small: one copy into the window, every rank reduces everything (one-shot)
//   staged    medium, or memory cannot be reached: copy in, reduce own slice, copy out, in pieces
//   direct    large: the owner of a slice reads every rank's input and stores the result into
//             every rank's output in one pass; through mapped memory (mem_alloc, threads) or, for
//             private memory, tile by tile with process_vm_readv/writev
//
// Flow control needs no acknowledgements: every operation waits for a flag of every rank, so when a
// rank begins operation k+1 all have finished reading what was published in k-1
// (decision 0006).
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "src/executor/waiter.h"
#include "transports/transport.h"
#include "tutti/types.h"

namespace tutti {

// Where one way of moving the bytes becomes better than another (docs/performance.md).
struct SharedDirectTuning {
  size_t one_shot_bytes;  // up to here: publish (one-shot); above: staged or direct
  size_t exchange_bytes;  // from here on buffers are named to the peers; mapped ones go direct
  size_t remote_bytes;    // from here on process_vm_readv/writev pays
  size_t piece_bytes;     // staged: about the least that one piece holds
  size_t tile_bytes;      // process_vm: what is read from one rank at a time

  // `crowded`: ranks outnumber CPUs; every hand-over costs a context switch, so pieces are large.
  static SharedDirectTuning of(uint32_t ranks, bool crowded, size_t remote_bytes);
};

class SharedDirect {
 public:
  // More ranks are better served by algorithms with fewer readers per chunk.
  static constexpr uint32_t k_max_ranks = 64;

  // True where every rank reaches every other through `transport` and its windows.
  static bool usable(const Transport& transport, uint32_t ranks);

  SharedDirect(Transport& transport, Rank rank, uint32_t ranks, Monitor& monitor,
               const WaitPolicy& policy, const SharedDirectTuning& tuning);

  // recv = reduction of all ranks' send over `count` elements; divisor as kernels::reduce.
  Status all_reduce(const void* send, void* recv, size_t count, DType dtype, ReduceOp op,
                    uint32_t divisor, uint64_t signature);
  Status barrier(uint64_t signature);

  bool one_shot(size_t bytes) const { return bytes <= tuning_.one_shot_bytes; }
  // For reports: "line", "publish", "staged", "mapped", "process_vm".
  const char* last_path() const { return path_; }

 private:
  struct alignas(128) Line {  // two cache lines apart: prefetchers fetch pairs
    std::atomic<uint64_t> epoch;
    uint64_t signature;
    std::byte payload[48];
  };
  static_assert(sizeof(Line) == 128);
  struct alignas(64) Packet {  // what does not fit into the Line
    std::atomic<uint64_t> epoch;
    std::byte payload[56];
  };
  static_assert(sizeof(Packet) == 64);
  struct Buffers {  // what a rank tells its peers about its buffers
    MemoryRef input, output;
  };
  struct Job {  // one all_reduce
    const std::byte* send;
    std::byte* recv;
    size_t count, bytes, element;
    DType dtype;
    ReduceOp op;
    uint32_t divisor;
    uint64_t signature;
  };
  // One piece of a staged operation.
  struct Piece {
    uint64_t epoch;
    size_t offset, count;
  };

  Line& flag(Rank rank, int phase, uint64_t epoch) const;
  Packet* packets(Rank rank, uint64_t epoch) const;
  std::byte* area(Rank rank, uint64_t epoch) const;    // a rank's published input
  std::byte* result(Rank rank, uint64_t epoch) const;  // a rank's published slice
  std::atomic<uint64_t>& probe(Rank rank, uint64_t epoch) const;
  void raise(int phase, uint64_t epoch, uint64_t signature);
  Status await(int phase, uint64_t epoch, uint64_t signature);
  // The part of `count` elements that `rank` owns, as [first, last).
  // The i-th rank from the own one on, so that ranks do not all look at one at a time.
  Rank after(uint32_t i) const { return rank_ + i < ranks_ ? rank_ + i : rank_ + i - ranks_; }
  std::pair<size_t, size_t> slice(size_t count, size_t element, Rank rank) const;

  Status line(const Job& job);
  void send_packets(const Job& job, uint64_t epoch, size_t packets);
  // Waits for all that `rank` has sent for this epoch, and puts it together at `to`.
  Status receive_packets(const Job& job, uint64_t epoch, size_t packets, Rank rank, std::byte* to,
                         Waiter& waiter);
  Status publish(const Job& job);
  // Copies for others to read, in the way that suits their distance.
  void hand_over(std::byte* to, const std::byte* from, size_t bytes) const;
  // Whether this call measures: the same answer on every rank.
  bool begins_probe(const Job& job, uint64_t epoch);
  void feel_distance(uint64_t epoch);
  Status copied(const Job& job);
  Status staged(const Job& job);
  void copy_in(const Job& job, const Piece& piece);
  void reduce_slice(const Job& job, const Piece& piece);
  void copy_out(const Job& job, const Piece& piece);
  Status large(const Job& job);
  Status direct(const Job& job);
  Status direct_tile(const Job& job, size_t first, size_t count);

  Transport& transport_;
  Rank rank_;
  uint32_t ranks_;
  Monitor& monitor_;
  WaitPolicy policy_;
  SharedDirectTuning tuning_;
  std::vector<std::byte*> windows_;
  uint64_t epoch_ = 0;
  const char* path_ = "line";
  std::vector<double> distance_;  // by rank, ns that a line from it takes; 0: not known
  uint32_t felt_ = 0;             // whose was measured last, counted from the own rank
  bool far_ = false;
  uint32_t large_calls_ = 0;
  std::vector<Buffers> buffers_;
  std::vector<const void*> sources_;
  std::vector<void*> destinations_;
  std::vector<const std::byte*> mapped_in_;  // null where only process_vm reaches
  std::vector<std::byte*> mapped_out_;
  std::vector<std::byte> tiles_;
  std::vector<std::byte> arrived_;  // by rank, what came in lines
};

}  // namespace tutti
