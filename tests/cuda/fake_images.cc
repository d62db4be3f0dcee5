// Instead of the kernels of this build: images that the fake driver takes for them, one byte each.
// For tests that run on it, which need no nvcc then.
#include "src/cuda/image.h"

namespace tutti::cuda {

Images built_in_images() {
  return {[](Family family) -> std::span<const std::byte> {
            static constexpr std::byte k_images[k_families] = {std::byte{1}, std::byte{2},
                                                               std::byte{3}};
            return {&k_images[static_cast<int>(family)], 1};
          },
          13000};
}

}  // namespace tutti::cuda
