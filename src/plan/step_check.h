// StepCheck: what can be said about a shape, and about one step on its own: ranges, peers,
// canonical form, length classes, what may be written.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "src/plan/plan_index.h"

namespace tutti {

class StepCheck {
 public:
  explicit StepCheck(const Plan& plan);

  Status check_shape();
  // What is wrong with the step, if anything.
  std::optional<std::string> check(Rank rank, Lane lane, const Step& step) const;

  // Two chunks have the same length for every count exactly when their classes are equal.
  uint64_t length_class(Rank rank, Buffer buffer, uint32_t chunk) const {
    if (!vector_) return chunks_pow2_ ? chunk & (chunks_ - 1) : chunk % chunks_;
    // Per-pair lengths: the class is (from, to).
    return buffer == Buffer::input ? uint64_t{rank} * ranks_ + chunk
                                   : uint64_t{chunk} * ranks_ + rank;
  }

 private:
  std::optional<std::string> check_peer(Rank rank, Lane lane, const Step& step) const;
  std::optional<std::string> check_canonical(const Step& step) const;
  std::optional<std::string> check_ranges(Rank rank, const Step& step) const;
  std::optional<std::string> check_range(Rank rank, Buffer buffer, uint32_t first, uint32_t count,
                                         const char* what) const;
  uint64_t limit(Rank rank, Buffer buffer) const;

  const Shape& shape_;
  CellMap cells_;
  uint32_t ranks_, chunks_;
  bool chunks_pow2_, vector_, reducing_;
};

// all_reduce, reduce, reduce_scatter: values are reduced, inputs pre-multiplied, `last` means avg.
bool reduces(Collective collective);
// all_to_all_v and send_recv: chunk lengths belong to (from, to) pairs.
bool has_pair_lengths(Collective collective);

}  // namespace tutti
