// Pairwise exchange: all-to-all one distance at a time, and calls that are agreed pair by pair.
//
//      step 1: r -> r+1      step 2: r -> r+2      ...      step n-1: r -> r+n-1   (modulo n)
//
//      0 -> 1 -> 2 -> 3 -> 0     0 -> 2, 1 -> 3, 2 -> 0, 3 -> 1     ...
//
// all_to_all:  n-1 steps, (n-1) M bytes sent per rank (M: one rank's block):
//              T = (n-1)(alpha + M beta). Every step is a permutation: no rank is rushed at, little
//              is buffered. For large blocks.
//
// all_to_all_v and send_recv have a lane for every (peer, direction), so that a pair with much to
// say holds up nobody. Lane 2*((a+b) mod n) serves the message from a to b where a < b, the odd
// lane beside it the one from b to a: at any rank every lane has one step, and both ends of a
// message name the same lane. The rank's own block is copied in the lane where a = b.
//
// In place, block p of the buffer goes out to p and is overwritten by what p sends, so the two
// ranks of a pair take turns. a < b:
//
//      a: send its block ---------> b: receive into scratch
//      a: receive in place <------- b: send its block          a's old block has been read
//      a: token ------------------> b: copy scratch in place   b's old block has been read
//      a: token <------------------ b                          b's scratch is free again
//
// The messages are three deep, T >= 3 alpha + (n-1) M beta; but a rank serves its pairs in order
// and waits where its turn has not come: up to 4 (n-1) M beta (the simulator's figure from 12 ranks
// on).
#pragma once

#include "src/algorithms/formula.h"

namespace tutti::pairwise {

struct AllToAll {  // C = 1; scratch n in place
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks;
    if (p.in_place) return in_place(n, r, at);
    if (at.take(1)) return copy(out(r), in(r));
    if (at.take(2 * (n - 1))) {
      const uint32_t distance = 1 + at.index() / 2;
      const Rank to = add_mod(r, distance, n), from = sub_mod(r, distance, n);
      return at.index() % 2 == 0 ? send(to, in(to)) : recv(from, out(from));
    }
    return no_step();
  }

 private:
  // The lines of the drawing, each for all pairs at once: they do not wait for each other.
  TUTTI_HD static Step in_place(uint32_t n, Rank r, Cursor& at) {
    const uint32_t below = r, above = n - 1 - r;  // peers with which r is b, a
    if (at.take(above)) return send(r + 1 + at.index(), in(r + 1 + at.index()));
    if (at.take(2 * below)) {
      const Rank a = at.index() / 2;
      return at.index() % 2 == 0 ? recv(a, scratch(a)) : send(a, in(a));
    }
    if (at.take(2 * above)) {
      const Rank b = r + 1 + at.index() / 2;
      return at.index() % 2 == 0 ? recv(b, out(b)) : send_token(b);
    }
    if (at.take(3 * below)) {
      const Rank a = at.index() / 3;
      const uint32_t i = at.index() % 3;
      return i == 0 ? recv_token(a) : i == 1 ? copy(out(a), scratch(a)) : send_token(a);
    }
    if (at.take(above)) return recv_token(r + 1 + at.index());
    return no_step();
  }
};

struct PairLanes {  // all_to_all_v, send_recv: C = 1, 2n lanes, never in place
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane lane, Cursor& at) {
    const Rank peer = sub_mod(lane / 2, r, p.ranks);
    const bool upwards = lane % 2 == 0;  // the message goes from the lower to the higher rank
    if (peer == r) return at.take_if(upwards) ? copy(out(r), in(r)) : no_step();
    if (at.take(1)) return upwards == (r < peer) ? send(peer, in(peer)) : recv(peer, out(peer));
    return no_step();
  }
};

}  // namespace tutti::pairwise
