// Streaming stores into slots and vector moves out of them on AMD, memcpy elsewhere.
#include "transports/line/slot_copy.h"

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace tutti::line {
namespace {

// Below this the trip through memory shows in the latency of the message.
[[maybe_unused]] constexpr size_t k_streaming_bytes = 16 << 10;

#ifdef __SSE2__
// glibc's memcpy uses vectors below its rep movsb threshold.
constexpr size_t k_vector_bytes = 2048;

bool on_amd() {
  static const bool amd = __builtin_cpu_is("amd");
  return amd;
}

void move(std::byte* dst, const std::byte* src, size_t bytes) {
  const size_t head = (64 - reinterpret_cast<uintptr_t>(dst) % 64) % 64;
  std::memcpy(dst, src, head);
  dst += head, src += head, bytes -= head;
  for (; bytes >= 64; dst += 64, src += 64, bytes -= 64) {
    const auto* from = reinterpret_cast<const __m128i*>(src);
    auto* to = reinterpret_cast<__m128i*>(dst);
    const __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
    const __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
    _mm_store_si128(to, a);
    _mm_store_si128(to + 1, b);
    _mm_store_si128(to + 2, c);
    _mm_store_si128(to + 3, d);
  }
  std::memcpy(dst, src, bytes);
}

void stream(std::byte* dst, const std::byte* src, size_t bytes) {
  const size_t head = (64 - reinterpret_cast<uintptr_t>(dst) % 64) % 64;
  std::memcpy(dst, src, head);
  dst += head, src += head, bytes -= head;
  for (; bytes >= 64; dst += 64, src += 64, bytes -= 64) {
    const auto* from = reinterpret_cast<const __m128i*>(src);
    auto* to = reinterpret_cast<__m128i*>(dst);
    const __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
    const __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
    _mm_stream_si128(to, a);
    _mm_stream_si128(to + 1, b);
    _mm_stream_si128(to + 2, c);
    _mm_stream_si128(to + 3, d);
  }
  std::memcpy(dst, src, bytes);
  _mm_sfence();  // before the line that announces it
}
#endif

}  // namespace

void copy_to_slot(std::byte* dst, const std::byte* src, size_t bytes) {
#ifdef __SSE2__
  if (bytes >= k_vector_bytes && on_amd()) {
    return bytes >= k_streaming_bytes ? stream(dst, src, bytes) : move(dst, src, bytes);
  }
#endif
  std::memcpy(dst, src, bytes);
}

void copy_from_slot(std::byte* dst, const std::byte* src, size_t bytes) {
#ifdef __SSE2__
  if (bytes >= k_vector_bytes && on_amd()) return move(dst, src, bytes);
#endif
  std::memcpy(dst, src, bytes);
}

}  // namespace tutti::line
