// One rank alone: whatever the algorithm, the block moves from input to output. Where values are
// reduced it does so in place, too: reading the input is what applies a pre-multiplier.
#pragma once

#include "src/algorithms/formula.h"

namespace tutti {

struct SoloReduce {
  TUTTI_HD static Step walk(const Params& p, Rank, Lane, Cursor& at) {
    return at.take(1) ? copy(out(0), in(0), p.chunks) : no_step();
  }
};

struct SoloMove {
  TUTTI_HD static Step walk(const Params& p, Rank, Lane, Cursor& at) {
    return at.take_if(!p.in_place) ? copy(out(0), in(0), p.chunks) : no_step();
  }
};

struct SoloBarrier {
  TUTTI_HD static Step walk(const Params&, Rank, Lane, Cursor&) { return no_step(); }
};

}  // namespace tutti
