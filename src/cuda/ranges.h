// Ranges: a call as a few launches that never wait for a peer, for ranks whose grids cannot run at
// the same time (processes that time-slice one device).
//
// All ranks' programs are run here on paper, in *supersteps*: in each, every lane of every rank
// goes as far as it can with the messages that were sent, and the slots that were given back, in
// earlier supersteps. What a rank does in superstep s is its range s. A rank launches range s when
// its stream has seen that all ranks have ended range s - 1 (gates.h): whatever the range needs is
// there.
//
//   rank 0   [send]            [recv, reduce, copy]           one launch each
//   rank 1   [send]            [recv, reduce, copy]
//                   | gates |                      | gates |  the streams wait, no grid does
//
// Lanes of a rank do wait for each other inside of a launch, which is cooperative.
#pragma once

#include <map>
#include <vector>

#include "src/cuda/build.h"

namespace tutti::cuda {

// What a rank launches between two gates; the same number of them on every rank.
struct Range {
  PlanRange part;
  bool empty = false;  // nothing to do for this rank
};

class RangeBook {
 public:
  // Rounds that are cut together: messages of so many overlap, a longer call repeats the pattern.
  static constexpr uint32_t k_rounds = 16;

  RangeBook(PlanPtr plan, Rank rank, const WindowShape& shape)
      : plan_(std::move(plan)), rank_(rank), shape_(shape) {}

  // The ranges of a call of `rounds` rounds, in order, at least two; `emit(Range)` gets each of
  // them. Errors: unsupported (a plan that windows do not serve, more than k_max_range_lanes
  // lanes); those of `emit`.
  template <class Emit>
  Status each(uint32_t rounds, Emit&& emit) {
    for (uint32_t first = 0; first < rounds; first += k_rounds) {
      Result<const std::vector<Range>*> batch = of(std::min(k_rounds, rounds - first));
      if (!batch) return batch.status();
      for (Range range : **batch) {
        for (Position& p : range.part.begin) p.round += first;
        for (Position& p : range.part.end) p.round += first;
        TUTTI_RETURN_IF_ERROR(emit(range));
      }
    }
    return {};
  }
  // How many each() gives.
  Result<uint32_t> count(uint32_t rounds);

 private:
  // Of the first `rounds` rounds.
  Result<const std::vector<Range>*> of(uint32_t rounds);

  PlanPtr plan_;
  Rank rank_;
  WindowShape shape_;
  std::map<uint32_t, std::vector<Range>> batches_;  // by rounds
};

// The supersteps of `rounds` rounds as `rank` runs them; at least two. Errors: as RangeBook's.
Result<std::vector<Range>> ranges_of(const PlanPtr& plan, Rank rank, const WindowShape& shape,
                                     uint32_t rounds);

}  // namespace tutti::cuda
