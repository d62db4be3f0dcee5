// Which Highway targets the kernels are compiled for; included before any Highway header, so that
// the kernels and their tests agree. SSSE3 is left out (no machine stops between it and SSE4.2),
// and SVE, whose vectors have no size and cannot live in arrays: such machines run NEON. The
// fallback is one plain lane with GCC and clang alike.
#pragma once

#include "hwy/detect_compiler_arch.h"
#define HWY_BROKEN_EMU128 1
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
