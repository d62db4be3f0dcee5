// Barrier: a rank may leave only after every rank has come. Each lane and message carries the set
// of ranks whose start it follows; a rank's completion follows the union over its lanes.
#include <fmt/format.h>

#include <bit>

#include "src/plan/kahn.h"
#include "src/plan/verify_parts.h"

namespace tutti {
namespace {

class Starts {
 public:
  Starts(const PlanIndex& index, const KahnLayout& layout)
      : words_((index.shape().ranks + 63) / 64),
        lanes_(uint64_t{index.lanes()} * words_),
        messages_(layout.slots() * words_) {
    for (uint32_t id = 0; id < index.lanes(); ++id) {
      const Rank r = index.rank_of(id);
      lanes_[id * words_ + r / 64] |= uint64_t{1} << (r % 64);
    }
  }

  void send(const At& at, const Step&, uint32_t, uint64_t slot) {
    std::copy_n(&lanes_[at.lane_id * words_], words_, &messages_[slot * words_]);
  }
  void recv(const At& at, const Step&, uint32_t, uint64_t slot) { join(at.lane_id, slot); }
  void copy(const At&, const Step&) {}
  void pass(const At& at, std::span<const Step>, std::span<const Arrival> arrivals) {
    for (const Arrival& a : arrivals) join(at.lane_id, a.slot);
  }

  // A rank whose start the completion of `rank` may overtake, or `ranks`.
  Rank missing(Rank rank, const Shape& shape) const {
    for (uint64_t w = 0; w < words_; ++w) {
      uint64_t all = 0;
      for (Lane l = 0; l < shape.lanes; ++l)
        all |= lanes_[(uint64_t{rank} * shape.lanes + l) * words_ + w];
      const Rank first = static_cast<Rank>(w * 64 + std::countr_one(all));
      if (std::countr_one(all) < 64) return std::min(first, shape.ranks);
    }
    return shape.ranks;
  }

 private:
  void join(uint64_t lane, uint64_t slot) {
    uint64_t* mine = &lanes_[lane * words_];
    const uint64_t* other = &messages_[slot * words_];
    for (uint64_t w = 0; w < words_; ++w) mine[w] |= other[w];
  }

  uint64_t words_;
  std::vector<uint64_t> lanes_, messages_;
};

}  // namespace

void prove_barrier(const PlanIndex& index, VerifyReport& report) {
  const Shape& shape = index.shape();
  const RunLimits limits{shape.credits, 1, true, false};
  Starts starts(index, KahnLayout(index, limits));
  KahnRunner<Starts> runner(index, starts, limits);
  if (!runner.run()) {
    const auto stuck = runner.stuck();
    return conclude(report, &VerifyReport::progress, Verdict::failed,
                    describe_stuck(index, stuck.lane_id, stuck.index));
  }
  report.progress = report.postcondition = report.same_bits = Verdict::ok;
  for (Rank r = 0; r < shape.ranks; ++r) {
    const Rank missing = starts.missing(r, shape);
    if (missing < shape.ranks)
      return conclude(report, &VerifyReport::postcondition, Verdict::failed,
                      fmt::format("rank {} may leave before rank {} has come", r, missing));
  }
}

}  // namespace tutti
