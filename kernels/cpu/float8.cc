// Sums and products of fp8 e4m3 (OCP E4M3FN) and e5m2, accumulated in fp32.
#include <type_traits>

#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/float8.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "kernels/cpu/divide-inl.h"
#include "kernels/cpu/half-inl.h"
#include "kernels/cpu/pass-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tutti::kernels {
namespace HWY_NAMESPACE {

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
using DU = hn::RebindToUnsigned<DF>;
// One 16-bit lane holds two codes: the even one low, the odd one high. A full vector of such lanes
// widens to k_halves vectors of floats for the even codes and as many for the odd ones.
using D16 = hn::ScalableTag<uint16_t>;
using V16 = hn::Vec<D16>;
constexpr size_t k_halves = HWY_LANES(uint16_t) / HWY_LANES(float);

HWY_INLINE V16 set16(int value) { return hn::Set(D16(), static_cast<uint16_t>(value)); }

// fp16 codes in 16-bit lanes <-> floats. The floats to narrow are exact in fp16, or past its range.
HWY_INLINE void widen(V16 half, VF (&out)[k_halves]) {
#if HWY_TARGET == HWY_SCALAR
  out[0] = half_to_float(DF(), half);
#else
  const hn::Half<D16> dh;
  out[0] = half_to_float(DF(), hn::LowerHalf(dh, half));
  out[1] = half_to_float(DF(), hn::UpperHalf(dh, half));
#endif
}
HWY_INLINE V16 narrow(const VF (&in)[k_halves]) {
#if HWY_TARGET == HWY_SCALAR
  return float_to_half(DF(), in[0]);
#else
  return hn::Combine(D16(), float_to_half(DF(), in[1]), float_to_half(DF(), in[0]));
#endif
}

// Both encodings are exact in fp16, so codes go through fp16 in 16-bit lanes: e5m2 is the upper
// half of a fp16; e4m3 with its magnitude one bit lower is a fp16 1/256 as large. Sums of e4m3 stay
// at 1/256 all the way (a power of two, far from both ends of fp32: every bit is the same);
// products may not.
//
// Narrowing saturates to the largest finite value, infinities too, as CUDA's fp8 types do.
struct E5M2 {
  static constexpr int k_digits = 3;
  static constexpr float k_scale = 1.0f;
  static constexpr float k_limit = 65536.0f;  // anything that saturates

  static HWY_INLINE V16 even_half(V16 codes) { return hn::ShiftLeft<8>(codes); }
  static HWY_INLINE V16 odd_half(V16 codes) { return hn::And(codes, set16(0xFF00)); }
  static HWY_INLINE V16 to_codes(V16 even, V16 odd) {
    return hn::Or(hn::ShiftRight<8>(limit(even)), limit(odd));
  }
  // A code in the upper byte, the lower byte zero.
  static HWY_INLINE V16 limit(V16 half) {
    const hn::RebindToSigned<D16> di;
    const auto magnitude = hn::BitCast(di, hn::And(half, set16(0x7FFF)));
    const auto nan = hn::Gt(magnitude, hn::Set(di, int16_t{0x7C00}));
    const auto limited = hn::BitCast(D16(), hn::Min(magnitude, hn::Set(di, int16_t{0x7B00})));
    const auto number = hn::Or(limited, hn::And(half, set16(0x8000)));
    return hn::IfThenElse(hn::RebindMask(D16(), nan), set16(0x7F00), number);
  }
};

struct E4M3 {
  static constexpr int k_digits = 4;
  static constexpr float k_scale = 256.0f;
  static constexpr float k_limit = 2.0f;

  static HWY_INLINE V16 even_half(V16 codes) { return odd_half(hn::ShiftLeft<8>(codes)); }
  // Codes that are NaN come out as 480 and are known by their mask alone.
  static HWY_INLINE V16 odd_half(V16 codes) {
    const hn::RebindToSigned<D16> di;
    const auto shifted = hn::BitCast(D16(), hn::ShiftRight<1>(hn::BitCast(di, codes)));
    return hn::And(shifted, set16(0xBF80));
  }
  // All ones in the bytes that hold a NaN.
  static HWY_INLINE V16 nan_bytes(V16 codes) {
#if HWY_TARGET == HWY_SCALAR
    const int pair = hn::GetLane(codes);
    return set16(((pair & 0x7F) == 0x7F ? 0xFF : 0) | ((pair & 0x7F00) == 0x7F00 ? 0xFF00 : 0));
#else
    const hn::Repartition<uint8_t, D16> d8;
    const auto bytes = hn::Or(hn::BitCast(d8, codes), hn::Set(d8, uint8_t{0x80}));
    return hn::BitCast(D16(), hn::VecFromMask(d8, hn::Eq(bytes, hn::Set(d8, uint8_t{0xFF}))));
#endif
  }
  static HWY_INLINE V16 to_codes(V16 even, V16 odd) {
    return hn::Or(hn::ShiftRight<8>(limit(even)), limit(odd));
  }
  static HWY_INLINE V16 limit(V16 half) {
    const hn::RebindToSigned<D16> di;
    const auto magnitude = hn::BitCast(di, hn::And(half, set16(0x7FFF)));
    const auto limited = hn::BitCast(D16(), hn::Min(magnitude, hn::Set(di, int16_t{0x3F00})));
    return hn::Or(hn::ShiftLeft<1>(limited), hn::And(half, set16(0x8000)));
  }
};

template <class Code, bool kProduct>
struct Float8 {
  using Packed = V16;
  static constexpr bool k_e4m3 = std::is_same_v<Code, E4M3>;
  static constexpr size_t k_accs = 2 * k_halves;
  static constexpr size_t k_bytes = HWY_LANES(uint16_t) * 2;
  struct Acc {
    VF even[k_halves];
    VF odd[k_halves];
    V16 nan;  // e4m3 only
  };

  HWY_INLINE Acc load(const uint8_t* p) const {
    const V16 codes = load_bytes(D16(), p);
    Acc acc;
    widen(Code::even_half(codes), acc.even);
    widen(Code::odd_half(codes), acc.odd);
    if constexpr (k_e4m3) {
      acc.nan = Code::nan_bytes(codes);
    } else {
      acc.nan = hn::Zero(D16());
    }
    if constexpr (kProduct && k_e4m3) {
      TUTTI_UNROLL
      for (size_t h = 0; h < k_halves; ++h) {
        acc.even[h] = hn::Mul(acc.even[h], hn::Set(DF(), Code::k_scale));
        acc.odd[h] = hn::Mul(acc.odd[h], hn::Set(DF(), Code::k_scale));
      }
    }
    return acc;
  }
  HWY_INLINE Acc combine(Acc a, const Acc& b) const {
    TUTTI_UNROLL
    for (size_t h = 0; h < k_halves; ++h) {
      if constexpr (kProduct) {
        a.even[h] = hn::Mul(a.even[h], b.even[h]);
        a.odd[h] = hn::Mul(a.odd[h], b.odd[h]);
      } else {
        a.even[h] = hn::Add(a.even[h], b.even[h]);
        a.odd[h] = hn::Add(a.odd[h], b.odd[h]);
      }
    }
    if constexpr (k_e4m3) a.nan = hn::Or(a.nan, b.nan);
    return a;
  }
  HWY_INLINE V16 finish(Acc acc) const {
    TUTTI_UNROLL
    for (size_t h = 0; h < k_halves; ++h) {
      acc.even[h] = round(divider.apply(DF(), acc.even[h]));
      acc.odd[h] = round(divider.apply(DF(), acc.odd[h]));
    }
    const V16 even = narrow(acc.even), odd = narrow(acc.odd);
    const V16 codes = Code::to_codes(even, odd);
    if constexpr (!k_e4m3) return codes;
    V16 nan = acc.nan;
    if constexpr (kProduct) nan = hn::Or(nan, nan_halves(even, odd));
    return hn::Or(hn::AndNot(nan, codes), hn::And(nan, set16(0x7F7F)));
  }
  HWY_INLINE void store(V16 v, uint8_t* p) const { store_bytes(D16(), v, p); }

  // Onto the grid of the code. Sums stay in the range of round_to_grid; products can leave it, and
  // can be inf * 0.
  static HWY_INLINE VF round(VF v) {
    if constexpr (!kProduct) return round_to_grid<Code::k_digits, -14>(DF(), v);
    const VF scaled = hn::Mul(v, hn::Set(DF(), 1 / Code::k_scale));
    const VF limit = hn::Set(DF(), Code::k_limit);
    const VF clamped = hn::Min(hn::Max(scaled, hn::Neg(limit)), limit);
    return hn::IfThenElse(hn::IsNaN(v), v, round_to_grid<Code::k_digits, -14>(DF(), clamped));
  }
  static HWY_INLINE V16 nan_halves(V16 even, V16 odd) {
    const auto limit = set16(0x7C00), magnitude = set16(0x7FFF);
    const auto low = hn::Gt(hn::And(even, magnitude), limit);
    const auto high = hn::Gt(hn::And(odd, magnitude), limit);
    return hn::Or(hn::ShiftRight<8>(hn::VecFromMask(D16(), low)),
                  hn::And(hn::VecFromMask(D16(), high), set16(0xFF00)));
  }

  Divider<float> divider;
};

template <class Code>
HWY_NOINLINE void reduce_codes(const Pass& pass) {
  const Divider<float> divider(pass.divisor);
  if (pass.op == ReduceOp::prod) {
    run_pass(Float8<Code, true>{divider}, pass);
  } else {
    run_pass(Float8<Code, false>{divider}, pass);
  }
}

void reduce_fp8(const Pass& pass) {
  if (pass.dtype == DType::float8_e4m3) {
    reduce_codes<E4M3>(pass);
  } else {
    reduce_codes<E5M2>(pass);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tutti::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tutti::kernels {

HWY_EXPORT(reduce_fp8);

void reduce_float8(const Pass& pass) { HWY_DYNAMIC_DISPATCH(reduce_fp8)(pass); }

}  // namespace tutti::kernels
#endif
