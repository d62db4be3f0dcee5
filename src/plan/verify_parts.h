// The proofs that verify() strings together; each fills its verdicts in a report.
#pragma once

#include <string>

#include "src/plan/plan_index.h"
#include "src/plan/verify.h"

namespace tutti {

// Plans with more chunks in all ranks together are not run: about 2 GiB of symbols.
inline constexpr uint64_t k_max_verified_cells = uint64_t{1} << 27;

// Progress, postcondition and same_bits, by running the plan on symbols.
void prove_values(const PlanIndex& index, VerifyReport& report);

// Barrier: every rank's completion happens after every rank's start.
void prove_barrier(const PlanIndex& index, VerifyReport& report);

// pull_races and push_races. Leans on report.postcondition for its provenance rule.
void prove_races(const PlanIndex& index, const VerifyOptions& options, VerifyReport& report);

// Sets the verdict, and the problem when it is the first.
inline void conclude(VerifyReport& report, Verdict VerifyReport::*proof, Verdict verdict,
                     const std::string& problem) {
  report.*proof = verdict;
  if (verdict != Verdict::ok && report.problem.empty()) report.problem = problem;
}

// "rank 3 lane 0 step 17 (...) waits for ever"
std::string describe_stuck(const PlanIndex& index, uint32_t lane_id, uint32_t step);

}  // namespace tutti
