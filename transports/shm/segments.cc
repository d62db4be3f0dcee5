// Segments: exporting by descriptor, importing by mapping.
#include "transports/shm/segments.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <string>

#include "transports/shm/link.h"

namespace tutti::shm {
namespace {

// A call touches a handful of buffers; more than this many recent ones are looked up again.
constexpr size_t k_recent = 16;

}  // namespace

const Segment* Exports::find(const void* memory, size_t bytes) {
  SegmentRegistry& registry = SegmentRegistry::instance();
  const uint64_t generation = registry.generation();
  if (generation != generation_) {
    recent_.clear();
    generation_ = generation;
  }
  const auto* at = static_cast<const std::byte*>(memory);
  for (const auto& segment : recent_) {
    if (at >= segment->base && at < segment->base + segment->bytes &&
        bytes <= static_cast<size_t>(segment->base + segment->bytes - at)) {
      return segment.get();
    }
  }
  auto found = registry.find(memory, bytes);
  if (found == nullptr) return nullptr;
  if (recent_.size() == k_recent) recent_.erase(recent_.begin());
  recent_.push_back(std::move(found));
  return recent_.back().get();
}

Io Exports::offer(const Segment& segment, Rank peer, int socket, Rank self) {
  auto it = exports_.find(segment.id);
  if (it == exports_.end()) {
    auto held = SegmentRegistry::instance().find(segment.base, segment.bytes);
    if (held == nullptr || held->id != segment.id) return Io::failed;  // freed meanwhile
    it = exports_.emplace(segment.id, Export{std::move(held), std::vector<bool>(ranks_)}).first;
  }
  if (it->second.known[peer]) return Io::done;
  Frame frame{FrameKind::segment, self};
  frame.segment = segment.id;
  frame.bytes = segment.bytes;
  const Io io = send_frame(socket, frame, segment.fd.get());
  if (io == Io::done) it->second.known[peer] = true;
  return io;
}

bool Exports::tell_forgotten(uint64_t id, Export& entry, Rank peer, int socket, Rank self) {
  if (!entry.known[peer]) return true;
  Frame frame{FrameKind::forget, self};
  frame.segment = id;
  if (socket >= 0 && send_frame(socket, frame) == Io::again) return false;
  entry.known[peer] = false;
  return true;
}

Imports::~Imports() {
  for (auto& [id, mapping] : mappings_) ::munmap(mapping.base, mapping.bytes);
}

Status Imports::add(uint64_t id, Fd fd, uint64_t bytes) {
  struct stat about {};
  if (!fd || ::fstat(fd.get(), &about) != 0 || static_cast<uint64_t>(about.st_size) < bytes ||
      bytes == 0 || mappings_.count(id) != 0) {
    return Status(Code::remote_error, "segment " + std::to_string(id) + " of " +
                                          std::to_string(bytes) + " bytes came without its memory");
  }
  auto base = map_memfd(fd.get(), 0, bytes, true);
  if (!base) return base.status();
  mappings_.emplace(id, Mapping{*base, bytes});
  return {};
}

void Imports::sweep() {
  for (const uint64_t id : forgotten_) {
    auto it = mappings_.find(id);
    if (it == mappings_.end()) continue;
    ::munmap(it->second.base, it->second.bytes);
    mappings_.erase(it);
  }
  forgotten_.clear();
}

Result<std::byte*> Imports::find(MemoryRef ref, uint64_t bytes) const {
  auto it = mappings_.find(ref.segment);
  if (it == mappings_.end()) return static_cast<std::byte*>(nullptr);
  if (ref.offset > it->second.bytes || bytes > it->second.bytes - ref.offset) {
    return Status(Code::remote_error, "bytes " + std::to_string(ref.offset) + "+" +
                                          std::to_string(bytes) + " lie outside of segment " +
                                          std::to_string(ref.segment) + " of " +
                                          std::to_string(it->second.bytes) + " bytes");
  }
  return it->second.base + ref.offset;
}

}  // namespace tutti::shm
