// Floats of 16 and 8 bits as codes: widened to fp32 exactly, narrowed once, to nearest even.
//
// The code below runs on host and device and is what the tests compare with kernels/cpu; where a
// device has the conversion in hardware (fp16 everywhere, bf16 from sm_80, fp8 from sm_89), that is
// used there, and `ctest -L gpu` compares all codes.
#pragma once

#include <cstdint>
#include <cstring>

#include "src/base/host_device.h"

namespace tutti::cuda {

template <class To, class From>
TUTTI_HD inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// A float of sign, exponent and mantissa. `kIeee`: all-ones exponents are infinity and NaN;
// otherwise (e4m3) only the all-ones code is NaN. `kSaturates`: overflow and infinities become the
// largest finite value.
template <int kBits, int kExponent, bool kIeee, bool kSaturates>
struct NarrowFloat {
  static constexpr int k_mantissa = kBits - 1 - kExponent;
  static constexpr int k_bias = (1 << (kExponent - 1)) - 1;
  static constexpr int k_shift = 23 - k_mantissa;  // of a code within an fp32
  static constexpr uint32_t k_sign = uint32_t{1} << (kBits - 1);
  static constexpr uint32_t k_nan = k_sign - 1;  // the one NaN that results have
  static constexpr uint32_t k_infinity = ((uint32_t{1} << kExponent) - 1) << k_mantissa;
  static constexpr uint32_t k_largest = kIeee ? k_infinity - 1 : k_nan - 1;

  TUTTI_HD static float widen(uint32_t code) {
    const uint32_t magnitude = code & (k_sign - 1), sign = (code & k_sign) << (32 - kBits);
    const bool special = kIeee ? magnitude >= k_infinity : magnitude == k_nan;
    if (special) return bits_as<float>(sign | 0x7F800000u | (magnitude << k_shift));
    // As the mantissa and exponent of an fp32 the value is 2^(127 - bias) too small; exact.
    const float scale = bits_as<float>(uint32_t{254 - k_bias} << 23);
    const float value = bits_as<float>(magnitude << k_shift) * scale;
    return bits_as<float>(bits_as<uint32_t>(value) | sign);
  }

  TUTTI_HD static uint32_t narrow(float value) {
    const uint32_t bits = bits_as<uint32_t>(value), magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return k_nan;
    const uint32_t code =
        magnitude < (uint32_t{128 - k_bias} << 23) ? denormal(magnitude) : normal(magnitude);
    constexpr uint32_t k_most = kSaturates ? k_largest : k_infinity;
    return (code < k_most ? code : k_most) | ((bits >> (32 - kBits)) & k_sign);
  }

 private:
  // The adder rounds at the place of the smallest step: its ulp is that of the added power of two.
  TUTTI_HD static uint32_t denormal(uint32_t magnitude) {
    const uint32_t power = uint32_t{127 + 1 - k_bias + k_shift} << 23;
    const float sum = bits_as<float>(magnitude) + bits_as<float>(power);
    return bits_as<uint32_t>(sum) - power;
  }
  TUTTI_HD static uint32_t normal(uint32_t magnitude) {
    const uint32_t half = (uint32_t{1} << (k_shift - 1)) - 1, odd = (magnitude >> k_shift) & 1;
    return ((magnitude + half + odd) >> k_shift) - (uint32_t{127 - k_bias} << k_mantissa);
  }
};

using Half = NarrowFloat<16, 5, true, false>;
using E4M3 = NarrowFloat<8, 4, false, true>;
using E5M2 = NarrowFloat<8, 5, true, true>;

// The upper half of an fp32; its exponents reach as far, so both ways are shifts.
struct Bfloat {
  static constexpr uint32_t k_sign = 0x8000, k_nan = 0x7FFF, k_infinity = 0x7F80,
                            k_largest = 0x7F7F;
  TUTTI_HD static float widen(uint32_t code) { return bits_as<float>(code << 16); }
  TUTTI_HD static uint32_t narrow(float value) {
    const uint32_t bits = bits_as<uint32_t>(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return k_nan;
    return (bits + 0x7FFFu + ((bits >> 16) & 1)) >> 16;
  }
};

// What the reductions call: hardware where there is some.
template <class Format>
TUTTI_HD inline float widen(uint32_t code) {
  return Format::widen(code);
}
template <class Format>
TUTTI_HD inline uint32_t narrow(float value) {
  return Format::narrow(value);
}

// The same for the two or four codes of a word.
template <class Format>
inline constexpr uint32_t k_word_codes = Format::k_sign > 0xFF ? 2 : 4;

template <class Format>
TUTTI_HD inline void widen_word(uint32_t w, float* values) {
  constexpr uint32_t k_codes = k_word_codes<Format>, k_bits = 32 / k_codes;
  TUTTI_HD_UNROLL(4)
  for (uint32_t i = 0; i < k_codes; ++i)
    values[i] = widen<Format>((w >> (k_bits * i)) & ((1u << k_bits) - 1));
}
template <class Format>
TUTTI_HD inline uint32_t narrow_word(const float* values) {
  constexpr uint32_t k_codes = k_word_codes<Format>, k_bits = 32 / k_codes;
  uint32_t w = 0;
  TUTTI_HD_UNROLL(4)
  for (uint32_t i = 0; i < k_codes; ++i) w |= narrow<Format>(values[i]) << (k_bits * i);
  return w;
}

#if defined(__CUDA_ARCH__)
template <>
__device__ inline float widen<Half>(uint32_t code) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<uint16_t>(code)));
  return value;
}
template <>
__device__ inline uint32_t narrow<Half>(float value) {
  uint16_t code;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(code) : "f"(value));
  return code;  // NaN comes out as 7FFF
}
template <>
__device__ inline uint32_t narrow<Bfloat>(float value) {
  uint16_t code;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(code) : "f"(value));
  return code;
}
// Of two at once the first operand becomes the upper one.
template <>
__device__ inline uint32_t narrow_word<Half>(const float* values) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(values[1]), "f"(values[0]));
  return pair;
}
template <>
__device__ inline uint32_t narrow_word<Bfloat>(const float* values) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(values[1]), "f"(values[0]));
  return pair;
}
#if __CUDA_ARCH__ >= 890
// fp8 has no other form than two codes at once; where there is one, the second is not used.
template <>
__device__ inline float widen<E4M3>(uint32_t code) {
  uint32_t pair;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"(static_cast<uint16_t>(code)));
  return widen<Half>(pair & 0xFFFFu);
}
template <>
__device__ inline float widen<E5M2>(uint32_t code) {
  return widen<Half>(code << 8);
}
template <>
__device__ inline uint32_t narrow<E4M3>(float value) {
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(value));
  return pair & 0xFFu;
}
template <>
__device__ inline uint32_t narrow<E5M2>(float value) {
  uint16_t pair;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(value));
  return pair & 0xFFu;
}
template <>
__device__ inline void widen_word<E4M3>(uint32_t w, float* values) {
  TUTTI_HD_UNROLL(2)
  for (uint32_t i = 0; i < 2; ++i) {
    uint32_t pair;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"(static_cast<uint16_t>(w >> (16 * i))));
    widen_word<Half>(pair, values + 2 * i);
  }
}
template <>
__device__ inline uint32_t narrow_word<E4M3>(const float* values) {
  uint16_t low, high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(values[1]), "f"(values[0]));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(values[3]), "f"(values[2]));
  return uint32_t{high} << 16 | low;
}
template <>
__device__ inline uint32_t narrow_word<E5M2>(const float* values) {
  uint16_t low, high;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(low) : "f"(values[1]), "f"(values[0]));
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(high) : "f"(values[3]), "f"(values[2]));
  return uint32_t{high} << 16 | low;
}
#endif
#endif

}  // namespace tutti::cuda
