// Double binary tree (Sanders, Speck and Träff 2009; the pair of trees as in NCCL): two binary
// trees over the same ranks, each carrying half of the chunks. Inner ranks of one are leaves of the
// other, so that every rank sends and receives about as much as the others.
//
//      tree 0 of 8 ranks                 tree 1 (mirrored; shifted by one where n is odd)
//
//      0---------------.                              .---------------7
//                      4                              3
//              .-------'-------.              .-------'-------.
//              2               6              1               5
//          .---'---.       .---'---.      .---'---.       .---'---.
//          1       3       5       7      0       2       4       6
//
// A tree is numbered in order: a node's level is its lowest set bit, its children half that far to
// both sides. Chunks flow up (reduced on the way) and down again, pipelined; each tree has an up
// and a down lane, joined at the root by signal and wait, for if one lane did both, the way down
// would hold up the way up (measured: 7 times slower).
//
// With k = C/2 chunks per tree and h = 1 + floor(log2(n - 1)) messages from a root to its last leaf:
//   broadcast, reduce:  h' + 1 messages deep (h' = h of n - 1 ranks; the root is above both trees):
//                       T = (h' + 1) alpha + (2 ceil(log2(n - 1)) - 1 + 2k) M/(2k) beta
//   all_reduce:         2h messages deep, up and down share the ports (n >= 4):
//                       T = 2h alpha + (4 ceil(log2 n) + 4k) M/(2k) beta
//                       -> 2 M beta for many chunks
// The alphas are exact; the bytes to 1.4 times (how long the ports of inner ranks are shared while
// the pipeline fills depends on alpha / beta). The other messages follow one another in the
// pipeline: they cost overheads (Cost::overlapped). reduced bytes: M per rank, plus
// ceil(log2 n) M/k to fill the pipeline.
//
// Logarithmic latency at near-optimal bandwidth: for middle sizes and many ranks.
//
// broadcast and reduce build the trees over the other ranks; the root feeds or drains both.
//
// Order under zero-copy: all_reduce overwrites partial sums only by the complete ones. Inner ranks
// of reduce add up in scratch; at the start of a round a token from the parent says that it has
// read the last round's.
#pragma once

#include "src/algorithms/formula.h"

namespace tutti::double_binary_tree {

inline constexpr uint32_t k_none = ~uint32_t{0};

// A node's neighbours.
struct Node {
  uint32_t parent = k_none;
  uint32_t kids = 0;
  uint32_t kid[2] = {k_none, k_none};
};

// In-order tree over positions 0 .. n-1, root 0.
TUTTI_HD inline Node in_order(uint32_t v, uint32_t n) {
  Node node;
  if (v == 0) {
    if (n > 1) node.kid[node.kids++] = 1u << floor_log2(n - 1);
    return node;
  }
  const uint32_t bit = lowest_bit(v), above = (v ^ bit) | (bit << 1);
  node.parent = above < n ? above : v ^ bit;
  if (bit > 1) node.kid[node.kids++] = v - bit / 2;
  for (uint32_t d = bit / 2; d > 0; d /= 2) {
    if (v + d >= n) continue;
    node.kid[node.kids++] = v + d;
    break;
  }
  return node;
}

// Where tree `tree` puts rank v, and who is at a position.
TUTTI_HD inline uint32_t position(uint32_t v, uint32_t tree, uint32_t n) {
  if (tree == 0) return v;
  return n % 2 == 0 ? n - 1 - v : sub_mod(v, 1, n);
}
TUTTI_HD inline uint32_t at_position(uint32_t q, uint32_t tree, uint32_t n) {
  if (tree == 0) return q;
  return n % 2 == 0 ? n - 1 - q : add_mod(q, 1, n);
}

TUTTI_HD inline Node node_of(uint32_t v, uint32_t tree, uint32_t n) {
  Node node = in_order(position(v, tree, n), n);
  if (node.parent != k_none) node.parent = at_position(node.parent, tree, n);
  for (uint32_t k = 0; k < node.kids; ++k) node.kid[k] = at_position(node.kid[k], tree, n);
  return node;
}
TUTTI_HD inline uint32_t root_of(uint32_t tree, uint32_t n) { return at_position(0, tree, n); }

// Chunks of a tree: tree 0 has the first half (and the odd one).
TUTTI_HD inline uint32_t first_chunk(uint32_t tree, uint32_t chunks) {
  return tree == 0 ? 0 : (chunks + 1) / 2;
}
TUTTI_HD inline uint32_t chunks_of(uint32_t tree, uint32_t chunks) {
  return tree == 0 ? (chunks + 1) / 2 : chunks / 2;
}

struct AllReduce {  // 4 lanes: up and down of tree 0, up and down of tree 1
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane lane, Cursor& at) {
    const uint32_t tree = lane / 2;
    const Node node = node_of(r, tree, p.ranks);
    const uint32_t per_chunk = node.kids + 1;
    if (!at.take(per_chunk * chunks_of(tree, p.chunks))) return no_step();
    const uint32_t c = first_chunk(tree, p.chunks) + at.index() / per_chunk;
    const uint32_t part = at.index() % per_chunk;
    return lane % 2 == 0 ? up(node, c, part, lane) : down(node, c, part, lane);
  }

 private:
  TUTTI_HD static Step up(const Node& node, uint32_t c, uint32_t part, Lane lane) {
    const bool root = node.parent == k_none;
    if (part < node.kids)
      return recv_reduce(node.kid[part], out(c), part == 0 ? in(c) : out(c), 1,
                         root && part + 1 == node.kids);
    if (root) return signal(lane + 1);
    return send(node.parent, node.kids == 0 ? in(c) : out(c));
  }
  TUTTI_HD static Step down(const Node& node, uint32_t c, uint32_t part, Lane lane) {
    if (part > 0) return send(node.kid[part - 1], out(c));
    return node.parent == k_none ? wait(lane - 1) : recv(node.parent, out(c));
  }
};

// Ranks other than the root, numbered 0 .. n-2 from the root on.
TUTTI_HD inline uint32_t number_of(Rank r, const Params& p) {
  return sub_mod(r, p.root + 1, p.ranks);
}
TUTTI_HD inline Rank rank_of(uint32_t number, const Params& p) {
  return add_mod(number, add_mod(p.root, 1, p.ranks), p.ranks);
}
TUTTI_HD inline Rank parent_rank(const Node& node, const Params& p) {
  return node.parent == k_none ? p.root : rank_of(node.parent, p);
}

struct Broadcast {  // 2 lanes: tree 0, tree 1
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane tree, Cursor& at) {
    const uint32_t m = p.ranks - 1, chunks = chunks_of(tree, p.chunks);
    const uint32_t first = first_chunk(tree, p.chunks);
    if (r == p.root) {
      if (at.take(chunks)) return send(rank_of(root_of(tree, m), p), in(first + at.index()));
      if (at.take_if(!p.in_place && chunks > 0)) return copy(out(first), in(first), chunks);
      return no_step();
    }
    const Node node = node_of(number_of(r, p), tree, m);
    const uint32_t per_chunk = node.kids + 1;
    if (!at.take(per_chunk * chunks)) return no_step();
    const uint32_t c = first + at.index() / per_chunk, part = at.index() % per_chunk;
    return part == 0 ? recv(parent_rank(node, p), out(c))
                     : send(rank_of(node.kid[part - 1], p), out(c));
  }
};

struct Reduce {  // 2 lanes; scratch C where n > 2
  TUTTI_HD static Step walk(const Params& p, Rank r, Lane tree, Cursor& at) {
    const uint32_t m = p.ranks - 1, chunks = chunks_of(tree, p.chunks);
    const uint32_t first = first_chunk(tree, p.chunks);
    if (chunks == 0) return no_step();
    if (r == p.root) return root(p, rank_of(root_of(tree, m), p), first, chunks, at);
    const Node node = node_of(number_of(r, p), tree, m);
    if (node.kids == 0) {
      if (at.take(chunks)) return send(parent_rank(node, p), in(first + at.index()));
      return no_step();
    }
    for (uint32_t k = 0; k < node.kids; ++k)
      if (at.take_if(node_of(node.kid[k], tree, m).kids > 0))
        return send_token(rank_of(node.kid[k], p));
    if (at.take(1)) return recv_token(parent_rank(node, p));
    const uint32_t per_chunk = node.kids + 1;
    if (!at.take(per_chunk * chunks)) return no_step();
    const uint32_t c = first + at.index() / per_chunk, part = at.index() % per_chunk;
    if (part == node.kids) return send(parent_rank(node, p), scratch(c));
    return recv_reduce(rank_of(node.kid[part], p), scratch(c), part == 0 ? in(c) : scratch(c), 1,
                       false);
  }

 private:
  TUTTI_HD static Step root(const Params& p, Rank top, uint32_t first, uint32_t chunks,
                            Cursor& at) {
    if (at.take_if(p.ranks > 2)) return send_token(top);
    if (!at.take(chunks)) return no_step();
    const uint32_t c = first + at.index();
    return recv_reduce(top, out(c), in(c), 1, true);
  }
};

}  // namespace tutti::double_binary_tree
