// What a reduction does to elements of a type, to the bit as docs/numbers.md says and as
// kernels/cpu does it, on host and device: load an element into a wide accumulator, combine,
// finish.
//
// Three families of operators per type bound the number of kernels: sum (premul_sum, and avg by a
// divisor that is a value, not a type), prod, and extremum (min and max by a flip of keys).
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/narrow.h"
#include "tutti/types.h"

namespace tutti::cuda {

enum class Family : uint8_t { sum, prod, extremum };
inline constexpr int k_families = 3;
constexpr const char* name(Family family) {
  return family == Family::sum ? "sum" : family == Family::prod ? "prod" : "extremum";
}
TUTTI_HD constexpr Family family_of(ReduceOp op) {
  if (op == ReduceOp::prod) return Family::prod;
  return op == ReduceOp::min || op == ReduceOp::max ? Family::extremum : Family::sum;
}

// What an operator is besides its family.
struct Operator {
  uint32_t divisor = 0;  // of sum: 0, or what avg divides by before rounding
  bool max = false;      // of extremum
  bool scaled = false;   // of sum: premul_sum multiplies every input by a factor of its owner's
};

__extension__ using Int128 = __int128;

// --- the types as they lie in memory

template <DType kType>
struct Stored;
#define TUTTI_STORED(dtype, type) \
  template <>                     \
  struct Stored<DType::dtype> {   \
    using Type = type;            \
  }
TUTTI_STORED(int8, int8_t);
TUTTI_STORED(uint8, uint8_t);
TUTTI_STORED(int32, int32_t);
TUTTI_STORED(uint32, uint32_t);
TUTTI_STORED(int64, int64_t);
TUTTI_STORED(uint64, uint64_t);
TUTTI_STORED(float16, uint16_t);
TUTTI_STORED(float32, uint32_t);
TUTTI_STORED(float64, uint64_t);
TUTTI_STORED(bfloat16, uint16_t);
TUTTI_STORED(float8_e4m3, uint8_t);
TUTTI_STORED(float8_e5m2, uint8_t);
#undef TUTTI_STORED

constexpr bool is_integer(DType dtype) { return dtype < DType::float16; }

// --- floats: codes to their wide type and back

template <DType kType>
struct FloatCodes {  // 16 and 8 bits
  using Format = std::conditional_t<
      kType == DType::float16, Half,
      std::conditional_t<kType == DType::bfloat16, Bfloat,
                         std::conditional_t<kType == DType::float8_e4m3, E4M3, E5M2>>>;
  using Wide = float;
  using Code = typename Stored<kType>::Type;
  static constexpr uint32_t k_largest_number =
      kType == DType::float8_e4m3 ? Format::k_largest : Format::k_infinity;
  TUTTI_HD static float widen(Code code) { return cuda::widen<Format>(code); }
  TUTTI_HD static Code narrow(float value) {
    return static_cast<Code>(cuda::narrow<Format>(value));
  }
};
template <>
struct FloatCodes<DType::float32> {
  using Wide = float;
  using Code = uint32_t;
  static constexpr uint32_t k_largest_number = 0x7F800000u;
  TUTTI_HD static float widen(Code code) { return bits_as<float>(code); }
  TUTTI_HD static Code narrow(float value) {
    return value == value ? bits_as<Code>(value) : 0x7FFFFFFFu;
  }
};
template <>
struct FloatCodes<DType::float64> {
  using Wide = double;
  using Code = uint64_t;
  static constexpr uint64_t k_largest_number = 0x7FF0000000000000u;
  TUTTI_HD static double widen(Code code) { return bits_as<double>(code); }
  TUTTI_HD static Code narrow(double value) {
    return value == value ? bits_as<Code>(value) : 0x7FFFFFFFFFFFFFFFu;
  }
};

// --- the operators

template <DType kType, Family kFamily, bool kInteger = is_integer(kType)>
class Arithmetic;

// Sums and products of floats, in fp32 or fp64.
template <DType kType, Family kFamily>
class Arithmetic<kType, kFamily, false> {
 public:
  using Codes = FloatCodes<kType>;
  using Element = typename Codes::Code;
  using Wide = typename Codes::Wide;

  TUTTI_HD explicit Arithmetic(Operator op)
      : divisor_(static_cast<Wide>(op.divisor)),
        inverse_(op.divisor == 0 ? Wide{1} : Wide{1} / divisor_),
        divides_(op.divisor != 0 && (op.divisor & (op.divisor - 1)) != 0) {}
  TUTTI_HD Wide load(Element e) const { return Codes::widen(e); }
  TUTTI_HD Wide combine(Wide a, Wide b) const {
    if constexpr (kFamily == Family::prod) return a * b;
    return a + b;
  }
  // By a power of two, dividing is multiplying, to the bit; and 1 changes nothing.
  TUTTI_HD Wide divide(Wide a) const { return divides_ ? a / divisor_ : a * inverse_; }
  TUTTI_HD Element finish(Wide a) const { return Codes::narrow(divide(a)); }

 private:
  Wide divisor_, inverse_;
  bool divides_;
};

// Sums of integers: exact, so that avg can divide them; without a divisor they wrap.
template <DType kType>
class Arithmetic<kType, Family::sum, true> {
 public:
  using Element = typename Stored<kType>::Type;
  using Wide = std::conditional_t<sizeof(Element) == 1, int32_t,
                                  std::conditional_t<sizeof(Element) == 4, int64_t, Int128>>;

  TUTTI_HD explicit Arithmetic(Operator op) : divisor_(op.divisor) {}
  TUTTI_HD Wide load(Element e) const { return e; }
  TUTTI_HD Wide combine(Wide a, Wide b) const { return a + b; }
  TUTTI_HD Element finish(Wide a) const {
    if (divisor_ == 0) return static_cast<Element>(a);
    const Quotient quotient = static_cast<Quotient>(a) / static_cast<int64_t>(divisor_);
    if (quotient < k_least) return static_cast<Element>(k_least);
    if (quotient > k_most) return static_cast<Element>(k_most);
    return static_cast<Element>(quotient);
  }

 private:
  // Wide enough for a divisor of 32 bits and for the limits of the element.
  using Quotient = std::conditional_t<sizeof(Element) == 8, Int128, int64_t>;
  static constexpr bool k_signed = std::is_signed_v<Element>;
  static constexpr Quotient k_most = (Quotient{1} << (8 * sizeof(Element) - k_signed)) - 1;
  static constexpr Quotient k_least = k_signed ? -k_most - 1 : Quotient{0};
  uint32_t divisor_;
};

// Products of integers wrap: those of unsigned words, whatever the sign.
template <DType kType>
class Arithmetic<kType, Family::prod, true> {
 public:
  using Element = typename Stored<kType>::Type;
  using Wide = std::conditional_t<sizeof(Element) == 8, uint64_t, uint32_t>;

  TUTTI_HD explicit Arithmetic(Operator) {}
  TUTTI_HD Wide load(Element e) const { return static_cast<Wide>(e); }
  TUTTI_HD Wide combine(Wide a, Wide b) const { return a * b; }
  TUTTI_HD Element finish(Wide a) const { return static_cast<Element>(a); }
};

// Extrema of integers.
template <DType kType>
class Arithmetic<kType, Family::extremum, true> {
 public:
  using Element = typename Stored<kType>::Type;
  using Wide = Element;

  TUTTI_HD explicit Arithmetic(Operator op) : max_(op.max) {}
  TUTTI_HD Wide load(Element e) const { return e; }
  TUTTI_HD Wide combine(Wide a, Wide b) const { return (max_ ? a < b : b < a) ? b : a; }
  TUTTI_HD Element finish(Wide a) const { return a; }

 private:
  bool max_;
};

// Extrema of floats, as the minimum of signed keys: the order of integers is that of values, -0
// below +0; a NaN has the largest key, so that every number wins over it.
template <DType kType>
class Arithmetic<kType, Family::extremum, false> {
 public:
  using Element = typename FloatCodes<kType>::Code;
  using Wide = std::make_signed_t<Element>;

  TUTTI_HD explicit Arithmetic(Operator op) : flip_(op.max ? Wide{-1} : Wide{0}) {}
  TUTTI_HD Wide load(Element e) const {
    const auto bits = static_cast<Wide>(e);
    const auto magnitude = static_cast<Wide>(bits & k_magnitude);
    const bool nan = magnitude > static_cast<Wide>(FloatCodes<kType>::k_largest_number);
    return nan ? k_magnitude : static_cast<Wide>(order(bits) ^ flip_);
  }
  TUTTI_HD Wide combine(Wide a, Wide b) const { return b < a ? b : a; }
  TUTTI_HD Element finish(Wide key) const {
    return static_cast<Element>(key == k_magnitude ? key : order(static_cast<Wide>(key ^ flip_)));
  }

 private:
  static constexpr auto k_magnitude =
      static_cast<Wide>(static_cast<Element>(~Element{0}) >> 1);  // every bit but the sign
  TUTTI_HD static Wide order(Wide bits) {                         // its own inverse
    return bits < 0 ? static_cast<Wide>(bits ^ k_magnitude) : bits;
  }
  Wide flip_;
};

// --- premul_sum

// Multiplies elements by a factor and rounds to the element, before they are summed.
template <DType kType>
class Premultiplier {
 public:
  using Element = typename Arithmetic<kType, Family::prod>::Element;

  // `factor`: an element in the low bytes.
  TUTTI_HD explicit Premultiplier(uint64_t factor)
      : product_(Operator{}), factor_(product_.load(static_cast<Element>(factor))) {}
  TUTTI_HD Element operator()(Element e) const {
    return product_.finish(product_.combine(product_.load(e), factor_));
  }

 private:
  Arithmetic<kType, Family::prod> product_;
  typename Arithmetic<kType, Family::prod>::Wide factor_;
};

// The factor that changes nothing.
template <DType kType>
TUTTI_HD uint64_t unit_factor() {
  using Element = typename Arithmetic<kType, Family::prod>::Element;
  if constexpr (is_integer(kType)) {
    return 1;
  } else {
    return static_cast<Element>(FloatCodes<kType>::narrow(1));
  }
}

}  // namespace tutti::cuda
