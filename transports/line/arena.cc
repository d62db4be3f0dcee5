// Arena: allocation, channel lookup, and the futex behind the bell.
#include "transports/line/arena.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <string>

namespace tutti::line {
namespace {

// allocate() reserves this much at a time, so that hundreds of channels cost a few system calls.
constexpr size_t k_piece = 64 << 10;
constexpr size_t k_small_limit = 16 << 10;

constexpr uint64_t round_up(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

Channel* Arena::find_channel(Rank destination, uint32_t lane) {
  uint32_t lines = first_channel(destination).load(std::memory_order_acquire);
  while (lines != 0) {
    Channel* found = channel(lines);
    if (found == nullptr || found->lane == lane) return found;
    lines = found->next.load(std::memory_order_acquire);
  }
  return nullptr;
}

Status OwnedArena::start(uint32_t ranks) {
  next_ = window_offset(ranks) + k_window_bytes;
  if (next_ + k_piece > k_first_extent) {
    return Status(Code::unsupported,
                  "an arena serves at most " +
                      std::to_string((k_first_extent - k_window_bytes - k_piece - 3 * k_page) /
                                     sizeof(uint32_t)) +
                      " ranks");
  }
  auto memory = make_extent(0);
  if (!memory) return memory.status();
  set_extent(0, *memory);
  set_bell(*memory);
  return {};
}

Result<uint64_t> OwnedArena::allocate(size_t bytes) {
  bytes = round_up(bytes, sizeof(Line));
  if (bytes > k_small_limit) {
    auto offset = allocate_lazy(bytes);
    if (offset) {
      if (Status s = reserve(*offset, bytes); !s.ok()) return s;
    }
    return offset;
  }
  if (small_ + bytes > small_end_) {
    auto piece = allocate_lazy(k_piece);
    if (!piece) return piece;
    if (Status s = reserve(*piece, k_piece); !s.ok()) return s;
    small_ = *piece;
    small_end_ = *piece + k_piece;
  }
  const uint64_t offset = small_;
  small_ += bytes;
  return offset;
}

Result<uint64_t> OwnedArena::allocate_lazy(size_t bytes) {
  bytes = round_up(bytes, k_page);
  uint32_t k = extent_of(next_);
  uint64_t offset = next_;
  // A block lies within one extent; what is left of a skipped extent is only address space.
  while (k < k_extents && offset + bytes > extent_begin(k) + extent_bytes(k)) {
    offset = extent_begin(++k);
  }
  if (k >= k_extents) {
    return Status(Code::system_error,
                  "an arena of " + std::to_string(extent_begin(k_extents) >> 30) + " GiB is full");
  }
  if (extent(k) == nullptr) {
    auto memory = make_extent(k);
    if (!memory) return memory.status();
    set_extent(k, *memory);
  }
  next_ = offset + bytes;
  return offset;
}

void ring_sleeper(Bell& bell) {
  if (bell.sleeping.exchange(0, std::memory_order_acq_rel) == 0) return;  // somebody else rings
  bell.word.fetch_add(1, std::memory_order_acq_rel);
  ::syscall(SYS_futex, &bell.word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

constexpr Clock::duration k_one_second = std::chrono::seconds(1);  // tv_nsec holds less

bool sleep_on(Bell& bell, uint32_t seen, Clock::duration timeout) {
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(std::clamp<Clock::duration>(
      timeout, Clock::duration::zero(), k_one_second - Clock::duration(1)));
  timespec span{0, static_cast<long>(ns.count())};
  return ::syscall(SYS_futex, &bell.word, FUTEX_WAIT, seen, &span, nullptr, 0) != 0 &&
         errno == ETIMEDOUT;
}

}  // namespace tutti::line
