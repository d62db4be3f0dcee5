// Halving-doubling (Rabenseifner 2004): reduce-scatter by halving, all-gather by doubling.
//
//      4 chunks, 4 ranks, rank 0's view
//
//               keeps       sends   adds or receives   partner
//      step 0   [0 1 2 3]   2, 3    + 0, 1             1   the most bytes go to the nearest
//      step 1   [0 1]       1       + 0 (complete)     2
//      step 2   [0]         0       1                  2
//      step 3   [0 1]       0, 1    2, 3               1
//
// all_reduce, n = 2^m:  T = 2 log2 n alpha + 2(n-1)/n M beta + (n-1)/n M gamma
// other n:              the extra ranks fold into their neighbours, as in recursive doubling, with
//                       f = 2^floor(log2 n):
//                       T = (2 log2 f + 2) alpha + (2(f-1)/f + 2) M beta + ((f-1)/f + 1) M gamma
// reduce_scatter,       powers of two only (bruck serves the others):
// all_gather:           T = log2 n alpha + (n-1) M beta [+ (n-1) M gamma]
//
// Bandwidth-optimal in logarithmic time: for middle and large blocks where n is a power of two.
//
// Order under zero-copy: all_reduce needs none, a chunk that was given away comes back complete.
// reduce_scatter adds up in scratch; at the start of a round a token from each later partner says
// that it has read the last round's.
#pragma once

#include "src/algorithms/formula.h"
#include "src/algorithms/recursive_doubling.h"

namespace tutti::halving_doubling {

using recursive_doubling::Fold;

// The chunks that a corner keeps after k halvings of 2^m.
TUTTI_HD inline uint32_t kept(uint32_t corner, uint32_t k, uint32_t m) {
  uint32_t first = 0;
  for (uint32_t i = 0; i < k; ++i)
    if (corner >> i & 1) first += 1u << (m - 1 - i);
  return first;
}

struct AllReduce {  // C = 2^floor(log2 n)
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const Fold fold(p.ranks);
    const uint32_t m = fold.dimensions, all = 1u << m;
    if (fold.idle(r)) {
      if (at.take(1)) return send(r - 1, in(0), all);
      return at.take(1) ? recv(r - 1, out(0), all) : no_step();
    }
    const uint32_t v = fold.corner(r);
    const bool shared = fold.shared(v);
    if (at.take_if(shared)) return recv_reduce(r + 1, out(0), in(0), all, false);
    if (at.take(2 * m)) {
      const uint32_t k = at.index() / 2, size = all >> (k + 1);
      const Rank peer = fold.rank(v ^ (1u << k));
      const bool fresh = k == 0 && !shared;
      const uint32_t theirs = kept(v ^ (1u << k), k + 1, m), mine = kept(v, k + 1, m);
      if (at.index() % 2 == 0) return send(peer, fresh ? in(theirs) : out(theirs), size);
      return recv_reduce(peer, out(mine), fresh ? in(mine) : out(mine), size, k == m - 1);
    }
    if (at.take(2 * m)) {
      const uint32_t k = m - 1 - at.index() / 2, size = all >> (k + 1);
      const Rank peer = fold.rank(v ^ (1u << k));
      if (at.index() % 2 == 0) return send(peer, out(kept(v, k + 1, m)), size);
      return recv(peer, out(kept(v ^ (1u << k), k + 1, m)), size);
    }
    if (at.take_if(shared)) return send(r + 1, out(0), all);
    return no_step();
  }
};

struct ReduceScatter {  // C = 1, n = 2^m; scratch n/2 where n > 2
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks, m = floor_log2(n), half = n / 2;
    const uint32_t mine = r & half, theirs = mine ^ half;  // first block of either half
    const Rank across = r ^ half;
    // Block b of my half lives in scratch b - mine. Partners: r ^ n/2, r ^ n/4 ... r ^ 1.
    if (at.take(m - 1)) return send_token(r ^ (half >> (at.index() + 1)));
    if (at.take(1)) return send(across, in(theirs), half);
    if (at.take(m - 1)) return recv_token(r ^ (half >> (at.index() + 1)));
    if (at.take(1))
      return recv_reduce(across, m == 1 ? out(0) : scratch(0), in(mine), half, m == 1);
    if (at.take(2 * (m - 1))) {
      const uint32_t size = half >> (at.index() / 2 + 1);
      const uint32_t keep = (r & ~(size - 1)) - mine, give = keep ^ size;
      if (at.index() % 2 == 0) return send(r ^ size, scratch(give), size);
      return recv_reduce(r ^ size, size == 1 ? out(0) : scratch(keep), scratch(keep), size,
                         size == 1);
    }
    return no_step();
  }
};

using AllGather = recursive_doubling::AllGather;

}  // namespace tutti::halving_doubling
