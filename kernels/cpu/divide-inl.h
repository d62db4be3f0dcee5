// What a sum does before it is rounded: nothing, or avg's division. x / 2^n is x * 2^-n to the bit,
// so powers of two multiply.

#if defined(TUTTI_KERNELS_DIVIDE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TUTTI_KERNELS_DIVIDE_INL_H_
#undef TUTTI_KERNELS_DIVIDE_INL_H_
#else
#define TUTTI_KERNELS_DIVIDE_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tutti::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
class Divider {
 public:
  explicit Divider(uint32_t divisor)
      : none_(divisor == 0),
        exact_((divisor & (divisor - 1)) == 0),
        divisor_(static_cast<T>(divisor)),
        inverse_(none_ ? T{0} : T{1} / static_cast<T>(divisor)) {}

  template <class D>
  HWY_INLINE hn::Vec<D> apply(D d, hn::Vec<D> v) const {
    if (HWY_LIKELY(none_)) return v;
    if (exact_) return hn::Mul(v, hn::Set(d, inverse_));
    return hn::Div(v, hn::Set(d, divisor_));
  }

 private:
  bool none_;
  bool exact_;
  T divisor_;
  T inverse_;
};

}  // namespace HWY_NAMESPACE
}  // namespace tutti::kernels
HWY_AFTER_NAMESPACE();

#endif
