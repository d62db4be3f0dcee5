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
// One 16-bit lane holds two codes: the even one low, the odd one high.
using D16 = hn::Rebind<uint16_t, DF>;
using V16 = hn::Vec<D16>;

// Both encodings are exact in fp16, so a code in the upper byte of a 16-bit lane goes through fp16:
// e5m2 is its upper half; e4m3 shifted right by one is a fp16 2^-8 times as large.
//
// kScale: what the accumulators hold is 1/kScale of the value. A sum of e4m3 stays at 1/256 all the
// way (a power of two, far from both ends of fp32, so every bit is the same); a product may not.
struct E5M2 {
  static constexpr int k_digits = 3;
  static constexpr float k_max = 57344.0f;

  static HWY_INLINE V16 to_half(V16 upper) { return upper; }
  static HWY_INLINE V16 from_half(V16 half) { return half; }
};

struct E4M3 {
  static constexpr int k_digits = 4;
  static constexpr float k_max = 448.0f / 256;

  static HWY_INLINE V16 to_half(V16 upper) {
    const hn::RebindToSigned<D16> di;
    const auto shifted = hn::And(hn::BitCast(D16(), hn::ShiftRight<1>(hn::BitCast(di, upper))),
                                 hn::Set(D16(), uint16_t{0xBFFF}));
    const auto nan =
        hn::Eq(hn::And(upper, hn::Set(D16(), uint16_t{0x7F00})), hn::Set(D16(), uint16_t{0x7F00}));
    return hn::Or(shifted, hn::IfThenElseZero(nan, hn::Set(D16(), uint16_t{0x7FFF})));
  }
  // The upper byte of the result is the code.
  static HWY_INLINE V16 from_half(V16 half) {
    const auto magnitude = hn::And(hn::ShiftLeft<1>(half), hn::Set(D16(), uint16_t{0x7F00}));
    return hn::Or(magnitude, hn::And(half, hn::Set(D16(), uint16_t{0x8000})));
  }
};

template <class Code, bool kProduct>
struct Float8 {
  static constexpr size_t k_accs = 2;
  static constexpr size_t k_bytes = HWY_LANES(float) * 2;
  static constexpr bool k_scaled = std::is_same_v<Code, E4M3> && kProduct;
  struct Acc {
    VF v[2];
  };

  HWY_INLINE Acc load(const uint8_t* p) const {
    const V16 codes = load_bytes(D16(), p);
    return {{decode(hn::ShiftLeft<8>(codes)),
             decode(hn::And(codes, hn::Set(D16(), uint16_t{0xFF00})))}};
  }
  HWY_INLINE Acc combine(Acc a, Acc b) const {
    if constexpr (kProduct) {
      return {{hn::Mul(a.v[0], b.v[0]), hn::Mul(a.v[1], b.v[1])}};
    } else {
      return {{hn::Add(a.v[0], b.v[0]), hn::Add(a.v[1], b.v[1])}};
    }
  }
  HWY_INLINE V16 finish(Acc a) const {
    const V16 even = encode(divider.apply(DF(), a.v[0]));
    const V16 odd = encode(divider.apply(DF(), a.v[1]));
    return hn::Or(hn::ShiftRight<8>(even), hn::And(odd, hn::Set(D16(), uint16_t{0xFF00})));
  }
  HWY_INLINE void store(V16 v, uint8_t* p) const { store_bytes(D16(), v, p); }

  static HWY_INLINE VF decode(V16 upper) {
    const VF v = half_to_float(DF(), Code::to_half(upper));
    return k_scaled ? hn::Mul(v, hn::Set(DF(), 256.0f)) : v;
  }
  // Saturates to the largest finite value, infinities too, as CUDA's fp8 types do; then every
  // rounded value is exact in fp16. The upper byte of a lane is the code.
  static HWY_INLINE V16 encode(VF v) {
    const VF x = k_scaled ? hn::Mul(v, hn::Set(DF(), 1.0f / 256)) : v;
    const VF max = hn::Set(DF(), Code::k_max);
    const VF clamped = hn::Min(hn::Max(x, hn::Neg(max)), max);
    const VF rounded = round_to_grid<Code::k_digits, -14>(DF(), clamped);
    const auto nan = hn::BitCast(DF(), hn::Set(hn::RebindToUnsigned<DF>(), 0x7FFFFFFFu));
    return Code::from_half(float_to_half(DF(), hn::IfThenElse(hn::IsNaN(x), nan, rounded)));
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
