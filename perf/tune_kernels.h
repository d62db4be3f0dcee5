// Kernels: what reductions and copies cost on this machine, by themselves.
#pragma once

#include "src/cost/profile.h"

namespace tutti::perf {

// Fills gamma, every kernel, copy, cache_bytes and beyond_cache. About half a second.
void measure_kernels(Profile& profile);

}  // namespace tutti::perf
