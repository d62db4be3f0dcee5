// Sums and products of integers, wrapping; signed and unsigned have the same bits.
#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/integer.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "kernels/cpu/pass-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tutti::kernels {
namespace HWY_NAMESPACE {

template <class T>
HWY_INLINE hn::Vec<hn::ScalableTag<T>> multiply(hn::Vec<hn::ScalableTag<T>> a,
                                                hn::Vec<hn::ScalableTag<T>> b) {
#if HWY_TARGET == HWY_SCALAR
  // Through 64 bits: narrower operands would be promoted to int and could overflow it.
  return hn::Set(hn::ScalableTag<T>(),
                 static_cast<T>(uint64_t{hn::GetLane(a)} * uint64_t{hn::GetLane(b)}));
#else
  if constexpr (sizeof(T) == 1) {
    const hn::RepartitionToWide<hn::ScalableTag<T>> dw;
    const auto even = hn::Mul(hn::BitCast(dw, a), hn::BitCast(dw, b));
    const auto odd =
        hn::Mul(hn::ShiftRight<8>(hn::BitCast(dw, a)), hn::ShiftRight<8>(hn::BitCast(dw, b)));
    return hn::BitCast(hn::ScalableTag<T>(),
                       hn::Or(hn::And(even, hn::Set(dw, uint16_t{0x00FF})), hn::ShiftLeft<8>(odd)));
  } else {
    return hn::Mul(a, b);
  }
#endif
}

template <class T, bool kProduct>
struct Integer {
  using D = hn::ScalableTag<T>;
  using Packed = hn::Vec<D>;
  static constexpr size_t k_accs = 1;
  static constexpr size_t k_bytes = HWY_LANES(T) * sizeof(T);
  struct Acc {
    hn::Vec<D> v[1];
  };

  HWY_INLINE Acc load(const uint8_t* p) const { return {{load_bytes(D(), p)}}; }
  HWY_INLINE Acc combine(Acc a, Acc b) const {
    if constexpr (kProduct) {
      return {{multiply<T>(a.v[0], b.v[0])}};
    } else {
      return {{hn::Add(a.v[0], b.v[0])}};
    }
  }
  HWY_INLINE hn::Vec<D> finish(Acc a) const { return a.v[0]; }
  HWY_INLINE void store(hn::Vec<D> v, uint8_t* p) const { store_bytes(D(), v, p); }
};

template <class T>
HWY_NOINLINE void reduce_integer(const Pass& pass) {
  if (pass.op == ReduceOp::prod) {
    run_pass(Integer<T, true>(), pass);
  } else {
    run_pass(Integer<T, false>(), pass);
  }
}

void reduce_any_integer(const Pass& pass) {
  switch (size_of(pass.dtype)) {
    case 1:
      return reduce_integer<uint8_t>(pass);
    case 4:
      return reduce_integer<uint32_t>(pass);
    default:
      return reduce_integer<uint64_t>(pass);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tutti::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tutti::kernels {

HWY_EXPORT(reduce_any_integer);

void reduce_integers(const Pass& pass) { HWY_DYNAMIC_DISPATCH(reduce_any_integer)(pass); }

}  // namespace tutti::kernels
#endif
