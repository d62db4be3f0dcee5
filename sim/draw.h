// Drawing of a simulated run: an SVG space-time diagram. One row per lane, time to the right, a bar
// for each message while it leaves (paler while it waits for its turn), a line to its arrival; the
// critical path is drawn strong.
#pragma once

#include <string>

#include "sim/simulator.h"
#include "src/plan/plan.h"
#include "tutti/status.h"

namespace tutti {

// `report` must have been recorded (SimOptions::record). Errors: invalid_argument for runs that
// were not, or are too large to be read (more than 64 lanes with messages, or 5000 messages).
Result<std::string> to_svg(const SimReport& report, const Plan& plan);

}  // namespace tutti
