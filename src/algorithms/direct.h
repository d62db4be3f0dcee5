// Direct: every rank talks to every other one; nothing is forwarded.
//
//      one-shot                                two-shot (chunk r belongs to rank r)
//
//      0 --x0--> 1, 2, 3                       0 --c1--> 1   0 --c2--> 2   0 --c3--> 3
//      1 --x1--> 0, 2, 3                       ... each owner adds up its chunk in one pass,
//      2 --x2--> 0, 1, 3                       then gives the result to everyone:
//      3 --x3--> 0, 1, 2                       0 --c0--> 1, 2, 3
//      every rank adds x0 + x1 + x2 + x3       1 --c1--> 0, 2, 3   ...
//
// one-shot all_reduce:  T = alpha + (n-1) M beta + (n-1) M gamma
//                       one message deep, for small blocks
// two-shot all_reduce:  T = 2 alpha + 2(n-1)/n M beta + (n-1)/n M gamma
//                       the ring's bytes in two steps, where every pair of ranks has its own link
// reduce_scatter, all_gather, all_to_all:  T = alpha + (n-1) M beta  (M: one rank's block).
// broadcast, reduce, gather, scatter:      the same, all of it at the root.
//
// (A rank's n-1 messages count as one step: they do not wait for each other.)
//
// Same bits. Floating-point addition is not associative, so the ranks of a one-shot all_reduce add
// in the same order, by rank: each starts from rank 0's contribution and joins its own in its turn
// (ranks 0 and 1 start from their own, for two operands commute).
// In two-shot only the owner adds, and starts from its own.
//
// Order under zero-copy. Out of place nothing is written that anyone reads. In place one-shot sends
// a copy of its input, and rank 0's contribution lands in scratch, since a peer may read or write
// late. The block is cut in two chunks with scratch of their own: whoever sends its second chunk
// has read all the first ones, so a scratch chunk that comes up again in the next round is free.
// (Blocks of up to 64 bytes have no second chunk; larger ones take 2 alpha in place.)
// Two-shot needs none of this: a chunk is overwritten by the result, which contains it.
#pragma once

#include "src/algorithms/formula.h"

namespace tutti::direct {

// The peer at distance 1 + i: rotated, so that not all ranks rush at one.
TUTTI_HD constexpr Rank peer_at(Rank r, uint32_t i, uint32_t n) { return add_mod(r, i + 1, n); }

struct OneShot {  // C = 1; in place C = 2, scratch 4
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    for (uint32_t c = 0; c < p.chunks; ++c) {
      const Step step = chunk(p, r, c, at);
      if (step.count > 0) return step;
    }
    return no_step();
  }

 private:
  TUTTI_HD static Step chunk(const Params& p, Rank r, uint32_t c, Cursor& at) {
    const uint32_t n = p.ranks;
    const Ref own = p.in_place ? scratch(c) : in(c), first = p.in_place ? scratch(2 + c) : out(c);
    if (at.take_if(p.in_place)) return copy(own, in(c));
    if (at.take(n - 1)) return send(peer_at(r, at.index(), n), own);
    if (r < 2) {  // a + b is b + a: the pass may start from the rank's own
      if (!at.take(n - 1)) return no_step();
      const uint32_t i = at.index();
      return recv_reduce(i == 0 ? 1 - r : i + 1, out(c), i == 0 ? own : out(c), 1, i == n - 2);
    }
    if (at.take(1)) return recv(0, first);
    if (!at.take(n - 1)) return no_step();
    const uint32_t i = 1 + at.index();
    if (i == r) return reduce(out(c), own, 1, i == n - 1);
    return recv_reduce(i, out(c), i == 1 ? first : out(c), 1, i == n - 1);
  }
};

struct TwoShot {  // C = n
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks;
    if (at.take(n - 1)) {
      const Rank peer = peer_at(r, at.index(), n);
      return send(peer, in(peer));
    }
    if (at.take(n - 1)) {
      const uint32_t i = at.index();
      return recv_reduce(peer_at(r, i, n), out(r), i == 0 ? in(r) : out(r), 1, i == n - 2);
    }
    if (at.take(n - 1)) return send(peer_at(r, at.index(), n), out(r));
    if (at.take(n - 1)) {
      const Rank peer = peer_at(r, at.index(), n);
      return recv(peer, out(peer));
    }
    return no_step();
  }
};

struct ReduceScatter {  // C = 1
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks;
    if (at.take(n - 1)) {
      const Rank peer = peer_at(r, at.index(), n);
      return send(peer, in(peer));
    }
    if (at.take(n - 1)) {
      const uint32_t i = at.index();
      return recv_reduce(peer_at(r, i, n), out(0), i == 0 ? in(r) : out(0), 1, i == n - 2);
    }
    return no_step();
  }
};

struct AllGather {  // C = 1
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks;
    if (at.take(n - 1)) return send(peer_at(r, at.index(), n), in(0));
    if (at.take_if(!p.in_place)) return copy(out(r), in(0));
    if (at.take(n - 1)) {
      const Rank peer = peer_at(r, at.index(), n);
      return recv(peer, out(peer));
    }
    return no_step();
  }
};

struct Broadcast {  // C = 1
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks;
    if (r != p.root) return at.take(1) ? recv(p.root, out(0)) : no_step();
    if (at.take(n - 1)) return send(peer_at(r, at.index(), n), in(0));
    if (at.take_if(!p.in_place)) return copy(out(0), in(0));
    return no_step();
  }
};

struct Reduce {  // C = 1
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks;
    if (r != p.root) return at.take(1) ? send(p.root, in(0)) : no_step();
    if (at.take(n - 1)) {
      const uint32_t i = at.index();
      return recv_reduce(peer_at(r, i, n), out(0), i == 0 ? in(0) : out(0), 1, i == n - 2);
    }
    return no_step();
  }
};

struct Gather {  // C = 1
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks;
    if (r != p.root) return at.take(1) ? send(p.root, in(0)) : no_step();
    if (at.take_if(!p.in_place)) return copy(out(r), in(0));
    if (at.take(n - 1)) {
      const Rank peer = peer_at(r, at.index(), n);
      return recv(peer, out(peer));
    }
    return no_step();
  }
};

struct Scatter {  // C = 1
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks;
    if (r != p.root) return at.take(1) ? recv(p.root, out(0)) : no_step();
    if (at.take(n - 1)) {
      const Rank peer = peer_at(r, at.index(), n);
      return send(peer, in(peer));
    }
    if (at.take_if(!p.in_place)) return copy(out(0), in(r));
    return no_step();
  }
};

struct AllToAll {  // C = 1; not in place: every chunk of the buffer is both read and written
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks;
    if (at.take(n - 1)) {
      const Rank peer = peer_at(r, at.index(), n);
      return send(peer, in(peer));
    }
    if (at.take(1)) return copy(out(r), in(r));
    if (at.take(n - 1)) {
      const Rank peer = sub_mod(r, at.index() + 1, n);
      return recv(peer, out(peer));
    }
    return no_step();
  }
};

struct Barrier {
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks;
    if (at.take(n - 1)) return send_token(peer_at(r, at.index(), n));
    if (at.take(n - 1)) return recv_token(sub_mod(r, at.index() + 1, n));
    return no_step();
  }
};

}  // namespace tutti::direct
