// A second opinion on small plans: an explicit-state model checker that shares no code with
// verify(). It explores every interleaving of the lanes' steps under zero-copy timing and looks at
// what the ranks end up with, so it can say whether a mutated plan is really wrong.
//
// Timing. Pull: a receive reads the sender's memory when it completes (the latest moment allowed).
// Push: a send into a plain receive writes the receiver's memory at once (the earliest moment);
// recv_reduce pulls. Credits are unlimited here; deadlock at the declared credits is asked apart.
// A step is enabled by progress of other lanes and never disabled by it, so deadlock and barrier
// need no search: any order of trying gives the same outcome.
//
// Reduction of the search, sound because it only commutes independent steps: a step whose memory
// no other lane will touch in conflict any more is taken at once, without branching.
//
// Values are interned expressions, compared by structure: contributions are counted, not hashed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "src/plan/plan.h"

namespace tutti::model {

enum class Outcome { right, wrong, undecided };

struct Opinion {
  Outcome outcome = Outcome::right;
  std::string why;
  uint64_t states = 0;
};

// Expressions over contributions: raw input, read (pre-multiplied), reduced in passes.
class Expressions {
 public:
  enum Kind : uint32_t { blank, input, read, pass, last_pass };
  struct Node {
    uint32_t kind = blank;
    std::vector<uint32_t> parts;  // leaf: {rank, chunk}; else: operands
    bool operator<(const Node& o) const { return kind != o.kind ? kind < o.kind : parts < o.parts; }
  };
  uint32_t make(uint32_t kind, std::vector<uint32_t> parts) {
    // Addition of two commutes; nothing else does.
    if (kind >= pass && parts[0] > parts[1]) std::swap(parts[0], parts[1]);
    const auto [at, fresh] =
        ids_.try_emplace({kind, std::move(parts)}, static_cast<uint32_t>(nodes_.size()));
    if (fresh) nodes_.push_back(at->first);
    return at->second;
  }
  const Node& node(uint32_t id) const { return nodes_[id]; }
  // Adds the (rank, chunk) leaves of a reduction; false when something else is inside.
  bool contributions(uint32_t id, bool top,
                     std::map<std::pair<uint32_t, uint32_t>, int>& counts) const {
    const Node& n = nodes_[id];
    if (n.kind == read) {
      const Node& leaf = nodes_[n.parts[0]];
      if (leaf.kind != input) return false;
      ++counts[{leaf.parts[0], leaf.parts[1]}];
      return true;
    }
    if (n.kind != pass && !(n.kind == last_pass && top)) return false;
    for (uint32_t part : n.parts)
      if (!contributions(part, false, counts)) return false;
    return true;
  }

 private:
  std::map<Node, uint32_t> ids_;
  std::vector<Node> nodes_;
};

class Checker {
 public:
  explicit Checker(const Plan& plan) : plan_(plan), shape_(plan.shape()) {}

  // `max_states`: per timing; beyond it the outcome is undecided.
  Opinion judge(uint64_t max_states) {
    Opinion opinion;
    if (auto bad = lay_out()) return {Outcome::wrong, *bad, 0};
    if (auto bad = deadlock(false)) return {Outcome::wrong, *bad, 0};
    if (auto bad = deadlock(true)) return {Outcome::wrong, *bad, 0};
    if (shape_.collective == Collective::barrier) {
      if (auto bad = barrier()) return {Outcome::wrong, *bad, 0};
      return opinion;
    }
    for (bool push : {false, true}) {
      const Opinion o = explore(push, max_states);
      opinion.states += o.states;
      if (o.outcome == Outcome::wrong) return o;
      if (o.outcome == Outcome::undecided) opinion.outcome = o.outcome;
    }
    return opinion;
  }

 private:
  static constexpr uint32_t k_none = ~uint32_t{0};

  // A step or pass of a lane, with all that its execution needs.
  struct Action {
    std::vector<Step> steps;            // one, or those of a pass
    std::vector<uint32_t> peer_lane;    // per step: the lane at the other end, or k_none
    std::vector<uint32_t> peer_action;  // per step: the matching action there (same round)
    std::vector<uint32_t> peer_step;    // per step: its step in that action
    uint32_t run = k_none;  // published run (of two or more sends) that this send belongs to
  };
  struct LaneInfo {
    Rank rank = 0;
    std::vector<Action> actions;
    std::vector<std::vector<uint32_t>> runs;  // actions of each published run
    uint32_t total = 0;                       // actions in all rounds
  };
  struct State {
    std::vector<uint32_t> position;  // per lane
    std::vector<uint32_t> memory;    // per cell: expression
  };
  // Who touches a cell, and until when.
  struct Use {
    uint32_t lane = 0;
    uint32_t last_read = k_none, last_write = k_none;
  };

  bool pair_lengths() const {
    return shape_.collective == Collective::all_to_all_v ||
           shape_.collective == Collective::send_recv;
  }
  bool reducing() const {
    return shape_.collective == Collective::all_reduce || shape_.collective == Collective::reduce ||
           shape_.collective == Collective::reduce_scatter;
  }
  uint32_t limit(Rank r, Buffer b) const {
    return b == Buffer::input    ? shape_.input_chunks(r)
           : b == Buffer::output ? shape_.output_chunks(r)
                                 : shape_.scratch;
  }
  // What decides a chunk's length.
  std::pair<uint32_t, uint32_t> length(Rank r, Buffer b, uint32_t chunk) const {
    if (!pair_lengths()) return {0, chunk % shape_.chunks};
    return b == Buffer::input ? std::pair{r, chunk} : std::pair{chunk, r};
  }

  // ---- static part: cells, actions, matching

  uint32_t cell(Rank r, Buffer b, uint32_t chunk, uint32_t round) const {
    if (b == Buffer::scratch) return scratch_at_[r] + chunk;
    uint32_t at = io_at_[r] + round * io_size_[r];
    const uint32_t in = shape_.input_chunks(r), out = shape_.output_chunks(r);
    const bool aliased = shape_.in_place && in > 0 && out > 0;
    if (b == Buffer::input) return at + chunk + (aliased && in < out ? r * shape_.chunks : 0);
    if (!aliased) return at + in + chunk;
    return at + chunk + (out < in ? r * shape_.chunks : 0);
  }

  std::optional<std::string> lay_out() {
    rounds_ = shape_.scratch > 0 ? 2 : 1;
    uint32_t cells = 0;
    for (Rank r = 0; r < shape_.ranks; ++r) {
      const uint32_t in = shape_.input_chunks(r), out = shape_.output_chunks(r);
      scratch_at_.push_back(cells);
      io_at_.push_back(cells + shape_.scratch);
      io_size_.push_back(shape_.in_place && in > 0 && out > 0 ? std::max(in, out) : in + out);
      cells += shape_.scratch + rounds_ * io_size_[r];
    }
    cells_ = cells;
    lanes_.resize(size_t{shape_.ranks} * shape_.lanes);
    for (Rank r = 0; r < shape_.ranks; ++r)
      for (Lane l = 0; l < shape_.lanes; ++l)
        if (auto bad = read_lane(r, l)) return bad;
    return match();
  }

  std::optional<std::string> read_lane(Rank rank, Lane lane) {
    LaneInfo& info = lanes_[rank * shape_.lanes + lane];
    info.rank = rank;
    const uint32_t n = plan_.steps(rank, lane);
    for (uint32_t i = 0; i < n; ++i) {
      const Step s = plan_.step_at(rank, lane, i);
      if (auto bad = malformed(rank, lane, s)) return bad;
      if (i > 0 && continues_pass(plan_.step_at(rank, lane, i - 1), s)) {
        if (info.actions.back().steps.back().last) return "division inside a pass";
        info.actions.back().steps.push_back(s);
      } else {
        info.actions.emplace_back();
        info.actions.back().steps = {s};
      }
    }
    for (Action& a : info.actions) {
      a.peer_lane.assign(a.steps.size(), k_none);
      a.peer_action.assign(a.steps.size(), k_none);
      a.peer_step.assign(a.steps.size(), k_none);
    }
    info.total = rounds_ * static_cast<uint32_t>(info.actions.size());
    find_runs(info);
    return std::nullopt;
  }

  std::optional<std::string> malformed(Rank r, Lane lane, const Step& s) const {
    const bool local = s.op == Op::signal || s.op == Op::wait;
    const bool message = s.op == Op::send || reads_message(s.op);
    if (message && (s.peer >= shape_.ranks || s.peer == r)) return "no such peer";
    if (local && (s.peer >= shape_.lanes || s.peer == lane)) return "no such lane";
    if (s.count == 0) {
      if (message && s.op != Op::recv_reduce) return std::nullopt;
      return local ? std::nullopt : std::optional<std::string>("no chunks");
    }
    if (pair_lengths() && s.count > 1) return "a run of unrelated chunks";
    auto inside = [&](Buffer b, uint32_t first) {
      return uint64_t{first} + s.count <= limit(r, b);
    };
    if (writes_dst(s.op) && !inside(s.dst_buffer, s.dst)) return "destination out of range";
    if (reads_src(s.op) && !inside(s.src_buffer, s.src)) return "source out of range";
    if (writes_dst(s.op) && s.dst_buffer == Buffer::input && !is_output(r, s))
      return "writes input";
    if (writes_dst(s.op) && reads_src(s.op)) {
      if (length(r, s.dst_buffer, s.dst) != length(r, s.src_buffer, s.src)) return "lengths differ";
      const uint32_t d = cell(r, s.dst_buffer, s.dst, 0), f = cell(r, s.src_buffer, s.src, 0);
      if (d != f && d < f + s.count && f < d + s.count) return "overlap";
      if (d == f && s.op == Op::reduce) return "reduces a chunk with itself";
    }
    if (s.last && !reducing()) return "divides what is not reduced";
    return std::nullopt;
  }
  bool is_output(Rank r, const Step& s) const {
    const uint32_t out = shape_.output_chunks(r);
    if (!shape_.in_place || out == 0) return false;
    const uint32_t first = cell(r, Buffer::output, 0, 0), at = cell(r, Buffer::input, s.dst, 0);
    return at >= first && at + s.count <= first + out;
  }

  void find_runs(LaneInfo& info) {
    const auto& a = info.actions;
    for (uint32_t i = 0; i < a.size();) {
      uint32_t end = i + 1;
      const Step& s = a[i].steps[0];
      auto fresh_peer = [&](uint32_t e) {
        for (uint32_t k = i; k < e; ++k)
          if (a[k].steps[0].peer == a[e].steps[0].peer) return false;
        return true;
      };
      while (s.op == Op::send && s.count > 0 && end < a.size()) {
        const Step& t = a[end].steps[0];
        if (t.op != Op::send || t.count != s.count || t.src_buffer != s.src_buffer ||
            t.src != s.src || !fresh_peer(end))
          break;
        ++end;
      }
      if (end - i > 1) {
        info.runs.emplace_back();
        for (uint32_t k = i; k < end; ++k) {
          info.runs.back().push_back(k);
          info.actions[k].run = static_cast<uint32_t>(info.runs.size() - 1);
        }
      }
      i = end;
    }
  }

  // Pairs the k-th send of every channel with its k-th receive.
  std::optional<std::string> match() {
    struct End {
      uint32_t lane, action, step;
    };
    std::map<std::pair<uint32_t, uint32_t>, std::pair<std::vector<End>, std::vector<End>>> channels;
    for (uint32_t id = 0; id < lanes_.size(); ++id)
      for (uint32_t i = 0; i < lanes_[id].actions.size(); ++i)
        for (uint32_t k = 0; k < lanes_[id].actions[i].steps.size(); ++k) {
          const Step& s = lanes_[id].actions[i].steps[k];
          const bool local = s.op == Op::signal || s.op == Op::wait;
          if (!local && s.op != Op::send && !reads_message(s.op)) continue;
          const uint32_t other = local ? lanes_[id].rank * shape_.lanes + s.peer
                                       : s.peer * shape_.lanes + id % shape_.lanes;
          if (s.op == Op::send || s.op == Op::signal)
            channels[{id, other}].first.push_back({id, i, k});
          else
            channels[{other, id}].second.push_back({id, i, k});
        }
    for (const auto& [key, ends] : channels) {
      if (ends.first.size() != ends.second.size()) return "messages left over or missing";
      for (size_t k = 0; k < ends.first.size(); ++k) {
        const End &a = ends.first[k], &b = ends.second[k];
        const Step &s = step_of(a.lane, a.action, a.step), &t = step_of(b.lane, b.action, b.step);
        if (s.count != t.count) return "message of another length";
        if (s.count > 0 && length(lanes_[a.lane].rank, s.src_buffer, s.src) !=
                               length(lanes_[b.lane].rank, t.dst_buffer, t.dst))
          return "chunks of another length";
        set_peer(a.lane, a.action, a.step, b.lane, b.action, b.step);
        set_peer(b.lane, b.action, b.step, a.lane, a.action, a.step);
      }
    }
    return std::nullopt;
  }
  const Step& step_of(uint32_t lane, uint32_t action, uint32_t step) const {
    return lanes_[lane].actions[action].steps[step];
  }
  void set_peer(uint32_t lane, uint32_t action, uint32_t step, uint32_t peer, uint32_t peer_action,
                uint32_t peer_step) {
    Action& a = lanes_[lane].actions[action];
    a.peer_lane[step] = peer;
    a.peer_action[step] = peer_action;
    a.peer_step[step] = peer_step;
  }

  // ---- enabledness

  uint32_t round_of(uint32_t lane, uint32_t position) const {
    return position / static_cast<uint32_t>(lanes_[lane].actions.size());
  }
  const Action& action_at(uint32_t lane, uint32_t position) const {
    return lanes_[lane].actions[position % lanes_[lane].actions.size()];
  }
  // Has `lane` executed its action `action` of `round`?
  bool done(const std::vector<uint32_t>& position, uint32_t lane, uint32_t round,
            uint32_t action) const {
    return position[lane] > round * lanes_[lane].actions.size() + action;
  }
  bool arrived(const std::vector<uint32_t>& position, uint32_t lane) const {
    const Action& a = action_at(lane, position[lane]);
    const uint32_t round = round_of(lane, position[lane]);
    for (size_t k = 0; k < a.steps.size(); ++k) {
      const Op op = a.steps[k].op;
      if ((reads_message(op) || op == Op::wait) &&
          !done(position, a.peer_lane[k], round, a.peer_action[k]))
        return false;
    }
    return true;
  }

  // A send at its credits: the message `credits` places earlier must have been consumed.
  bool has_credit(const std::vector<uint32_t>& position, uint32_t lane, bool outbox) const {
    const Action& a = action_at(lane, position[lane]);
    if (a.steps[0].op != Op::send) return true;
    const uint32_t round = round_of(lane, position[lane]);
    if (outbox && a.run != k_none) return has_slot(position, lane, round, a.run);
    // The earlier messages of the channel, in this and earlier rounds.
    std::vector<std::pair<uint32_t, uint32_t>> earlier;  // (round, action)
    for (uint32_t r = 0; r <= round; ++r)
      for (uint32_t i = 0; i < lanes_[lane].actions.size(); ++i) {
        if (r == round && i >= position[lane] % lanes_[lane].actions.size()) break;
        const Action& e = lanes_[lane].actions[i];
        if (e.steps[0].op == Op::send && e.peer_lane[0] == a.peer_lane[0])
          earlier.push_back({r, i});
      }
    if (earlier.size() < shape_.credits) return true;
    const auto [r, i] = earlier[earlier.size() - shape_.credits];
    return done(position, a.peer_lane[0], r, lanes_[lane].actions[i].peer_action[0]);
  }
  bool has_slot(const std::vector<uint32_t>& position, uint32_t lane, uint32_t round,
                uint32_t run) const {
    const auto& runs = lanes_[lane].runs;
    const uint64_t number = uint64_t{round} * runs.size() + run;
    if (number < shape_.credits) return true;
    const uint64_t before = number - shape_.credits;
    for (uint32_t i : runs[before % runs.size()]) {
      const Action& e = lanes_[lane].actions[i];
      if (!done(position, e.peer_lane[0], static_cast<uint32_t>(before / runs.size()),
                e.peer_action[0]))
        return false;
    }
    return true;
  }

  // Runs all lanes but those of `frozen` as far as they go; `limits`: at the declared credits.
  std::vector<uint32_t> greedy(Rank frozen, bool limits, bool outbox) const {
    std::vector<uint32_t> position(lanes_.size(), 0);
    for (bool moved = true; moved;) {
      moved = false;
      for (uint32_t id = 0; id < lanes_.size(); ++id)
        while (lanes_[id].rank != frozen && position[id] < lanes_[id].total &&
               arrived(position, id) && (!limits || has_credit(position, id, outbox))) {
          ++position[id];
          moved = true;
        }
    }
    return position;
  }
  std::optional<std::string> deadlock(bool outbox) const {
    const auto position = greedy(k_none, true, outbox);
    for (uint32_t id = 0; id < lanes_.size(); ++id)
      if (position[id] < lanes_[id].total) return "deadlock";
    return std::nullopt;
  }
  std::optional<std::string> barrier() const {
    for (Rank late = 0; late < shape_.ranks; ++late) {
      const auto position = greedy(late, false, false);
      for (Rank r = 0; r < shape_.ranks; ++r) {
        bool left = r != late;
        for (Lane l = 0; l < shape_.lanes; ++l) {
          const uint32_t id = r * shape_.lanes + l;
          if (position[id] < lanes_[id].actions.size()) left = false;
        }
        if (left) return "leaves before another rank has come";
      }
    }
    return std::nullopt;
  }

  // ---- search over interleavings

  // Calls f(cell, writes) for the memory that an action touches under the timing.
  template <class F>
  void touches(uint32_t lane, uint32_t position, bool push, F&& f) const {
    const Action& a = action_at(lane, position);
    const uint32_t round = round_of(lane, position);
    const Rank rank = lanes_[lane].rank;
    for (size_t k = 0; k < a.steps.size(); ++k) {
      const Step& s = a.steps[k];
      for (uint32_t c = 0; c < s.count; ++c) {
        if (s.op == Op::copy || s.op == Op::reduce || (s.op == Op::recv_reduce && k == 0))
          f(cell(rank, s.src_buffer, s.src + c, round), false);
        if (s.op == Op::copy || s.op == Op::reduce || s.op == Op::recv_reduce)
          f(cell(rank, s.dst_buffer, s.dst + c, round), true);
        if (s.op == Op::recv_reduce || (s.op == Op::recv && !push)) {
          const Step& sent = step_of(a.peer_lane[k], a.peer_action[k], 0);
          f(cell(lanes_[a.peer_lane[k]].rank, sent.src_buffer, sent.src + c, round), false);
          if (s.op == Op::recv) f(cell(rank, s.dst_buffer, s.dst + c, round), true);
        }
        if (s.op == Op::send && push) {
          const Step& t = step_of(a.peer_lane[0], a.peer_action[0], a.peer_step[0]);
          if (t.op != Op::recv) continue;
          f(cell(rank, s.src_buffer, s.src + c, round), false);
          f(cell(lanes_[a.peer_lane[0]].rank, t.dst_buffer, t.dst + c, round), true);
        }
      }
    }
  }

  void find_uses(bool push) {
    uses_.assign(cells_, {});
    for (uint32_t id = 0; id < lanes_.size(); ++id)
      for (uint32_t p = 0; p < lanes_[id].total; ++p)
        touches(id, p, push, [&](uint32_t at, bool writes) {
          auto& list = uses_[at];
          if (list.empty() || list.back().lane != id) list.push_back({id, k_none, k_none});
          (writes ? list.back().last_write : list.back().last_read) = p;
        });
  }

  // True when no other lane will still touch the action's memory in conflict with it.
  bool independent(const State& s, uint32_t lane, bool push) const {
    bool free = true;
    touches(lane, s.position[lane], push, [&](uint32_t at, bool writes) {
      for (const Use& u : uses_[at]) {
        if (u.lane == lane) continue;
        auto later = [&](uint32_t last) { return last != k_none && s.position[u.lane] <= last; };
        if (later(u.last_write) || (writes && later(u.last_read))) free = false;
      }
    });
    return free;
  }

  uint32_t value(const State& s, Rank r, Buffer b, uint32_t chunk, uint32_t round) {
    const uint32_t v = s.memory[cell(r, b, chunk, round)];
    return b == Buffer::input && reducing() ? expressions_.make(Expressions::read, {v}) : v;
  }

  void execute(State& s, uint32_t lane, bool push) {
    const Action& a = action_at(lane, s.position[lane]);
    const uint32_t round = round_of(lane, s.position[lane]);
    const Rank rank = lanes_[lane].rank;
    const Step& first = a.steps[0];
    std::vector<std::pair<uint32_t, uint32_t>> writes;
    for (uint32_t c = 0; c < first.count; ++c) {
      auto remote = [&](size_t k) {
        const Step& sent = step_of(a.peer_lane[k], a.peer_action[k], 0);
        return value(s, lanes_[a.peer_lane[k]].rank, sent.src_buffer, sent.src + c, round);
      };
      const uint32_t target =
          writes_dst(first.op) ? cell(rank, first.dst_buffer, first.dst + c, round) : 0;
      if (first.op == Op::copy) {
        writes.push_back({target, value(s, rank, first.src_buffer, first.src + c, round)});
      } else if (first.op == Op::recv && !push) {
        writes.push_back({target, remote(0)});
      } else if (first.op == Op::send && push) {
        const Step& t = step_of(a.peer_lane[0], a.peer_action[0], a.peer_step[0]);
        if (t.op == Op::recv)
          writes.push_back({cell(lanes_[a.peer_lane[0]].rank, t.dst_buffer, t.dst + c, round),
                            value(s, rank, first.src_buffer, first.src + c, round)});
      } else if (first.op == Op::recv_reduce || first.op == Op::reduce) {
        std::vector<uint32_t> parts;
        parts.push_back(first.op == Op::reduce
                            ? value(s, rank, first.dst_buffer, first.dst + c, round)
                            : value(s, rank, first.src_buffer, first.src + c, round));
        for (size_t k = 0; k < a.steps.size(); ++k)
          parts.push_back(a.steps[k].op == Op::reduce
                              ? value(s, rank, a.steps[k].src_buffer, a.steps[k].src + c, round)
                              : remote(k));
        writes.push_back({target, expressions_.make(a.steps.back().last ? Expressions::last_pass
                                                                        : Expressions::pass,
                                                    std::move(parts))});
      }
    }
    for (const auto& [at, v] : writes) s.memory[at] = v;
    ++s.position[lane];
  }

  State start() {
    State s;
    s.position.assign(lanes_.size(), 0);
    s.memory.assign(cells_, 0);
    for (uint32_t i = 0; i < cells_; ++i)
      s.memory[i] = expressions_.make(Expressions::blank, {i, 0});
    for (Rank r = 0; r < shape_.ranks; ++r)
      for (uint32_t round = 0; round < rounds_; ++round)
        for (uint32_t c = 0; c < shape_.input_chunks(r); ++c)
          s.memory[cell(r, Buffer::input, c, round)] =
              expressions_.make(Expressions::input, {r, c});
    return s;
  }

  static uint64_t hash(const State& s) {
    uint64_t h = 0x2545f4914f6cdd1dULL;
    auto add = [&h](uint32_t v) {
      h = (h ^ v) * 0x9fb21c651e98df25ULL;
      h ^= h >> 28;
    };
    for (uint32_t v : s.position) add(v);
    for (uint32_t v : s.memory) add(v);
    return h;
  }

  Opinion explore(bool push, uint64_t max_states) {
    find_uses(push);
    std::unordered_set<uint64_t> seen;
    std::vector<State> stack;
    stack.push_back(start());
    Opinion opinion;
    while (!stack.empty()) {
      State s = std::move(stack.back());
      stack.pop_back();
      bool finished = true;
      advance_independent(s, push);
      if (!seen.insert(hash(s)).second) continue;
      if (++opinion.states > max_states) {
        opinion.outcome = Outcome::undecided;
        return opinion;
      }
      for (uint32_t id = 0; id < lanes_.size(); ++id) {
        if (s.position[id] == lanes_[id].total) continue;
        finished = false;
        if (!arrived(s.position, id)) continue;
        State t = s;
        execute(t, id, push);
        stack.push_back(std::move(t));
      }
      if (!finished) continue;
      if (auto bad = wrong_result(s)) {
        opinion.outcome = Outcome::wrong;
        opinion.why = (push ? "push: " : "pull: ") + *bad;
        return opinion;
      }
    }
    return opinion;
  }

  void advance_independent(State& s, bool push) {
    for (bool moved = true; moved;) {
      moved = false;
      for (uint32_t id = 0; id < lanes_.size(); ++id)
        while (s.position[id] < lanes_[id].total && arrived(s.position, id) &&
               independent(s, id, push)) {
          execute(s, id, push);
          moved = true;
        }
    }
  }

  // ---- what must hold at the end

  std::optional<std::string> wrong_result(const State& s) {
    for (uint32_t round = 0; round < rounds_; ++round)
      for (Rank r = 0; r < shape_.ranks; ++r)
        for (uint32_t c = 0; c < shape_.output_chunks(r); ++c) {
          const uint32_t got = s.memory[cell(r, Buffer::output, c, round)];
          if (!right_value(r, c, round, got))
            return "rank " + std::to_string(r) + " output " + std::to_string(c);
          if (shape_.collective == Collective::all_reduce &&
              got != s.memory[cell(0, Buffer::output, c, round)])
            return "different bits in output " + std::to_string(c);
        }
    return std::nullopt;
  }

  bool right_value(Rank r, uint32_t c, uint32_t round, uint32_t got) {
    const uint32_t n = shape_.ranks, chunks = shape_.chunks, block = c / chunks;
    auto is = [&](Rank from, uint32_t chunk) {
      return got == expressions_.make(Expressions::input, {from, chunk});
    };
    switch (shape_.collective) {
      case Collective::all_gather:
      case Collective::gather:
        return is(block, c % chunks);
      case Collective::broadcast:
        return is(shape_.root, c);
      case Collective::scatter:
        return is(shape_.root, r * chunks + c);
      case Collective::all_to_all:
      case Collective::all_to_all_v:
        return is(block, r * chunks + c % chunks);
      case Collective::send_recv:
        return is(block, r) ||
               got == expressions_.make(Expressions::blank, {cell(r, Buffer::output, c, round), 0});
      default:
        break;
    }
    const uint32_t chunk = shape_.collective == Collective::reduce_scatter ? r * chunks + c : c;
    std::map<std::pair<uint32_t, uint32_t>, int> counts;
    if (!expressions_.contributions(got, true, counts) || counts.size() != n) return false;
    if (n > 1 && expressions_.node(got).kind != Expressions::last_pass) return false;
    return std::all_of(counts.begin(), counts.end(), [&](const auto& entry) {
      return entry.first.second == chunk && entry.second == 1;
    });
  }

  const Plan& plan_;
  const Shape& shape_;
  uint32_t rounds_ = 1, cells_ = 0;
  std::vector<uint32_t> scratch_at_, io_at_, io_size_;
  std::vector<LaneInfo> lanes_;
  std::vector<std::vector<Use>> uses_;
  Expressions expressions_;
};

inline Opinion judge(const Plan& plan, uint64_t max_states) {
  return Checker(plan).judge(max_states);
}

}  // namespace tutti::model
