// Stores that pass the caches by. A large destination that is only written would otherwise be read
// first, line by line, for nothing.
#pragma once

#include <cstddef>

namespace tutti::kernels {

// From here on a destination is not expected to stay in a cache until someone reads it.
inline constexpr size_t k_streaming_bytes = size_t{8} << 20;

// dst = src with streaming stores; ordered before later stores only by streaming_fence().
void stream_copy(void* dst, const void* src, size_t bytes);
void streaming_fence();

}  // namespace tutti::kernels
