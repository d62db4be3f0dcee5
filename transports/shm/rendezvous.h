// Rendezvous: how the ranks of a host get hold of each other's arenas.
//
// Of two ranks the higher connects to the lower one's abstract socket; both prove the key
// (src/base/auth.h), pass the descriptor of their arena, try to map and to read each other, and
// tell each other the verdict. Only if both could is the pair reached: both ends fall back
// together, each with a reason. Strangers on the socket are dropped and do not disturb.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/base/auth.h"
#include "transports/shm/host.h"
#include "transports/shm/link.h"
#include "transports/shm/process_vm.h"
#include "transports/shm/shm_arena.h"
#include "transports/transport.h"

namespace tutti::shm {

// A rank of the job, as this one came to know it.
struct PeerLink {
  bool reached = false;
  bool process_vm = false;  // both ways
  int pid = 0;              // in this process's pid namespace
  Fd socket;
  std::unique_ptr<PeerArena> arena;
  std::string why_not;  // unless reached
};

class Rendezvous {
 public:
  Rendezvous(const TransportOptions& options, std::span<const std::optional<Card>> cards,
             ShmArena& arena, uint64_t token, const ProbeMemory& probe, Fd listener);
  // Settles every peer of this host, or falls back for those that have not come by the deadline.
  // Errors: remote_error when a peer does not hold the key.
  Result<std::vector<PeerLink>> run(Deadline deadline);

 private:
  enum class Stage : uint8_t { connect, prove, offer, await_arena, await_verdict, over };
  struct Pending {
    Stage stage = Stage::connect;
    std::optional<Rank> peer;  // unknown for a connection that was accepted until it has proven
    Fd socket;
    std::optional<Handshake> handshake;
    std::unique_ptr<PeerArena> arena;
    Frame verdict;
  };

  void plan_connections();
  Status accept_all();
  Status advance(Pending& pending);
  Status advance_connect(Pending& pending);
  Status advance_handshake(Pending& pending);
  Status on_proven(Pending& pending);
  void on_arena(Pending& pending, const Frame& frame, Fd descriptor);
  void on_verdict(Pending& pending, const Frame& frame);
  void fall_back(Pending& pending, const std::string& reason);
  void poll_sockets(Deadline deadline);
  bool settled() const;
  std::string name_of(Rank peer) const;

  const TransportOptions& options_;
  std::span<const std::optional<Card>> cards_;
  ShmArena& arena_;
  uint64_t token_;
  const ProbeMemory& probe_;
  Key key_{};
  Fd listener_;
  Deadline deadline_{};
  std::vector<PeerLink> peers_;
  std::vector<bool> open_;  // ranks that are not settled yet
  std::vector<std::unique_ptr<Pending>> pending_;
  std::string last_stranger_;
};

// "rank 3 (host b, pid 412)"
std::string describe_rank(Rank rank, const std::optional<Card>& card);

}  // namespace tutti::shm
