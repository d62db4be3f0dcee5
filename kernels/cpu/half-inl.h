// fp16 <-> fp32, 16-bit codes in uint16 lanes. Highway 1.0.3 converts rightly where the CPU has
// F16C; its emulation elsewhere truncates and has no infinities, so other targets use exact
// arithmetic here. Both give the same bits (tests/kernels compares all codes on every target).

#if defined(TUTTI_KERNELS_HALF_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TUTTI_KERNELS_HALF_INL_H_
#undef TUTTI_KERNELS_HALF_INL_H_
#else
#define TUTTI_KERNELS_HALF_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tutti::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The one NaN that results have: every bit but the sign (as CUDA's). x86 would otherwise show which
// operand came first, or a negative NaN for inf - inf.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V canonical_nan(D d, V v) {
  const hn::RebindToUnsigned<D> du;
  using U = hn::TFromD<decltype(du)>;
  const V nan = hn::BitCast(d, hn::Set(du, static_cast<U>(~U{0} >> 1)));
  return hn::IfThenElse(hn::IsNaN(v), nan, v);
}

// Lanes where a or b is NaN. x86 compares both at once, which Highway has no name for.
template <class D, class V = hn::Vec<D>>
HWY_INLINE hn::Mask<D> either_nan(D d, V a, V b) {
#if HWY_TARGET == HWY_AVX2
  (void)d;
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return hn::Mask<D>{_mm256_cmp_ps(a.raw, b.raw, _CMP_UNORD_Q)};
  } else {
    return hn::Mask<D>{_mm256_cmp_pd(a.raw, b.raw, _CMP_UNORD_Q)};
  }
#else
  (void)d;
  return hn::Or(hn::IsNaN(a), hn::IsNaN(b));
#endif
}

// Rounds to `kDigits` significant bits, to nearest even, but no finer than the spacing just above
// 2^kMinExponent: the grid of a narrow float, denormals included. |v| below 2^100, or infinite, or
// NaN, which stay.
// Adding 1.5 * 2^(exponent + 24 - kDigits) makes the adder round at that place.
template <int kDigits, int kMinExponent, class D, class V = hn::Vec<D>>
HWY_INLINE V round_to_grid(D df, V v) {
  const hn::RebindToUnsigned<D> du;
  const auto exponent = hn::And(hn::BitCast(du, v), hn::Set(du, 0x7F800000u));
  const auto clamped = hn::Max(exponent, hn::Set(du, uint32_t{127 + kMinExponent} << 23));
  const auto magic =
      hn::BitCast(df, hn::Add(clamped, hn::Set(du, (uint32_t{24 - kDigits} << 23) + 0x400000u)));
  const auto rounded = hn::Sub(hn::Add(v, magic), magic);
  return hn::Or(rounded, hn::And(v, hn::Set(df, -0.0f)));  // a negative that became zero is -0
}

// Exact.
template <class D, class V16>
HWY_INLINE hn::Vec<D> half_to_float(D df, V16 code) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  return hn::PromoteTo(df, hn::BitCast(hn::Rebind<hwy::float16_t, D>(), code));
#else
  const hn::RebindToUnsigned<D> du;
  const auto wide = hn::PromoteTo(du, code);
  const auto magnitude = hn::And(wide, hn::Set(du, 0x7FFFu));
  const auto sign = hn::ShiftLeft<16>(hn::And(wide, hn::Set(du, 0x8000u)));
  const auto scale = hn::BitCast(df, hn::Set(du, uint32_t{127 + 112} << 23));
  const auto scaled = hn::Mul(hn::BitCast(df, hn::ShiftLeft<13>(magnitude)), scale);
  const auto special = hn::Gt(magnitude, hn::Set(du, 0x7BFFu));
  const auto bits =
      hn::Or(hn::BitCast(du, scaled), hn::IfThenElseZero(special, hn::Set(du, 0x7F800000u)));
  return hn::BitCast(df, hn::Or(bits, sign));
#endif
}

// To nearest even; a canonical NaN stays canonical.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<uint16_t, D>> float_to_half(D df, hn::Vec<D> v) {
  const hn::Rebind<uint16_t, D> du16;
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  return hn::BitCast(du16, hn::DemoteTo(hn::Rebind<hwy::float16_t, D>(), v));
#else
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const auto nan = hn::IsNaN(v);
  const auto sign = hn::And(hn::ShiftRight<16>(hn::BitCast(du, v)), hn::Set(du, 0x8000u));
  // 65536 is past the last rounding boundary and becomes infinity.
  const auto magnitude = hn::Min(hn::Abs(v), hn::Set(df, 65536.0f));
  const auto rounded = round_to_grid<11, -14>(df, magnitude);
  const auto scale = hn::BitCast(df, hn::Set(du, uint32_t{127 - 112} << 23));
  const auto bits = hn::ShiftRight<13>(hn::BitCast(du, hn::Mul(rounded, scale)));
  const auto code =
      hn::IfThenElse(hn::RebindMask(du, nan), hn::Set(du, 0x7FFFu), hn::Or(bits, sign));
  return hn::DemoteTo(du16, hn::BitCast(di, code));
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace tutti::kernels
HWY_AFTER_NAMESPACE();

#endif
