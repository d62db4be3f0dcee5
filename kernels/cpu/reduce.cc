// The entry points of kernels.h: which family of kernels does a call, and the trivial cases.
#include <algorithm>
#include <cstring>

#include "hwy/targets.h"
#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/pass.h"

namespace tutti::kernels {
namespace {

void run(const Pass& pass) {
  const bool extremum = pass.op == ReduceOp::min || pass.op == ReduceOp::max;
  switch (pass.dtype) {
    case DType::int8:
    case DType::uint8:
    case DType::int32:
    case DType::uint32:
    case DType::int64:
    case DType::uint64:
      if (extremum) return reduce_min_max(pass);
      return pass.divisor == 0 ? reduce_integers(pass) : average_integers(pass);
    case DType::float32:
    case DType::float64:
      if (extremum) return reduce_min_max(pass);
      return reduce_float32_float64(pass);
    case DType::float16:
    case DType::bfloat16:
      if (extremum) return reduce_min_max(pass);
      return reduce_float16_bfloat16(pass);
    case DType::float8_e4m3:
    case DType::float8_e5m2:
      if (extremum) return reduce_min_max(pass);
      return reduce_float8(pass);
  }
}

}  // namespace

void reduce(DType dtype, ReduceOp op, std::span<const void* const> sources,
            std::span<void* const> destinations, size_t count, uint32_t divisor) {
  if (count == 0 || sources.empty() || destinations.empty()) return;
  if (op != ReduceOp::avg) divisor = 0;
  if (sources.size() == 1 && divisor == 0) {
    for (void* destination : destinations) {
      if (destination != sources[0]) copy(destination, sources[0], count * size_of(dtype));
    }
    return;
  }
  const FloatMode mode;
  run(Pass{dtype, op, sources.data(), sources.size(), destinations.data(), destinations.size(),
           count, divisor});
}

void scale(DType dtype, void* dst, const void* src, size_t count, uint64_t scalar_bits) {
  // A product with a run of the scalar, which stays in L1: no kernels of its own.
  constexpr size_t k_run = 4096;
  alignas(64) uint8_t run_of_scalars[k_run];
  const size_t element = size_of(dtype);
  const size_t elements = std::min(count, k_run / element);
  for (size_t i = 0; i < elements; ++i) {
    std::memcpy(run_of_scalars + i * element, &scalar_bits, element);
  }
  const FloatMode mode;
  for (size_t at = 0; at < count; at += elements) {
    const void* sources[2] = {static_cast<const uint8_t*>(src) + at * element, run_of_scalars};
    void* destinations[1] = {static_cast<uint8_t*>(dst) + at * element};
    run(Pass{dtype, ReduceOp::prod, sources, 2, destinations, 1, std::min(elements, count - at),
             0});
  }
}

const char* target_name() {
  const int64_t supported = hwy::SupportedTargets();
  return hwy::TargetName(supported & -supported);
}

}  // namespace tutti::kernels
