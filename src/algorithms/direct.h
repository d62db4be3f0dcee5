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
// one-shot all_reduce:  T = alpha + (n-1) M beta + (n-1) M gamma: one message deep, for small
// blocks. two-shot all_reduce:  T = 2 alpha + 2(n-1)/n M beta + (n-1)/n M gamma: the ring's bytes
// in two
//                       steps, where every pair of ranks has its own link (shared memory, NVLink).
// reduce_scatter, all_gather, all_to_all:  T = alpha + (n-1) M beta  (M: one rank's block).
// broadcast, reduce, gather, scatter:      the same, all of it at the root.
//
// (A rank's n-1 messages count as one step: they do not wait for each other.)
//
// Same bits. Floating-point addition is not associative, so the ranks of a one-shot all_reduce add
// in the same order, by rank: each starts from rank 0's contribution and joins its own in its turn.
// In two-shot only the owner adds, and starts from its own.
//
// Order under zero-copy. Out of place nothing is written that anyone reads. In place one-shot sends
// a copy of its input, and rank 0's contribution lands in scratch, since a peer may read or write
// late. The block is cut in two chunks with scratch of their own: whoever sends its second chunk
// has read all the first ones, so a scratch chunk that comes up again in the next round is free.
// Two-shot needs none of this: a chunk is overwritten by the result, which contains it.
#pragma once

#include "src/algorithms/formula.h"

namespace tutti::direct {

// The peer at distance 1 + i: rotated, so that not all ranks rush at one.
TUTTI_HD constexpr Rank peer_at(Rank r, uint32_t i, uint32_t n) { return add_mod(r, i + 1, n); }
// The i-th rank other than r.
TUTTI_HD constexpr Rank other(Rank r, uint32_t i) { return i < r ? i : i + 1; }

// Shape of one-shot: one chunk out of place, two and four scratch chunks in place.
struct OneShot {
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    if (!p.in_place) return out_of_place(p.ranks, r, at);
    for (uint32_t c = 0; c < 2; ++c) {
      const Step step = in_place(p.ranks, r, c, at);
      if (step.count > 0) return step;
    }
    return no_step();
  }

 private:
  TUTTI_HD static Step out_of_place(uint32_t n, Rank r, Cursor& at) {
    if (at.take(n - 1)) return send(peer_at(r, at.index(), n), in(0));
    if (r == 0) {
      if (at.take(n - 1)) {
        const uint32_t i = at.index();
        return recv_reduce(i + 1, out(0), i == 0 ? in(0) : out(0), 1, i == n - 2);
      }
      return no_step();
    }
    if (at.take(1)) return recv(0, out(0));
    if (at.take(n - 1)) return join(n, r, 1 + at.index(), out(0), out(0), in(0));
    return no_step();
  }

  TUTTI_HD static Step in_place(uint32_t n, Rank r, uint32_t c, Cursor& at) {
    const Ref own = scratch(c), first = scratch(2 + c);
    if (at.take(1)) return copy(own, out(c));
    if (at.take(n - 1)) return send(peer_at(r, at.index(), n), own);
    if (r == 0) {
      if (at.take(n - 1))
        return recv_reduce(at.index() + 1, out(c), out(c), 1, at.index() == n - 2);
      return no_step();
    }
    if (at.take(1)) return recv(0, first);
    if (at.take_if(r == 1)) return copy(out(c), first);
    if (at.take(n - 1)) {
      const uint32_t i = 1 + at.index();
      return join(n, r, i, out(c), i == 1 ? first : out(c), own);
    }
    return no_step();
  }

  // Contribution i of a pass in rank order.
  TUTTI_HD static Step join(uint32_t n, Rank r, uint32_t i, Ref dst, Ref so_far, Ref own) {
    if (i == r) return reduce(dst, own, 1, i == n - 1);
    return recv_reduce(i, dst, so_far, 1, i == n - 1);
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
