// Braids: plans played by ranks in another order, and several of them side by side.
//
// A strand is a plan and an order: order[v] is the rank that plays the plan's rank v. One strand is
// the plan relabelled: what v did with its peers, order[v] does with theirs. Several strands share
// the work: each has its own lanes and its own chunks of every block, so that rings over different
// links run at once.
//
//   strand 0, order 0 1 2 3:   lane 0, chunks 0..3   0 -> 1 -> 2 -> 3 -> 0
//   strand 1, order 0 2 1 3:   lane 1, chunks 4..7   0 -> 2 -> 1 -> 3 -> 0
//
// The result is a plan like any other: verify() proves it, executors and the simulator run it.
#pragma once

#include <string_view>
#include <vector>

#include "src/plan/plan.h"
#include "tutti/status.h"

namespace tutti {

// Whether the root of a shape means anything: broadcast, reduce, gather, scatter.
bool is_rooted(Collective collective);

struct Strand {
  PlanPtr plan;
  std::vector<Rank> order;
};

// Errors: invalid_argument for no strands, an order that is not all ranks once, strands of
// different collectives, ranks, places or (relabelled) roots, several strands of all_to_all_v or
// send_recv, whose blocks are one chunk; unsupported for steps that reach over several ranks'
// blocks (Bruck, trees of gather), which another order would tear apart.
Result<PlanPtr> braid(std::string_view algorithm, std::vector<Strand> strands);

}  // namespace tutti
