// Segments: mem_alloc memory of this process as its peers know it, and theirs as known here.
#pragma once

#include <iterator>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "src/base/fd.h"
#include "transports/memory.h"
#include "transports/transport.h"

namespace tutti::shm {

// What this rank has exported: which segments, to which peers.
class Exports {
 public:
  explicit Exports(uint32_t ranks) : ranks_(ranks) {}

  // The segment around [memory, memory + bytes), or null. Cached until the registry changes.
  const Segment* find(const void* memory, size_t bytes);
  // Passes the segment's descriptor to `peer` over `socket` unless it has it already.
  Io offer(const Segment& segment, Rank peer, int socket, Rank self);
  // Tells peers of segments that were freed since the last call; `socket_of(rank)` may say -1.
  template <class F>
  void forget_freed(Rank self, F&& socket_of);

 private:
  struct Export {
    std::shared_ptr<const Segment> segment;
    std::vector<bool> known;  // by rank
  };
  bool tell_forgotten(uint64_t id, Export& entry, Rank peer, int socket, Rank self);

  uint32_t ranks_;
  uint64_t generation_ = 0;
  std::vector<std::shared_ptr<const Segment>> recent_;
  uint64_t swept_ = 0;
  std::unordered_map<uint64_t, Export> exports_;
};

// The segments of one peer, mapped here.
class Imports {
 public:
  Imports() = default;
  Imports(Imports&&) = default;
  Imports& operator=(Imports&&) = default;
  ~Imports();

  Status add(uint64_t id, Fd fd, uint64_t bytes);
  // Unmapped at the next sweep(): addresses handed out before stay valid within a call.
  void forget(uint64_t id) { forgotten_.push_back(id); }
  void sweep();
  // Null when the segment is not known; an error when the range lies outside of it.
  Result<std::byte*> find(MemoryRef ref, uint64_t bytes) const;

 private:
  struct Mapping {
    std::byte* base = nullptr;
    uint64_t bytes = 0;
  };
  std::unordered_map<uint64_t, Mapping> mappings_;
  std::vector<uint64_t> forgotten_;
};

template <class F>
void Exports::forget_freed(Rank self, F&& socket_of) {
  SegmentRegistry& registry = SegmentRegistry::instance();
  const uint64_t generation = registry.generation();
  if (generation == swept_ || exports_.empty()) return;
  bool all_told = true;
  for (auto it = exports_.begin(); it != exports_.end();) {
    if (registry.alive(it->first)) {
      ++it;
      continue;
    }
    bool told = true;
    for (Rank peer = 0; peer < ranks_; ++peer) {
      told &= tell_forgotten(it->first, it->second, peer, socket_of(peer), self);
    }
    all_told &= told;
    it = told ? exports_.erase(it) : std::next(it);
  }
  if (all_told) swept_ = generation;
}

}  // namespace tutti::shm
