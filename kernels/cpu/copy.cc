// copy(): memcpy, and streaming stores for large copies on AMD. There memcpy of 8 MiB and more was
// measured at 60-70 % of streaming; on Intel, whose `rep movsb` does not read the destination
// first, memcpy was 20 % ahead. See docs/numbers.md for reduce(), which streams on both.
#include <cstdint>
#include <cstring>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/streaming.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tutti::kernels {

#if defined(__SSE2__)

void stream_copy(void* dst, const void* src, size_t bytes) {
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
    _mm_stream_si128(out, a);
    _mm_stream_si128(out + 1, b);
    _mm_stream_si128(out + 2, c);
    _mm_stream_si128(out + 3, d);
  }
  if (at < bytes) std::memcpy(to + at, from + at, bytes - at);
}

void streaming_fence() { _mm_sfence(); }

namespace {
bool copies_stream() {
  static const bool k_amd = __builtin_cpu_is("amd");
  return k_amd;
}
}  // namespace

#else

void stream_copy(void* dst, const void* src, size_t bytes) {
  if (bytes > 0) std::memcpy(dst, src, bytes);
}
void streaming_fence() {}

namespace {
bool copies_stream() { return false; }
}  // namespace

#endif

void copy(void* dst, const void* src, size_t bytes) {
  if (bytes >= k_streaming_bytes && copies_stream()) {
    stream_copy(dst, src, bytes);
    streaming_fence();
  } else if (bytes > 0) {
    std::memcpy(dst, src, bytes);
  }
}

}  // namespace tutti::kernels
