// Ranks that one launch serves: the collective as passes over everybody's buffers, with no flags.
//
// Where the ranks of a communicator are in one process and meet in a group, their streams are
// joined by events before and after the launch, so that a kernel may read every input and write
// every output: each input byte is read once and each output byte written once. Operands are joined
// in the order of the ranks, as in direct_one_shot, whatever the size: equal inputs give equal bits
// (docs/numbers.md).
//
// The work is cut into jobs of one pass each; rank r's jobs run on r's device.
#pragma once

#include "kernels/cuda/reduce.h"
#include "src/cuda/program.h"

namespace tutti::cuda {

inline constexpr uint32_t k_max_direct_ranks = 64;

// What a launch is told; plain data for a kernel's arguments.
struct DirectCall {
  const std::byte* in[k_max_direct_ranks];  // by rank; null where the rank has none
  std::byte* out[k_max_direct_ranks];
  uint32_t ranks;
  uint32_t root;
  Collective collective;
  uint64_t block;  // bytes of `count` elements
  Operator op;
  uint8_t here[k_max_direct_ranks];   // the ranks whose jobs this launch does
  Factor factor[k_max_direct_ranks];  // op.scaled: by rank
};

// A pass: sources [first_source, + source_count) by rank, likewise destinations.
struct DirectJob {
  uint32_t first_source, source_count;
  uint32_t first_destination, destination_count;
  uint64_t source_offset, destination_offset, bytes;
};

TUTTI_HD constexpr uint32_t direct_jobs_per_rank(Collective c, uint32_t ranks) {
  return c == Collective::all_to_all ? ranks : 1;
}

// Job `index` (< direct_jobs_per_rank) of rank r.
TUTTI_HD inline DirectJob direct_job(const DirectCall& call, uint32_t r, uint32_t index) {
  const uint32_t n = call.ranks;
  const uint64_t block = call.block, mine = r * block;
  const Slice s = slice_of({0, block}, r, share_of(block, n));  // of what all ranks share
  switch (call.collective) {
    case Collective::all_reduce:
      return {0, n, 0, n, s.offset, s.offset, s.bytes};
    case Collective::reduce:
      return {0, n, call.root, 1, s.offset, s.offset, s.bytes};
    case Collective::reduce_scatter:
      return {0, n, r, 1, mine, 0, block};
    case Collective::broadcast:
      return {call.root, 1, 0, n, s.offset, s.offset, s.bytes};
    case Collective::all_gather:
      return {r, 1, 0, n, 0, mine, block};
    case Collective::gather:
      return {r, 1, call.root, 1, 0, mine, block};
    case Collective::scatter:
      return {call.root, 1, r, 1, mine, 0, block};
    case Collective::all_to_all:
      return {r, 1, index, 1, index * block, mine, block};
    default:
      return {0, 0, 0, 0, 0, 0, 0};
  }
}

// True where this way serves the collective. all_to_all in place would read what it writes.
constexpr bool direct_serves(Collective c, bool in_place) {
  switch (c) {
    case Collective::all_to_all:
      return !in_place;
    case Collective::all_to_all_v:
    case Collective::send_recv:
    case Collective::barrier:
      return false;
    default:
      return true;
  }
}

// What the threads of a block share while they run a job.
struct DirectState {
  const std::byte* sources[k_max_direct_ranks];
  std::byte* destinations[k_max_direct_ranks];
  uint64_t factors[k_max_direct_ranks];
};

// `block` is the thread's block; `team` all threads that share the job.
template <DType kType, Family kFamily, class Block>
TUTTI_HD void run_direct_job(const DirectCall& call, const DirectJob& job, DirectState& state,
                             Block& block, Team team) {
  for (uint32_t i = block.thread(); i < job.source_count; i += block.threads()) {
    state.sources[i] = call.in[job.first_source + i] + job.source_offset;
    if (call.op.scaled)
      state.factors[i] = call.factor[job.first_source + i].template value<kType>();
  }
  for (uint32_t i = block.thread(); i < job.destination_count; i += block.threads())
    state.destinations[i] = call.out[job.first_destination + i] + job.destination_offset;
  block.sync();
  if (job.bytes == 0) return;
  run_pass<kType, kFamily>(
      team, call.op,
      {state.sources, job.source_count, state.destinations, job.destination_count, job.bytes,
       call.op.scaled ? state.factors : nullptr});
}

}  // namespace tutti::cuda
