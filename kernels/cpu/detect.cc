#include "kernels/cpu/detect.h"

#include "kernels/cpu/targets.h"
// After targets.h.
#include "hwy/highway.h"

#if HWY_ARCH_X86
#include <cpuid.h>
#endif

namespace tutti::kernels {

#if HWY_ARCH_X86
namespace {

// Not among the names that every compiler's __builtin_cpu_supports knows.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

}  // namespace

// __builtin_cpu_supports also asks whether the system saves the wide registers.
int64_t detect_targets() {
  __builtin_cpu_init();
  const auto has = [](auto... supported) { return (... && (supported != 0)); };
  int64_t targets = 0;
  const bool sse4 = has(__builtin_cpu_supports("ssse3"), __builtin_cpu_supports("sse4.1"),
                        __builtin_cpu_supports("sse4.2"), __builtin_cpu_supports("aes"),
                        __builtin_cpu_supports("pclmul"));
  const bool avx2 = sse4 && has(__builtin_cpu_supports("avx"), __builtin_cpu_supports("avx2"),
                                __builtin_cpu_supports("bmi"), __builtin_cpu_supports("bmi2"),
                                __builtin_cpu_supports("fma"), has_f16c());
  const bool avx3 =
      avx2 && has(__builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx512vl"),
                  __builtin_cpu_supports("avx512dq"), __builtin_cpu_supports("avx512bw"));
  if (sse4) targets |= HWY_SSE4;
  if (avx2) targets |= HWY_AVX2;
  if (avx3) targets |= HWY_AVX3;
  // The one-lane fallback, or what the compiler was told that every machine has.
  return (targets & HWY_TARGETS) | HWY_STATIC_TARGET;
}
#else
int64_t detect_targets() { return HWY_STATIC_TARGET; }
#endif

}  // namespace tutti::kernels
