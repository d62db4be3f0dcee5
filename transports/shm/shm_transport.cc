// shm: arenas are memfds; sockets pass descriptors and tell deaths; private memory is reached by
// process_vm_readv/writev where every rank of the host can.
#include "transports/shm/shm_transport.h"

#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <thread>
#include <vector>

#include "src/base/auth.h"
#include "src/base/socket.h"
#include "transports/line/line_transport.h"
#include "transports/shm/rendezvous.h"
#include "transports/shm/segments.h"

namespace tutti {
namespace {

using line::Arena;
using line::Life;
using line::LineEndpoint;
using line::LineTransport;
using namespace shm;  // NOLINT: this file is the room's front

// How often the sockets are looked at while the transport is busy.
constexpr std::chrono::milliseconds k_look_every{2};
constexpr uint32_t k_clock_mask = 63;  // progress() calls per look at the clock
constexpr std::chrono::seconds k_longest_offer{1};

class ShmTransport final : public LineTransport {
 public:
  ShmTransport(const TransportOptions& options, const Card& card, Fd listener,
               std::shared_ptr<ShmArena> arena, std::unique_ptr<ProbeMemory> probe)
      : LineTransport(options),
        card_(card),
        listener_(std::move(listener)),
        shm_arena_(arena.get()),
        probe_(std::move(probe)),
        exports_(options.ranks) {
    arena_ = std::move(arena);
  }
  ~ShmTransport() override { say_goodbye(Life::dropped); }

  std::string_view name() const override { return "shm"; }
  Capabilities capabilities() const override {
    Capabilities c;
    c.map_segments = c.window = true;
    c.remote_memory = c.pull = remote_memory_;
    c.inline_bytes = line::k_inline_bytes;
    return c;
  }
  std::string card() const override { return encode(card_); }
  Status connect(std::span<const std::string> cards, Deadline deadline) override;
  bool reaches(Rank peer) const override { return peer < peers_.size() && peers_[peer].reached; }
  std::string why_not(Rank peer) const override {
    return peer < peers_.size() ? peers_[peer].why_not : std::string();
  }
  Arena* arena_of(Rank peer) const override {
    return peer == rank() ? arena_.get() : static_cast<Arena*>(peers_[peer].arena.get());
  }

  Status progress() override;
  void wait(Clock::duration timeout) override;
  void announce(const CallRecord& record) override;

  Io export_ref(LineEndpoint& endpoint, const void* memory, size_t bytes, MemoryRef* ref) override;
  Result<const std::byte*> import_ref(Rank peer, MemoryRef ref, uint64_t bytes) override;
  Result<MemoryRef> describe(const void* memory, size_t bytes) override;
  Result<void*> map(Rank peer, MemoryRef ref, size_t bytes) override;
  Status remote_read(Rank peer, uint64_t address, std::span<std::byte> dst) override;
  Status remote_write(Rank peer, uint64_t address, std::span<const std::byte> src) override;

 private:
  Status agree_on_remote_memory(Deadline deadline);
  Status watch_peers();
  void watch_exit(Rank peer);
  std::string name_of(Rank peer) const override { return describe_rank(peer, cards_[peer]); }
  void look_around() override;
  void look_around_now_and_then();
  void read_socket(Rank peer);
  void on_end(Rank peer, const char* what);
  Status remote_failure(const char* what, Rank peer, uint64_t address, size_t bytes, int error);
  Status check_remote(Rank peer) const;
  int socket_of(Rank peer) const { return reaches(peer) ? peers_[peer].socket.get() : -1; }

  Card card_;
  Fd listener_;
  ShmArena* shm_arena_;
  std::unique_ptr<ProbeMemory> probe_;
  std::vector<std::optional<Card>> cards_;
  std::vector<PeerLink> peers_;
  std::vector<Imports> imports_;
  std::vector<Fd> exits_;  // pidfds
  Exports exports_;
  Fd epoll_;
  bool remote_memory_ = false;
  uint32_t calls_ = 0;
  Clock::time_point looked_{};
};

// --- connecting

Status ShmTransport::connect(std::span<const std::string> cards, Deadline deadline) {
  TUTTI_RETURN_IF_ERROR(check_usable("connect()"));
  if (connected_ || cards.size() != options_.ranks || options_.rank >= options_.ranks) {
    return Status(Code::invalid_argument, "shm: connect() as rank " + std::to_string(rank()) +
                                              " with " + std::to_string(cards.size()) +
                                              " cards for " + std::to_string(options_.ranks) +
                                              " ranks");
  }
  for (const std::string& card : cards) cards_.push_back(decode(card));
  cards_[rank()] = card_;
  deadline = std::min(deadline, Clock::now() + options_.connect_timeout);
  Rendezvous rendezvous(options_, cards_, *shm_arena_, shm_arena_->control().token, *probe_,
                        std::move(listener_));
  auto peers = rendezvous.run(deadline);
  if (!peers) return peers.status();
  peers_ = std::move(*peers);
  imports_.resize(peers_.size());
  TUTTI_RETURN_IF_ERROR(watch_peers());
  TUTTI_RETURN_IF_ERROR(agree_on_remote_memory(deadline));
  connected_ = true;
  arena_->control().life.store(Life::open, std::memory_order_release);
  return {};
}

// process_vm is used by all ranks of the host or by none, so that all bind the same protocols.
Status ShmTransport::agree_on_remote_memory(Deadline deadline) {
  bool mine = options_.process_vm;
  for (const PeerLink& peer : peers_) mine &= !peer.reached || peer.process_vm;
  arena_->control().vm_verdict.store(mine ? 1 : 2, std::memory_order_release);
  remote_memory_ = mine;
  for (Rank peer = 0; peer < peers_.size(); ++peer) {
    if (!reaches(peer)) continue;
    std::atomic<uint32_t>& theirs = arena_of(peer)->control().vm_verdict;
    for (int spins = 0; theirs.load(std::memory_order_acquire) == 0; ++spins) {
      if (spins < 100) {
        std::this_thread::yield();
        continue;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      look_around();
      TUTTI_RETURN_IF_ERROR(LineTransport::progress());
      if (options_.interrupted) TUTTI_RETURN_IF_ERROR(options_.interrupted());
      if (Clock::now() > deadline) {
        return Status(Code::timeout, "shm: " + name_of(peer) + " did not finish connecting");
      }
    }
    remote_memory_ &= theirs.load(std::memory_order_acquire) == 1;
  }
  return {};
}

Status ShmTransport::watch_peers() {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  exits_.resize(peers_.size());
  for (Rank peer = 0; peer < peers_.size(); ++peer) {
    if (!reaches(peer)) continue;
    epoll_event event{EPOLLIN | EPOLLRDHUP, {.u64 = peer}};
    if (!epoll_ || ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket_of(peer), &event) != 0) {
      return Status(Code::system_error, "shm: cannot watch sockets: " + errno_text(errno));
    }
    watch_exit(peer);
  }
  return {};
}

// The socket stays open while a child that the peer forked holds a copy; the pidfd does not care.
void ShmTransport::watch_exit(Rank peer) {
  if (peers_[peer].pid <= 0 || peers_[peer].pid == ::getpid()) return;
  exits_[peer].reset(static_cast<int>(::syscall(SYS_pidfd_open, peers_[peer].pid, 0)));
  if (!exits_[peer]) return;  // an old kernel, or seccomp: the socket alone must do
  epoll_event event{EPOLLIN, {.u64 = peer}};
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, exits_[peer].get(), &event);
}

// --- watching

Status ShmTransport::progress() {
  if ((++calls_ & k_clock_mask) == 0) look_around_now_and_then();
  return LineTransport::progress();
}

void ShmTransport::wait(Clock::duration timeout) {
  LineTransport::wait(timeout);
  look_around_now_and_then();
}

void ShmTransport::look_around_now_and_then() {
  if (!connected_ || closed_) return;
  const auto now = Clock::now();
  if (now - looked_ < k_look_every) return;
  looked_ = now;
  look_around();
}

void ShmTransport::look_around() {
  std::array<epoll_event, 32> events;
  const int ready = ::epoll_wait(epoll_.get(), events.data(), events.size(), 0);
  for (int i = 0; i < ready; ++i) {
    const Rank peer = static_cast<Rank>(events[i].data.u64);
    if (peers_[peer].socket) read_socket(peer);
    if (exits_[peer] && peers_[peer].socket) {
      pollfd entry{exits_[peer].get(), POLLIN, 0};
      if (::poll(&entry, 1, 0) == 1) on_end(peer, "died");
    }
  }
}

void ShmTransport::read_socket(Rank peer) {
  while (peers_[peer].socket) {
    Frame frame;
    Fd descriptor;
    switch (receive_frame(peers_[peer].socket.get(), &frame, &descriptor)) {
      case Io::again:
        return;
      case Io::failed:
        return on_end(peer, "died");
      case Io::done:
        break;
    }
    if (frame.kind == FrameKind::forget) {
      imports_[peer].forget(frame.segment);
    } else if (frame.kind != FrameKind::segment) {
      return on_end(peer, "spoke out of turn on its socket");
    } else if (Status s = imports_[peer].add(frame.segment, std::move(descriptor), frame.bytes);
               !s.ok()) {
      lose(peer, s.with_context(name_of(peer)), true);
    }
  }
}

void ShmTransport::on_end(Rank peer, const char* what) {
  peers_[peer].socket.reset();  // leaves the epoll set with it
  exits_[peer].reset();
  if (arena_of(peer)->control().life.load(std::memory_order_acquire) == Life::closed) {
    lose(peer, Status(Code::remote_error, name_of(peer) + " closed the connection"), false);
  } else {
    lose(peer, Status(Code::remote_error, name_of(peer) + " " + what), true);
  }
}

// --- memory

void ShmTransport::announce(const CallRecord& record) {
  LineTransport::announce(record);
  // A call begins or ends: no plan holds an address of a segment that was freed before.
  if (!connected_ || closed_) return;
  for (Imports& imports : imports_) imports.sweep();
  exports_.forget_freed(rank(), [&](Rank peer) { return socket_of(peer); });
}

Io ShmTransport::export_ref(LineEndpoint& endpoint, const void* memory, size_t bytes,
                            MemoryRef* ref) {
  const Rank peer = endpoint.peer();
  if (const Segment* segment = exports_.find(memory, bytes)) {
    *ref = {segment->id,
            static_cast<uint64_t>(static_cast<const std::byte*>(memory) - segment->base)};
    return socket_of(peer) < 0 ? Io::failed
                               : exports_.offer(*segment, peer, socket_of(peer), rank());
  }
  *ref = {0, reinterpret_cast<uint64_t>(memory)};
  if (remote_memory_) return Io::done;
  endpoint.break_with(
      Status(Code::invalid_usage, "send_ref of private memory to " + name_of(peer) +
                                      ", but process_vm_readv does not work between these ranks"));
  return Io::failed;
}

Result<const std::byte*> ShmTransport::import_ref(Rank peer, MemoryRef ref, uint64_t bytes) {
  if (ref.segment == 0) return static_cast<const std::byte*>(nullptr);
  auto mapped = map(peer, ref, bytes);
  if (!mapped) return mapped.status();
  return static_cast<const std::byte*>(*mapped);
}

Result<MemoryRef> ShmTransport::describe(const void* memory, size_t bytes) {
  TUTTI_RETURN_IF_ERROR(check_usable("describe()"));
  const Segment* segment = exports_.find(memory, bytes);
  if (segment == nullptr) return MemoryRef{0, reinterpret_cast<uint64_t>(memory)};
  for (Rank peer = 0; peer < peers_.size(); ++peer) {
    if (socket_of(peer) < 0) continue;
    // A full socket holds hundreds of descriptors; it drains while the peer makes any progress.
    const Deadline deadline = Clock::now() + k_longest_offer;
    while (exports_.offer(*segment, peer, socket_of(peer), rank()) == Io::again) {
      look_around();
      if (Clock::now() > deadline) {
        return Status(Code::timeout, "shm: " + name_of(peer) + " does not take the descriptor of " +
                                         std::to_string(segment->bytes) + " bytes of mem_alloc");
      }
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }
  return MemoryRef{segment->id,
                   static_cast<uint64_t>(static_cast<const std::byte*>(memory) - segment->base)};
}

Result<void*> ShmTransport::map(Rank peer, MemoryRef ref, size_t bytes) {
  if (ref.segment == 0) return static_cast<void*>(nullptr);
  if (!reaches(peer)) return check_remote(peer);
  auto found = imports_[peer].find(ref, bytes);
  if (found.ok() && *found == nullptr) {
    read_socket(peer);  // it was sent before it was named
    found = imports_[peer].find(ref, bytes);
  }
  if (!found) return found.status().with_context(name_of(peer));
  if (*found != nullptr) return static_cast<void*>(*found);
  return Status(Code::remote_error, name_of(peer) + " named segment " +
                                        std::to_string(ref.segment) +
                                        ", which it freed or never passed on");
}

Status ShmTransport::check_remote(Rank peer) const {
  if (!reaches(peer)) {
    return Status(Code::invalid_argument, "shm: rank " + std::to_string(rank()) +
                                              " does not reach rank " + std::to_string(peer));
  }
  if (!remote_memory_) {
    return Status(Code::unsupported, "shm: process_vm_readv does not work between these ranks");
  }
  return {};
}

Status ShmTransport::remote_failure(const char* what, Rank peer, uint64_t address, size_t bytes,
                                    int error) {
  return Status(Code::remote_error, std::string(what) + " " + std::to_string(bytes) + " bytes at " +
                                        std::to_string(address) + " of " + name_of(peer) + ": " +
                                        errno_text(error));
}

Status ShmTransport::remote_read(Rank peer, uint64_t address, std::span<std::byte> dst) {
  TUTTI_RETURN_IF_ERROR(check_remote(peer));
  const int error = read_process(peers_[peer].pid, address, dst);
  return error == 0 ? Status() : remote_failure("reading", peer, address, dst.size(), error);
}

Status ShmTransport::remote_write(Rank peer, uint64_t address, std::span<const std::byte> src) {
  TUTTI_RETURN_IF_ERROR(check_remote(peer));
  const int error = write_process(peers_[peer].pid, address, src);
  return error == 0 ? Status() : remote_failure("writing", peer, address, src.size(), error);
}

}  // namespace

Result<std::unique_ptr<Transport>> make_shm_transport(const TransportOptions& options) {
  if (options.key.size() != sizeof(Key)) {
    return Status(Code::invalid_argument, "shm: the key has " + std::to_string(options.key.size()) +
                                              " bytes instead of " + std::to_string(sizeof(Key)));
  }
  auto card = make_card(options.host_id);
  if (!card) return card.status();
  auto listener = listen_abstract(card->socket.data());
  if (!listener) return listener.status();
  uint64_t token = 0;
  fill_random(std::as_writable_bytes(std::span(&token, 1)));
  auto arena = ShmArena::make(options.ranks, token);
  if (!arena) return arena.status().with_context("shm: rank " + std::to_string(options.rank));
  auto probe = std::make_unique<ProbeMemory>();
  fill_random(std::as_writable_bytes(std::span(&probe->value, 1)));
  if (options.process_vm) consent_to_access();
  return std::unique_ptr<Transport>(std::make_unique<ShmTransport>(
      options, *card, std::move(*listener), std::move(*arena), std::move(probe)));
}

}  // namespace tutti
