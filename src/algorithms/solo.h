// One rank alone: whatever the algorithm, the block moves from input to output.
#pragma once

#include "src/algorithms/formula.h"

namespace tutti {

struct Solo {
  TUTTI_HD static Step walk(const Params& p, Rank, Lane, Cursor& at) {
    if (at.take_if(!p.in_place)) return copy(out(0), in(0), p.chunks);
    return no_step();
  }
};

}  // namespace tutti
