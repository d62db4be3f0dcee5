// Inputs whose collective result is known exactly, for every dtype, op, rank count and order of
// reduction.
//
// Reductions: each rank contributes small integers (times a unit that fills wide types), chosen so
// that every partial result, over any subset of ranks in any order, is exact in the dtype, fp8
// included. Where a dtype is too narrow for all ranks, a window of ranks that rotates with the
// index contributes and the others give the operator's neutral value. Moves: hashed bytes of (seed,
// rank, index). Expected values come from integer arithmetic here, never from the code under test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tutti/types.h"

namespace tutti::perf {

// Contribution and result tables of one (dtype, op, ranks). The value at an index depends on two
// small numbers drawn from hash(seed, index): a phase and the first rank of the window.
class Pattern {
 public:
  Pattern(DType dtype, ReduceOp op, uint32_t ranks);

  // Elements [first, first + count) of what `rank` contributes.
  void fill(void* buffer, size_t count, Rank rank, uint64_t seed, uint64_t first) const;
  // Elements of `result` that are not the reduction over all ranks of [first, first + count).
  uint64_t count_wrong(const void* result, size_t count, uint64_t seed, uint64_t first) const;
  // Ranks that contribute a non-neutral value at each index.
  uint32_t window() const { return window_; }

  // premul_sum's multiplier of `rank`, 1 on even ranks and 2 on odd ones, encoded as dtype.
  static uint64_t scalar_bits(DType dtype, Rank rank);

 private:
  struct Draw {
    uint32_t phase;
    uint32_t start;
  };
  Draw draw(uint64_t seed, uint64_t index) const;
  int64_t contribution(Rank rank, Draw at) const;
  uint64_t expected_bits(Draw at) const;
  uint64_t encode_integer(int64_t value) const;

  DType dtype_;
  ReduceOp op_;
  uint32_t ranks_;
  uint32_t window_;
  std::vector<uint64_t> position_bits_;  // [phase][position in window, last: outside]
  std::vector<uint64_t> expected_;       // [phase][start]
};

// Bytes of collectives that move data: what `rank` holds at elements [first, first + count).
void fill_moved(void* buffer, size_t count, DType dtype, Rank rank, uint64_t seed, uint64_t first);
uint64_t count_wrong_moved(const void* buffer, size_t count, DType dtype, Rank rank, uint64_t seed,
                           uint64_t first);

// `value` rounded (to nearest, ties to even) to a floating-point dtype, as bits.
uint64_t encode_float(DType dtype, double value);
// The value of `bits`, read as an element of a floating-point dtype.
double decode_float(DType dtype, uint64_t bits);

}  // namespace tutti::perf
