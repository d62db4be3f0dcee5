// Proxy: what moves messages between kernels on different hosts. It looks at what this rank's
// kernels have written into their mirrors (mirrors.h), sends it to the peers' proxies, and puts
// what these send where the kernels wait for it. It knows nothing of plans: the kernel says how
// long a message is (Inbox::sizes), and never has more under way than slots hold.
//
// Order is the interpreter's: a flag is acquired before what it stands for is read, and released
// after that is in place on the other side. What a lane's worker wrote first arrives first; a token
// or the word that it left, after every message before it.
//
// On the wire, a message of an endpoint is a few Notes (a line of what changed), the last of which
// may be followed by the bytes of one message of the kernels, packets without their flags.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "src/cuda/mirrors.h"
#include "src/executor/router.h"

namespace tutti::cuda {

class Proxy {
 public:
  // What both ends open their endpoints with, and call their messages.
  static constexpr uint32_t k_lane = 0;
  static constexpr uint64_t k_signature = 0x7072787900000001;
  static EndpointOptions endpoint_options(const WindowShape& shape);

  // `router`: of nothing else, and used by the thread that calls turn(). Both outlive the proxy.
  Proxy(Router& router, Mirrors& mirrors);

  // Begins to connect to all peers with mirrors. Errors: the transport's.
  Status open();
  // One look at every kernel and peer: takes what has come, sends what it can. True: something
  // moved. A peer that fails is left out from then on.
  bool turn();
  // After a turn that moved nothing: whether something that kernels wrote is still here, because
  // its peer does not take more.
  bool holds_back() const;
  // Why nothing comes from the peer any more, or goes there; ok while it is there. From any thread.
  Status status(Rank peer) const;

 private:
  enum class Kind : uint8_t { ack, token, sender_left, receiver_left, slot, packets };
  struct Note {
    Kind kind = Kind::ack;
    uint8_t lane = 0;
    uint16_t worker = 0;
    uint32_t bytes = 0;  // that follow
    uint64_t value = 0;  // tail, tokens, left; of a message: its tag
  };
  static_assert(sizeof(Note) == 16);
  // What has been passed on between a worker here and its like on the peer.
  struct Flow {
    uint64_t sent = 0, received = 0;  // messages
    uint64_t tokens = 0, acked = 0;
    bool sender_left = false, receiver_left = false;
    uint32_t words = 0;  // of the next message of packets that have been seen
  };
  struct Peer {
    Rank rank = 0;
    Mirror mirror;
    Endpoint* endpoint = nullptr;
    std::vector<Flow> flows;  // by lane and worker
    uint32_t next = 0;        // flow to look at first
    // What is being sent; nothing while there are no notes.
    std::vector<Note> notes;
    const std::byte* payload = nullptr;
    std::vector<uint32_t> packed;     // payload of packets
    std::vector<std::byte> received;  // where the transport has no memory of its own
    bool gone = false;
  };

  bool receive(Peer& peer);
  Status take(Peer& peer, std::span<const std::byte> message);
  Status apply(Peer& peer, const Note& note, const std::byte* payload);
  Status put(Peer& peer, const Note& note, const std::byte* payload);
  bool send(Peer& peer);
  void gather(Peer& peer);
  bool look_at(Peer& peer, uint32_t lane, uint32_t worker);
  std::optional<Note> next_message(Peer& peer, Note note);
  bool pack(Peer& peer, Flow& flow, const uint64_t* packets, uint32_t number, uint32_t bytes);
  void give_up(Peer& peer, Status why);

  Flow& flow(Peer& peer, uint32_t lane, uint32_t worker) const {
    return peer.flows[lane * shape_.workers + worker];
  }
  Inbox& inbox(std::byte* window, const Note& n) const;
  Ack& ack(std::byte* window, const Note& n) const;
  std::byte* slot(std::byte* window, const Note& n, uint64_t number) const;

  Router& router_;
  Mirrors& mirrors_;
  const WindowShape shape_;
  const uint32_t depth_;
  std::vector<Peer> peers_;
  mutable std::mutex mutex_;      // around failures_
  std::vector<Status> failures_;  // by rank
};

}  // namespace tutti::cuda
