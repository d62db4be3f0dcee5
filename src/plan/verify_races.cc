// Races of zero-copy execution, at unlimited credits.
//
// An access to a chunk spans from one step to another: a local read or write is one step; a pull
// reads the sender's chunk from the send to the end of its receive; a push writes the receiver's
// chunk from the send to the end of its receive. Two accesses, one of them a write, race unless
// the end of one happens before the start of the other.
//
// The plan is run once, in one of its possible orders (bounded credits pick the order; they are
// not counted as knowledge). When an access ends up second in that order, the only way for the
// pair to be safe is that the first one's end happens before its start, so each new access is
// checked against what its chunk has seen since the last write. One run serves both verdicts:
//   pull: receives write at their step, every send is read until its message is consumed;
//   push: plain receives write from their send on; others' sends are pulls, but a push reads its
//         own source at its send. So plans that are ok in both may mix them per connection.
// Input and output of different rounds are different bytes; scratch is the same. So two rounds
// are run when there is scratch, and only scratch is watched in the second.
//
// Run first with NeighbourClocks and the provenance rule below, which settle most plans cheaply;
// what remains is settled by VectorClocks, if the budget allows.
//
// Provenance (all_reduce with proven postcondition): the last write to an output chunk in a round
// is a plain receive of the complete value. It holds this rank's own contribution. If the rank has
// sent only one message of that chunk's class so far, the contribution left in it: whatever
// precedes that send in its lane, and the consumption of that message, happen before the write's
// send.
#include <fmt/format.h>

#include "src/plan/clocks.h"
#include "src/plan/verify_parts.h"

namespace tutti {
namespace {

constexpr uint32_t k_nil = ~uint32_t{0};

struct RaceVerdict {
  Verdict verdict = Verdict::ok;
  std::string problem;
  void note(Verdict v, std::string text) {
    if (verdict == Verdict::failed || verdict == v) return;
    verdict = v;
    problem = std::move(text);
  }
};

struct Races {
  RaceVerdict pull, push;
};

template <class Clocks>
class RaceHooks {
 public:
  RaceHooks(const PlanIndex& index, const KahnLayout& layout, bool provenance)
      : index_(index),
        shape_(index.shape()),
        map_(shape_),
        clocks_(index, layout),
        cells_(map_.cells()),
        first_read_(layout.slots(), k_nil),
        provenance_(provenance && !Clocks::k_complete) {
    if (provenance_) left_.resize(uint64_t{shape_.ranks} * shape_.chunks);
  }

  Races take_races() {
    if (clocks_.overflow()) {
      races_.pull = races_.push = {Verdict::unproven, "races: vector clocks need too much memory"};
    }
    return std::move(races_);
  }

  void send(const At& at, const Step& step, uint32_t channel, uint64_t slot) {
    clocks_.send(at, channel, slot);
    first_read_[slot] = k_nil;
    if (step.count == 0) return;
    if (provenance_ && at.round == 0) note_leaving(at, step);
    if (!watched(at, step.src_buffer)) return;
    first_read_[slot] = static_cast<uint32_t>(reads_.size());
    for (uint32_t k = 0; k < step.count; ++k)
      add_read(at, step.src_buffer, step.src + k, /*pending=*/true);
  }

  void recv(const At& at, const Step& step, uint32_t channel, uint64_t slot) {
    clocks_.receive(at, channel, slot);
    if (step.op == Op::wait) return;
    end_reads(at, step.count, slot, /*pushed=*/true);
    if (step.count == 0 || !watched(at, step.dst_buffer)) return;
    for (uint32_t k = 0; k < step.count; ++k) {
      const uint32_t chunk = step.dst + k;
      Cell& cell = cell_of(at, step.dst_buffer, chunk);
      const Leaving* proof = complete_value(at, step.dst_buffer, chunk, cell);
      check_write(at, cell, proof, [&](const Epoch& e) { return sent_before(e, channel, slot); });
      finish_write(at, cell);
      cell.assumed = proof != nullptr;
    }
  }

  void copy(const At& at, const Step& step) {
    read_locally(at, step.src_buffer, step.src, step.count);
    write_locally(at, step.dst_buffer, step.dst, step.count);
  }

  void pass(const At& at, std::span<const Step> steps, std::span<const Arrival> arrivals) {
    for (const Arrival& a : arrivals) {
      clocks_.receive(at, a.channel, a.slot);
      end_reads(at, steps[a.operand].count, a.slot, /*pushed=*/false);
    }
    const Step& first = steps.front();
    if (first.op == Op::recv_reduce) read_locally(at, first.src_buffer, first.src, first.count);
    for (const Step& step : steps)
      if (step.op == Op::reduce) read_locally(at, step.src_buffer, step.src, step.count);
    write_locally(at, first.dst_buffer, first.dst, first.count);
  }

 private:
  struct Read {
    Epoch start;               // the send, or the local step
    Epoch end;                 // consumption; time 0 while the message is in flight
    uint32_t next = k_nil;     // of the same chunk
    bool pushed = false;       // the message went into a plain receive
    bool overwritten = false;  // written while in flight, after its send: fine only if pushed
  };
  struct Cell {
    Epoch write;             // end of the last write
    uint32_t reads = k_nil;  // since then
    bool assumed = false;    // the last write was taken for the round's last by provenance
  };
  // Messages of a (rank, chunk class) in round 0: how many, and the first one.
  struct Leaving {
    uint32_t messages = 0;
    Epoch send;
  };

  bool watched(const At& at, Buffer buffer) const {
    if (buffer == Buffer::scratch) return true;
    return at.round == 0 && (buffer == Buffer::output || shape_.in_place);
  }
  Cell& cell_of(const At& at, Buffer buffer, uint32_t chunk) {
    return cells_[map_.cell(at.rank, buffer, chunk)];
  }

  void add_read(const At& at, Buffer buffer, uint32_t chunk, bool pending) {
    Cell& cell = cell_of(at, buffer, chunk);
    if (cell.write.time != 0 && !clocks_.before(cell.write, at)) {
      const Verdict v = refuted();
      std::string text = describe(at, "reads", buffer, chunk, cell.write, "wrote");
      races_.push.note(v, text);
      races_.pull.note(v, std::move(text));
    }
    Read read;
    read.start = {at.lane_id, at.time};
    if (!pending) read.end = read.start;
    read.next = cell.reads;
    cell.reads = static_cast<uint32_t>(reads_.size());
    reads_.push_back(read);
  }

  // The message of `slot` has been consumed here: its reads at the sender end.
  void end_reads(const At& at, uint32_t count, uint64_t slot, bool pushed) {
    const uint32_t first = first_read_[slot];
    if (first == k_nil) return;
    for (uint32_t i = first; i < first + count; ++i) {
      reads_[i].end = {at.lane_id, at.time};
      reads_[i].pushed = pushed;
      if (reads_[i].overwritten && !pushed)
        races_.push.note(Verdict::failed, describe_step_of(reads_[i].start) +
                                              ": its chunk may be overwritten before " +
                                              describe_step_of(reads_[i].end) + " has read it");
    }
  }

  void read_locally(const At& at, Buffer buffer, uint32_t first, uint32_t count) {
    if (!watched(at, buffer)) return;
    for (uint32_t k = 0; k < count; ++k) add_read(at, buffer, first + k, /*pending=*/false);
  }

  void write_locally(const At& at, Buffer buffer, uint32_t first, uint32_t count) {
    if (!watched(at, buffer)) return;
    for (uint32_t k = 0; k < count; ++k) {
      Cell& cell = cell_of(at, buffer, first + k);
      check_local_write(at, cell);
      finish_write(at, cell);
      cell.assumed = false;
    }
  }

  void finish_write(const At& at, Cell& cell) {
    // An assumption of provenance was wrong: this run proves nothing.
    if (cell.assumed && at.round == 0) {
      races_.pull.note(Verdict::unproven, "races: provenance does not settle them");
      races_.push.note(Verdict::unproven, "races: provenance does not settle them");
    }
    cell.write = {at.lane_id, at.time};
    cell.reads = k_nil;
  }

  void check_local_write(const At& at, Cell& cell) {
    if (cell.write.time != 0 && !clocks_.before(cell.write, at)) {
      refute(races_.pull, at, cell.write, refuted());
      refute(races_.push, at, cell.write, refuted());
    }
    for (uint32_t i = cell.reads; i != k_nil; i = reads_[i].next) {
      Read& read = reads_[i];
      const bool in_flight = read.end.time == 0;
      const bool ended = !in_flight && clocks_.before(read.end, at);
      if (!ended)
        refute(races_.pull, at, in_flight ? read.start : read.end,
               in_flight ? Verdict::failed : refuted());
      if (ended) continue;
      const bool started = clocks_.before(read.start, at);
      if (in_flight) read.overwritten = true;
      if (!started || (!in_flight && !read.pushed))
        refute(races_.push, at, in_flight ? read.start : read.end, refuted());
    }
  }

  // A receive writes: `sent_after(e)` says that the message was sent after e.
  template <class SentAfter>
  void check_write(const At& at, const Cell& cell, const Leaving* proof, SentAfter sent_after) {
    auto check = [&](const Epoch& end, bool own_message) {
      if (proof && (own_message || precedes(end, proof->send))) return;
      if (!clocks_.before(end, at)) refute(races_.pull, at, end, refuted());
      if (!sent_after(end)) refute(races_.push, at, end, refuted());
    };
    if (cell.write.time != 0) check(cell.write, false);
    for (uint32_t i = cell.reads; i != k_nil; i = reads_[i].next) {
      const Read& read = reads_[i];
      if (read.end.time == 0) {  // neither can have ended before the other started
        refute(races_.pull, at, read.start, Verdict::failed);
        refute(races_.push, at, read.start, Verdict::failed);
        continue;
      }
      const bool own =
          proof && read.start.lane_id == proof->send.lane_id && read.start.time == proof->send.time;
      check(read.end, own);
    }
  }

  bool sent_before(const Epoch& e, uint32_t channel, uint64_t slot) const {
    return clocks_.before_send(e, channel, slot);
  }
  static bool precedes(const Epoch& e, const Epoch& send) {
    return e.lane_id == send.lane_id && e.time <= send.time;
  }

  void note_leaving(const At& at, const Step& step) {
    for (uint32_t k = 0; k < step.count; ++k) {
      Leaving& l = left_[uint64_t{at.rank} * shape_.chunks + (step.src + k) % shape_.chunks];
      if (++l.messages == 1) l.send = {at.lane_id, at.time};
    }
  }
  // The one message in which this rank's contribution left, if the rule applies.
  const Leaving* complete_value(const At& at, Buffer buffer, uint32_t chunk,
                                const Cell& cell) const {
    const bool untouched = cell.write.time == 0 && cell.reads == k_nil;
    if (!provenance_ || untouched || at.round != 0 || buffer != Buffer::output) return nullptr;
    const Leaving& l = left_[uint64_t{at.rank} * shape_.chunks + chunk];
    return l.messages == 1 ? &l : nullptr;
  }

  // Not knowing an order is a fact only with complete clocks.
  static constexpr Verdict refuted() {
    return Clocks::k_complete ? Verdict::failed : Verdict::unproven;
  }
  void refute(RaceVerdict& race, const At& at, const Epoch& other, Verdict v) {
    if (race.verdict == Verdict::failed || race.verdict == v) return;
    race.note(v, fmt::format("{} overwrites a chunk that {} may still use",
                             describe_step_of({at.lane_id, at.time}), describe_step_of(other)));
  }
  std::string describe(const At& at, const char* does, Buffer buffer, uint32_t chunk,
                       const Epoch& other, const char* did) const {
    return fmt::format("{} {} {}:{}, which {} {} without an order between them",
                       describe_step_of({at.lane_id, at.time}), does, name(buffer), chunk,
                       describe_step_of(other), did);
  }
  std::string describe_step_of(const Epoch& e) const {
    const uint32_t lanes = shape_.lanes;
    const Rank rank = e.lane_id / lanes;
    const uint32_t steps = index_.plan().steps(rank, e.lane_id % lanes);
    return describe_step(index_.plan(), rank, e.lane_id % lanes, (e.time - 1) % steps);
  }

  const PlanIndex& index_;
  const Shape& shape_;
  CellMap map_;
  Clocks clocks_;
  std::vector<Cell> cells_;
  std::vector<Read> reads_;
  std::vector<uint32_t> first_read_;  // per message in flight
  std::vector<Leaving> left_;
  bool provenance_;
  Races races_;
};

template <class Clocks>
Races run_races(const PlanIndex& index, bool provenance) {
  const RunLimits limits{index.shape().credits, index.shape().scratch > 0 ? 2u : 1u, true, false};
  RaceHooks<Clocks> hooks(index, KahnLayout(index, limits), provenance);
  KahnRunner<RaceHooks<Clocks>> runner(index, hooks, limits);
  runner.run();  // progress has been proven
  return hooks.take_races();
}

struct ClockWork {
  uint64_t joins = 0;      // components joined in all
  uint64_t last_time = 0;  // largest clock of a lane
};

ClockWork clock_work(const PlanIndex& index) {
  const uint64_t rounds = index.shape().scratch > 0 ? 2 : 1;
  uint64_t messages = 0, lanes = 0;
  ClockWork work;
  for (const Channel& c : index.channels()) messages += c.messages;
  for (uint32_t id = 0; id < index.lanes(); ++id) {
    const uint64_t steps = index.plan().steps(index.rank_of(id), id % index.shape().lanes);
    lanes += steps > 0;
    work.last_time = std::max(work.last_time, 1 + rounds * steps);
  }
  work.joins = rounds * messages * lanes;
  return work;
}

Races settle(const PlanIndex& index, const VerifyOptions& options, bool provenance) {
  Races cheap = run_races<NeighbourClocks>(index, provenance);
  auto settled = [](const RaceVerdict& r) { return r.verdict != Verdict::unproven; };
  if (settled(cheap.pull) && settled(cheap.push)) return cheap;
  const ClockWork work = clock_work(index);
  if (work.joins <= options.race_budget) {
    if (work.last_time <= INT16_MAX) return run_races<VectorClocks<int16_t>>(index, false);
    return run_races<VectorClocks<int32_t>>(index, false);
  }
  for (RaceVerdict* r : {&cheap.pull, &cheap.push})
    if (!settled(*r))
      r->problem += fmt::format(
          " (not settled by provenance; vector clocks need {} joined words, "
          "the budget is {})",
          work.joins, options.race_budget);
  return cheap;
}

}  // namespace

void prove_races(const PlanIndex& index, const VerifyOptions& options, VerifyReport& report) {
  if (CellMap(index.shape()).cells() > k_max_verified_cells)
    return conclude(report, &VerifyReport::pull_races, Verdict::unproven, "races: too many chunks");
  const bool provenance =
      index.shape().collective == Collective::all_reduce && report.postcondition == Verdict::ok;
  const Races races = settle(index, options, provenance);
  auto text = [](const char* kind, const RaceVerdict& r) {
    return fmt::format("{} race{}: {}", kind, r.verdict == Verdict::unproven ? " unproven" : "",
                       r.problem);
  };
  conclude(report, &VerifyReport::pull_races, races.pull.verdict, text("pull", races.pull));
  conclude(report, &VerifyReport::push_races, races.push.verdict, text("push", races.push));
}

}  // namespace tutti
