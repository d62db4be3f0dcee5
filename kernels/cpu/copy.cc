// copy() and publish(): memcpy but for AMD, where glibc's `rep movsb` was measured at 2 GB/s when
// source and destination lie differently within their pages (malloc's large buffers do) and at
// 60-70 % of streaming stores from 8 MiB on. On Intel, whose `rep movsb` does not read the
// destination first, memcpy was 20 % ahead.
#include <cstdint>
#include <cstring>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/streaming.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tutti::kernels {

#if defined(__SSE2__)

namespace {

// Whole cache lines of dst by `store`, the ends by memcpy.
template <class Store>
void copy_lines(void* dst, const void* src, size_t bytes, Store store) {
  auto* to = static_cast<uint8_t*>(dst);
  const auto* from = static_cast<const uint8_t*>(src);
  constexpr size_t k_line = 64;
  const size_t head = (k_line - reinterpret_cast<uintptr_t>(to) % k_line) % k_line;
  if (bytes < head + k_line) {
    if (bytes > 0) std::memcpy(to, from, bytes);
    return;
  }
  std::memcpy(to, from, head);
  size_t at = head;
  for (; bytes - at >= k_line; at += k_line) {
    const auto* line = reinterpret_cast<const __m128i*>(from + at);
    auto* out = reinterpret_cast<__m128i*>(to + at);
    const __m128i a = _mm_loadu_si128(line), b = _mm_loadu_si128(line + 1);
    const __m128i c = _mm_loadu_si128(line + 2), d = _mm_loadu_si128(line + 3);
    store(out, a);
    store(out + 1, b);
    store(out + 2, c);
    store(out + 3, d);
  }
  if (at < bytes) std::memcpy(to + at, from + at, bytes - at);
}

}  // namespace

void stream_copy(void* dst, const void* src, size_t bytes) {
  copy_lines(dst, src, bytes, [](__m128i* out, __m128i v) { _mm_stream_si128(out, v); });
}

void streaming_fence() { _mm_sfence(); }

namespace {

bool on_amd() {
  static const bool k_amd = __builtin_cpu_is("amd");
  return k_amd;
}

void vector_copy(void* dst, const void* src, size_t bytes) {
  copy_lines(dst, src, bytes, [](__m128i* out, __m128i v) { _mm_store_si128(out, v); });
}

}  // namespace

#else

void stream_copy(void* dst, const void* src, size_t bytes) {
  if (bytes > 0) std::memcpy(dst, src, bytes);
}
void streaming_fence() {}

namespace {
bool on_amd() { return false; }
void vector_copy(void* dst, const void* src, size_t bytes) { std::memcpy(dst, src, bytes); }
}  // namespace

#endif

namespace {
constexpr size_t k_vector_bytes = 2048;        // glibc uses vectors itself below
constexpr size_t k_publish_bytes = 16 * 1024;  // below, the trip through memory shows in latency
}  // namespace

void copy(void* dst, const void* src, size_t bytes) {
  if (bytes >= k_vector_bytes && on_amd()) {
    if (bytes < k_streaming_bytes) return vector_copy(dst, src, bytes);
    stream_copy(dst, src, bytes);
    streaming_fence();
  } else if (bytes > 0) {
    std::memcpy(dst, src, bytes);
  }
}

void publish(void* dst, const void* src, size_t bytes) {
  if (bytes < k_publish_bytes || !on_amd()) return copy(dst, src, bytes);
  stream_copy(dst, src, bytes);
  streaming_fence();
}

}  // namespace tutti::kernels
