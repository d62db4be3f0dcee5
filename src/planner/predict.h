// Predictions: what a collective would take, in closed form: the algorithm's Cost at the prices of
// a profile and the links of a topology. Microseconds of work, for ranking candidates; the
// simulator (sim/) prices the few best with everything that a formula leaves out.
//
// alpha and beta come from the traffic that the algorithm makes: which ranks talk at the same time,
// and over which links. alpha is what a message pays on its way with the overheads at both ends;
// beta is that of the most crowded link, crowded counting everybody that crosses it at once.
// - Hierarchical algorithms: each level's neighbours, level by level.
// - ring: r to r + 1. A partial sum passes every hop in turn, so alpha and beta are the means over
//   the hops; but the slowest hop has to carry everything.
// - direct: bytes at the ends beside bytes on the links, whichever take longer.
// - halving-doubling, recursive doubling: stage by stage.
// - everything else: r to r + n/2, across everything there is, or to r + 1 if that is dearer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/algorithms/algorithms.h"
#include "src/cost/profile.h"
#include "src/planner/placement.h"
#include "src/planner/traffic.h"
#include "topology/topology.h"
#include "tutti/types.h"

namespace tutti {

struct Prediction {
  double seconds = 0;
  // Its parts:
  double latency = 0;   // steps times alpha, and the call
  double transfer = 0;  // bytes times beta
  double reduce = 0;    // reduced bytes times gamma
};

class Predictor {
 public:
  // All must outlive the predictor. Rank r of a request is rank r of the topology or placement.
  Predictor(const Topology& topology, const Profile& profile);
  Predictor(const Placement& placement, const Profile& profile);

  // `orders`: who plays rank v of the plan (src/plan/braid.h), on each of the orders that share the
  // block; none: v does.
  // `bytes` of a block. With the profile's corrections where it has some for this kind of world;
  // without them exact where the links are alike and nobody contends, for the algorithms
  // whose Cost is exact (tests/sim/closed_form_test.cc lists which are bounds). Errors: the
  // algorithm's reason for not serving the request; invalid_argument when the ranks do not fit.
  Result<Prediction> predict(const Algorithm& algorithm, const PlanRequest& request, uint64_t bytes,
                             DType dtype, ReduceOp op,
                             std::span<const std::vector<Rank>> orders = {});

 private:
  const Profile& profile_;
  std::string world_;  // world_of(); empty: not known, and nothing is corrected
  std::unique_ptr<Traffic> traffic_;
};

// What could serve a request, and what it would take.
struct Candidate {
  const Algorithm* algorithm = nullptr;
  PlanRequest request;
  // Of hierarchical algorithms, 0: the request's whole hierarchy; l + 1: its level l alone. Of the
  // others, 0: ranks in their own order; 1: along the links (Placement::orders).
  uint32_t mapping = 0;
  Prediction prediction;
};

// Every algorithm that serves the request, the fastest first; hierarchical ones with request's
// whole hierarchy and with each of its levels alone; those that gain from it also on `orders`,
// which follow the links; pipelined ones with their default depth and the best other one, unless
// the request says how many chunks. Errors: as predict; unsupported when nothing serves the
// request.
Result<std::vector<Candidate>> rank_candidates(Predictor& predictor, const PlanRequest& request,
                                               uint64_t bytes, DType dtype, ReduceOp op,
                                               const std::vector<std::vector<Rank>>& orders = {});

// The orders that the algorithm takes along the links: a ring all of them, what exchanges with near
// ranks first or most the first, which must not be the ranks' own; none where nothing is gained.
std::vector<std::vector<Rank>> orders_for(const Algorithm& algorithm, Collective collective,
                                          const std::vector<std::vector<Rank>>& orders);

}  // namespace tutti
