// What instructions do, by their opcodes. Source: PTX ISA 9.0, chapter 9.7.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <type_traits>

#include "tests/ptx/program.h"

namespace tutti::ptx {
namespace {

// --- results of floats: every NaN of a device is the canonical one

float canonical(float v) { return std::isnan(v) ? std::bit_cast<float>(0x7FFFFFFFu) : v; }
double canonical(double v) {
  return std::isnan(v) ? std::bit_cast<double>(uint64_t{0xFFF8000000000000}) : v;
}
template <class T>
requires std::is_integral_v<T> T canonical(T v) { return v; }

// --- handlers: F on the values of all lanes

template <class T, class F>
void unary(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t* a = w.in(s.in[0]);
  lanes(w.mask, [&](uint32_t l) { d[l] = put(canonical(F{}(get<T>(a[l])))); });
}
template <class T, class F>
void binary(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t *a = w.in(s.in[0]), *b = w.in(s.in[1]);
  lanes(w.mask, [&](uint32_t l) { d[l] = put(canonical(F{}(get<T>(a[l]), get<T>(b[l])))); });
}
// The second is 32 bits, whatever the first is.
template <class T, class F>
void shift(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t *a = w.in(s.in[0]), *b = w.in(s.in[1]);
  lanes(w.mask, [&](uint32_t l) { d[l] = put(F{}(get<T>(a[l]), static_cast<uint32_t>(b[l]))); });
}
template <class T, class F>
void ternary(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t *a = w.in(s.in[0]), *b = w.in(s.in[1]), *c = w.in(s.in[2]);
  lanes(w.mask,
        [&](uint32_t l) { d[l] = put(canonical(F{}(get<T>(a[l]), get<T>(b[l]), get<T>(c[l])))); });
}
// Integer division: what no device defines is a fault here.
template <class T, class F>
void division(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t *a = w.in(s.in[0]), *b = w.in(s.in[1]);
  lanes(w.mask, [&](uint32_t l) {
    const T by = get<T>(b[l]), what = get<T>(a[l]);
    if (by == 0) fault(w, l, s, "division by zero");
    if (std::is_signed_v<T> && by == static_cast<T>(-1)) {
      d[l] = put(F{}(T{1}, T{1}) == 1
                     ? static_cast<T>(T{0} - static_cast<std::make_unsigned_t<T>>(what))
                     : T{0});
    } else {
      d[l] = put(F{}(what, by));
    }
  });
}

template <class T>
using Unsigned = std::make_unsigned_t<T>;

// Wraps as devices do.
template <class T, class F>
T wrapped(T a, T b, F f) {
  if constexpr (std::is_floating_point_v<T>) {
    return f(a, b);
  } else {
    using Wide = std::conditional_t<sizeof(T) < 4, uint32_t, Unsigned<T>>;
    return static_cast<T>(f(static_cast<Wide>(a), static_cast<Wide>(b)));
  }
}
template <class T>
struct Add {
  T operator()(T a, T b) const {
    return wrapped(a, b, [](auto x, auto y) { return x + y; });
  }
};
template <class T>
struct Sub {
  T operator()(T a, T b) const {
    return wrapped(a, b, [](auto x, auto y) { return x - y; });
  }
};
template <class T>
struct Mul {
  T operator()(T a, T b) const {
    return wrapped(a, b, [](auto x, auto y) { return x * y; });
  }
};
__extension__ using S128 = __int128;
__extension__ using U128 = unsigned __int128;
template <class T>
using Twice = std::conditional_t<
    sizeof(T) == 8, std::conditional_t<std::is_signed_v<T>, S128, U128>,
    std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                       std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>>>;
template <class T>
T high_half(T a, T b) {
  return static_cast<T>((static_cast<Twice<T>>(a) * static_cast<Twice<T>>(b)) >> (8 * sizeof(T)));
}
template <class T>
struct MulHi {
  T operator()(T a, T b) const { return high_half(a, b); }
};
template <class T>
struct MulWide {
  Twice<T> operator()(T a, T b) const {
    return static_cast<Twice<T>>(a) * static_cast<Twice<T>>(b);
  }
};
template <class T>
struct MadLo {
  T operator()(T a, T b, T c) const { return Add<T>{}(Mul<T>{}(a, b), c); }
};
template <class T>
struct MadHi {
  T operator()(T a, T b, T c) const { return Add<T>{}(high_half(a, b), c); }
};
template <class T>
struct Fma {
  T operator()(T a, T b, T c) const { return std::fma(a, b, c); }
};
template <class T>
struct Div {
  T operator()(T a, T b) const { return static_cast<T>(a / b); }
};
template <class T>
struct Rem {
  T operator()(T a, T b) const { return static_cast<T>(a % b); }
};
template <class T>
struct Min {
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>) return std::fmin(a, b);
    return a < b ? a : b;
  }
};
struct MinHalves {
  uint32_t operator()(uint32_t a, uint32_t b) const {
    return std::min(a & 0xFFFF, b & 0xFFFF) | std::min(a >> 16, b >> 16) << 16;
  }
};
template <class T>
struct Max {
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>) return std::fmax(a, b);
    return a < b ? b : a;
  }
};
template <class T>
struct And {
  T operator()(T a, T b) const { return static_cast<T>(a & b); }
};
template <class T>
struct Or {
  T operator()(T a, T b) const { return static_cast<T>(a | b); }
};
template <class T>
struct Xor {
  T operator()(T a, T b) const { return static_cast<T>(a ^ b); }
};
template <class T>
struct Not {
  T operator()(T a) const { return static_cast<T>(~a); }
};
struct NotPredicate {
  uint8_t operator()(uint8_t a) const { return a == 0; }
};
template <class T>
struct Neg {
  T operator()(T a) const {
    if constexpr (std::is_floating_point_v<T>)
      return -a;
    else
      return static_cast<T>(Unsigned<T>{0} - static_cast<Unsigned<T>>(a));
  }
};
template <class T>
struct Abs {
  T operator()(T a) const {
    if constexpr (std::is_floating_point_v<T>)
      return std::fabs(a);
    else
      return a < 0 ? Neg<T>{}(a) : a;
  }
};
template <class T>
struct Reciprocal {
  T operator()(T a) const { return T{1} / a; }
};
template <class T>
struct Copy {
  T operator()(T a) const { return a; }
};
template <class T>
struct CountZeros {
  uint32_t operator()(T a) const { return static_cast<uint32_t>(std::countl_zero(a)); }
};
template <class T>
struct CountOnes {
  uint32_t operator()(T a) const { return static_cast<uint32_t>(std::popcount(a)); }
};
// Shifts by more than the width leave nothing, or the sign.
template <class T>
struct Shl {
  T operator()(T a, uint32_t n) const { return n >= 8 * sizeof(T) ? T{0} : static_cast<T>(a << n); }
};
template <class T>
struct Shr {
  T operator()(T a, uint32_t n) const {
    constexpr uint32_t k_bits = 8 * sizeof(T);
    if (n >= k_bits) return std::is_signed_v<T> ? static_cast<T>(a >> (k_bits - 1)) : T{0};
    return static_cast<T>(a >> n);
  }
};
struct FunnelLeft {
  uint32_t operator()(uint32_t low, uint32_t high, uint32_t n) const {
    return static_cast<uint32_t>(((uint64_t{high} << 32 | low) << (n & 31)) >> 32);
  }
};
struct FunnelRight {
  uint32_t operator()(uint32_t low, uint32_t high, uint32_t n) const {
    return static_cast<uint32_t>((uint64_t{high} << 32 | low) >> (n & 31));
  }
};
struct Permute {
  uint32_t operator()(uint32_t a, uint32_t b, uint32_t selector) const {
    const uint64_t bytes = uint64_t{b} << 32 | a;
    uint32_t result = 0;
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t one = selector >> (4 * i) & 0xF;
      uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (one & 7))) & 0xFF;
      if ((one & 8) != 0) byte = (byte & 0x80) != 0 ? 0xFF : 0;
      result |= byte << (8 * i);
    }
    return result;
  }
};
template <class T>
void insert_bits(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t *a = w.in(s.in[0]), *b = w.in(s.in[1]), *c = w.in(s.in[2]), *e = w.in(s.in[3]);
  lanes(w.mask, [&](uint32_t l) {
    const uint32_t at = c[l] & 0xFF, count = e[l] & 0xFF;
    const T field = Shl<T>{}(
        count >= 8 * sizeof(T) ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << count) - 1), at);
    d[l] = put(static_cast<T>((get<T>(b[l]) & static_cast<T>(~field)) |
                              (Shl<T>{}(get<T>(a[l]), at) & field)));
  });
}

// bfe d, a, position, length: the field, with the sign that its highest bit (or a's) is.
template <class T>
struct ExtractBits {
  T operator()(T a, T position, T length) const {
    constexpr uint32_t k_bits = 8 * sizeof(T);
    const uint32_t at = static_cast<uint32_t>(position) & 0xFF;
    const uint32_t count = static_cast<uint32_t>(length) & 0xFF;
    if (count == 0) return 0;
    const uint32_t last = std::min(at + count - 1, k_bits - 1);
    const bool negative = std::is_signed_v<T> && (a >> last & 1) != 0;
    T field = negative ? static_cast<T>(-1) : T{0};
    for (uint32_t i = 0; i < count && i < k_bits; ++i) {
      const T bit = static_cast<T>(static_cast<Unsigned<T>>(1) << i);
      if (at + i > last) continue;
      field = static_cast<T>((a >> (at + i) & 1) != 0 ? field | bit : field & ~bit);
    }
    return field;
  }
};

// Two 16-bit halves to 32 bits, and so on.
template <class Part, uint32_t kParts>
void put_together(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  lanes(w.mask, [&](uint32_t l) {
    uint64_t all = 0;
    for (uint32_t i = 0; i < kParts; ++i)
      all |= uint64_t{get<Part>(w.in(s.in[i])[l])} << (8 * sizeof(Part) * i);
    d[l] = all;
  });
}
template <class Part, uint32_t kParts>
void take_apart(Warp& w, const Step& s) {
  const uint64_t* a = w.in(s.in[0]);
  lanes(w.mask, [&](uint32_t l) {
    const uint64_t all = a[l];
    for (uint32_t i = 0; i < kParts; ++i)
      if (s.out[i] >= 0) w.out(s.out[i])[l] = static_cast<Part>(all >> (8 * sizeof(Part) * i));
  });
}

// --- chains of carries: kIn adds the carry, kOut leaves it. Subtraction adds the complement: its
// carry is that nothing was borrowed, which nvcc's 128-bit division reads with an addc.

template <class T, bool kIn, bool kOut>
void add_carry(Warp& w, const Step& s) {
  using U = Unsigned<T>;
  uint64_t* d = w.out(s.out[0]);
  const uint64_t *a = w.in(s.in[0]), *b = w.in(s.in[1]);
  lanes(w.mask, [&](uint32_t l) {
    const U128 sum = U128{get<U>(a[l])} + get<U>(b[l]) + (kIn ? w.carry[l] : 0);
    d[l] = static_cast<U>(sum);
    if (kOut) w.carry[l] = static_cast<uint8_t>(sum >> (8 * sizeof(U)));
  });
}
template <class T, bool kIn, bool kOut>
void sub_carry(Warp& w, const Step& s) {
  using U = Unsigned<T>;
  uint64_t* d = w.out(s.out[0]);
  const uint64_t *a = w.in(s.in[0]), *b = w.in(s.in[1]);
  lanes(w.mask, [&](uint32_t l) {
    const U128 difference =
        U128{get<U>(a[l])} + static_cast<U>(~get<U>(b[l])) + (kIn ? w.carry[l] : 1);
    d[l] = static_cast<U>(difference);
    if (kOut) w.carry[l] = static_cast<uint8_t>(difference >> (8 * sizeof(U)));
  });
}
template <class T, bool kHigh, bool kIn, bool kOut>
void mad_carry(Warp& w, const Step& s) {
  using U = Unsigned<T>;
  uint64_t* d = w.out(s.out[0]);
  const uint64_t *a = w.in(s.in[0]), *b = w.in(s.in[1]), *c = w.in(s.in[2]);
  lanes(w.mask, [&](uint32_t l) {
    const U product = static_cast<U>(kHigh ? high_half(get<T>(a[l]), get<T>(b[l]))
                                           : Mul<T>{}(get<T>(a[l]), get<T>(b[l])));
    const U128 sum = U128{product} + get<U>(c[l]) + (kIn ? w.carry[l] : 0);
    d[l] = static_cast<U>(sum);
    if (kOut) w.carry[l] = static_cast<uint8_t>(sum >> (8 * sizeof(U)));
  });
}

// --- predicates and choices

template <class T, class F>
void compare(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t *a = w.in(s.in[0]), *b = w.in(s.in[1]);
  lanes(w.mask, [&](uint32_t l) { d[l] = F{}(get<T>(a[l]), get<T>(b[l])) ? 1 : 0; });
}
void select(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t *a = w.in(s.in[0]), *b = w.in(s.in[1]), *p = w.in(s.in[2]);
  lanes(w.mask, [&](uint32_t l) { d[l] = p[l] != 0 ? a[l] : b[l]; });
}
template <class T, bool kUnordered, class F>
struct FloatCompare {
  bool operator()(T a, T b) const {
    if (std::isnan(a) || std::isnan(b)) return kUnordered;
    return F{}(a, b);
  }
};
template <class T>
struct BothNumbers {
  bool operator()(T a, T b) const { return !std::isnan(a) && !std::isnan(b); }
};
template <class T>
struct SomeNan {
  bool operator()(T a, T b) const { return std::isnan(a) || std::isnan(b); }
};

// --- conversions

template <class D, class A>
void convert(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t* a = w.in(s.in[0]);
  lanes(w.mask, [&](uint32_t l) { d[l] = put(canonical(static_cast<D>(get<A>(a[l])))); });
}

// The value of a code of 8 or 16 bits, from the definition of the format.
double value_of(uint32_t code, int exponent_bits, int mantissa_bits, bool ieee) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint32_t exponent = code >> mantissa_bits & ((1u << exponent_bits) - 1);
  const uint32_t mantissa = code & ((1u << mantissa_bits) - 1);
  const double sign = (code >> (exponent_bits + mantissa_bits) & 1) != 0 ? -1 : 1;
  const bool top = exponent == (1u << exponent_bits) - 1;
  if (ieee && top) return mantissa == 0 ? sign * HUGE_VAL : std::nan("");
  if (!ieee && top && mantissa == (1u << mantissa_bits) - 1) return std::nan("");
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign *
         std::ldexp(1 + std::ldexp(mantissa, -mantissa_bits), static_cast<int>(exponent) - bias);
}
// To nearest even; overflow saturates or becomes infinity. NaN is all ones without the sign.
uint32_t code_of(float value, int exponent_bits, int mantissa_bits, bool ieee, bool saturates) {
  const uint32_t sign = std::signbit(value) ? 1u << (exponent_bits + mantissa_bits) : 0;
  const uint32_t all_ones = (1u << (exponent_bits + mantissa_bits)) - 1;
  if (std::isnan(value)) return all_ones;
  const uint32_t infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
  const uint32_t largest = ieee ? infinity - 1 : all_ones - 1;
  const double magnitude = std::fabs(static_cast<double>(value));
  // Codes are in the order of their values: the last that is not above, and the one after it.
  uint32_t low = 0, high = largest;
  while (low < high) {
    const uint32_t middle = (low + high + 1) / 2;
    if (value_of(middle, exponent_bits, mantissa_bits, ieee) <= magnitude)
      low = middle;
    else
      high = middle - 1;
  }
  const double below = value_of(low, exponent_bits, mantissa_bits, ieee);
  // Beyond the largest the next value would be a step further.
  const double above = low < largest
                           ? value_of(low + 1, exponent_bits, mantissa_bits, ieee)
                           : 2 * below - value_of(low - 1, exponent_bits, mantissa_bits, ieee);
  const bool up = magnitude - below > above - magnitude ||
                  (magnitude - below == above - magnitude && low % 2 == 1);
  uint32_t code = low + (up ? 1 : 0);
  if (code > largest) code = saturates || !ieee ? largest : infinity;
  return sign | code;
}

template <int kExponent, int kMantissa, bool kIeee>
void widen(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t* a = w.in(s.in[0]);
  lanes(w.mask, [&](uint32_t l) {
    const auto code = static_cast<uint32_t>(a[l]) & ((1u << (1 + kExponent + kMantissa)) - 1);
    d[l] = put(canonical(static_cast<float>(value_of(code, kExponent, kMantissa, kIeee))));
  });
}
template <int kExponent, int kMantissa, bool kIeee, bool kSaturates>
void narrow(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t* a = w.in(s.in[0]);
  lanes(w.mask, [&](uint32_t l) {
    d[l] = code_of(get<float>(a[l]), kExponent, kMantissa, kIeee, kSaturates);
  });
}
// cvt.rn.satfinite.e4m3x2.f32 d, a, b: a is the upper half.
template <int kExponent, int kMantissa, bool kIeee, bool kSaturates>
void narrow_pair(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t *a = w.in(s.in[0]), *b = w.in(s.in[1]);
  lanes(w.mask, [&](uint32_t l) {
    d[l] = code_of(get<float>(a[l]), kExponent, kMantissa, kIeee, kSaturates)
               << (1 + kExponent + kMantissa) |
           code_of(get<float>(b[l]), kExponent, kMantissa, kIeee, kSaturates);
  });
}
// Both halves to halves of fp16, which has every value of theirs.
template <int kExponent, int kMantissa, bool kIeee>
void widen_pair(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t* a = w.in(s.in[0]);
  lanes(w.mask, [&](uint32_t l) {
    uint32_t both = 0;
    for (uint32_t i = 0; i < 2; ++i)
      both |= code_of(static_cast<float>(value_of(static_cast<uint32_t>(a[l] >> (8 * i)) & 0xFF,
                                                  kExponent, kMantissa, kIeee)),
                      5, 10, true, false)
              << (16 * i);
    d[l] = both;
  });
}

// --- memory

uint64_t load_bytes(const std::byte* p, const Step& s) {
  switch (s.element) {
    case 1: {
      const auto v = __atomic_load_n(reinterpret_cast<const uint8_t*>(p), __ATOMIC_RELAXED);
      return s.extends ? put(static_cast<int64_t>(static_cast<int8_t>(v))) : v;
    }
    case 2: {
      const auto v = __atomic_load_n(reinterpret_cast<const uint16_t*>(p), __ATOMIC_RELAXED);
      return s.extends ? put(static_cast<int64_t>(static_cast<int16_t>(v))) : v;
    }
    case 4: {
      const auto v = __atomic_load_n(reinterpret_cast<const uint32_t*>(p), __ATOMIC_RELAXED);
      return s.extends ? put(static_cast<int64_t>(static_cast<int32_t>(v))) : v;
    }
    default:
      return s.synchronizes
                 ? __atomic_load_n(reinterpret_cast<const uint64_t*>(p), __ATOMIC_ACQUIRE)
                 : __atomic_load_n(reinterpret_cast<const uint64_t*>(p), __ATOMIC_RELAXED);
  }
}
void store_bytes(std::byte* p, uint64_t v, const Step& s) {
  const int order = s.releases ? __ATOMIC_RELEASE : __ATOMIC_RELAXED;
  switch (s.element) {
    case 1:
      return __atomic_store_n(reinterpret_cast<uint8_t*>(p), static_cast<uint8_t>(v), order);
    case 2:
      return __atomic_store_n(reinterpret_cast<uint16_t*>(p), static_cast<uint16_t>(v), order);
    case 4:
      return __atomic_store_n(reinterpret_cast<uint32_t*>(p), static_cast<uint32_t>(v), order);
    default:
      return __atomic_store_n(reinterpret_cast<uint64_t*>(p), v, order);
  }
}
void load(Warp& w, const Step& s) {
  const uint64_t* a = w.in(s.in[0]);
  lanes(w.mask, [&](uint32_t l) {
    const std::byte* p =
        resolve(w, l, s, a[l] + static_cast<uint64_t>(s.offset), s.element * s.elements, false);
    for (uint32_t i = 0; i < s.elements; ++i)
      if (s.out[i] >= 0) w.out(s.out[i])[l] = load_bytes(p + i * s.element, s);
  });
  if (s.synchronizes) polled(w);
  accessed(w);
}
void store(Warp& w, const Step& s) {
  const uint64_t* a = w.in(s.in[0]);
  lanes(w.mask, [&](uint32_t l) {
    std::byte* p =
        resolve(w, l, s, a[l] + static_cast<uint64_t>(s.offset), s.element * s.elements, true);
    for (uint32_t i = 0; i < s.elements; ++i)
      store_bytes(p + i * s.element, w.in(s.in[1 + i])[l], s);
  });
  accessed(w);
}
// Arguments and results of calls: from one local variable to another.
void copy_local(Warp& w, const Step& s) {
  lanes(w.mask, [&](uint32_t l) {
    Step step = s;
    step.space = Space::local;
    const std::byte* from = resolve(w, l, step, static_cast<uint64_t>(s.offset), s.element, false);
    std::byte* to = resolve(w, l, step, static_cast<uint64_t>(s.other), s.element, true);
    std::memcpy(to, from, s.element);
  });
}
void to_generic(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t* a = w.in(s.in[0]);
  lanes(w.mask, [&](uint32_t l) { d[l] = generic_address(w, l, s.space, a[l]); });
}
void from_generic(Warp& w, const Step& s) {
  uint64_t* d = w.out(s.out[0]);
  const uint64_t* a = w.in(s.in[0]);
  lanes(w.mask, [&](uint32_t l) { d[l] = offset_in(w, l, s.space, a[l]); });
}
void fence(Warp&, const Step&) { std::atomic_thread_fence(std::memory_order_seq_cst); }
void nothing(Warp&, const Step&) {}
void trap(Warp& w, const Step& s) {
  if (w.mask != 0) fault(w, static_cast<uint32_t>(std::countr_zero(w.mask)), s, "trap");
}

// --- opcodes to handlers

// `make` gets the type that a name means.
template <class Make>
Handler integers(const std::string& type, Make make) {
  if (type == "u16" || type == "b16") return make.template operator()<uint16_t>();
  if (type == "u32" || type == "b32") return make.template operator()<uint32_t>();
  if (type == "u64" || type == "b64") return make.template operator()<uint64_t>();
  if (type == "s16") return make.template operator()<int16_t>();
  if (type == "s32") return make.template operator()<int32_t>();
  if (type == "s64") return make.template operator()<int64_t>();
  return nullptr;
}
template <class Make>
Handler floats(const std::string& type, Make make) {
  if (type == "f32") return make.template operator()<float>();
  if (type == "f64") return make.template operator()<double>();
  return nullptr;
}
template <class Make>
Handler numbers(const std::string& type, Make make) {
  const Handler one = integers(type, make);
  return one != nullptr ? one : floats(type, make);
}
// In the sizes that registers of integers have; predicates are bytes.
template <class Make>
Handler bits(const std::string& type, Make make) {
  if (type == "pred" || type == "b8") return make.template operator()<uint8_t>();
  if (type == "b16") return make.template operator()<uint16_t>();
  if (type == "b32") return make.template operator()<uint32_t>();
  if (type == "b64") return make.template operator()<uint64_t>();
  return nullptr;
}

#define TUTTI_OF(family, kind, Functor) \
  family(type, []<class T>() -> Handler { return kind<T, Functor<T>>; })

using Parts = std::vector<std::string>;
bool has(const Parts& parts, const char* one) {
  return std::find(parts.begin(), parts.end(), one) != parts.end();
}

template <class T>
Handler carries(const Parts& p) {
  const bool out = p.size() > 2 && has(p, "cc");
  const bool high = has(p, "hi");
  if (p[0] == "add") return add_carry<T, false, true>;
  if (p[0] == "addc") return out ? add_carry<T, true, true> : add_carry<T, true, false>;
  if (p[0] == "sub") return sub_carry<T, false, true>;
  if (p[0] == "subc") return out ? sub_carry<T, true, true> : sub_carry<T, true, false>;
  if (p[0] == "mad")
    return high ? mad_carry<T, true, false, true> : mad_carry<T, false, false, true>;
  if (high) return out ? mad_carry<T, true, true, true> : mad_carry<T, true, true, false>;
  return out ? mad_carry<T, false, true, true> : mad_carry<T, false, true, false>;
}

template <class T>
Handler integer_comparison(const std::string& how) {
  if (how == "eq") return compare<T, std::equal_to<T>>;
  if (how == "ne") return compare<T, std::not_equal_to<T>>;
  if (how == "lt" || how == "lo") return compare<T, std::less<T>>;
  if (how == "le" || how == "ls") return compare<T, std::less_equal<T>>;
  if (how == "gt" || how == "hi") return compare<T, std::greater<T>>;
  if (how == "ge" || how == "hs") return compare<T, std::greater_equal<T>>;
  return nullptr;
}
template <class T, bool kUnordered>
Handler float_comparison(const std::string& how) {
  if (how == "eq") return compare<T, FloatCompare<T, kUnordered, std::equal_to<T>>>;
  if (how == "ne") return compare<T, FloatCompare<T, kUnordered, std::not_equal_to<T>>>;
  if (how == "lt") return compare<T, FloatCompare<T, kUnordered, std::less<T>>>;
  if (how == "le") return compare<T, FloatCompare<T, kUnordered, std::less_equal<T>>>;
  if (how == "gt") return compare<T, FloatCompare<T, kUnordered, std::greater<T>>>;
  if (how == "ge") return compare<T, FloatCompare<T, kUnordered, std::greater_equal<T>>>;
  return nullptr;
}
Handler comparison(const Parts& p) {
  if (p.size() != 3) return nullptr;
  const std::string& how = p[1];
  if (p[2][0] != 'f') return integers(p[2], [&]<class T>() { return integer_comparison<T>(how); });
  return floats(p[2], [&]<class T>() -> Handler {
    if (how == "num") return compare<T, BothNumbers<T>>;
    if (how == "nan") return compare<T, SomeNan<T>>;
    if (how.size() == 3 && how[2] == 'u') return float_comparison<T, true>(how.substr(0, 2));
    return float_comparison<T, false>(how);
  });
}

template <class A>
Handler conversion_from(const std::string& to) {
  if (to == "u8") return convert<uint8_t, A>;
  if (to == "s8") return convert<int8_t, A>;
  return numbers(to, []<class D>() -> Handler { return convert<D, A>; });
}
Handler conversion(const Parts& p) {
  const std::string &to = p[p.size() - 2], &from = p.back();
  if (to == "f32" && from == "f16") return widen<5, 10, true>;
  if (to == "f32" && from == "bf16") return widen<8, 7, true>;
  if (to == "f16" && from == "f32") return has(p, "rn") ? narrow<5, 10, true, false> : nullptr;
  if (to == "bf16" && from == "f32") return has(p, "rn") ? narrow<8, 7, true, false> : nullptr;
  if (to == "e4m3x2" && from == "f32")
    return has(p, "satfinite") ? narrow_pair<4, 3, false, true> : nullptr;
  if (to == "e5m2x2" && from == "f32")
    return has(p, "satfinite") ? narrow_pair<5, 2, true, true> : nullptr;
  if (to == "f16x2" && from == "f32")
    return has(p, "rn") ? narrow_pair<5, 10, true, false> : nullptr;
  if (to == "bf16x2" && from == "f32")
    return has(p, "rn") ? narrow_pair<8, 7, true, false> : nullptr;
  if (to == "f16x2" && from == "e4m3x2") return widen_pair<4, 3, false>;
  if (to == "f16x2" && from == "e5m2x2") return widen_pair<5, 2, true>;
  // Of the others nothing but what rounds as the host does.
  const bool from_float = from[0] == 'f', to_float = to[0] == 'f';
  if (from_float && !to_float) return nullptr;
  if ((from_float || to_float) && p.size() > 3 && !has(p, "rn")) return nullptr;
  if (!from_float && !to_float && p.size() != 3) return nullptr;
  if (from == "u8") return conversion_from<uint8_t>(to);
  if (from == "s8") return conversion_from<int8_t>(to);
  return numbers(from, [&]<class A>() { return conversion_from<A>(to); });
}

Handler access(const Parts& p, Step& s, bool loads) {
  const std::string& type = p.back();
  s.element = static_cast<uint8_t>(std::atoi(type.c_str() + 1) / 8);
  s.elements = has(p, "v2") ? 2 : has(p, "v4") ? 4 : 1;
  s.extends = type[0] == 's';
  s.synchronizes = loads && (has(p, "acquire") || has(p, "relaxed") || has(p, "volatile"));
  s.releases = !loads && has(p, "release");
  for (const auto& [name, space] : {std::pair{"global", Space::global},
                                    {"shared", Space::shared},
                                    {"local", Space::local},
                                    {"param", Space::param}})
    if (has(p, name)) s.space = space;
  if (s.element == 0) return nullptr;
  return loads ? load : store;
}
Handler address_conversion(const Parts& p, Step& s) {
  const bool back = p[1] == "to";
  const std::string& space = p[back ? 2 : 1];
  if (space == "global") return unary<uint64_t, Copy<uint64_t>>;
  s.space = space == "shared" ? Space::shared : space == "local" ? Space::local : Space::param;
  return back ? from_generic : to_generic;
}

Handler move(const Instruction& i, const std::string& type) {
  const size_t parts = i.operands.size() - 1;
  if (parts == 1) {
    if (type == "pred") return unary<uint8_t, Copy<uint8_t>>;
    return unary<uint64_t, Copy<uint64_t>>;
  }
  const auto width = static_cast<size_t>(std::atoi(type.c_str() + 1)) / 8 / parts;
  if (width == 4 && parts == 2)
    return i.taken_apart ? take_apart<uint32_t, 2> : put_together<uint32_t, 2>;
  if (width == 2 && parts == 2)
    return i.taken_apart ? take_apart<uint16_t, 2> : put_together<uint16_t, 2>;
  if (width == 2 && parts == 4)
    return i.taken_apart ? take_apart<uint16_t, 4> : put_together<uint16_t, 4>;
  if (width == 1 && parts == 2)
    return i.taken_apart ? take_apart<uint8_t, 2> : put_together<uint8_t, 2>;
  if (width == 1 && parts == 4)
    return i.taken_apart ? take_apart<uint8_t, 4> : put_together<uint8_t, 4>;
  return nullptr;
}

Handler multiplication(const Parts& p, const std::string& type) {
  const bool mad = p[0] == "mad";
  if (type[0] == 'f') {
    if (!has(p, "rn") || mad) return nullptr;
    return TUTTI_OF(floats, binary, Mul);
  }
  if (has(p, "wide"))
    return mad ? nullptr : integers(type, []<class T>() -> Handler {
      if constexpr (sizeof(T) < 8) return binary<T, MulWide<T>>;
      return nullptr;
    });
  if (has(p, "hi"))
    return mad ? TUTTI_OF(integers, ternary, MadHi) : TUTTI_OF(integers, binary, MulHi);
  if (!has(p, "lo")) return nullptr;
  return mad ? TUTTI_OF(integers, ternary, MadLo) : TUTTI_OF(integers, binary, Mul);
}

}  // namespace

Handler handler_of(const Instruction& i, Step& s) {
  const Parts& p = i.opcode;
  const std::string &name = p[0], &type = p.back();
  const bool rounds = type[0] != 'f' || has(p, "rn");  // as the host does
  if (has(p, "ftz") || has(p, "sat")) return nullptr;
  if (has(p, "cc") || name == "addc" || name == "subc" || name == "madc")
    return integers(type, [&]<class T>() { return carries<T>(p); });
  if (name == "add" && rounds) return TUTTI_OF(numbers, binary, Add);
  if (name == "sub" && rounds) return TUTTI_OF(numbers, binary, Sub);
  if (name == "mul" || name == "mad") return multiplication(p, type);
  if (name == "fma" && rounds) return TUTTI_OF(floats, ternary, Fma);
  if (name == "div")
    return type[0] != 'f' ? TUTTI_OF(integers, division, Div)
           : rounds       ? TUTTI_OF(floats, binary, Div)
                          : nullptr;
  if (name == "rem") return TUTTI_OF(integers, division, Rem);
  // The approximation serves as the beginning of an iteration, which 1 / a is good for.
  if (name == "rcp") return TUTTI_OF(floats, unary, Reciprocal);
  if (name == "min" && type == "u16x2") return binary<uint32_t, MinHalves>;
  if (name == "min") return TUTTI_OF(numbers, binary, Min);
  if (name == "max") return TUTTI_OF(numbers, binary, Max);
  if (name == "neg") return TUTTI_OF(numbers, unary, Neg);
  if (name == "abs") return TUTTI_OF(numbers, unary, Abs);
  if (name == "and") return TUTTI_OF(bits, binary, And);
  if (name == "or") return TUTTI_OF(bits, binary, Or);
  if (name == "xor") return TUTTI_OF(bits, binary, Xor);
  if (name == "not")
    return type == "pred" ? unary<uint8_t, NotPredicate> : TUTTI_OF(bits, unary, Not);
  if (name == "shl") return TUTTI_OF(bits, shift, Shl);
  if (name == "shr") return TUTTI_OF(integers, shift, Shr);
  if (name == "shf" && p.size() == 4 && p[2] == "wrap")
    return p[1] == "l" ? ternary<uint32_t, FunnelLeft> : ternary<uint32_t, FunnelRight>;
  if (name == "prmt" && p.size() == 2) return ternary<uint32_t, Permute>;
  if (name == "bfe") return TUTTI_OF(integers, ternary, ExtractBits);
  if (name == "bfi") return type == "b64" ? insert_bits<uint64_t> : insert_bits<uint32_t>;
  if (name == "clz")
    return type == "b64" ? unary<uint64_t, CountZeros<uint64_t>>
                         : unary<uint32_t, CountZeros<uint32_t>>;
  if (name == "popc")
    return type == "b64" ? unary<uint64_t, CountOnes<uint64_t>>
                         : unary<uint32_t, CountOnes<uint32_t>>;
  if (name == "selp") return select;
  if (name == "setp") return comparison(p);
  if (name == "cvt") return conversion(p);
  if (name == "cvta") return address_conversion(p, s);
  if (name == "mov") return move(i, type);
  if (name == "ld") return access(p, s, true);
  if (name == "st") return access(p, s, false);
  if (name == "membar" || name == "fence") return fence;
  if (name == "trap") return trap;
  if (name == "nanosleep") return nothing;
  if (name == "call") return copy_local;
  return nullptr;
}

}  // namespace tutti::ptx
