// The text form of plans: stable and diffable, for golden files, bug reports and hand-written
// plans. to_text() and parse_text() are inverse on canonical plans (unused step fields zero).
//
//   tutti plan 1
//   algorithm ring
//   collective all_reduce
//   ranks 2
//   chunks 2
//   lanes 1
//   root 0
//   in_place false
//   scratch 0
//   credits 1
//   longest 1
//   level 0 0            # one line per hierarchy level: the group of every rank
//   rank 0 lane 0
//     send 1 input:0+1
//     recv_reduce 1 output:1+1 <- input:1 last
//     send 1 output:1+1
//     recv 1 output:0+1
//   rank 1 lane 0
//   ...
//
// Also `copy output:0+1 <- input:0`, `reduce output:0+1 <- scratch:0`, `signal 1`, `wait 0`, and
// the tokens `send 1 token`, `recv 1 token`. A lane without steps has no section. '#' starts a
// comment.
#pragma once

#include <string>
#include <string_view>

#include "src/plan/plan.h"
#include "tutti/status.h"

namespace tutti {

std::string to_text(const Step& step);
std::string to_text(const Plan& plan);

// Sizes above these are refused, so that a hostile text cannot exhaust memory.
inline constexpr uint32_t k_text_max_ranks = 1u << 20;
inline constexpr uint32_t k_text_max_lanes = 1u << 16;     // per rank
inline constexpr uint64_t k_text_max_sections = 1u << 22;  // ranks * lanes

// Errors: invalid_argument naming the line and what was expected there. Only the form is checked;
// whether the plan is right is verify()'s business.
Result<PlanPtr> parse_text(std::string_view text);

}  // namespace tutti
