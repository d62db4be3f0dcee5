// Dissemination barrier (Hensgen, Finkel and Manber 1988), for any number of ranks.
//
//      step 0: tokens to r+1      step 1: to r+2      step 2: to r+4 ...   (modulo n)
//
//      0 -> 1 -> 2 -> 3 -> 4 -> 0     0 -> 2 -> 4 -> 1 -> 3 -> 0     0 -> 4, 1 -> 0, ...
//
// After step k a rank has heard, directly or not, from its 2^(k+1) - 1 predecessors.
// T = ceil(log2 n) alpha, the least there is; n ceil(log2 n) tokens in all.
#pragma once

#include "src/algorithms/formula.h"

namespace tutti::dissemination {

struct Barrier {
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks;
    if (at.take(2 * ceil_log2(n))) {
      const uint32_t distance = 1u << (at.index() / 2);
      return at.index() % 2 == 0 ? send_token(add_mod(r, distance, n))
                                 : recv_token(sub_mod(r, distance, n));
    }
    return no_step();
  }
};

}  // namespace tutti::dissemination
