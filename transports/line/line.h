// Line: one message announcement in one cache line, the unit of the local and shm transports.
//
//   0        3   4          8           16                            64
//   | seq 24 |tag| acked 32 | signature | payload, or where it lies   |
//
// The sender fills signature and payload first and publishes with one release store of the first
// eight bytes. `seq` is the message's number + 1 modulo 2^24, so that a reader knows a fresh line
// from the one that lay there a ring ago and zeroed memory holds no message. `tag` is the payload's
// length for messages that travel in the line, else where they are. `acked` is how many messages of
// the opposite direction the sender of this line has released: credits ride on reverse traffic.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tutti::line {

inline constexpr size_t k_inline_bytes = 48;
inline constexpr uint32_t k_sequence_mask = (1u << 24) - 1;
// Tags up to k_inline_bytes are lengths.
inline constexpr uint32_t k_tag_slot = 64;  // Place: bytes at `offset` of the sender's arena
inline constexpr uint32_t k_tag_ref = 65;   // Place: a MemoryRef, to be read where it lies

struct Place {
  uint64_t bytes = 0;
  uint64_t offset = 0;
  uint64_t segment = 0;
};

struct alignas(64) Line {
  std::atomic<uint64_t> head;
  uint64_t signature;
  std::byte payload[k_inline_bytes];
};
static_assert(sizeof(Line) == 64 && std::atomic<uint64_t>::is_always_lock_free);

constexpr uint64_t pack_head(uint64_t index, uint32_t tag, uint64_t acked) {
  return ((index + 1) & k_sequence_mask) | uint64_t{tag} << 24 | acked << 32;
}
constexpr bool announces(uint64_t head, uint64_t index) {
  return (head & k_sequence_mask) == ((index + 1) & k_sequence_mask);
}
constexpr uint32_t tag_of(uint64_t head) { return (head >> 24) & 0xff; }
constexpr uint32_t acked_of(uint64_t head) { return static_cast<uint32_t>(head >> 32); }

// memcpy for at most k_inline_bytes: a handful of moves instead of a call.
inline void copy_small(std::byte* dst, const std::byte* src, size_t bytes) {
  if (bytes >= 16) {
    std::memcpy(dst, src, 16);
    if (bytes > 32) std::memcpy(dst + 16, src + 16, 16);
    std::memcpy(dst + bytes - 16, src + bytes - 16, 16);
  } else if (bytes >= 8) {
    std::memcpy(dst, src, 8);
    std::memcpy(dst + bytes - 8, src + bytes - 8, 8);
  } else if (bytes >= 4) {
    std::memcpy(dst, src, 4);
    std::memcpy(dst + bytes - 4, src + bytes - 4, 4);
  } else if (bytes > 0) {
    dst[0] = src[0];
    dst[bytes / 2] = src[bytes / 2];
    dst[bytes - 1] = src[bytes - 1];
  }
}

}  // namespace tutti::line
