// One pass over k sources: what reduce() hands to the kernels of an element type. Each family of
// kernels lives in a translation unit of its own, compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tutti/types.h"

namespace tutti::kernels {

// At least one source and one destination, which may be exactly one of the sources.
struct Pass {
  DType dtype;
  ReduceOp op;
  const void* const* sources;
  size_t source_count;
  void* const* destinations;
  size_t destination_count;
  size_t count;      // elements
  uint32_t divisor;  // 0: none

  // Addresses at a byte offset; nothing is aligned.
  const uint8_t* source(size_t s, size_t at) const {
    return static_cast<const uint8_t*>(sources[s]) + at;
  }
  uint8_t* destination(size_t d, size_t at) const {
    return static_cast<uint8_t*>(destinations[d]) + at;
  }
};

// sum, premul_sum, avg (divides when divisor > 0) and prod.
void reduce_float32_float64(const Pass& pass);
void reduce_float16_bfloat16(const Pass& pass);
void reduce_float8(const Pass& pass);
// sum, premul_sum and prod, wrapping.
void reduce_integers(const Pass& pass);
// avg with a divisor.
void average_integers(const Pass& pass);
// min and max.
void reduce_min_max(const Pass& pass);

}  // namespace tutti::kernels
