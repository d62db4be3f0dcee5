// LineTransport: what local and shm have in common. Every rank owns an arena that peers read; only
// how peers come by it, and who may read whose memory, differs.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "transports/line/arena.h"
#include "transports/line/line_endpoint.h"
#include "transports/transport.h"

namespace tutti::line {

class LineTransport : public Transport {
 public:
  ~LineTransport() override;

  Result<Endpoint*> open(Rank peer, uint32_t lane, const EndpointOptions& options) override;
  Status progress() override;
  void wait(Clock::duration timeout) override;
  void announce(const CallRecord& record) override;
  std::optional<CallRecord> peer_call(Rank peer) override;
  void post_error(const ErrorRecord& record) override;
  std::optional<ErrorRecord> posted_error() override;
  std::byte* window(Rank peer) override;
  std::vector<Rank> lost() const override;
  void close(Deadline deadline) override;

  // --- for endpoints
  Rank rank() const { return options_.rank; }
  OwnedArena& arena() { return *arena_; }
  // The arena of a rank that is reached (or this one), else null.
  virtual Arena* arena_of(Rank peer) const = 0;
  // Names `memory` for the peer of `endpoint`. again: the peer could not be told yet.
  virtual Io export_ref(LineEndpoint& endpoint, const void* memory, size_t bytes,
                        MemoryRef* ref) = 0;
  // Where a peer's memory lies here; null when it cannot be addressed.
  virtual Result<const std::byte*> import_ref(Rank peer, MemoryRef ref, uint64_t bytes) = 0;
  // Orders this rank's "I sleep" before whatever its peers send next; false where that cannot be
  // had without fences in the senders.
  virtual bool fence_peers() { return false; }
  // An endpoint that waits in vain asks whether its peer is still there.
  void look_after(LineEndpoint& endpoint);

 protected:
  explicit LineTransport(const TransportOptions& options);

  // Called by progress() when the bell's mail counter moved, and by look_after(): finds deaths.
  virtual void look_around() {}
  // Called once by close() and the destructor: the last words.
  virtual void say_goodbye(Life life);
  // "rank 3 (host b, pid 412)"
  virtual std::string name_of(Rank peer) const = 0;

  Status check_usable(const char* what) const;  // not closed, not in a forked child
  bool in_forked_child() const;
  // Records that `peer` is gone; its endpoints break. `status` becomes progress()'s if it is the
  // first death and not a goodbye.
  void lose(Rank peer, Status status, bool dead);
  void wake_peers();  // of all open endpoints
  void send_mail(Rank peer);

  TransportOptions options_;
  std::shared_ptr<OwnedArena> arena_;
  bool connected_ = false;
  bool closed_ = false;

 private:
  Status check_life(Rank peer);
  bool any_news() const;
  Endpoint* find(Rank peer, uint32_t lane);

  std::map<std::pair<Rank, uint32_t>, std::unique_ptr<LineEndpoint>> endpoints_;
  std::map<Rank, Status> gone_;
  Status first_death_;
  uint32_t mail_seen_ = 0;
  bool error_posted_ = false;
  bool slept_in_vain_ = false;
  int pid_;
};

}  // namespace tutti::line
