#include "src/cuda/ranges.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

namespace tutti::cuda {
namespace {

// A FIFO between a lane and its peer, or between lanes of a rank. "Known": before this superstep.
struct Fifo {
  uint64_t sent = 0, known_sent = 0, taken = 0, known_taken = 0;
  uint64_t tokens = 0, known_tokens = 0, taken_tokens = 0;
};

// The programs of all ranks, over windows that are never touched: addresses tell the FIFOs apart.
class Paper {
 public:
  static Result<Paper> make(const PlanPtr& plan, const WindowShape& shape) {
    Paper paper;
    BuildRequest request;
    request.plan = plan;
    request.window = shape;
    for (Rank r = 0; r < shape.ranks; ++r)
      request.windows.push_back(
          reinterpret_cast<std::byte*>((uint64_t{r} + 1) * up(shape.bytes())));
    for (request.rank = 0; request.rank < shape.ranks; ++request.rank) {
      Result<uint64_t> bytes = program_bytes(request);
      if (!bytes) return bytes.status();
      std::vector<uint64_t> place(*bytes / sizeof(uint64_t) + 1);
      Result<ProgramImage> image = build_program(request, reinterpret_cast<uint64_t>(place.data()));
      if (!image) return image.status();
      std::copy(image->bytes.begin(), image->bytes.end(),
                reinterpret_cast<std::byte*>(place.data()));
      paper.add(*reinterpret_cast<const DeviceProgram*>(reinterpret_cast<std::byte*>(place.data()) +
                                                        image->program));
    }
    return paper;
  }

  // Runs one superstep; false: nothing could go on.
  bool step(uint32_t rounds) {
    bool moved = false;
    for (auto& lanes : ranks_)
      for (bool again = true; again;) {  // lanes of a rank may wait for each other
        again = false;
        for (LaneRun& lane : lanes) again = advance(lane, rounds) || again;
        moved = moved || again;
      }
    for (Fifo& fifo : fifos_) {
      fifo.known_sent = fifo.sent;
      fifo.known_taken = fifo.taken;
      fifo.known_tokens = fifo.tokens;
    }
    return moved;
  }
  bool done(uint32_t rounds) const {
    return std::all_of(ranks_.begin(), ranks_.end(), [&](const auto& lanes) {
      return std::all_of(lanes.begin(), lanes.end(), [&](const LaneRun& lane) {
        return lane.actions.empty() || lane.at.round == rounds;
      });
    });
  }
  uint32_t lanes(Rank rank) const { return static_cast<uint32_t>(ranks_[rank].size()); }
  Position at(Rank rank, uint32_t lane) const { return ranks_[rank][lane].at; }

 private:
  using Verb = DeviceAction::Verb;
  struct Party {
    size_t fifo;
    bool inside;  // of one rank
  };
  struct Entry {
    Verb verb;
    std::vector<Party> parties;
  };
  struct LaneRun {
    std::vector<Entry> actions;
    Position at;
  };

  static uint64_t up(uint64_t bytes) { return (bytes + 4095) / 4096 * 4096; }

  void add(const DeviceProgram& program) {
    depth_ = program.depth;
    std::vector<LaneRun> lanes(program.lanes);
    for (uint32_t l = 0; l < program.lanes; ++l)
      for (uint32_t i = 0; i < program.lane[l].action_count; ++i)
        lanes[l].actions.push_back(entry(program.lane[l], program.lane[l].actions[i]));
    ranks_.push_back(std::move(lanes));
  }
  Entry entry(const DeviceLane& lane, const DeviceAction& action) {
    const bool out = action.verb == Verb::send || action.verb == Verb::send_token;
    Entry made{action.verb, {}};
    for (uint32_t i = 0; i < action.operands; ++i) {
      const Operand& operand = lane.operands[action.first_operand + i];
      if (operand.link == k_local) continue;
      const Link& link = (out ? lane.out : lane.in)[operand.link];
      const auto [known, fresh] = index_.try_emplace(link.inbox, fifos_.size());
      if (fresh) fifos_.emplace_back();
      made.parties.push_back({known->second, link.ack == nullptr});
    }
    return made;
  }

  bool advance(LaneRun& lane, uint32_t rounds) {
    if (lane.actions.empty()) return false;
    const Position before = lane.at;
    while (lane.at.round < rounds && can(lane.actions[lane.at.action])) {
      note(lane.actions[lane.at.action]);
      if (++lane.at.action < lane.actions.size()) continue;
      lane.at.action = 0;
      ++lane.at.round;
    }
    return !(lane.at == before);
  }
  bool can(const Entry& entry) const {
    return std::all_of(entry.parties.begin(), entry.parties.end(), [&](const Party& party) {
      const Fifo& fifo = fifos_[party.fifo];
      switch (entry.verb) {
        case Verb::send:
          return fifo.sent < fifo.known_taken + depth_;
        case Verb::recv_token:
          return fifo.taken_tokens < (party.inside ? fifo.tokens : fifo.known_tokens);
        case Verb::send_token:
        case Verb::copy:
          return true;
        case Verb::recv:
        case Verb::pass:
          return fifo.taken < fifo.known_sent;
      }
      return false;
    });
  }
  void note(const Entry& entry) {
    for (const Party& party : entry.parties) {
      Fifo& fifo = fifos_[party.fifo];
      if (entry.verb == Verb::send) ++fifo.sent;
      if (entry.verb == Verb::recv || entry.verb == Verb::pass) ++fifo.taken;
      if (entry.verb == Verb::send_token) ++fifo.tokens;
      if (entry.verb == Verb::recv_token) ++fifo.taken_tokens;
    }
  }

  uint32_t depth_ = 1;
  std::vector<std::vector<LaneRun>> ranks_;
  std::vector<Fifo> fifos_;
  std::unordered_map<const Inbox*, size_t> index_;
};

}  // namespace

Result<std::vector<Range>> ranges_of(const PlanPtr& plan, Rank rank, const WindowShape& shape,
                                     uint32_t rounds) {
  if (plan->shape().lanes > k_max_range_lanes)
    return Status(Code::unsupported,
                  fmt::format("plan {} cannot run in ranges: {} lanes, at most {}",
                              plan->algorithm(), plan->shape().lanes, k_max_range_lanes));
  Result<Paper> paper = Paper::make(plan, shape);
  if (!paper) return paper.status();
  std::vector<Range> ranges;
  while (!paper->done(rounds) || ranges.size() < 2) {
    Range range;
    range.part.whole = false;
    for (uint32_t l = 0; l < paper->lanes(rank); ++l) range.part.begin[l] = paper->at(rank, l);
    const bool moved = paper->step(rounds);
    if (!moved && !paper->done(rounds))
      return Status(Code::unsupported,
                    fmt::format("plan {} stands still in ranges with {} messages in flight",
                                plan->algorithm(), shape.depth));
    for (uint32_t l = 0; l < paper->lanes(rank); ++l) range.part.end[l] = paper->at(rank, l);
    range.empty = std::equal(std::begin(range.part.begin), std::end(range.part.begin),
                             std::begin(range.part.end));
    ranges.push_back(range);
  }
  return ranges;
}

Result<const std::vector<Range>*> RangeBook::of(uint32_t rounds) {
  const auto known = batches_.find(rounds);
  if (known != batches_.end()) return &known->second;
  Result<std::vector<Range>> made = ranges_of(plan_, rank_, shape_, rounds);
  if (!made) return made.status();
  return &batches_.emplace(rounds, std::move(*made)).first->second;
}

Result<uint32_t> RangeBook::count(uint32_t rounds) {
  uint32_t total = 0;
  TUTTI_RETURN_IF_ERROR(each(rounds, [&](const Range&) -> Status {
    ++total;
    return {};
  }));
  return total;
}

}  // namespace tutti::cuda
