// What the machine allows: hand-tuned loops that the kernels are measured against.
#pragma once

#include <cstddef>

namespace tutti::bench {

// a[i] += b[i] in the widest vectors of this CPU, unrolled, aligned; nothing else.
void ceiling_add(float* a, const float* b, size_t n);
// c[i] = a[i] + b[i], ordinary and streaming stores.
void ceiling_add_to(float* c, const float* a, const float* b, size_t n);
void ceiling_add_to_streaming(float* c, const float* a, const float* b, size_t n);
// dst = src with streaming stores.
void ceiling_copy_streaming(float* dst, const float* src, size_t n);

}  // namespace tutti::bench
