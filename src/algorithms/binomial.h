// Binomial tree: the fewest steps from or to one root.
//
//      8 ranks, numbered from the root on: v's parent is v without its lowest set bit
//
//      0 -----.-----.-----.
//             4     2     1          broadcast: the largest subtree is served first
//            / \    |                reduce:    the smallest is ready first
//           6   5   3
//           |
//           7
//
// broadcast:          T = floor(log2 n) alpha + d M beta,  d = ceil(log2 n)
// reduce:             T = d (alpha + M beta) + d(d+1)/2 M gamma  (one pass adds up all children)
// gather, scatter:    T = (d + 1) alpha + (n-1) M beta   (M: one rank's block; up to three ranks:
//                     one alpha; a full tree is through one alpha later, with its last token)
//
// For small blocks; the root of gather and scatter handles log2 n messages instead of n-1.
//
// Order under zero-copy. A rank that adds up or collects does so in scratch, which must have been
// read before it is written in the next round. reduce: a token from the parent at the start of a
// round says so. gather and scatter also receive into scratch, so the writer must know that it is
// free: the reader acknowledges at once (so that a round ends with its scratch free) and the owner
// passes that on at the start of the next, which is the one step more in the cost above.
#pragma once

#include "src/algorithms/formula.h"

namespace tutti::binomial {

// v is a rank's number counted from the root. Its subtree is [v, v + reach).
TUTTI_HD inline uint32_t reach(uint32_t v, uint32_t n) {
  const uint32_t span = v == 0 ? n : lowest_bit(v);
  return span < n - v ? span : n - v;
}
TUTTI_HD inline uint32_t kids(uint32_t v, uint32_t n) { return ceil_log2(reach(v, n)); }
TUTTI_HD inline uint32_t parent(uint32_t v) { return v & (v - 1); }
TUTTI_HD inline Rank rank_of(uint32_t v, const Params& p) { return add_mod(v, p.root, p.ranks); }

struct Broadcast {  // C = 1
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks, v = sub_mod(r, p.root, n), k = kids(v, n);
    if (at.take_if(v != 0)) return recv(rank_of(parent(v), p), out(0));
    if (at.take(k))
      return send(rank_of(v + (1u << (k - 1 - at.index())), p), v == 0 ? in(0) : out(0));
    if (at.take_if(v == 0 && !p.in_place)) return copy(out(0), in(0));
    return no_step();
  }
};

struct Reduce {  // C = 1; scratch 1 where n > 2
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks, v = sub_mod(r, p.root, n), k = kids(v, n);
    if (v != 0 && k == 0) return at.take(1) ? send(rank_of(parent(v), p), in(0)) : no_step();
    // Children 2^1, 2^2 ... add up in scratch where they have children of their own.
    for (uint32_t i = 1; i < k; ++i)
      if (at.take_if(kids(v + (1u << i), n) > 0)) return send_token(rank_of(v + (1u << i), p));
    if (at.take_if(v != 0)) return recv_token(rank_of(parent(v), p));
    const Ref sum = v == 0 ? out(0) : scratch(0);
    if (at.take(k)) {
      const uint32_t i = at.index();
      return recv_reduce(rank_of(v + (1u << i), p), sum, i == 0 ? in(0) : sum, 1,
                         v == 0 && i == k - 1);
    }
    if (at.take_if(v != 0)) return send(rank_of(parent(v), p), sum);
    return no_step();
  }
};

// Subtrees are ranges of numbers; at the root, which counts in ranks, the range that passes rank
// n-1 comes in two pieces.
TUTTI_HD inline uint32_t first_piece(uint32_t v, const Params& p) {
  const uint32_t to_end = p.ranks - rank_of(v, p), size = reach(v, p.ranks);
  return size < to_end ? size : to_end;
}
TUTTI_HD inline uint32_t pieces(uint32_t v, const Params& p) {
  return first_piece(v, p) < reach(v, p.ranks) ? 2 : 1;
}

struct Gather {  // C = 1; scratch: the largest subtree below the root; 2 credits
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks, v = sub_mod(r, p.root, n), k = kids(v, n);
    if (v == 0) return root(p, k, at);
    const Rank up = rank_of(parent(v), p);
    if (k == 0) {
      if (at.take_if(parent(v) != 0)) return recv_token(up);
      return at.take(1) ? send(up, in(0)) : no_step();
    }
    if (at.take(k)) return send_token(rank_of(v + (1u << at.index()), p));
    if (at.take(1)) return copy(scratch(0), in(0));
    for (uint32_t i = 0; i < k; ++i) {
      const uint32_t kid = v + (1u << i);
      if (at.take(1)) return recv(rank_of(kid, p), scratch(1u << i), reach(kid, n));
      if (at.take_if(kids(kid, n) > 0)) return send_token(rank_of(kid, p));
    }
    if (at.take_if(parent(v) != 0)) return recv_token(up);
    const uint32_t head = parent(v) == 0 ? first_piece(v, p) : reach(v, n);
    if (at.take(1)) return send(up, scratch(0), head);
    if (at.take_if(head < reach(v, n))) return send(up, scratch(head), reach(v, n) - head);
    return at.take(1) ? recv_token(up) : no_step();
  }

 private:
  TUTTI_HD static Step root(const Params& p, uint32_t k, Cursor& at) {
    if (at.take_if(!p.in_place)) return copy(out(p.root), in(0));
    for (uint32_t i = 0; i < k; ++i) {
      const uint32_t kid = 1u << i, head = first_piece(kid, p);
      const Rank peer = rank_of(kid, p);
      if (at.take(1)) return recv(peer, out(peer), head);
      if (at.take_if(pieces(kid, p) == 2)) return recv(peer, out(0), reach(kid, p.ranks) - head);
      if (at.take_if(kids(kid, p.ranks) > 0)) return send_token(peer);
    }
    return no_step();
  }
};

struct Scatter {  // C = 1; scratch: the largest subtree below the root; 2 credits
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks, v = sub_mod(r, p.root, n), k = kids(v, n);
    if (v == 0) return root(p, k, at);
    const Rank up = rank_of(parent(v), p);
    if (k == 0) {
      if (at.take(1)) return recv(up, out(0));
      return at.take_if(parent(v) != 0) ? send_token(up) : no_step();
    }
    if (at.take(1)) return send_token(up);  // scratch is free
    const uint32_t head = parent(v) == 0 ? first_piece(v, p) : reach(v, n);
    if (at.take(1)) return recv(up, scratch(0), head);
    if (at.take_if(head < reach(v, n))) return recv(up, scratch(head), reach(v, n) - head);
    if (at.take_if(parent(v) != 0)) return send_token(up);  // read
    for (uint32_t i = k; i-- > 0;) {
      const uint32_t kid = v + (1u << i);
      if (at.take_if(kids(kid, n) > 0)) return recv_token(rank_of(kid, p));
      if (at.take(1)) return send(rank_of(kid, p), scratch(1u << i), reach(kid, n));
    }
    if (at.take(1)) return copy(out(0), scratch(0));
    if (at.take(k)) return recv_token(rank_of(v + (1u << (k - 1 - at.index())), p));
    return no_step();
  }

 private:
  TUTTI_HD static Step root(const Params& p, uint32_t k, Cursor& at) {
    for (uint32_t i = k; i-- > 0;) {
      const uint32_t kid = 1u << i, head = first_piece(kid, p);
      const Rank peer = rank_of(kid, p);
      if (at.take_if(kids(kid, p.ranks) > 0)) return recv_token(peer);
      if (at.take(1)) return send(peer, in(peer), head);
      if (at.take_if(pieces(kid, p) == 2)) return send(peer, in(0), reach(kid, p.ranks) - head);
    }
    if (at.take_if(!p.in_place)) return copy(out(0), in(p.root));
    return no_step();
  }
};

}  // namespace tutti::binomial
