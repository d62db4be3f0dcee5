// Drawing of a plan: an SVG space-time diagram. One row per lane, time to the right, a box per
// step, an arrow per message, one colour per chunk of data (followed through buffers and ranks).
#pragma once

#include <cstdint>
#include <string>

#include "src/plan/plan.h"
#include "tutti/status.h"

namespace tutti {

struct DrawOptions {
  uint32_t max_ranks = 32;     // beyond that nobody can read it
  uint32_t max_steps = 20000;  // boxes
};

// Time is a simple unit cost: a step takes one unit, a message is one unit under way; lanes wait
// for messages and signals, not for credits. For real times use the simulator.
// Errors: invalid_argument for plans that are too large to be read, whose structure or matching is
// wrong, or that deadlock.
Result<std::string> to_svg(const Plan& plan, const DrawOptions& options = {});

}  // namespace tutti
