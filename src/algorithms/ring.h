// Ring: every rank talks to its two neighbours only.
//
//        reduce-scatter (n-1 steps)              all-gather (n-1 steps)
//
//      0 --c0--> 1      rank r sends chunk        0 --c1--> 1      the complete chunks go
//      ^         |      r-i at step i, adds       ^         |      round once more
//     c3        c1      chunk r-i-1 and ends     c0        c2
//      |         v      with chunk r+1            |         v
//      3 <--c2-- 2      complete                  3 <--c3-- 2
//
// all_reduce:      2(n-1) steps, 2(n-1)/n M bytes sent, (n-1)/n M reduced per rank:
//                  T = 2(n-1) alpha + 2(n-1)/n M beta + (n-1)/n M gamma   (Patarasuk and Yuan 2009)
// reduce_scatter,  n-1 steps, (n-1) M bytes (M: one rank's block):
// all_gather:      T = (n-1)(alpha + M beta [+ M gamma]); of more than two ranks reduce_scatter is
//                  through one alpha later, with the token that gives back the last scratch
// broadcast,       a chain from/to the root, pipelined over C chunks:
// reduce:          T = (n-1) alpha + (n-2+C) M/C beta [+ (n-2+C) M/C gamma]
//
// Bandwidth-optimal, latency linear in n: for large blocks and few ranks, and where a ring is what
// the links are.
//
// Order under zero-copy. all_reduce needs none beyond the data: a partial chunk is overwritten only
// by the complete one, which contains it. reduce_scatter keeps partial sums in two scratch chunks;
// a token from the reader gives one back. In reduce, data flows one way only: at the start of a
// round a token from the parent says that the child's scratch has been read in the round before.
#pragma once

#include "src/algorithms/formula.h"

namespace tutti::ring {

struct AllReduce {  // C = n
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks, next = add_mod(r, 1, n), prev = sub_mod(r, 1, n);
    if (at.take(2 * (n - 1))) {
      const uint32_t i = at.index() / 2, sent = sub_mod(r, i, n), added = sub_mod(r, i + 1, n);
      if (at.index() % 2 == 0) return send(next, i == 0 ? in(sent) : out(sent));
      return recv_reduce(prev, out(added), in(added), 1, i == n - 2);
    }
    if (at.take(2 * (n - 1))) {
      const uint32_t i = at.index() / 2;
      if (at.index() % 2 == 0) return send(next, out(sub_mod(add_mod(r, 1, n), i, n)));
      return recv(prev, out(sub_mod(r, i, n)));
    }
    return no_step();
  }
};

struct ReduceScatter {  // C = 1; scratch 2 where n > 2
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks;
    // Iteration i makes partial sum i, which iteration i+1 sends and a token acknowledges.
    if (at.take(2)) return iteration(n, r, 0, at.index() == 0 ? k_send : k_add);
    if (n == 2) return no_step();
    if (at.take(3)) return iteration(n, r, 1, at.index() == 0 ? k_send : at.index() + 1);
    if (at.take(4 * (n - 3))) return iteration(n, r, 2 + at.index() / 4, at.index() % 4);
    if (at.take(1)) return recv_token(add_mod(r, 1, n));
    return no_step();
  }

 private:
  enum : uint32_t { k_send, k_free, k_add, k_acknowledge };

  TUTTI_HD static Step iteration(uint32_t n, Rank r, uint32_t i, uint32_t part) {
    const Rank next = add_mod(r, 1, n), prev = sub_mod(r, 1, n);
    const bool last = i == n - 2;
    switch (part) {
      case k_send:
        return send(next, i == 0 ? in(prev) : scratch((i - 1) % 2));
      case k_free:  // partial sum i-2 has been read
        return recv_token(next);
      case k_add:
        return recv_reduce(prev, last ? out(0) : scratch(i % 2), in(sub_mod(r, i + 2, n)), 1, last);
      default:
        return send_token(prev);
    }
  }
};

struct AllGather {  // C = 1
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks, next = add_mod(r, 1, n), prev = sub_mod(r, 1, n);
    if (at.take(1)) return send(next, in(0));
    if (at.take_if(!p.in_place)) return copy(out(r), in(0));
    if (at.take(1)) return recv(prev, out(prev));
    if (at.take(2 * (n - 2))) {
      const uint32_t i = 1 + at.index() / 2;
      if (at.index() % 2 == 0) return send(next, out(sub_mod(r, i, n)));
      return recv(prev, out(sub_mod(r, i + 1, n)));
    }
    return no_step();
  }
};

struct Broadcast {  // a chain from the root, C chunks
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks, next = add_mod(r, 1, n), prev = sub_mod(r, 1, n);
    const uint32_t place = sub_mod(r, p.root, n);
    if (place == 0) {
      if (at.take(p.chunks)) return send(next, in(at.index()));
      if (at.take_if(!p.in_place)) return copy(out(0), in(0), p.chunks);
      return no_step();
    }
    if (place == n - 1) {
      if (at.take(p.chunks)) return recv(prev, out(at.index()));
      return no_step();
    }
    if (at.take(2 * p.chunks)) {
      const uint32_t c = at.index() / 2;
      return at.index() % 2 == 0 ? recv(prev, out(c)) : send(next, out(c));
    }
    return no_step();
  }
};

struct Reduce {  // a chain to the root, C chunks; scratch C where n > 2
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks, child = add_mod(r, 1, n), parent = sub_mod(r, 1, n);
    const uint32_t place = sub_mod(r, p.root, n);
    if (place == n - 1) {
      if (at.take(p.chunks)) return send(parent, in(at.index()));
      return no_step();
    }
    if (at.take_if(place + 2 < n)) return send_token(child);  // its scratch has been read
    if (place == 0) {
      if (at.take(p.chunks)) {
        const uint32_t c = at.index();
        return recv_reduce(child, out(c), in(c), 1, true);
      }
      return no_step();
    }
    if (at.take(1)) return recv_token(parent);
    if (at.take(2 * p.chunks)) {
      const uint32_t c = at.index() / 2;
      if (at.index() % 2 == 1) return send(parent, scratch(c));
      return recv_reduce(child, scratch(c), in(c), 1, false);
    }
    return no_step();
  }
};

}  // namespace tutti::ring
