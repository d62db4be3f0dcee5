// Rendezvous: one state machine per pair, all driven by one poll loop.
#include "transports/shm/rendezvous.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "src/base/socket.h"

namespace tutti::shm {
namespace {

// A connection that has not proven the key within this time is a stranger.
constexpr std::chrono::seconds k_proof_time{10};
constexpr size_t k_most_strangers = 64;
// How long a wait is deaf to TransportOptions::interrupted.
constexpr std::chrono::milliseconds k_longest_poll{20};

std::string text_of(const std::array<char, 72>& reason) {
  return {reason.data(), ::strnlen(reason.data(), reason.size())};
}

}  // namespace

std::string describe_rank(Rank rank, const std::optional<Card>& card) {
  std::string text = "rank " + std::to_string(rank);
  if (card) {
    text +=
        " (host " + std::string(card->hostname.data()) + ", pid " + std::to_string(card->pid) + ")";
  }
  return text;
}

Rendezvous::Rendezvous(const TransportOptions& options, std::span<const std::optional<Card>> cards,
                       ShmArena& arena, uint64_t token, const ProbeMemory& probe, Fd listener)
    : options_(options),
      cards_(cards),
      arena_(arena),
      token_(token),
      probe_(probe),
      listener_(std::move(listener)),
      peers_(cards.size()),
      open_(cards.size(), false) {
  std::copy_n(options.key.begin(), std::min(options.key.size(), key_.size()), key_.begin());
}

std::string Rendezvous::name_of(Rank peer) const { return describe_rank(peer, cards_[peer]); }

bool Rendezvous::settled() const {
  return std::none_of(open_.begin(), open_.end(), [](bool open) { return open; });
}

void Rendezvous::plan_connections() {
  for (Rank peer = 0; peer < cards_.size(); ++peer) {
    if (peer == options_.rank) continue;
    std::string& why_not = peers_[peer].why_not;
    why_not = cards_[peer] ? difference(*cards_[options_.rank], *cards_[peer])
                           : "it does not offer this version of shm";
    if (!why_not.empty()) continue;
    open_[peer] = true;
    if (peer > options_.rank) continue;  // it will come
    auto pending = std::make_unique<Pending>();
    pending->peer = peer;
    pending_.push_back(std::move(pending));
  }
}

Result<std::vector<PeerLink>> Rendezvous::run(Deadline deadline) {
  deadline_ = deadline;
  plan_connections();
  while (!settled()) {
    TUTTI_RETURN_IF_ERROR(accept_all());
    for (auto& pending : pending_) TUTTI_RETURN_IF_ERROR(advance(*pending));
    std::erase_if(pending_, [](const auto& pending) { return pending->stage == Stage::over; });
    if (settled()) break;
    if (Clock::now() >= deadline) break;
    if (options_.interrupted) TUTTI_RETURN_IF_ERROR(options_.interrupted());
    poll_sockets(std::min(deadline, Clock::now() + k_longest_poll));
  }
  for (Rank peer = 0; peer < peers_.size(); ++peer) {
    if (!open_[peer]) continue;
    peers_[peer].why_not = "it did not connect in time";
    if (!last_stranger_.empty()) peers_[peer].why_not += "; refused: " + last_stranger_;
  }
  return std::move(peers_);
}

Status Rendezvous::accept_all() {
  const size_t strangers = std::count_if(pending_.begin(), pending_.end(),
                                         [](const auto& p) { return !p->peer.has_value(); });
  for (size_t n = strangers; n < peers_.size() + k_most_strangers; ++n) {
    Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket) {
      if (errno != EMFILE && errno != ENFILE) return {};
      return Status(Code::system_error,
                    "shm: too many open files to accept rank connections; "
                    "raise ulimit -n");
    }
    auto pending = std::make_unique<Pending>();
    pending->stage = Stage::prove;
    const std::string who = "a process (pid " + std::to_string(peer_pid(socket.get())) + ", uid " +
                            std::to_string(peer_uid(socket.get())) + ")";
    pending->handshake.emplace(Role::server, key_, Hello{Purpose::shm, options_.rank, 0, {}}, who,
                               std::min(deadline_, Clock::now() + k_proof_time));
    pending->socket = std::move(socket);
    pending_.push_back(std::move(pending));
  }
  return {};
}

Status Rendezvous::advance(Pending& pending) {
  while (true) {
    const Stage before = pending.stage;
    switch (before) {
      case Stage::connect:
        TUTTI_RETURN_IF_ERROR(advance_connect(pending));
        break;
      case Stage::prove:
        TUTTI_RETURN_IF_ERROR(advance_handshake(pending));
        break;
      case Stage::offer: {
        Frame frame{FrameKind::arena, options_.rank, token_};
        frame.probe_address = reinterpret_cast<uint64_t>(&probe_);
        frame.probe_value = probe_.value;
        const Io io = send_frame(pending.socket.get(), frame, arena_.fd());
        if (io == Io::failed) fall_back(pending, "its connection broke");
        if (io == Io::done) pending.stage = Stage::await_arena;
        break;
      }
      case Stage::await_arena:
      case Stage::await_verdict: {
        Frame frame;
        Fd descriptor;
        const Io io = receive_frame(pending.socket.get(), &frame, &descriptor);
        const FrameKind expected =
            before == Stage::await_arena ? FrameKind::arena : FrameKind::verdict;
        if (io == Io::again) return {};
        if (io == Io::failed || frame.kind != expected || frame.rank != *pending.peer) {
          fall_back(pending, "its connection broke");
        } else if (before == Stage::await_arena) {
          on_arena(pending, frame, std::move(descriptor));
        } else {
          on_verdict(pending, frame);
        }
        break;
      }
      case Stage::over:
        return {};
    }
    if (pending.stage == before) return {};
  }
}

Status Rendezvous::advance_connect(Pending& pending) {
  const Rank peer = *pending.peer;
  int error = 0;
  switch (connect_abstract(cards_[peer]->socket.data(), &pending.socket, &error)) {
    case Io::again:
      return {};
    case Io::failed:
      fall_back(pending, "connecting to it failed: " + errno_text(error));
      return {};
    case Io::done:
      break;
  }
  pending.handshake.emplace(Role::client, key_, Hello{Purpose::shm, options_.rank, 0, {}},
                            name_of(peer), deadline_);
  pending.stage = Stage::prove;
  return {};
}

Status Rendezvous::advance_handshake(Pending& pending) {
  const AuthState state = pending.handshake->advance(pending.socket.get());
  if (state == AuthState::working) return {};
  if (state == AuthState::done) return on_proven(pending);
  const Status& why = pending.handshake->status();
  if (!pending.peer) {  // not a rank as far as anybody can tell
    last_stranger_ = why.message();
    pending.stage = Stage::over;
    return {};
  }
  if (why.message().find("secret") != std::string::npos) {
    return Status(Code::remote_error, "shm: " + name_of(*pending.peer) +
                                          " does not hold the key of communicator \"" +
                                          options_.job + "\": " + why.message());
  }
  fall_back(pending, why.message());
  return {};
}

Status Rendezvous::on_proven(Pending& pending) {
  const Rank said = pending.handshake->peer_hello().rank;
  const bool fits = pending.peer ? said == *pending.peer
                                 : said < peers_.size() && said > options_.rank && open_[said];
  if (!fits) {
    return Status(Code::remote_error, "shm: a process that holds the key calls itself rank " +
                                          std::to_string(said) + ", which rank " +
                                          std::to_string(options_.rank) + " did not expect");
  }
  pending.peer = said;
  pending.stage = Stage::offer;
  return {};
}

// The probe: can this rank use what the peer gave it?
void Rendezvous::on_arena(Pending& pending, const Frame& frame, Fd descriptor) {
  Frame& verdict = pending.verdict;
  verdict.kind = FrameKind::verdict;
  verdict.rank = options_.rank;
  auto arena = PeerArena::probe(std::move(descriptor), frame.token);
  if (arena) {
    verdict.mapped = 1;
    pending.arena = std::move(*arena);
    const int pid = peer_pid(pending.socket.get());
    verdict.process_vm = options_.process_vm && pid > 0 &&
                         probe_process(pid, frame.probe_address, frame.probe_value) == 0;
  } else {
    const std::string reason = arena.status().message();
    std::copy_n(reason.begin(), std::min(reason.size(), verdict.reason.size() - 1),
                verdict.reason.begin());
  }
  if (send_frame(pending.socket.get(), verdict) == Io::done) {
    pending.stage = Stage::await_verdict;
  } else {
    fall_back(pending, "its connection broke");
  }
}

void Rendezvous::on_verdict(Pending& pending, const Frame& theirs) {
  const Frame& mine = pending.verdict;
  if (mine.mapped == 0 || theirs.mapped == 0) {
    return fall_back(pending, mine.mapped == 0
                                  ? text_of(mine.reason)
                                  : "it cannot map this rank's arena: " + text_of(theirs.reason));
  }
  PeerLink& link = peers_[*pending.peer];
  link.reached = true;
  link.process_vm = mine.process_vm != 0 && theirs.process_vm != 0;
  link.pid = peer_pid(pending.socket.get());
  link.socket = std::move(pending.socket);
  link.arena = std::move(pending.arena);
  open_[*pending.peer] = false;
  pending.stage = Stage::over;
}

void Rendezvous::fall_back(Pending& pending, const std::string& reason) {
  peers_[*pending.peer].why_not = reason;
  open_[*pending.peer] = false;
  pending.stage = Stage::over;
  pending.socket.reset();
}

void Rendezvous::poll_sockets(Deadline deadline) {
  std::vector<pollfd> entries{{listener_.get(), POLLIN, 0}};
  for (const auto& pending : pending_) {
    switch (pending->stage) {
      case Stage::connect:
        // The peer's queue is full: try again soon.
        deadline = std::min(deadline, Clock::now() + std::chrono::milliseconds(2));
        break;
      case Stage::prove:
        deadline = std::min(deadline, pending->handshake->deadline());
        entries.push_back({pending->socket.get(), pending->handshake->events(), 0});
        break;
      default:
        entries.push_back({pending->socket.get(),
                           static_cast<short>(pending->stage == Stage::offer ? POLLOUT : POLLIN),
                           0});
        break;
    }
  }
  poll_until(entries.data(), entries.size(), deadline);
}

}  // namespace tutti::shm
