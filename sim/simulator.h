// The simulator: how long a Plan takes on a Topology at the prices of a Profile, with links that
// are shared. It reads the same plans that executors run, step by step; nothing is unrolled.
//
// The model. A rank's lanes run their steps in order, in the rounds of a Layout. A send keeps its
// lane busy for its end's cost and then travels by itself: it waits for its turn (the messages of a
// connection leave in order; with Profile::serial_lanes those of a lane do), flows over the links
// of its route, which all flows share max-min fairly, and arrives one latency of the route after
// its last byte has left. A lane that receives waits for the arrival, is busy for its end's cost,
// and for gamma per byte of every operand that it reduces. A connection has as many messages in
// flight as it has credits; a credit is back one latency after its message was consumed. Messages
// beyond Profile::eager_bytes start when the announcement has reached the receiver and it is at
// their receive. Chunks without bytes are elided at both ends, tokens are not. Ranks on one node
// talk in no time.
//
// CPUs (Profile::cpus > 0): whatever keeps a lane busy needs its rank's thread and a CPU of its
// host, first come, first served; where ranks outnumber CPUs, a lane that had to wait goes on
// `handover` later for every rank per CPU. Several sends of the same chunk in a row pay for its
// bytes once (they are published).
//
// A run depends on its arguments alone, jitter included.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/cost/profile.h"
#include "src/plan/plan.h"
#include "topology/topology.h"
#include "tutti/status.h"
#include "tutti/types.h"

namespace tutti {

// A part of the data that is ready at a moment (gradients, while the backward pass goes on).
struct SimSegment {
  double ready = 0;    // seconds
  uint64_t bytes = 0;  // of a block (what the collective's count means), rounded up to elements
};

struct SimOptions {
  // Calls of the collective, one after the other on each rank: a call starts when the rank has
  // finished the one before and the segment is ready.
  std::vector<SimSegment> segments;
  DType dtype = DType::float32;
  ReduceOp op = ReduceOp::sum;
  uint64_t max_chunk_bytes = 0;     // of one round (Layout); 0: all in one
  uint64_t min_chunk_bytes = 64;    // (Layout)
  uint32_t credits = 0;             // instead of the profile's; never below the plan's
  std::vector<uint32_t> placement;  // by rank of the plan: rank of the topology; empty: the same
  // By rank of the plan: which ranks share CPUs (hosts that are containers of one machine may);
  // empty: those of a host.
  std::vector<uint32_t> cpu_pools;

  // Disturbances. A latency is multiplied by 1 + jitter * x, x exponential with mean 1, anew for
  // every message; ranks start up to `skew` seconds late, evenly spread. From `seed`.
  double jitter = 0;
  double skew = 0;
  uint64_t seed = 1;
  struct Straggler {
    Rank rank = 0;      // of the plan
    double factor = 1;  // its overheads and kernels take so many times as long, and its own links
                        // have one part in so many of their bandwidth
  };
  std::vector<Straggler> stragglers;

  bool record = false;  // keep every message: critical path, trace. 56 bytes each

  // For prices rather than pictures. `most_rounds`: of a call in more rounds only so many are run
  // (and once more half of them); each of the others is taken to last as long as one of those that
  // the longer run has more (0: all are run). The run ends early, unfinished, when its clock passes
  // `stop_after` seconds or when it has cost `most_work` (SimReport::work); 0: never.
  uint32_t most_rounds = 0;
  double stop_after = 0;
  uint64_t most_work = 0;
};

struct SimMessage {
  uint32_t from = 0, to = 0;  // lanes: rank * lanes + lane
  uint32_t step = 0;          // of the sender
  uint32_t cause = 0;         // the message that the sender waited for last; k_none
  double bytes = 0;
  double posted = 0;   // seconds: the sender's lane is through with it
  double started = 0;  // its first byte leaves
  double left = 0;     // its last byte has left
  double arrived = 0;
  static constexpr uint32_t k_none = ~uint32_t{0};
};

struct SimLinkUse {
  LinkId link = 0;
  double bytes = 0;
  double utilisation = 0;  // of its bandwidth, over the whole time
};

struct SimReport {
  double seconds = 0;                // until the last rank has finished
  bool finished = true;              // false: `seconds` is where stop_after or most_work ended it
  std::vector<double> rank_seconds;  // when each rank has finished
  std::vector<double> segment_seconds;  // when the last rank has finished each segment
  std::vector<SimLinkUse> links;        // those that carried anything, in order of LinkId
  uint64_t messages = 0;                // tokens included
  uint64_t events = 0;
  uint64_t work = 0;  // what simulating cost: events, and flows whose rates were computed

  // With SimOptions::record.
  std::vector<SimMessage> trace;        // in order of `posted`
  std::vector<uint32_t> critical_path;  // into trace: each message waited for the one before
  // Where the time of the critical path went; the rest is overheads, kernels and waiting for
  // credits.
  double path_queue = 0, path_transfer = 0, path_latency = 0;
};

// Errors: invalid_argument for a plan that is malformed, does not match or deadlocks (naming the
// step), ranks that do not fit the topology, options that make no sense (naming them), a time
// beyond 100 days.
Result<SimReport> simulate(const Plan& plan, const Topology& topology, const Profile& profile,
                           const SimOptions& options);

// The recorded messages for chrome://tracing or Perfetto: a process per rank, a thread per lane.
std::string to_chrome_trace(const SimReport& report, const Plan& plan);

}  // namespace tutti
