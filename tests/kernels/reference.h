// A plain reference for the kernels, written from the tables in docs/numbers.md and not from the
// kernels: narrow floats are decoded by ldexp and encoded by a search among all their values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include "tutti/types.h"

namespace tutti::kernels::reference {

// Sign, exponent and mantissa widths of a float of up to 16 bits, and whether all-ones exponents
// are reserved for infinity and NaN (IEEE) or only the all-ones code is NaN (e4m3).
struct Narrow {
  int bits, exponent_bits, mantissa_bits;
  bool ieee, saturates;

  int sign_bit() const { return 1 << (bits - 1); }
  int canonical_nan() const { return sign_bit() - 1; }
  int infinity() const { return ((1 << exponent_bits) - 1) << mantissa_bits; }
  bool is_nan(int code) const {
    const int magnitude = code & (sign_bit() - 1);
    return ieee ? magnitude > infinity() : magnitude == canonical_nan();
  }
  int largest_finite() const { return ieee ? infinity() - 1 : canonical_nan() - 1; }

  double decode(int code) const {
    if (is_nan(code)) return std::nan("");
    const int magnitude = code & (sign_bit() - 1);
    const int exponent = magnitude >> mantissa_bits;
    const int mantissa = magnitude & ((1 << mantissa_bits) - 1);
    const int bias = (1 << (exponent_bits - 1)) - 1;
    double value;
    if (ieee && magnitude == infinity()) {
      value = std::numeric_limits<double>::infinity();
    } else if (exponent == 0) {
      value = std::ldexp(mantissa, 1 - bias - mantissa_bits);
    } else {
      value = std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
    }
    return code & sign_bit() ? -value : value;
  }

  // To nearest, ties to the even code; past the largest value (as if the exponent range went on)
  // to infinity or to the largest value.
  int encode(double value) const {
    if (std::isnan(value)) return canonical_nan();
    const int sign = std::signbit(value) ? sign_bit() : 0;
    const double x = std::fabs(value);
    int low = 0, high = largest_finite();  // decode(low) <= x
    if (x >= decode(high)) {
      const double next = 2 * decode(high) - decode(high - 1);
      const bool overflows = x >= (decode(high) + next) / 2;
      return sign | (overflows && !saturates ? infinity() : high);
    }
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (decode(middle) <= x ? low : high) = middle;
    }
    const double below = x - decode(low), above = decode(high) - x;
    const bool up = above < below || (above == below && (low & 1));
    return sign | (up ? high : low);
  }
};

inline constexpr Narrow k_float16{16, 5, 10, true, false};
inline constexpr Narrow k_bfloat16{16, 8, 7, true, false};
inline constexpr Narrow k_e4m3{8, 4, 3, false, true};
inline constexpr Narrow k_e5m2{8, 5, 2, true, true};

inline const Narrow* narrow_of(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return &k_float16;
    case DType::bfloat16:
      return &k_bfloat16;
    case DType::float8_e4m3:
      return &k_e4m3;
    case DType::float8_e5m2:
      return &k_e5m2;
    default:
      return nullptr;
  }
}

template <class T>
T load(const void* base, size_t i) {
  T value;
  std::memcpy(&value, static_cast<const char*>(base) + i * sizeof(T), sizeof(T));
  return value;
}
template <class T>
void store(void* base, size_t i, T value) {
  std::memcpy(static_cast<char*>(base) + i * sizeof(T), &value, sizeof(T));
}

// A number (not NaN) beats NaN; -0 is below +0.
template <class T>
T extremum(T a, T b, bool maximum) {
  if (std::isnan(a)) return b;
  if (std::isnan(b)) return a;
  if (a == b) return std::signbit(a) == maximum ? b : a;
  return (a < b) == maximum ? b : a;
}

template <class T>
T fold_floats(ReduceOp op, std::span<const T> values, uint32_t divisor) {
  T acc = values[0];
  for (T x : values.subspan(1)) {
    if (op == ReduceOp::prod) {
      acc = acc * x;
    } else if (op == ReduceOp::min || op == ReduceOp::max) {
      acc = extremum(acc, x, op == ReduceOp::max);
    } else {
      acc = acc + x;
    }
  }
  return op == ReduceOp::avg && divisor ? acc / static_cast<T>(divisor) : acc;
}

template <class T>
T canonical(T value) {
  if (!std::isnan(value)) return value;
  using U = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  const U bits = ~U{0} >> 1;
  T nan;
  std::memcpy(&nan, &bits, sizeof nan);
  return nan;
}

template <class T>
T fold_integers(ReduceOp op, std::span<const T> values, uint32_t divisor) {
  using U = std::make_unsigned_t<T>;
  __extension__ using Wide = __int128;
  U wrapped = static_cast<U>(values[0]);
  Wide exact = values[0];
  T least = values[0], greatest = values[0];
  for (T x : values.subspan(1)) {
    exact += x;
    least = std::min(least, x);
    greatest = std::max(greatest, x);
    const uint64_t a = wrapped, b = static_cast<U>(x);
    wrapped = static_cast<U>(op == ReduceOp::prod ? a * b : a + b);
  }
  if (op == ReduceOp::min) return least;
  if (op == ReduceOp::max) return greatest;
  if (op != ReduceOp::avg || divisor == 0) return static_cast<T>(wrapped);
  return static_cast<T>(std::clamp<Wide>(exact / Wide{divisor}, std::numeric_limits<T>::min(),
                                         std::numeric_limits<T>::max()));
}

template <class T>
std::vector<T> column(std::span<const void* const> sources, size_t i) {
  std::vector<T> values;
  for (const void* source : sources) values.push_back(load<T>(source, i));
  return values;
}

template <class Code>
void reduce_narrow(const Narrow& format, ReduceOp op, std::span<const void* const> sources,
                   void* out, size_t i, uint32_t divisor) {
  std::vector<float> values;
  for (const void* source : sources) {
    values.push_back(static_cast<float>(format.decode(load<Code>(source, i))));
  }
  const float value = fold_floats<float>(op, values, divisor);
  int code = format.encode(value);
  // An extremum is one of its inputs and is not rounded: e5m2 infinity stays.
  const bool extremum_op = op == ReduceOp::min || op == ReduceOp::max;
  if (extremum_op && std::isinf(value)) {
    code = format.infinity() | (std::signbit(value) ? format.sign_bit() : 0);
  }
  store<Code>(out, i, static_cast<Code>(code));
}

inline void reduce(DType dtype, ReduceOp op, std::span<const void* const> sources, void* out,
                   size_t count, uint32_t divisor) {
  if (sources.size() == 1 && (op != ReduceOp::avg || divisor == 0)) {
    if (count > 0) std::memcpy(out, sources[0], count * size_of(dtype));
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    switch (dtype) {
#define TUTTI_CASE(dt, T)                                                                       \
  case DType::dt:                                                                               \
    store<T>(out, i, fold_integers<T>(op, std::span<const T>(column<T>(sources, i)), divisor)); \
    break;
      TUTTI_CASE(int8, int8_t)
      TUTTI_CASE(uint8, uint8_t)
      TUTTI_CASE(int32, int32_t)
      TUTTI_CASE(uint32, uint32_t)
      TUTTI_CASE(int64, int64_t)
      TUTTI_CASE(uint64, uint64_t)
#undef TUTTI_CASE
      case DType::float32:
        store<float>(out, i, canonical(fold_floats<float>(op, column<float>(sources, i), divisor)));
        break;
      case DType::float64:
        store<double>(out, i,
                      canonical(fold_floats<double>(op, column<double>(sources, i), divisor)));
        break;
      case DType::float16:
      case DType::bfloat16:
        reduce_narrow<uint16_t>(*narrow_of(dtype), op, sources, out, i, divisor);
        break;
      case DType::float8_e4m3:
      case DType::float8_e5m2:
        reduce_narrow<uint8_t>(*narrow_of(dtype), op, sources, out, i, divisor);
        break;
    }
  }
}

}  // namespace tutti::kernels::reference
