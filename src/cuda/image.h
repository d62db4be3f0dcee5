// The kernels as they are built in: one fat binary per family of operators, empty in a build
// without nvcc.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/cuda/arithmetic.h"

namespace tutti::cuda {

struct Images {
  std::span<const std::byte> (*of)(Family family);
  int toolkit;  // that made them, as cuDriverGetVersion counts: 13000; 0: there are none
};
Images built_in_images();

}  // namespace tutti::cuda
