// Transport: how messages reach other ranks. The contract that every folder beside this file meets.
//
// A transport instance belongs to one rank of one communicator and is used by one thread at a time.
// Nothing here blocks, except where a deadline is a parameter. Back-pressure is a return value
// (Io::again), failure is a Status that names the peer. Capabilities are data and the conformance
// suite (tests/transport) checks them against behaviour.
//
// Life cycle:  make -> card() -> [cards of all ranks are exchanged] -> connect(cards)
//              -> open(peer, lane) ... endpoints carry messages ... -> close()
#pragma once

#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tutti/status.h"
#include "tutti/types.h"

namespace tutti {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

// What a rank is doing, published once per call where peers can read it, so that ranks that
// disagree, or are late, can be named even when no message carries the mismatch.
struct CallRecord {
  uint64_t sequence = 0;   // 1-based number of the call on this communicator; 0: none yet
  uint64_t signature = 0;  // hash of everything below and of the plan id
  uint64_t count = 0;      // elements of a block
  Collective collective = Collective::barrier;
  DType dtype = DType::int8;
  ReduceOp op = ReduceOp::sum;
  uint8_t finished = 0;  // 1: the call has returned; the rank is outside any call
  Rank root = 0;
};

// Why a communicator broke: the first cause, as the rank that saw it wrote it.
struct ErrorRecord {
  Code code = Code::ok;
  Rank reporter = 0;
  Rank culprit = 0;
  std::string message;
};

// Memory of a rank as its peers can name it. segment 0: private memory, `offset` is the virtual
// address in the owner's process. Otherwise: a mem_alloc segment, `offset` is within it.
struct MemoryRef {
  uint64_t segment = 0;
  uint64_t offset = 0;
};

// What a transport can do, the same answer on both ends of every connection it makes.
struct Capabilities {
  // map(): peers' mem_alloc memory can be addressed directly (shm), or all of it (local).
  bool map_segments = false;
  bool map_private = false;
  // remote_read / remote_write on private memory work (process_vm_*; probed at connect).
  bool remote_memory = false;
  // send_ref: the receiver reads the sender's memory (pull) instead of a copy.
  bool pull = false;
  // window(): a shared window per rank exists.
  bool window = false;
  size_t max_message = 0;   // largest payload of send(); 0: no limit
  size_t inline_bytes = 0;  // payloads up to this travel in the line that announces them
};

enum class Io : uint8_t { done, again, failed };

// The message at the head of an endpoint's queue; valid until release().
struct Message {
  uint64_t signature = 0;
  size_t bytes = 0;
  const std::byte* data = nullptr;  // null: not addressable here, use Endpoint::fetch()
};

struct EndpointOptions {
  size_t slot_bytes = 0;  // largest message that send() will carry (both ends pass the same)
  uint32_t credits = 2;   // messages in flight before send() says again (both ends pass the same)
  // Of messages up to k_small_message, where a transport can hold more of them (likewise the same
  // on both ends); not more than `credits`: as many as these.
  uint32_t small_credits = 0;
};
inline constexpr size_t k_small_message = 1024;

// One FIFO in each direction between this rank and `peer`, for one lane.
class Endpoint {
 public:
  virtual ~Endpoint() = default;
  Rank peer() const { return peer_; }
  uint32_t lane() const { return lane_; }

  // --- sending. The memory may be reused as soon as the call says done.
  // Sends one message gathered from `pieces` (total <= slot_bytes; zero is a token). After `again`
  // the caller repeats the same call with the same arguments until it is done.
  virtual Io send(uint64_t signature, std::span<const iovec> pieces) = 0;
  // In-place variant: memory of the next message to be filled by the caller, or null when there is
  // no credit or the transport has no such memory (supports_reserve() tells which).
  virtual std::byte* reserve(size_t bytes) = 0;
  virtual void commit(uint64_t signature, size_t bytes) = 0;
  virtual bool supports_reserve() const = 0;
  // Publish once: sends on this endpoint the message that was last committed on `first` (an
  // endpoint of the same transport) without another copy. `again`: no credit. Only if
  // supports_share().
  virtual Io share(uint64_t signature, Endpoint& first) = 0;
  virtual bool supports_share() const = 0;
  // Zero-copy: the peer reads `memory` itself. The memory must not change until consumed() reaches
  // the value that sent() has after this call. Only if Capabilities::pull.
  virtual Io send_ref(uint64_t signature, const void* memory, size_t bytes) = 0;
  virtual uint64_t sent() const = 0;      // messages handed over so far
  virtual uint64_t consumed() const = 0;  // of those, released by the peer

  // --- receiving
  // The head message, once all of it has arrived. Does not consume it.
  virtual Io peek(Message* message) = 0;
  // The k-th message from the head (k = 0 is peek), for passes with several messages of one peer.
  virtual Io peek_at(uint32_t k, Message* message) = 0;
  // Copies bytes [offset, offset + size) of the head message (k = 0) to dst; for data == null.
  virtual Status fetch(size_t offset, std::span<std::byte> dst) = 0;
  virtual void release() = 0;
  // Receives the head message straight into `pieces` and releases it. `*bytes` is its length and
  // *signature its signature; a message longer than the pieces is left in place and says failed.
  // After `again` the pieces may hold part of the message; repeat with the same pieces.
  virtual Io recv(std::span<const iovec> pieces, uint64_t* signature, size_t* bytes) = 0;

  // Not ok once the connection is broken; names the peer. Undelivered messages are still readable.
  virtual Status status() const = 0;

 protected:
  Endpoint(Rank peer, uint32_t lane) : peer_(peer), lane_(lane) {}

 private:
  Rank peer_;
  uint32_t lane_;
};

// What a transport is made from.
struct TransportOptions {
  Rank rank = 0;
  uint32_t ranks = 1;
  std::string job;                    // name of the communicator, unique per job; for messages
  std::vector<std::byte> key;         // 32-byte secret of the communicator; authenticates peers
  std::string interface;              // tcp: "", or NCCL_SOCKET_IFNAME syntax: eth,ib | ^lo | =eth0
  uint32_t interfaces = 1;            // tcp: so many of these, the best, are used side by side
  std::string family;                 // tcp: "", "AF_INET", "AF_INET6"
  uint32_t connections_per_peer = 1;  // tcp
  bool oversubscribed = false;        // ranks of this host outnumber the CPUs it may use
  bool process_vm = true;             // shm: allow process_vm_readv/writev where a probe succeeds
  Clock::duration connect_timeout = std::chrono::seconds(30);
  std::string host_id;  // shm: TUTTI_HOST_ID; only ranks with equal ids share a host
  // Asked while connect() waits: why it need not wait any longer. A rank that dies then may not
  // have come far enough for the transport to notice.
  std::function<Status()> interrupted;
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string_view name() const = 0;
  virtual Capabilities capabilities() const = 0;  // final after connect()

  // What peers need in order to reach this rank: opaque, at most 512 bytes.
  virtual std::string card() const = 0;
  // Learns all cards; cards[r] is empty where rank r does not offer this transport. Finds out which
  // peers can be reached (probes included) in agreement with them, before `deadline`.
  virtual Status connect(std::span<const std::string> cards, Deadline deadline) = 0;
  virtual bool reaches(Rank peer) const = 0;
  // Why reaches(peer) is false, for reports: "different network namespace"; "" where it is true.
  virtual std::string why_not(Rank) const { return {}; }

  // The endpoint for (peer, lane), made on first use; owned by the transport. It may still be
  // connecting: until then send says again and peek says again.
  virtual Result<Endpoint*> open(Rank peer, uint32_t lane, const EndpointOptions& options) = 0;

  // Peers that have left, orderly or not, or whose connections broke, as far as progress() has
  // seen.
  virtual std::vector<Rank> lost() const = 0;

  // Drives connecting, accepting, reading. Not ok: a peer is gone (the first one seen, named).
  virtual Status progress() = 0;
  // Blocks until something may have changed or `timeout` has passed (futex, epoll).
  virtual void wait(Clock::duration timeout) = 0;

  // --- agreement and errors
  virtual void announce(const CallRecord& record) = 0;
  // The latest record of a peer, if it can be known here and now. A transport without shared memory
  // asks the peer, and answers from what has arrived so far.
  virtual std::optional<CallRecord> peer_call(Rank peer) = 0;
  virtual void post_error(const ErrorRecord& record) = 0;  // to all peers reached; never blocks
  virtual std::optional<ErrorRecord> posted_error() = 0;   // the first that any peer posted

  // --- memory (see Capabilities)
  // How peers can name [memory, memory + bytes) of this rank. Makes it reachable for them.
  virtual Result<MemoryRef> describe(const void* memory, size_t bytes) = 0;
  // The peer's memory in this address space, or null where it cannot be addressed.
  virtual Result<void*> map(Rank peer, MemoryRef ref, size_t bytes) = 0;
  virtual Status remote_read(Rank peer, uint64_t address, std::span<std::byte> dst) = 0;
  virtual Status remote_write(Rank peer, uint64_t address, std::span<const std::byte> src) = 0;
  // k_window_bytes of zero-initialised memory of rank `peer` that every reached rank can read; only
  // the owner writes. Null unless Capabilities::window.
  virtual std::byte* window(Rank peer) = 0;

  // Says goodbye: peers that still read from this rank finish what is in flight until `deadline`.
  virtual void close(Deadline deadline) = 0;
};

inline constexpr size_t k_window_bytes = size_t{1} << 20;

}  // namespace tutti
