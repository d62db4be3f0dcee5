// Tuner: what could serve a call, what each would take, and which is best.
//
// Closed forms rank every algorithm (with the whole hierarchy and with each level alone, and with
// several numbers of chunks, which for hierarchical algorithms are lanes). The best few are
// simulated, with the rounds that executors would use; then the pipelines among the winners also
// with other depths, twice and half, as long as that helps. The shared-window executor, which runs
// no plan, has a closed form of its own. What was measured in such a world corrects both
// (src/cost/corrections.h). A pure function of its arguments. Simulating is bounded by
// work, never by a clock: of many rounds the first stand for all, what is surely slower than the
// best is given up, and calls too large even so are settled by closed forms, as are calls with one
// candidate that is far ahead.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/planner/placement.h"
#include "src/planner/predict.h"
#include "tutti/status.h"

namespace tutti {

struct TunerLimits {
  uint32_t best = 10;      // candidates to simulate, at most
  double within = 5;       // ... predicted to take at most so many times the least
  uint64_t work = 60'000;  // SimReport::work of all simulations together, and plans' steps
  uint32_t simulated_ranks = 256;
};

struct Priced {
  Candidate candidate;
  bool windows = false;             // runs on shared windows (src/executor/shared_direct.h)
  std::optional<double> simulated;  // seconds
  bool given_up = false;            // it takes longer than `simulated`, and is not among the best

  double seconds() const { return simulated.value_or(candidate.prediction.seconds); }
};

// By time, best first: those that were simulated, then the others. `bytes` of a block. Errors:
// unsupported when nothing serves the request.
Result<std::vector<Priced>> price_candidates(const Placement& placement, const Profile& profile,
                                             const PlanRequest& request, uint64_t bytes,
                                             DType dtype, ReduceOp op,
                                             const TunerLimits& limits = {});

// Simulated seconds, or those of the shared windows, whatever it takes. Errors: as simulate().
Result<double> price_exactly(const Placement& placement, const Profile& profile,
                             const Algorithm& algorithm, const PlanRequest& request, uint64_t bytes,
                             DType dtype, ReduceOp op);

// Seconds of an all_reduce on shared windows.
double shared_all_reduce_seconds(const Placement& placement, const Profile& profile, uint64_t bytes,
                                 DType dtype, ReduceOp op);

}  // namespace tutti
