// The ceilings, with intrinsics on x86 and plain loops elsewhere. n is a multiple of 64, buffers
// are aligned to 64 bytes.
#include "perf/bench/ceilings.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tutti::bench {

#if defined(__x86_64__)
namespace {

__attribute__((target("avx512f"))) void add_avx512(float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; i += 64) {
    for (size_t k = i; k < i + 64; k += 16) {
      _mm512_store_ps(a + k, _mm512_add_ps(_mm512_load_ps(a + k), _mm512_load_ps(b + k)));
    }
  }
}

__attribute__((target("avx2"))) void add_avx2(float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; i += 32) {
    for (size_t k = i; k < i + 32; k += 8) {
      _mm256_store_ps(a + k, _mm256_add_ps(_mm256_load_ps(a + k), _mm256_load_ps(b + k)));
    }
  }
}

}  // namespace

void ceiling_add(float* a, const float* b, size_t n) {
  static const bool k_avx512 = __builtin_cpu_supports("avx512f");
  k_avx512 ? add_avx512(a, b, n) : add_avx2(a, b, n);
}

__attribute__((target("avx2"))) void ceiling_add_to(float* c, const float* a, const float* b,
                                                    size_t n) {
  for (size_t i = 0; i < n; i += 32) {
    for (size_t k = i; k < i + 32; k += 8) {
      _mm256_store_ps(c + k, _mm256_add_ps(_mm256_load_ps(a + k), _mm256_load_ps(b + k)));
    }
  }
}

__attribute__((target("avx2"))) void ceiling_add_to_streaming(float* c, const float* a,
                                                              const float* b, size_t n) {
  for (size_t i = 0; i < n; i += 32) {
    for (size_t k = i; k < i + 32; k += 8) {
      _mm256_stream_ps(c + k, _mm256_add_ps(_mm256_load_ps(a + k), _mm256_load_ps(b + k)));
    }
  }
  _mm_sfence();
}

__attribute__((target("avx2"))) void ceiling_copy_streaming(float* dst, const float* src,
                                                            size_t n) {
  for (size_t i = 0; i < n; i += 32) {
    for (size_t k = i; k < i + 32; k += 8) _mm256_stream_ps(dst + k, _mm256_load_ps(src + k));
  }
  _mm_sfence();
}

#else

void ceiling_add(float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; ++i) a[i] += b[i];
}
void ceiling_add_to(float* c, const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; ++i) c[i] = a[i] + b[i];
}
void ceiling_add_to_streaming(float* c, const float* a, const float* b, size_t n) {
  ceiling_add_to(c, a, b, n);
}
void ceiling_copy_streaming(float* dst, const float* src, size_t n) {
  for (size_t i = 0; i < n; ++i) dst[i] = src[i];
}

#endif

}  // namespace tutti::bench
