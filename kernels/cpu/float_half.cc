// Sums and products of fp16 and bf16, accumulated in fp32.
#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/float_half.cc"
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

template <bool kProduct>
HWY_INLINE VF combine_lanes(VF a, VF b) {
  if constexpr (kProduct) {
    return hn::Mul(a, b);
  } else {
    return hn::Add(a, b);
  }
}

template <bool kProduct>
struct Float16 {
  using D16 = hn::Rebind<uint16_t, DF>;
  using Packed = hn::Vec<D16>;
  static constexpr size_t k_accs = 1;
  static constexpr size_t k_bytes = HWY_LANES(float) * 2;
  struct Acc {
    VF v[1];
  };

  HWY_INLINE Acc load(const uint8_t* p) const {
    return {{half_to_float(DF(), load_bytes(D16(), p))}};
  }
  HWY_INLINE Acc combine(Acc a, Acc b) const { return {{combine_lanes<kProduct>(a.v[0], b.v[0])}}; }
  HWY_INLINE hn::Vec<D16> finish(Acc a) const {
    return float_to_half(DF(), canonical_nan(DF(), divider.apply(DF(), a.v[0])));
  }
  HWY_INLINE void store(hn::Vec<D16> v, uint8_t* p) const { store_bytes(D16(), v, p); }

  Divider<float> divider;
};

// Two codes per 32-bit lane, kept apart as even and odd: widening is a shift and a mask, no
// shuffle.
template <bool kProduct>
struct BFloat16 {
  using Packed = hn::Vec<DU>;
  static constexpr size_t k_accs = 2;
  static constexpr size_t k_bytes = HWY_LANES(float) * 4;
  struct Acc {
    VF v[2];
  };

  HWY_INLINE Acc load(const uint8_t* p) const {
    const auto codes = load_bytes(DU(), p);
    return {{hn::BitCast(DF(), hn::ShiftLeft<16>(codes)),
             hn::BitCast(DF(), hn::And(codes, hn::Set(DU(), 0xFFFF0000u)))}};
  }
  HWY_INLINE Acc combine(Acc a, Acc b) const {
    return {{combine_lanes<kProduct>(a.v[0], b.v[0]), combine_lanes<kProduct>(a.v[1], b.v[1])}};
  }
  HWY_INLINE hn::Vec<DU> finish(Acc a) const {
    const auto even = round(divider.apply(DF(), a.v[0]));
    const auto odd = round(divider.apply(DF(), a.v[1]));
    return hn::Or(hn::ShiftRight<16>(even), hn::And(odd, hn::Set(DU(), 0xFFFF0000u)));
  }
  HWY_INLINE void store(hn::Vec<DU> v, uint8_t* p) const { store_bytes(DU(), v, p); }

  // To nearest even in the upper 16 bits; the carry out of the mantissa is right, up to infinity.
  static HWY_INLINE hn::Vec<DU> round(VF v) {
    const auto bits = hn::BitCast(DU(), v);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(DU(), 1u));
    const auto rounded = hn::Add(hn::Add(bits, hn::Set(DU(), 0x7FFFu)), odd);
    return hn::IfThenElse(hn::RebindMask(DU(), hn::IsNaN(v)), hn::Set(DU(), 0x7FFFFFFFu), rounded);
  }

  Divider<float> divider;
};

template <template <bool> class Format>
HWY_NOINLINE void reduce_format(const Pass& pass) {
  const Divider<float> divider(pass.divisor);
  if (pass.op == ReduceOp::prod) {
    run_pass(Format<true>{divider}, pass);
  } else {
    run_pass(Format<false>{divider}, pass);
  }
}

void reduce_half_floats(const Pass& pass) {
  if (pass.dtype == DType::float16) {
    reduce_format<Float16>(pass);
  } else {
    reduce_format<BFloat16>(pass);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tutti::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tutti::kernels {

HWY_EXPORT(reduce_half_floats);

void reduce_float16_bfloat16(const Pass& pass) { HWY_DYNAMIC_DISPATCH(reduce_half_floats)(pass); }

}  // namespace tutti::kernels
#endif
