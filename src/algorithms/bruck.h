// Bruck (Bruck et al. 1997) and its mirror image for reduce-scatter (as in NCCL's PAT): logarithmic
// steps for any number of ranks.
//
//      all_gather, 5 ranks, rank r's view: blocks are named by their distance from r
//
//      has 0           gets 1        from r+1     stages s -> from 1 to 2
//      has 0 1         gets 2        from r+2                 from 2 to 3
//      has 0 1 2       gets 3 4      from r+3                 from 3 to 5
//
// The numbers of blocks are n, ceil(n/2), ceil(n/4) ... 1, backwards; from h to s blocks rank r
// receives blocks h .. s-1 from r+h, which knows them as 0 .. s-h-1. Blocks are put where they
// belong at once, so there is nothing to rotate at the end; where a range passes rank n-1, it comes
// in two pieces.
//
// reduce_scatter runs the same stages forwards: from s to h, rank r hands its sums for blocks
// h .. s-1 to r+h and adds what r-h says about blocks 0 .. s-h-1.
//
// all_gather, reduce_scatter:  T = ceil(log2 n) alpha + (n-1) M beta [+ (n-1) M gamma]
//
// all_to_all moves the block for rank r+j by the bits of j: at step k all blocks whose j has bit k
// travel 2^k ranks on, packed into one message:
//                              T = (ceil(log2 n) + 1) alpha + about n/2 ceil(log2 n) M beta
//
// For small blocks at any number of ranks; all_to_all moves log2(n)/2 times the bytes of pairwise.
//
// Order under zero-copy. all_gather writes every block once. The others use scratch that peers read
// (or write): at the start of a round, a token from each of them says that the round before is
// over.
#pragma once

#include "src/algorithms/formula.h"

namespace tutti::bruck {

// Blocks held after i stages of the reduce-scatter: ceil(n / 2^i).
TUTTI_HD inline uint32_t held(uint32_t n, uint32_t i) {
  return static_cast<uint32_t>((uint64_t{n} + (uint64_t{1} << i) - 1) >> i);
}

// Blocks [first, first + count) modulo n as one or two runs without wrap.
struct Range {
  uint32_t first, count, n;
  TUTTI_HD uint32_t head() const { return count < n - first ? count : n - first; }
  TUTTI_HD uint32_t pieces() const { return head() < count ? 2 : 1; }
  TUTTI_HD uint32_t start(uint32_t piece) const { return piece == 0 ? first : 0; }
  TUTTI_HD uint32_t size(uint32_t piece) const { return piece == 0 ? head() : count - head(); }
};

struct AllGather {  // C = 1; 2 credits
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks;
    if (at.take_if(!p.in_place)) return copy(out(r), in(0));
    for (uint32_t i = ceil_log2(n); i-- > 0;) {
      const uint32_t h = held(n, i + 1), count = held(n, i) - h;
      const Rank to = sub_mod(r, h, n), from = add_mod(r, h, n);
      const Range mine{r, count, n}, theirs{from, count, n};
      if (at.take(mine.pieces()))
        return send(to, out(mine.start(at.index())), mine.size(at.index()));
      if (at.take(theirs.pieces()))
        return recv(from, out(theirs.start(at.index())), theirs.size(at.index()));
    }
    return no_step();
  }
};

struct ReduceScatter {  // C = 1; scratch ceil(n/2) where n > 2; 2 credits
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks, stages = ceil_log2(n), h0 = held(n, 1), count0 = n - h0;
    const Rank to = add_mod(r, h0, n), from = sub_mod(r, h0, n);
    if (at.take(stages - 1)) return send_token(sub_mod(r, held(n, at.index() + 2), n));
    const Range theirs{to, count0, n}, mine{r, count0, n};
    if (at.take(theirs.pieces()))
      return send(to, in(theirs.start(at.index())), theirs.size(at.index()));
    if (at.take(stages - 1)) return recv_token(add_mod(r, held(n, at.index() + 2), n));
    if (at.take_if(count0 < h0)) return copy(scratch(h0 - 1), in(add_mod(r, h0 - 1, n)));
    if (at.take(mine.pieces())) {
      const uint32_t piece = at.index();
      if (stages == 1) return recv_reduce(from, out(0), in(r), 1, true);
      return recv_reduce(from, scratch(piece == 0 ? 0 : mine.head()), in(mine.start(piece)),
                         mine.size(piece), false);
    }
    if (at.take(2 * (stages - 1))) {
      const uint32_t i = 1 + at.index() / 2, h = held(n, i + 1), count = held(n, i) - h;
      const bool last = i == stages - 1;
      if (at.index() % 2 == 0) return send(add_mod(r, h, n), scratch(h), count);
      return recv_reduce(sub_mod(r, h, n), last ? out(0) : scratch(0), scratch(0), count, last);
    }
    return no_step();
  }
};

// Distances j in [1, n) with bit k, in order: how many, the i-th, and the place of j.
TUTTI_HD inline uint32_t with_bit(uint32_t n, uint32_t k) {
  const uint32_t full = n >> (k + 1) << k, rest = n & ((2u << k) - 1);
  return full + (rest > (1u << k) ? rest - (1u << k) : 0);
}
TUTTI_HD inline uint32_t nth_with_bit(uint32_t i, uint32_t k) {
  return (i >> k << (k + 1)) | (1u << k) | (i & ((1u << k) - 1));
}
TUTTI_HD inline uint32_t place_of(uint32_t j, uint32_t k) {
  return (j >> (k + 1) << k) | (j & ((1u << k) - 1));
}

struct AllToAll {  // C = 1; not in place; scratch 2 * (sum of with_bit)
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane, Cursor& at) {
    const uint32_t n = p.ranks, stages = ceil_log2(n);
    if (at.take(stages)) return send_token(sub_mod(r, 1u << at.index(), n));
    if (at.take(1)) return copy(out(r), in(r));
    if (at.take(stages)) return recv_token(add_mod(r, 1u << at.index(), n));
    uint32_t packed = 0;
    for (uint32_t k = 0; k < stages; ++k) {
      const uint32_t count = with_bit(n, k);
      const Rank to = add_mod(r, 1u << k, n), from = sub_mod(r, 1u << k, n);
      if (at.take(count)) {
        const uint32_t j = nth_with_bit(at.index(), k);
        return copy(scratch(packed + at.index()), block(n, r, j, j & ((1u << k) - 1)));
      }
      if (at.take(1)) return send(to, scratch(packed), count);
      if (at.take(1)) return recv(from, scratch(packed + count), count);
      packed += 2 * count;
    }
    if (at.take(n - 1)) {
      const uint32_t j = 1 + at.index();
      return copy(out(sub_mod(r, j, n)), block(n, r, j, j));
    }
    return no_step();
  }

 private:
  // Where the block of distance j is when the steps of bits `done` are behind it: as received at
  // the highest of them.
  TUTTI_HD static Ref block(uint32_t n, Rank r, uint32_t j, uint32_t done) {
    if (done == 0) return in(add_mod(r, j, n));
    const uint32_t k = floor_log2(done);
    uint32_t packed = 0;
    for (uint32_t i = 0; i < k; ++i) packed += 2 * with_bit(n, i);
    return scratch(packed + with_bit(n, k) + place_of(j, k));
  }
};
TUTTI_HD inline uint32_t all_to_all_scratch(uint32_t n) {
  uint32_t total = 0;
  for (uint32_t k = 0; k < ceil_log2(n); ++k) total += 2 * with_bit(n, k);
  return total;
}

}  // namespace tutti::bruck
