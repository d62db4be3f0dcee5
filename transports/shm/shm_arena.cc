// Shared arenas: growth, reservation, and the probe of a peer's arena.
#include "transports/shm/shm_arena.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include "transports/memory.h"

namespace tutti::shm {

using line::Arena;

Result<std::shared_ptr<ShmArena>> ShmArena::make(uint32_t ranks, uint64_t token) {
  auto fd = make_memfd("tutti-arena");
  if (!fd) return fd.status();
  auto arena = std::make_shared<ShmArena>();
  arena->fd_ = std::move(*fd);
  TUTTI_RETURN_IF_ERROR(arena->start(ranks));
  TUTTI_RETURN_IF_ERROR(arena->reserve(0, window_offset(ranks) + k_window_bytes));
  arena->control().token = token;
  return arena;
}

ShmArena::~ShmArena() {
  for (uint32_t k = 0; k < line::k_extents; ++k) {
    if (extent(k) != nullptr) ::munmap(extent(k), extent_bytes(k));
  }
}

Status ShmArena::reserve(uint64_t offset, size_t bytes) {
  return reserve_memfd(fd_.get(), offset, bytes);
}

Result<std::byte*> ShmArena::make_extent(uint32_t k) {
  TUTTI_RETURN_IF_ERROR(grow_memfd(fd_.get(), extent_begin(k) + extent_bytes(k)));
  return map_memfd(fd_.get(), extent_begin(k), extent_bytes(k), true);
}

Result<std::unique_ptr<PeerArena>> PeerArena::probe(Fd fd, uint64_t token) {
  struct stat about {};
  if (!fd || ::fstat(fd.get(), &about) != 0 ||
      about.st_size < static_cast<off_t>(extent_bytes(0))) {
    return Status(Code::remote_error, "its arena did not come through the socket");
  }
  auto arena = std::make_unique<PeerArena>();
  auto bell = map_memfd(fd.get(), 0, line::k_page, true);
  if (!bell) return bell.status();
  arena->set_bell(*bell);
  arena->fd_ = std::move(fd);
  if (arena->at(0) == nullptr) {
    return Status(Code::system_error, "its arena cannot be mapped");
  }
  if (arena->control().token != token) {
    return Status(Code::remote_error, "a mapping of its arena does not show what it wrote there");
  }
  return arena;
}

PeerArena::~PeerArena() {
  for (uint32_t k = 0; k < line::k_extents; ++k) {
    if (extent(k) != nullptr) ::munmap(extent(k), extent_bytes(k));
  }
  ::munmap(&bell(), line::k_page);
}

std::byte* PeerArena::map_missing(uint32_t k) {
  if (k >= line::k_extents) return nullptr;
  struct stat about {};
  // Beyond the end of the file a mapping would answer with SIGBUS.
  if (::fstat(fd_.get(), &about) != 0 ||
      about.st_size < static_cast<off_t>(extent_begin(k) + extent_bytes(k))) {
    return nullptr;
  }
  auto memory = map_memfd(fd_.get(), extent_begin(k), extent_bytes(k), false);
  if (!memory) return nullptr;
  set_extent(k, *memory);
  return *memory - extent_begin(k);
}

}  // namespace tutti::shm
