// Broadcast and reduce along a hierarchy: a binomial tree among the groups of the top level, one
// among the groups of the next inside each of those, and so on, pipelined over C chunks. A rank
// sends to far children first.
//
//      0 1 2 3 | 4 5 6 7      root 0, groups of 4:  0 -> 4 across, then 0 -> 2, 1; 2 -> 3
//                                                                 and 4 -> 6, 5; 6 -> 7
//
// With h and d the sums over the levels of floor and ceil(log2 groups), f the most children of a
// rank:
//   T = h alpha + (d + f (C-1)) (M/C beta [+ M/C gamma]), and each link between groups carries the
//   block once.
//
// Order under zero-copy: as in the binomial reduce, inner ranks add up in scratch, which a token
// from the parent gives back at the start of a round.
#pragma once

#include <algorithm>
#include <vector>

#include "src/algorithms/binomial.h"
#include "src/algorithms/formula.h"
#include "src/algorithms/levels.h"

namespace tutti::hierarchical {

// A rooted tree over all ranks. Kids are in the order of broadcast: far and large first.
struct Tree {
  static constexpr uint32_t k_none = ~uint32_t{0};
  std::vector<Rank> parent;
  std::vector<std::vector<Rank>> kids;
  uint32_t depth = 0;   // messages behind each other
  uint32_t rounds = 0;  // and with the sends that go before them
  uint32_t most_kids = 0;

  Tree(const Levels& levels, uint32_t ranks) : parent(ranks, k_none), kids(ranks) {
    for (uint32_t l = levels.count(); l-- > 0;) {
      const uint32_t groups = levels.largest(l);
      depth += groups > 0 ? floor_log2(groups) : 0;
      rounds += ceil_log2(groups);
      for (Rank r = 0; r < ranks; ++r) join(levels.place(l, r), r);
    }
    for (const auto& k : kids) most_kids = std::max(most_kids, static_cast<uint32_t>(k.size()));
  }

 private:
  void join(const LevelPlace& group, Rank r) {
    if (group.size == 0) return;
    if (group.index > 0) parent[r] = group.members[binomial::parent(group.index)];
    for (uint32_t k = binomial::kids(group.index, group.size); k-- > 0;)
      kids[r].push_back(group.members[group.index + (1u << k)]);
  }
};

class TreePlan final : public Plan {
 public:
  TreePlan(std::string algorithm, Shape shape, Tree tree)
      : Plan(std::move(algorithm), std::move(shape)), tree_(std::move(tree)) {}

  uint32_t steps(Rank rank, Lane) const override {
    Cursor at(Cursor::k_beyond);
    walk(rank, at);
    return at.passed();
  }
  Step step_at(Rank rank, Lane, uint32_t index) const override {
    Cursor at(index);
    return walk(rank, at);
  }

 private:
  Step walk(Rank r, Cursor& at) const {
    return shape().collective == Collective::broadcast ? broadcast(r, at) : reduce(r, at);
  }
  Step broadcast(Rank r, Cursor& at) const {
    const auto& kids = tree_.kids[r];
    const bool root = tree_.parent[r] == Tree::k_none;
    const uint32_t received = root ? 0 : 1;
    const uint32_t per_chunk = static_cast<uint32_t>(kids.size()) + received;
    if (at.take(per_chunk * shape().chunks)) {
      const uint32_t c = at.index() / per_chunk, part = at.index() % per_chunk;
      if (part < received) return recv(tree_.parent[r], out(c));
      return send(kids[part - received], root ? in(c) : out(c));
    }
    if (at.take_if(root && !shape().in_place)) return copy(out(0), in(0), shape().chunks);
    return no_step();
  }
  Step reduce(Rank r, Cursor& at) const {
    const auto& kids = tree_.kids[r];
    const uint32_t count = static_cast<uint32_t>(kids.size());
    const bool root = tree_.parent[r] == Tree::k_none;
    if (count == 0)
      return at.take(shape().chunks) ? send(tree_.parent[r], in(at.index())) : no_step();
    for (Rank kid : kids)
      if (at.take_if(!tree_.kids[kid].empty())) return send_token(kid);
    if (at.take_if(!root)) return recv_token(tree_.parent[r]);
    const uint32_t per_chunk = count + (root ? 0 : 1);
    if (!at.take(per_chunk * shape().chunks)) return no_step();
    const uint32_t c = at.index() / per_chunk, part = at.index() % per_chunk;
    const Ref sum = root ? out(c) : scratch(c);
    if (part == count) return send(tree_.parent[r], sum);
    return recv_reduce(kids[count - 1 - part], sum, part == 0 ? in(c) : sum, 1,
                       root && part + 1 == count);
  }

  Tree tree_;
};

}  // namespace tutti::hierarchical
