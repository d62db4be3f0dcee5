// Which Highway targets the kernels are compiled for; included before any Highway header, so that
// the kernels and their tests agree. SSSE3 is left out (no machine stops between it and SSE4.2),
// and SVE, whose vectors have no size and cannot live in arrays: such machines run NEON. The
// fallback is one plain lane with GCC and clang alike.
#pragma once

#include "hwy/detect_compiler_arch.h"
#define HWY_BROKEN_EMU128 1
#define TUTTI_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
// Address and thread sanitizers make these files slow to compile: two targets are enough for them.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HWY_DISABLED_TARGETS (TUTTI_DISABLED_TARGETS | HWY_SSE4 | HWY_AVX3)
#else
#define HWY_DISABLED_TARGETS TUTTI_DISABLED_TARGETS
#endif
