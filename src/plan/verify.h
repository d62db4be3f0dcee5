// verify(): proves that a plan, in its final form, does what its collective promises.
#pragma once

#include <cstdint>
#include <string>

#include "src/plan/plan.h"

namespace tutti {

enum class Verdict : uint8_t { ok, failed, unproven };
std::string_view name(Verdict verdict);

struct VerifyOptions {
  bool races = true;
  // Vector-clock work (joins times ranks) beyond which a race verdict is `unproven`, never `ok`.
  uint64_t race_budget = uint64_t{1} << 34;
};

// One verdict per proof. `failed` comes with a sentence that names rank, lane, step and chunk.
struct VerifyReport {
  Verdict structure = Verdict::unproven;  // indexes in range, scratch and lanes as declared
  Verdict matching = Verdict::unproven;   // the k-th send meets the k-th receive of equal length
  Verdict progress = Verdict::unproven;   // terminates at the declared credits, publish-once runs
                                          // separate and sharing one slot
  Verdict postcondition = Verdict::unproven;  // every contribution exactly once; input untouched
  Verdict same_bits = Verdict::unproven;      // where promised, identical expression on every rank
  Verdict pull_races = Verdict::unproven;  // two rounds, unlimited credits, receiver reads sender
  Verdict push_races = Verdict::unproven;  // two rounds, unlimited credits, sender writes receiver
  std::string problem;                     // the first failure, or why something is unproven
  uint64_t steps = 0;                      // steps examined

  // All proofs ok (races may be unproven only if `races_required` is false).
  bool ok(bool races_required = true) const;
};

VerifyReport verify(const Plan& plan, const VerifyOptions& options = {});

}  // namespace tutti
