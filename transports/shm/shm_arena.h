// The two views of a shared arena: the owner's (memfd, reserved before use) and a peer's (mapped
// read-only, extent by extent, but for the bell page).
#pragma once

#include <memory>
#include <string>

#include "src/base/fd.h"
#include "transports/line/arena.h"

namespace tutti::shm {

class ShmArena final : public line::OwnedArena {
 public:
  // `token` goes into the control page, for peers to recognise the arena.
  static Result<std::shared_ptr<ShmArena>> make(uint32_t ranks, uint64_t token);
  ~ShmArena() override;
  int fd() const { return fd_.get(); }
  Status reserve(uint64_t offset, size_t bytes) override;

 private:
  Result<std::byte*> make_extent(uint32_t k) override;
  Fd fd_;
};

class PeerArena final : public line::Arena {
 public:
  // Maps the first extent and checks that it is the arena that `token` names.
  // Errors say what failed: this is the mapping probe.
  static Result<std::unique_ptr<PeerArena>> probe(Fd fd, uint64_t token);
  ~PeerArena() override;

 private:
  std::byte* map_missing(uint32_t k) override;
  Fd fd_;
};

}  // namespace tutti::shm
