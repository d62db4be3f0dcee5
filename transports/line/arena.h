// Arena: the memory that one rank writes and its peers read.
//
//   page 0   Bell       the one page that peers write: to wake the owner and to hand it first news
//   page 1   Control    life, call record, error record of the owner
//   page 2.. directory  per destination rank, the chain of Channels towards it
//   ...      window     Transport::window
//   ...      heap       channels (bump allocated), slots
//
// An arena grows by extents: extent 0 is [0, 2 MiB), extent k is [2 MiB << (k-1), 2 MiB << k). A
// peer maps an extent when it first meets an offset in it, so nobody maps what nobody uses.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "transports/line/line.h"
#include "transports/transport.h"

namespace tutti::line {

inline constexpr size_t k_page = 4096;
inline constexpr uint64_t k_first_extent = uint64_t{2} << 20;
inline constexpr uint32_t k_extents = 18;  // 256 GiB: what a 32-bit number of lines can name

enum class Life : uint32_t { starting, open, closed, dropped };

// Written by peers too, with atomic operations only.
struct Bell {
  std::atomic<uint32_t> word;        // futex; changes with every ring
  std::atomic<uint32_t> sleeping;    // the owner is about to block; whoever clears it rings
  std::atomic<uint32_t> error_from;  // 1 + rank of the first peer that posted an error
  std::atomic<uint32_t> mail;        // +1: something besides messages wants the owner's attention
};

struct CallCell {
  std::atomic<uint32_t> version;  // odd while being written
  std::atomic<uint64_t> words[4];
};

struct ErrorCell {
  std::atomic<uint32_t> posted;  // 1: the rest is valid and never changes again
  uint32_t code;
  Rank reporter;
  Rank culprit;
  uint32_t length;
  char message[1024];
};

struct Control {
  alignas(64) std::atomic<Life> life;
  std::atomic<uint32_t> vm_verdict;  // shm: 0 unknown, 1 process_vm works with all peers, 2 not
  uint64_t token;                    // shm: proves that a mapping shows this very arena
  alignas(64) CallCell call;
  alignas(64) ErrorCell error;
};
static_assert(sizeof(Control) <= k_page);

// One direction of one (peer, lane), in the sender's arena.
struct Channel {
  std::atomic<uint32_t> next;  // the next channel to the same destination, in lines; 0: last
  uint32_t lane;
  uint32_t credits;
  uint32_t small_credits;  // of messages up to k_small_message
  uint32_t ring;           // lines that follow; a power of two
  uint64_t slot_bytes;
  // How many messages of the opposite direction the owner has released. A line of its own: the
  // peer reads it only when it has run out of credits.
  alignas(64) std::atomic<uint64_t> consumed;

  Line* lines() { return reinterpret_cast<Line*>(this + 1); }
};
static_assert(sizeof(Channel) == 128);

// What a reader sees.
class Arena {
 public:
  Arena() = default;
  virtual ~Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Null when the extent cannot be mapped.
  std::byte* at(uint64_t offset) {
    const uint32_t k = extent_of(offset);
    std::byte* origin = origins_[k].load(std::memory_order_acquire);
    if (origin == nullptr) [[unlikely]]
      origin = map_missing(k);
    return origin == nullptr ? nullptr : origin + offset;
  }
  Bell& bell() { return *reinterpret_cast<Bell*>(bell_page_); }
  Control& control() { return *reinterpret_cast<Control*>(at(k_page)); }
  std::atomic<uint32_t>& first_channel(Rank destination) {
    return reinterpret_cast<std::atomic<uint32_t>*>(at(2 * k_page))[destination];
  }
  Channel* channel(uint32_t lines) {
    return reinterpret_cast<Channel*>(at(uint64_t{lines} * sizeof(Line)));
  }
  // The channel towards (destination, lane), or null while there is none.
  Channel* find_channel(Rank destination, uint32_t lane);
  std::byte* window(uint32_t ranks) { return at(window_offset(ranks)); }

  static uint64_t window_offset(uint32_t ranks) {
    return (2 * k_page + ranks * sizeof(uint32_t) + k_page - 1) / k_page * k_page;
  }
  static uint32_t extent_of(uint64_t offset) {
    return static_cast<uint32_t>(std::bit_width(offset / k_first_extent));
  }
  static uint64_t extent_begin(uint32_t k) { return k == 0 ? 0 : k_first_extent << (k - 1); }
  static uint64_t extent_bytes(uint32_t k) { return k == 0 ? k_first_extent : extent_begin(k); }

 protected:
  void set_extent(uint32_t k, std::byte* memory) {
    // Stored so that adding an offset of the arena gives the address.
    origins_[k].store(
        reinterpret_cast<std::byte*>(reinterpret_cast<uintptr_t>(memory) - extent_begin(k)),
        std::memory_order_release);
  }
  std::byte* extent(uint32_t k) const {
    std::byte* origin = origins_[k].load(std::memory_order_acquire);
    return origin == nullptr ? nullptr : origin + extent_begin(k);
  }
  void set_bell(std::byte* page) { bell_page_ = page; }
  virtual std::byte* map_missing(uint32_t) { return nullptr; }

 private:
  std::atomic<std::byte*> origins_[k_extents] = {};
  std::byte* bell_page_ = nullptr;
};

// What the owner has: an arena with an allocator.
class OwnedArena : public Arena {
 public:
  // Zeroed, reserved memory, 64-byte aligned; never freed before the arena.
  Result<uint64_t> allocate(size_t bytes);
  // Page-aligned address space; reserve() parts of it before touching them.
  Result<uint64_t> allocate_lazy(size_t bytes);
  // Makes sure that touching [offset, offset + bytes) cannot fail.
  virtual Status reserve(uint64_t offset, size_t bytes) = 0;

 protected:
  // Makes extent 0 with everything in front of the heap.
  Status start(uint32_t ranks);
  // Memory for extent `k` at its place in the arena.
  virtual Result<std::byte*> make_extent(uint32_t k) = 0;

 private:
  uint64_t small_ = 0, small_end_ = 0;  // the piece that allocate() cuts from
  uint64_t next_ = 0;                   // first unused byte
};

// Wakes the owner of `bell` if it sleeps. The flag is read without a fence behind the store it
// announces, so a wake-up can be missed when both happen within nanoseconds: wait() bounds sleeps
// to k_longest_sleep for that reason (unless fence_peers() helps), and senders stay free of fences.
void ring_sleeper(Bell& bell);
inline void ring(Bell& bell) {
  if (bell.sleeping.load(std::memory_order_relaxed) != 0) [[unlikely]]
    ring_sleeper(bell);
}
// Sleeps until the word differs from `seen`, somebody rings, or the timeout (then: true).
bool sleep_on(Bell& bell, uint32_t seen, Clock::duration timeout);
inline constexpr Clock::duration k_longest_sleep = std::chrono::milliseconds(2);

}  // namespace tutti::line
