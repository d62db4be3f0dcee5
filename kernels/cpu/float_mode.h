// FloatMode: the floating-point mode of IEEE 754 for the length of a pass. Results must not depend
// on a caller (or a library like libtorch) that set flush-to-zero, denormals-are-zero or another
// rounding direction for its thread.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace tutti::kernels {

class FloatMode {
 public:
#if defined(__x86_64__)
  FloatMode() : saved_(_mm_getcsr()) {
    if ((saved_ & k_relevant) != k_default) _mm_setcsr((saved_ & ~k_relevant) | k_default);
  }
  ~FloatMode() {
    if ((saved_ & k_relevant) != k_default) _mm_setcsr(saved_);
  }

 private:
  // Exceptions masked (bits 7..12); round to nearest (13, 14); no FTZ (15), no DAZ (6).
  static constexpr uint32_t k_relevant = 0xFFC0;
  static constexpr uint32_t k_default = 0x1F80;
  uint32_t saved_;
#else
  FloatMode() {}
  ~FloatMode() {}

 public:
#endif
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;
};

}  // namespace tutti::kernels
