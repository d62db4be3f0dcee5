// CPU kernels: k-way reduction, copy and scaling, for every element type and operator.
//
// Numbers (docs/numbers.md has the tables): a pass accumulates in a wide type, in the order of
// `sources`, and is rounded once, to nearest even: fp32 for fp32 and all 16- and 8-bit floats, fp64
// for fp64, the integer itself (wrapping) for integers. avg of integers divides the exact sum and
// truncates toward zero. All instruction sets agree bit for bit, whatever the floating-point mode
// of the calling thread. min/max let a number win over NaN and put -0 below +0; every other NaN
// result has all bits but the sign set. fp8 saturates to its largest finite value, as NCCL's does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tutti/types.h"

namespace tutti::kernels {

// destinations[j][i] = round(sources[0][i] op sources[1][i] op ...), for i < count and every j.
// Sources and destinations hold `count` elements of `dtype`, need only the alignment of a byte, and
// a destination may be exactly one of the sources; otherwise they do not overlap.
// `divisor`: 0, or avg's division of the accumulated sum before rounding (op avg only).
// One source and no divisor is a copy. premul_sum reduces like sum (inputs are scaled elsewhere).
void reduce(DType dtype, ReduceOp op, std::span<const void* const> sources,
            std::span<void* const> destinations, size_t count, uint32_t divisor);

// dst = src for `bytes` bytes; no overlap. Streams past the caches when that measures faster.
void copy(void* dst, const void* src, size_t bytes);

// The same for memory that a rank on another core reads next: where it measures faster, the bytes
// do not stay in this core's cache. Complete before any later store.
void publish(void* dst, const void* src, size_t bytes);

// dst[i] = round(src[i] * scalar) in `dtype`; dst may be src. `scalar_bits` holds one element of
// `dtype` in its low bytes (little endian).
void scale(DType dtype, void* dst, const void* src, size_t count, uint64_t scalar_bits);

// The instruction set in use, for reports: "AVX2", "AVX3" ...
const char* target_name();

}  // namespace tutti::kernels
