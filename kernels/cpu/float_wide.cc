// Sums and products of fp32 and fp64, accumulated in their own type.
#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/float_wide.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "kernels/cpu/divide-inl.h"
#include "kernels/cpu/half-inl.h"
#include "kernels/cpu/pass-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tutti::kernels {
namespace HWY_NAMESPACE {

template <class T, bool kProduct>
struct WideFloat {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  using Packed = V;
  static constexpr size_t k_accs = 1;
  static constexpr size_t k_bytes = HWY_LANES(T) * sizeof(T);
  struct Acc {
    V v[1];
  };

  HWY_INLINE Acc load(const uint8_t* p) const { return {{load_bytes(D(), p)}}; }
  HWY_INLINE Acc combine(Acc a, Acc b) const {
    if constexpr (kProduct) {
      return {{hn::Mul(a.v[0], b.v[0])}};
    } else {
      return {{hn::Add(a.v[0], b.v[0])}};
    }
  }
  // NaN is rare: two vectors share a test, and a block without one is stored as it is.
  template <size_t U>
  HWY_INLINE void finish_block(const Acc (&acc)[U], V (&out)[U]) const {
    TUTTI_UNROLL
    for (size_t u = 0; u < U; ++u) out[u] = divider.apply(D(), acc[u].v[0]);
    auto nan = either_nan(D(), out[0], out[U - 1]);
    TUTTI_UNROLL
    for (size_t u = 1; u + 1 < U; u += 2) nan = hn::Or(nan, either_nan(D(), out[u], out[u + 1]));
    if (HWY_LIKELY(hn::AllFalse(D(), nan))) return;
    TUTTI_UNROLL
    for (size_t u = 0; u < U; ++u) out[u] = canonical_nan(D(), out[u]);
  }
  HWY_INLINE V finish(Acc a) const { return canonical_nan(D(), divider.apply(D(), a.v[0])); }
  HWY_INLINE void store(V v, uint8_t* p) const { store_bytes(D(), v, p); }

  Divider<T> divider;
};

template <class T>
HWY_NOINLINE void reduce_wide(const Pass& pass) {
  const Divider<T> divider(pass.divisor);
  if (pass.op == ReduceOp::prod) {
    run_pass(WideFloat<T, true>{divider}, pass);
  } else {
    run_pass(WideFloat<T, false>{divider}, pass);
  }
}

void reduce_wide_floats(const Pass& pass) {
  if (pass.dtype == DType::float32) {
    reduce_wide<float>(pass);
  } else {
    reduce_wide<double>(pass);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tutti::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tutti::kernels {

HWY_EXPORT(reduce_wide_floats);

void reduce_float32_float64(const Pass& pass) { HWY_DYNAMIC_DISPATCH(reduce_wide_floats)(pass); }

}  // namespace tutti::kernels
#endif
