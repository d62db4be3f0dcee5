// A word of elements at a time: what a reduction does with 4 bytes of a buffer (8, where an element
// has as many). To the bit what Arithmetic does with every element, in fewer instructions: element
// by element, 8-bit types cost several times what their memory traffic leaves time for.
#pragma once

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/words.h"

namespace tutti::cuda {

// Sources of a reduction whose bytes may be added up in halves of 16 bits.
inline constexpr uint32_t k_most_sources = 257;

namespace packed {

// Bytes 0 and 2, and 1 and 3, each in 16 bits.
struct Halves {
  uint32_t even, odd;
};
TUTTI_HD inline Halves unpack(uint32_t w) { return {w & 0x00FF00FFu, (w >> 8) & 0x00FF00FFu}; }
TUTTI_HD inline uint32_t pack(Halves h) {
  return (h.even & 0x00FF00FFu) | (h.odd & 0x00FF00FFu) << 8;
}
// All ones in every byte whose highest bit is set, else zeros.
TUTTI_HD inline uint32_t spread_signs(uint32_t w) { return ((w & 0x80808080u) >> 7) * 0xFFu; }

// The smaller of two halves each, which hold bytes: a - b borrows where b is larger.
TUTTI_HD inline uint32_t smaller_halves(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  uint32_t smaller;
  asm("min.u16x2 %0, %1, %2;" : "=r"(smaller) : "r"(a), "r"(b));
  return smaller;
#else
  const uint32_t keeps_b = ((((a | 0x01000100u) - b) >> 8) & 0x00010001u) * 0xFFu;
  return (b & keeps_b) | (a & ~keeps_b);
#endif
}
TUTTI_HD inline Halves smaller(Halves a, Halves b) {
  return {smaller_halves(a.even, b.even), smaller_halves(a.odd, b.odd)};
}

}  // namespace packed

// In general, element by element; sums and products of narrow floats with conversions of two at
// once.
template <DType kType, Family kFamily, class Enable = void>
class Packed {
 public:
  using A = Arithmetic<kType, kFamily>;
  using Element = typename A::Element;
  using Word = std::conditional_t<sizeof(Element) == 8, uint64_t, uint32_t>;
  static constexpr uint32_t k_each = sizeof(Word) / sizeof(Element);
  struct Wide {
    typename A::Wide e[k_each];
  };

  TUTTI_HD explicit Packed(Operator op) : a_(op) {}
  TUTTI_HD Wide load(Word w) const {
    Wide wide;
    if constexpr (k_converts) {
      widen_word<typename A::Codes::Format>(w, wide.e);
    } else {
      TUTTI_HD_UNROLL(4)
      for (uint32_t i = 0; i < k_each; ++i) wide.e[i] = a_.load(element(w, i));
    }
    return wide;
  }
  TUTTI_HD Wide combine(const Wide& a, const Wide& b) const {
    Wide wide;
    TUTTI_HD_UNROLL(4)
    for (uint32_t i = 0; i < k_each; ++i) wide.e[i] = a_.combine(a.e[i], b.e[i]);
    return wide;
  }
  // Of so many sources.
  TUTTI_HD Word finish(const Wide& wide, uint32_t) const {
    if constexpr (k_converts) {
      float value[k_each];
      TUTTI_HD_UNROLL(4)
      for (uint32_t i = 0; i < k_each; ++i) value[i] = a_.divide(wide.e[i]);
      return narrow_word<typename A::Codes::Format>(value);
    } else if constexpr (k_each == 1) {
      return static_cast<Word>(a_.finish(wide.e[0]));
    } else {
      Words<4> w{};
      TUTTI_HD_UNROLL(4)
      for (uint32_t i = 0; i < k_each; ++i) w.put(i, a_.finish(wide.e[i]));
      return w.w[0];
    }
  }

 private:
  static constexpr bool k_converts =
      !is_integer(kType) && sizeof(Element) < 4 && kFamily != Family::extremum;
  TUTTI_HD static Element element(Word w, uint32_t i) {
    return static_cast<Element>(w >> (k_each == 1 ? 0 : 8 * sizeof(Element) * i));
  }
  A a_;
};

// Types of a byte.
template <DType kType, bool kInteger>
using IfByte =
    std::enable_if_t<sizeof(typename Stored<kType>::Type) == 1 && is_integer(kType) == kInteger>;

// Sums of bytes: exact in 16 bits, signed ones 128 too large.
template <DType kType>
class Packed<kType, Family::sum, IfByte<kType, true>> {
 public:
  using A = Arithmetic<kType, Family::sum>;
  using Word = uint32_t;
  using Wide = packed::Halves;

  TUTTI_HD explicit Packed(Operator op) : a_(op), divides_(op.divisor != 0) {}
  TUTTI_HD Wide load(Word w) const { return packed::unpack(w ^ k_bias * 0x01010101u); }
  TUTTI_HD Wide combine(const Wide& a, const Wide& b) const {
    return {a.even + b.even, a.odd + b.odd};
  }
  TUTTI_HD Word finish(const Wide& sum, uint32_t sources) const {
    const uint32_t bias = sources * k_bias;
    if (!divides_) {
      const uint32_t less = ((0u - bias) & 0xFFu) * 0x00010001u;
      return packed::pack({(sum.even & 0x00FF00FFu) + less, (sum.odd & 0x00FF00FFu) + less});
    }
    Words<4> w{};
    TUTTI_HD_UNROLL(4)
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t half = ((i % 2 == 0 ? sum.even : sum.odd) >> (16 * (i / 2))) & 0xFFFFu;
      w.put(i, a_.finish(static_cast<int32_t>(half) - static_cast<int32_t>(bias)));
    }
    return w.w[0];
  }

 private:
  static constexpr uint32_t k_bias = kType == DType::int8 ? 0x80 : 0;
  A a_;
  bool divides_;
};

// Extrema of bytes, as the smallest of unsigned keys: those of max are complements.
template <DType kType>
class Packed<kType, Family::extremum, IfByte<kType, true>> {
 public:
  using Word = uint32_t;
  using Wide = packed::Halves;

  TUTTI_HD explicit Packed(Operator op)
      : flip_((kType == DType::int8 ? 0x80808080u : 0) ^ (op.max ? ~0u : 0u)) {}
  TUTTI_HD Wide load(Word w) const { return packed::unpack(w ^ flip_); }
  TUTTI_HD Wide combine(const Wide& a, const Wide& b) const { return packed::smaller(a, b); }
  TUTTI_HD Word finish(const Wide& wide, uint32_t) const { return packed::pack(wide) ^ flip_; }

 private:
  uint32_t flip_;
};

// The same of fp8, by Arithmetic's keys with their sign turned: NaN is all ones.
template <DType kType>
class Packed<kType, Family::extremum, IfByte<kType, false>> {
 public:
  using Word = uint32_t;
  using Wide = packed::Halves;

  TUTTI_HD explicit Packed(Operator op) : flip_(op.max ? ~0u : 0u) {}
  TUTTI_HD Wide load(Word w) const {
    // A magnitude above the largest number carries into the sign's place.
    const uint32_t nan = packed::spread_signs((w & k_magnitude) + k_above);
    return packed::unpack((order(w) ^ flip_ ^ ~k_magnitude) | nan);
  }
  TUTTI_HD Wide combine(const Wide& a, const Wide& b) const { return packed::smaller(a, b); }
  TUTTI_HD Word finish(const Wide& wide, uint32_t) const {
    const uint32_t keys = packed::pack(wide);
    // No number has the key of all ones.
    const uint32_t nan = packed::spread_signs(keys & ((keys & k_magnitude) + 0x01010101u));
    return (order(keys ^ ~k_magnitude ^ flip_) & ~nan) | (k_magnitude & nan);
  }

 private:
  static constexpr uint32_t k_magnitude = 0x7F7F7F7Fu;
  static constexpr uint32_t k_above = (0x7Fu - FloatCodes<kType>::k_largest_number) * 0x01010101u;
  // Negative magnitudes in reverse; its own inverse.
  TUTTI_HD static uint32_t order(uint32_t w) { return w ^ (packed::spread_signs(w) & k_magnitude); }
  uint32_t flip_;
};

}  // namespace tutti::cuda
