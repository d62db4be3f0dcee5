// Hierarchical all-reduce over N levels (GPU - NUMA node - node - rack ...), in both classical
// forms.
//
//      leader                              scatter (2 groups of 3)
//
//      0 1 2     3 4 5                     0 1 2     3 4 5
//      v v v     v v v   reduce            each rank of a group adds up a part: a, b, c
//      0 <------> 3      all-reduce        0 <-a-> 3   1 <-b-> 4   2 <-c-> 5    every rail at once
//      v v v     v v v   broadcast         all-gather inside
//      0 1 2     3 4 5                     0 1 2     3 4 5
//
// Both are the same walk: inside a group, the members with index < rails own a part of the block
// each; everyone sends them their parts, they add up in one pass, and the owners of a part in
// different groups meet at the next level. leader has one rail, scatter as many as the smallest
// group has members (see levels.h). At the top the ranks of a rail all-reduce their part, then the
// parts go back down.
//
// Groups of k, n = k m ranks, leader with a ring on top (the three-phase scheme of Jia et al.
// 2018):
//   T = (2 + 2(m-1)) alpha + (2(k-1) + 2(m-1)/m) M beta + (k-1 + (m-1)/m) M gamma
// scatter (Horovod's hierarchical, BlueConnect 2019, torus 2018); each byte crosses each level
// once:
//   T = (2 + 2(m-1)) alpha + 2(n-1)/n M beta + (n-1)/n M gamma
// With halving-doubling on top 2(m-1) alpha becomes 2 log2 m alpha, with two-shot 2 alpha.
//
// leader for latency-bound sizes and many ranks, scatter for large blocks: it uses every NIC.
//
// A slice of the chunks per lane: while one lane is between groups, another is inside.
//
// Order under zero-copy: nothing but the data; what is overwritten is contained in the result.
#pragma once

#include "src/algorithms/formula.h"
#include "src/algorithms/levels.h"

namespace tutti::hierarchical {

// All the places of one rank, plain data.
struct Places {
  uint32_t levels = 0;
  LevelPlace level[Levels::k_max];
};

// Reduce-scatter and all-gather inside one group. The group's range of chunks starts at `base`;
// part p of it is `part` chunks long and belongs to member p.
struct Inside {
  const LevelPlace& group;
  uint32_t base, part;
  bool fresh;  // the rank's sum is still its input

  // The i-th owner of a part other than this rank, rotated so that not all rush at one.
  TUTTI_HD uint32_t owner(uint32_t i) const {
    return group.goes_on() ? (group.index + 1 + i) % group.rails : (group.index + i) % group.rails;
  }
  TUTTI_HD uint32_t owners() const { return group.rails - (group.goes_on() ? 1 : 0); }
  TUTTI_HD uint32_t member(uint32_t i) const { return (group.index + 1 + i) % group.size; }
  TUTTI_HD uint32_t chunk(uint32_t p) const { return base + p * part; }
  TUTTI_HD Ref sum(uint32_t p) const { return fresh ? in(chunk(p)) : out(chunk(p)); }

  TUTTI_HD Step reduce_scatter(Cursor& at) const {
    if (at.take(owners())) {
      const uint32_t p = owner(at.index());
      return send(group.members[p], sum(p), part);
    }
    if (at.take(group.goes_on() ? group.size - 1 : 0)) {
      const uint32_t i = at.index();
      return recv_reduce(group.members[member(i)], out(chunk(group.index)),
                         i == 0 ? sum(group.index) : out(chunk(group.index)), part, false);
    }
    return no_step();
  }
  TUTTI_HD Step all_gather(Cursor& at) const {
    if (at.take(group.goes_on() ? group.size - 1 : 0))
      return send(group.members[member(at.index())], out(chunk(group.index)), part);
    if (at.take(owners())) {
      const uint32_t p = owner(at.index());
      return recv(group.members[p], out(chunk(p)), part);
    }
    return no_step();
  }
};

// A step of an all-reduce among the top group, as the step of the real rank.
TUTTI_HD inline Step lifted(Step step, const LevelPlace& top, uint32_t base, bool fresh) {
  if (step.count == 0) return step;
  const bool messages = step.op == Op::send || reads_message(step.op);
  if (messages) step.peer = top.members[step.peer];
  if (writes_dst(step.op)) step.dst += base;
  if (!reads_src(step.op)) return step;
  step.src += base;
  if (!fresh && step.src_buffer == Buffer::input) step.src_buffer = Buffer::output;
  return step;
}

// Top: a formula for all_reduce without scratch, on `top_chunks` chunks. `slice` is the chunks of a
// lane; lane l has those from l * slice on.
template <class Top>
TUTTI_HD Step walk(const Places& places, uint32_t top_chunks, uint32_t slice, Lane lane,
                   Cursor& at) {
  uint32_t base[Levels::k_max], part[Levels::k_max];
  uint32_t first = lane * slice, size = slice;
  bool fresh = true;
  // Up: at each level the rank's range shrinks to the part that it owns.
  const uint32_t top = places.levels - 1;
  uint32_t l = 0;
  for (; l < top; ++l) {
    const LevelPlace& group = places.level[l];
    base[l] = first;
    part[l] = size / group.rails;
    if (const Step s = Inside{group, base[l], part[l], fresh}.reduce_scatter(at); s.count > 0)
      return s;
    if (!group.goes_on()) break;
    fresh = fresh && group.size == 1;
    first += group.index * part[l];
    size = part[l];
  }
  if (l == top) {
    const LevelPlace& group = places.level[top];
    const Params p{group.size, top_chunks, 0, false};
    if (const Step s = Top::walk(p, group.index, 0, at); s.count > 0)
      return lifted(s, group, first, fresh);
  } else {
    ++l;  // where the rank stayed behind, it also gets the result
  }
  while (l-- > 0)
    if (const Step s = Inside{places.level[l], base[l], part[l], false}.all_gather(at); s.count > 0)
      return s;
  return no_step();
}

// The plan: the tables of the levels, O(ranks), and the walk.
template <class Top>
class AllReducePlan final : public Plan {
 public:
  AllReducePlan(std::string algorithm, Shape shape, Rails rails, uint32_t top_chunks)
      : Plan(std::move(algorithm), std::move(shape)),
        levels_(this->shape().hierarchy, this->shape().ranks, rails),
        top_chunks_(top_chunks),
        slice_(this->shape().chunks / this->shape().lanes) {}

  uint32_t steps(Rank rank, Lane lane) const override {
    Cursor at(Cursor::k_beyond);
    walk<Top>(places(rank), top_chunks_, slice_, lane, at);
    return at.passed();
  }
  Step step_at(Rank rank, Lane lane, uint32_t index) const override {
    Cursor at(index);
    return walk<Top>(places(rank), top_chunks_, slice_, lane, at);
  }

 private:
  Places places(Rank rank) const {
    Places p;
    p.levels = levels_.count();
    for (uint32_t l = 0; l < p.levels; ++l) p.level[l] = levels_.place(l, rank);
    return p;
  }

  Levels levels_;
  uint32_t top_chunks_;
  uint32_t slice_;
};

// Chunks of one slice: a part for every rail of every level, and what the top needs.
inline uint32_t slice_chunks(const Levels& levels, uint32_t top_chunks) {
  uint32_t chunks = top_chunks;
  for (uint32_t l = 0; l + 1 < levels.count(); ++l) chunks *= levels.rails(l);
  return chunks;
}

}  // namespace tutti::hierarchical
