// local: arenas are anonymous memory, found through the process registry; all memory of a peer is
// addressable, so map() is the identity and send_ref hands over the pointer itself.
#include "transports/local/local_transport.h"

#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "src/base/auth.h"
#include "src/base/socket.h"
#include "transports/line/line_transport.h"
#include "transports/local/process_table.h"

namespace tutti {
namespace {

using line::Arena;
using line::Life;
using line::LineEndpoint;
using line::LineTransport;
using line::OwnedArena;

// Address space without backing: a page costs memory when it is first touched, so 2048 ranks that
// mostly wait stay small. Transparent huge pages would undo that.
class LocalArena final : public OwnedArena {
 public:
  static Result<std::shared_ptr<LocalArena>> make(uint32_t ranks) {
    auto arena = std::make_shared<LocalArena>();
    if (Status s = arena->start(ranks); !s.ok()) return s;
    return arena;
  }
  ~LocalArena() override {
    for (uint32_t k = 0; k < line::k_extents; ++k) {
      if (extent(k) != nullptr) ::munmap(extent(k), extent_bytes(k));
    }
  }
  Status reserve(uint64_t, size_t) override { return {}; }

 private:
  Result<std::byte*> make_extent(uint32_t k) override {
    void* memory = ::mmap(nullptr, extent_bytes(k), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      return Status(Code::system_error, "no address space for an arena's next " +
                                            std::to_string(extent_bytes(k)) +
                                            " bytes: " + errno_text(errno));
    }
    ::madvise(memory, extent_bytes(k), MADV_NOHUGEPAGE);
    return static_cast<std::byte*>(memory);
  }
};

class LocalTransport final : public LineTransport {
 public:
  LocalTransport(const TransportOptions& options, std::shared_ptr<LocalArena> arena)
      : LineTransport(options), ticket_(ProcessTable::instance().enter(arena)) {
    arena_ = std::move(arena);
    fences_ = ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
  }
  ~LocalTransport() override {
    say_goodbye(Life::dropped);
    if (!in_forked_child()) ProcessTable::instance().leave(ticket_);
  }

  std::string_view name() const override { return "local"; }
  Capabilities capabilities() const override {
    Capabilities c;
    c.map_segments = c.map_private = c.remote_memory = c.pull = c.window = true;
    c.inline_bytes = line::k_inline_bytes;
    return c;
  }
  std::string card() const override { return ticket_.card(); }
  Status connect(std::span<const std::string> cards, Deadline deadline) override;
  bool reaches(Rank peer) const override {
    return peer != rank() && group_ != nullptr && peer < group_->members.size() &&
           group_->members[peer] != nullptr;
  }
  Arena* arena_of(Rank peer) const override {
    return peer == rank() ? arena_.get() : group_->members[peer].get();
  }

  // All peers are threads of this process: the kernel fences those that run.
  bool fence_peers() override {
    return fences_ && ::syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0;
  }
  Io export_ref(LineEndpoint&, const void* memory, size_t, MemoryRef* ref) override {
    *ref = {0, reinterpret_cast<uint64_t>(memory)};
    return Io::done;
  }
  Result<const std::byte*> import_ref(Rank, MemoryRef ref, uint64_t) override {
    return reinterpret_cast<const std::byte*>(ref.offset);
  }
  Result<MemoryRef> describe(const void* memory, size_t) override {
    return MemoryRef{0, reinterpret_cast<uint64_t>(memory)};
  }
  Result<void*> map(Rank peer, MemoryRef ref, size_t) override;
  Status remote_read(Rank peer, uint64_t address, std::span<std::byte> dst) override;
  Status remote_write(Rank peer, uint64_t address, std::span<const std::byte> src) override;

 private:
  std::string name_of(Rank peer) const override {
    return "rank " + std::to_string(peer) + " (a thread of pid " + std::to_string(::getpid()) + ")";
  }
  void look_around() override;
  Status check_peer(Rank peer) const;

  bool fences_ = false;
  ProcessTable::Ticket ticket_;
  std::shared_ptr<const ProcessTable::Group> group_;
};

Status LocalTransport::connect(std::span<const std::string> cards, Deadline) {
  TUTTI_RETURN_IF_ERROR(check_usable("connect()"));
  if (cards.size() != options_.ranks) {
    return Status(Code::invalid_argument, "connect() with " + std::to_string(cards.size()) +
                                              " cards for " + std::to_string(options_.ranks) +
                                              " ranks");
  }
  auto group = ProcessTable::instance().group(cards);
  if (!group) return group.status();
  group_ = std::move(*group);
  connected_ = true;
  arena_->control().life.store(Life::open, std::memory_order_release);
  return {};
}

void LocalTransport::look_around() {
  for (Rank peer = 0; peer < options_.ranks; ++peer) {
    if (reaches(peer) &&
        arena_of(peer)->control().life.load(std::memory_order_acquire) == Life::dropped) {
      lose(peer, Status(Code::remote_error, name_of(peer) + " left without saying goodbye"), true);
    }
  }
}

Status LocalTransport::check_peer(Rank peer) const {
  if (reaches(peer) || peer == rank()) return {};
  return Status(Code::invalid_argument, "local: rank " + std::to_string(rank()) +
                                            " does not reach rank " + std::to_string(peer));
}

Result<void*> LocalTransport::map(Rank peer, MemoryRef ref, size_t) {
  TUTTI_RETURN_IF_ERROR(check_peer(peer));
  return reinterpret_cast<void*>(ref.offset);
}

Status LocalTransport::remote_read(Rank peer, uint64_t address, std::span<std::byte> dst) {
  TUTTI_RETURN_IF_ERROR(check_peer(peer));
  if (!dst.empty()) std::memcpy(dst.data(), reinterpret_cast<const void*>(address), dst.size());
  return {};
}

Status LocalTransport::remote_write(Rank peer, uint64_t address, std::span<const std::byte> src) {
  TUTTI_RETURN_IF_ERROR(check_peer(peer));
  if (!src.empty()) std::memcpy(reinterpret_cast<void*>(address), src.data(), src.size());
  return {};
}

}  // namespace

Result<std::unique_ptr<Transport>> make_local_transport(const TransportOptions& options) {
  auto arena = LocalArena::make(options.ranks);
  if (!arena) return arena.status();
  return std::unique_ptr<Transport>(std::make_unique<LocalTransport>(options, std::move(*arena)));
}

}  // namespace tutti
