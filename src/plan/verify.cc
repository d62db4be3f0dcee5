#include "src/plan/verify.h"

#include <fmt/format.h>

#include "src/plan/plan_index.h"
#include "src/plan/verify_parts.h"

namespace tutti {

std::string_view name(Verdict verdict) {
  switch (verdict) {
    case Verdict::ok:
      return "ok";
    case Verdict::failed:
      return "failed";
    case Verdict::unproven:
      return "unproven";
  }
  return "?";
}

bool VerifyReport::ok(bool races_required) const {
  auto race_ok = [&](Verdict v) {
    return v == Verdict::ok || (v == Verdict::unproven && !races_required);
  };
  return structure == Verdict::ok && matching == Verdict::ok && progress == Verdict::ok &&
         postcondition == Verdict::ok && same_bits == Verdict::ok && race_ok(pull_races) &&
         race_ok(push_races);
}

std::string describe_stuck(const PlanIndex& index, uint32_t lane_id, uint32_t step) {
  const uint32_t lanes = index.shape().lanes;
  return describe_step(index.plan(), lane_id / lanes, lane_id % lanes, step) + " waits for ever";
}

VerifyReport verify(const Plan& plan, const VerifyOptions& options) {
  VerifyReport report;
  const PlanIndex index(plan);
  report.steps = index.steps();
  auto verdict = [](const Status& s) { return s.ok() ? Verdict::ok : Verdict::failed; };
  conclude(report, &VerifyReport::structure, verdict(index.structure()),
           index.structure().message());
  if (!index.structure().ok()) return report;
  conclude(report, &VerifyReport::matching, verdict(index.matching()), index.matching().message());
  if (!index.matching().ok()) return report;
  if (plan.shape().collective == Collective::barrier) {
    prove_barrier(index, report);
  } else {
    prove_values(index, report);
  }
  // A plan that does not end has no order of events to speak of.
  if (options.races && report.progress == Verdict::ok) prove_races(index, options, report);
  if (!options.races && report.problem.empty()) report.problem = "races were not asked for";
  return report;
}

}  // namespace tutti
