// Shared memory: memfds whose every page is reserved before it is touched, and the process-wide
// registry of mem_alloc segments (docs/decisions/0005-segment-registry.md).
//
// A sparse memfd that runs out of memory kills its user with SIGBUS at some later store. Here
// reserving is a step of its own that can fail with a Status, and nothing touches what it did not
// reserve. A memfd has no name, so nothing is left behind however a process ends.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <shared_mutex>

#include "src/base/fd.h"
#include "tutti/status.h"

namespace tutti {

// A growable memfd, close-on-exec, sealed against shrinking. `name` shows in /proc/PID/maps.
Result<Fd> make_memfd(const char* name);
// Extends the file; never shrinks it. Errors: system_error with the size, also for RLIMIT_FSIZE
// (which would otherwise be a deadly signal).
Status grow_memfd(int fd, uint64_t bytes);
// Makes sure that touching [offset, offset + bytes) cannot fail.
Status reserve_memfd(int fd, uint64_t offset, uint64_t bytes);
// Shared mapping of part of a memfd.
Result<std::byte*> map_memfd(int fd, uint64_t offset, uint64_t bytes, bool writable);

// One mem_alloc allocation.
struct Segment {
  uint64_t id = 0;  // never 0, never used again in this process
  std::byte* base = nullptr;
  size_t bytes = 0;
  Fd fd;
};

class SegmentRegistry {
 public:
  static SegmentRegistry& instance();

  Result<void*> allocate(size_t bytes);
  // Unmaps here; peers that still map it keep the memory until they let go.
  Status free(void* memory);
  // The segment that holds all of [memory, memory + bytes), or null.
  std::shared_ptr<const Segment> find(const void* memory, size_t bytes) const;
  // Changes whenever the set of segments does: results of find() are valid while it stays.
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }
  bool alive(uint64_t id) const;

 private:
  SegmentRegistry() = default;

  mutable std::shared_mutex mutex_;
  std::map<uintptr_t, std::shared_ptr<const Segment>> by_address_;
  uint64_t next_id_ = 1;
  std::atomic<uint64_t> generation_{1};
};

}  // namespace tutti
