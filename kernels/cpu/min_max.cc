// min and max of every type, as a signed integer minimum of keys.
//
// Integers: flipping the sign bit makes unsigned order signed; flipping all bits turns max into
// min. Floats: flipping the magnitude bits of negative numbers makes integer order the order of
// values, with -0 below +0 and denormals as they are; a NaN gets the largest key, so that any
// number wins over it. One kernel per width serves all types, and bits come back as they were.
#include <limits>

#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/min_max.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "kernels/cpu/pass-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tutti::kernels {
namespace HWY_NAMESPACE {

template <class T>
struct IntegerKey {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  using Packed = V;
  static constexpr size_t k_accs = 1;
  static constexpr size_t k_bytes = HWY_LANES(T) * sizeof(T);
  struct Acc {
    V v[1];
  };

  HWY_INLINE Acc load(const uint8_t* p) const {
    return {{hn::Xor(load_bytes(D(), p), hn::Set(D(), flip))}};
  }
  HWY_INLINE Acc combine(Acc a, Acc b) const { return {{hn::Min(a.v[0], b.v[0])}}; }
  HWY_INLINE V finish(Acc a) const { return hn::Xor(a.v[0], hn::Set(D(), flip)); }
  HWY_INLINE void store(V v, uint8_t* p) const { store_bytes(D(), v, p); }

  T flip;
};

template <class T>
struct FloatKey {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  using Packed = V;
  static constexpr size_t k_accs = 1;
  static constexpr size_t k_bytes = HWY_LANES(T) * sizeof(T);
  static constexpr T k_magnitude = std::numeric_limits<T>::max();  // every bit but the sign
  struct Acc {
    V v[1];
  };

  HWY_INLINE Acc load(const uint8_t* p) const {
    const V bits = load_bytes(D(), p);
    const V magnitude = hn::And(bits, hn::Set(D(), k_magnitude));
    const auto nan = hn::Gt(magnitude, hn::Set(D(), largest));
    return {
        {hn::IfThenElse(nan, hn::Set(D(), k_magnitude), hn::Xor(order(bits), hn::Set(D(), flip)))}};
  }
  HWY_INLINE Acc combine(Acc a, Acc b) const { return {{hn::Min(a.v[0], b.v[0])}}; }
  HWY_INLINE V finish(Acc a) const {
    const auto nan = hn::Eq(a.v[0], hn::Set(D(), k_magnitude));
    return hn::IfThenElse(nan, hn::Set(D(), k_magnitude),
                          order(hn::Xor(a.v[0], hn::Set(D(), flip))));
  }
  HWY_INLINE void store(V v, uint8_t* p) const { store_bytes(D(), v, p); }

  // Its own inverse.
  static HWY_INLINE V order(V bits) {
    const V negative = hn::VecFromMask(D(), hn::Lt(bits, hn::Zero(D())));
    return hn::Xor(bits, hn::And(negative, hn::Set(D(), k_magnitude)));
  }

  T flip;     // 0: min; -1: max
  T largest;  // the largest magnitude that is not NaN
};

template <class T>
HWY_NOINLINE void reduce_integer_keys(const Pass& pass) {
  const bool is_unsigned =
      pass.dtype == DType::uint8 || pass.dtype == DType::uint32 || pass.dtype == DType::uint64;
  T flip = pass.op == ReduceOp::max ? T{-1} : T{0};
  if (is_unsigned) flip = static_cast<T>(flip ^ std::numeric_limits<T>::min());
  run_pass(IntegerKey<T>{flip}, pass);
}

template <class T>
HWY_NOINLINE void reduce_float_keys(const Pass& pass, T largest) {
  run_pass(FloatKey<T>{pass.op == ReduceOp::max ? T{-1} : T{0}, largest}, pass);
}

void reduce_keys(const Pass& pass) {
  switch (pass.dtype) {
    case DType::int8:
    case DType::uint8:
      return reduce_integer_keys<int8_t>(pass);
    case DType::int32:
    case DType::uint32:
      return reduce_integer_keys<int32_t>(pass);
    case DType::int64:
    case DType::uint64:
      return reduce_integer_keys<int64_t>(pass);
    case DType::float16:
      return reduce_float_keys<int16_t>(pass, 0x7C00);
    case DType::bfloat16:
      return reduce_float_keys<int16_t>(pass, 0x7F80);
    case DType::float32:
      return reduce_float_keys<int32_t>(pass, 0x7F800000);
    case DType::float64:
      return reduce_float_keys<int64_t>(pass, 0x7FF0000000000000);
    case DType::float8_e4m3:
      return reduce_float_keys<int8_t>(pass, 0x7E);
    case DType::float8_e5m2:
      return reduce_float_keys<int8_t>(pass, 0x7C);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tutti::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tutti::kernels {

HWY_EXPORT(reduce_keys);

void reduce_min_max(const Pass& pass) { HWY_DYNAMIC_DISPATCH(reduce_keys)(pass); }

}  // namespace tutti::kernels
#endif
