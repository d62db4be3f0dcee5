// OneSided: writes into windows of other ranks and raises signals there; both ends of it.
//
// A put is a header and its bytes: in one message where they fit a slot; else the bytes follow, by
// reference where the target can read the origin's memory, or in pieces of a slot. The target takes
// what one origin sends in its order, so a signal says that all that was put before it is in place.
// It takes part by calling progress() now and then, from any thread, one at a time.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "src/executor/router.h"

namespace tutti {

// Below those of transfers: in a router that has no other traffic.
inline constexpr uint32_t k_one_sided_lane = 0xfffe;

struct Put {
  Rank peer = 0;        // may be this rank
  uint32_t window = 0;  // its number, the same on all ranks
  uint64_t offset = 0;  // bytes from the beginning of the peer's window
  const std::byte* data = nullptr;
  uint64_t bytes = 0;   // 0: the signal alone
  uint64_t signal = 0;  // which one it raises
};

// How many of which signal of which peer.
using Signals = std::map<std::pair<Rank, uint64_t>, uint64_t>;

class OneSided {
 public:
  explicit OneSided(Router& router) : router_(router), peers_(router.ranks()) {}

  // Connects to all peers; what they send waits until progress().
  Status open();

  // Memory of this rank that peers may write. A number is never used twice. From any thread; after
  // remove_window() nobody writes there any more.
  void add_window(uint32_t number, void* memory, uint64_t bytes);
  void remove_window(uint32_t number);

  // Takes what has arrived. Errors: invalid_usage (for a window that this rank has removed),
  // remote_error (what came makes no sense, or the memory it names cannot be read).
  Status progress(bool* moved);
  // Why nothing comes from the peer any more; ok while it is there.
  const Status& status(Rank peer) const { return peers_[peer].gone; }

  // One put at a time: start(), then advance() until it is done or has failed(). Done: its memory
  // may be reused.
  void start(const Put& put);
  Io advance(bool* moved);
  const Status& failure() const { return failure_; }

  // Takes the signals away when all of them are there.
  bool take(const Signals& wanted);
  uint64_t raised(Rank peer, uint64_t signal) const;

 private:
  struct Header {
    uint64_t signal = 0;
    uint64_t window = 0;
    uint64_t offset = 0;
    uint64_t bytes = 0;
  };
  struct Window {
    std::byte* memory = nullptr;
    uint64_t bytes = 0;
  };
  struct Peer {
    Endpoint* endpoint = nullptr;
    uint64_t sent = 0, received = 0;  // puts that are through
    Header header;                    // of the one that is coming in
    uint64_t left = 0;                // bytes of it that are not in place
    uint64_t within = 0;              // bytes taken of the message at the head
    Status gone;
  };
  enum class Stage : uint8_t { header, pieces, reference, reading, done };
  struct Outgoing {
    Put put;
    Header header;
    Stage stage = Stage::done;
    uint64_t offset = 0;    // bytes handed over
    uint64_t consumed = 0;  // what the endpoint's consumed() must reach
  };

  Status receive(Rank origin, const Message& message);
  Status begin(Rank origin, const Message& message);
  Status fill(Rank origin, const Message& message);
  Result<std::byte*> place(Rank origin, const Header& header) const;
  Status copy_to_self();
  void raise(Rank origin, uint64_t signal) { ++raised_[{origin, signal}]; }
  Io step(Peer& to);
  Io send_header(Peer& to);

  Router& router_;
  std::vector<Peer> peers_;
  std::mutex windows_mutex_;  // around windows_ and every write to one
  std::map<uint32_t, Window> windows_;
  Signals raised_;
  Outgoing out_;
  Status failure_;
};

}  // namespace tutti
