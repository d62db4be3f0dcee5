// Recursive doubling: at step k every rank exchanges all it has with the rank across bit k.
//
//      step 0: bit 0          step 1: bit 1          step 2: bit 2
//
//      0<->1   2<->3          0<->2   1<->3          0<->4   1<->5
//      4<->5   6<->7          4<->6   5<->7          2<->6   3<->7
//
// all_reduce:  T = log2 n (alpha + M beta + M gamma), the fewest steps; where n is not a power of
//              two, the odd ones among the first 2(n - 2^m) ranks hand their block to their even
//              neighbour before and get the result after: 2 (alpha + M beta) + M gamma more.
// all_gather:  T = log2 n alpha + (n-1) M beta, powers of two only (bruck serves the others).
//
// For small blocks.
//
// Same bits: at every step both ranks of a pair form a + b and b + a of the same a and b.
//
// Order under zero-copy. A rank's k-th partial sum is still being read by its partner when the next
// is made, so each has a scratch chunk of its own. Nobody hears from its partner again in time for
// the next round, hence tokens: "read" after a step, taken at the end of the round, when it has
// long arrived; for the last step instead "the round before is over" at the start. None lengthens
// the critical path (but for n = 2, 3 in place).
#pragma once

#include "src/algorithms/formula.h"

namespace tutti::recursive_doubling {

// Folding n ranks to the 2^m corners of a cube. Ranks 2v and 2v+1 share corner v < extra.
struct Fold {
  uint32_t dimensions;  // m
  uint32_t extra;       // n - 2^m

  TUTTI_HD explicit constexpr Fold(uint32_t n)
      : dimensions(floor_log2(n)), extra(n - (1u << floor_log2(n))) {}
  TUTTI_HD constexpr bool idle(Rank r) const { return r < 2 * extra && r % 2 == 1; }
  TUTTI_HD constexpr bool shared(uint32_t corner) const { return corner < extra; }
  TUTTI_HD constexpr uint32_t corner(Rank r) const { return r < 2 * extra ? r / 2 : r - extra; }
  TUTTI_HD constexpr Rank rank(uint32_t corner) const {
    return shared(corner) ? 2 * corner : corner + extra;
  }
};

// Scratch chunks that all_reduce needs.
TUTTI_HD inline uint32_t scratch_chunks(const Params& p) {
  const Fold fold(p.ranks);
  return p.in_place || fold.extra > 0 ? fold.dimensions : fold.dimensions - 1;
}

struct AllReduce {  // C = 1
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const Fold fold(p.ranks);
    if (fold.idle(r)) {
      if (at.take(1)) return send(r - 1, in(0));
      return at.take(1) ? recv(r - 1, out(0)) : no_step();
    }
    const uint32_t m = fold.dimensions, v = fold.corner(r), last = m - 1;
    auto peer = [&](uint32_t k) { return fold.rank(v ^ (1u << k)); };

    const bool peer_needs_token = in_scratch(p, fold, v ^ (1u << last), last);
    const bool needs_token = in_scratch(p, fold, v, last);
    if (at.take_if(peer_needs_token)) return send_token(peer(last));
    if (at.take_if(m == 1 && needs_token)) return recv_token(peer(last));
    if (at.take_if(fold.shared(v))) return recv_reduce(r + 1, sum(p, fold, v, 0), in(0), 1, false);
    if (at.take_if(p.in_place && !fold.shared(v))) return copy(sum(p, fold, v, 0), in(0));
    for (uint32_t k = 0; k < m; ++k) {
      if (at.take(1)) return send(peer(k), sum(p, fold, v, k));
      if (at.take_if(k > 0 && in_scratch(p, fold, v ^ (1u << (k - 1)), k - 1)))
        return send_token(peer(k - 1));  // its sum of the step before has been read
      if (at.take_if(k + 2 == m && needs_token)) return recv_token(peer(last));
      if (at.take(1))
        return recv_reduce(peer(k), sum(p, fold, v, k + 1), sum(p, fold, v, k), 1, k == last);
    }
    if (at.take_if(fold.shared(v))) return send(r + 1, out(0));
    for (uint32_t k = 0; k < last; ++k)
      if (at.take_if(in_scratch(p, fold, v, k))) return recv_token(peer(k));
    return no_step();
  }

 private:
  // The partial sum that a corner sends at step k; sum m is the result.
  TUTTI_HD static bool in_scratch(const Params& p, const Fold& fold, uint32_t corner, uint32_t k) {
    return k > 0 || p.in_place || fold.shared(corner);
  }
  TUTTI_HD static Ref sum(const Params& p, const Fold& fold, uint32_t corner, uint32_t k) {
    if (k == fold.dimensions) return out(0);
    if (!in_scratch(p, fold, corner, k)) return in(0);
    return scratch(p.in_place || fold.extra > 0 ? k : k - 1);
  }
};

struct AllGather {  // C = 1, n = 2^m
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    if (at.take(1)) return send(r ^ 1, in(0));
    if (at.take_if(!p.in_place)) return copy(out(r), in(0));
    if (at.take(1)) return recv(r ^ 1, out(r ^ 1));
    if (at.take(2 * (floor_log2(p.ranks) - 1))) {
      const uint32_t k = 1 + at.index() / 2, size = 1u << k, mine = r & ~(size - 1);
      const Rank peer = r ^ size;
      return at.index() % 2 == 0 ? send(peer, out(mine), size) : recv(peer, out(mine ^ size), size);
    }
    return no_step();
  }
};

}  // namespace tutti::recursive_doubling
