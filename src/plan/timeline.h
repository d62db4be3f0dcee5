// Timeline: when each step of a plan runs under unit costs, and what data it carries. The drawing's
// model, without any graphics.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/plan/plan.h"
#include "tutti/status.h"

namespace tutti {

struct Timeline {
  // A step or pass. `start` and `end` are in units of one step.
  struct Box {
    uint32_t lane_id = 0;   // rank * lanes + lane
    uint32_t index = 0;     // of the (first) step in its lane
    uint32_t operands = 0;  // messages and reads of a pass
    double start = 0, end = 0;
    Step step;                   // of a pass: its last step
    std::vector<uint32_t> data;  // which chunk of data each chunk of the step carries
  };
  struct Arrow {
    uint32_t from = 0, to = 0;  // boxes
    bool token = false;         // no payload, or a signal
  };
  std::vector<Box> boxes;
  std::vector<Arrow> arrows;
  uint32_t kinds = 0;  // chunks of data in all: Box::data is below it, or k_unknown
  double end = 0;
  static constexpr uint32_t k_unknown = ~uint32_t{0};  // read before it was written
};

// Errors: as to_svg(), but for sizes.
Result<Timeline> make_timeline(const Plan& plan);

}  // namespace tutti
