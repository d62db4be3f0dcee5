// The algorithms by name: pure functions from a request to a Plan.
//
// Each algorithm lives in a header of its own (ring.h, double_binary_tree.h ...) that opens with a
// drawing and its cost; this is their table of contents.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/plan/plan.h"
#include "tutti/status.h"

namespace tutti {

// Of a block: counts of steps and lanes stay far below 2^32.
inline constexpr uint32_t k_most_chunks = 1u << 16;

// What a plan is asked for.
struct PlanRequest {
  Collective collective = Collective::all_reduce;
  uint32_t ranks = 1;
  Rank root = 0;
  bool in_place = false;
  // Chunks that a pipelined algorithm (tree, chain broadcast) cuts a block into; 0: its default.
  // At most k_most_chunks. Algorithms that need a fixed number (ring: ranks) round it to what they
  // need.
  uint32_t chunks = 0;
  Hierarchy hierarchy;
};

// Alpha-beta-gamma cost in closed form: time = steps*alpha + bytes*beta + reduced*gamma, on a
// contention-free network, with the block's `count` bytes M: bytes and reduced are factors of M.
// Messages of a pipeline that follow one another are under way together: `overlapped` of the steps
// cost overheads, but no latency.
struct Cost {
  double steps = 0;       // messages on the critical path
  double bytes = 0;       // times M: bytes sent per rank on the critical path
  double reduced = 0;     // times M: bytes reduced per rank on the critical path
  double overlapped = 0;  // of steps
};

struct Algorithm {
  std::string_view name;     // "ring", "direct_two_shot", "hierarchical_leader" ...
  std::string_view summary;  // one line for --help
  // Ok, or why this algorithm cannot serve the request.
  Status (*supports)(const PlanRequest& request);
  PlanPtr (*make)(const PlanRequest& request);
  Cost (*cost)(const PlanRequest& request);
  // True when the forms in place and out of place exchange different messages, so that all ranks
  // must run the same one.
  bool (*in_place_differs)(Collective collective, uint32_t ranks);
};

std::span<const Algorithm> algorithms();
const Algorithm* find_algorithm(std::string_view name);

// The plan, or an error naming the algorithm (and those there are) or the reason it cannot serve.
Result<PlanPtr> make_plan(std::string_view algorithm, const PlanRequest& request);

}  // namespace tutti
