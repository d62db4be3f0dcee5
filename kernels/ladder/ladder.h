// The ladder: small programs from the plain loop to the promoted kernel, each one idea further.
// They are built into kernels_bench, which checks them against the kernels before it times them.
#pragma once

#include <cstddef>
#include <span>

#include "tutti/types.h"

namespace tutti::ladder {

// a[i] = a[i] + b[i] on n finite elements of `dtype`; n is a multiple of 64.
struct Rung {
  const char* name;
  DType dtype;
  void (*run)(void* a, const void* b, size_t n);
};

std::span<const Rung> rungs();

}  // namespace tutti::ladder
