// Connections before they can be used: dialled (Dialer) or accepted (Answerer), then authenticated.
//
// The client's hello says what the connection is for: which lane, which of its stripes, and what
// the client expects of that lane. A dialer tries all addresses of a peer in turn; an address that
// does not answer costs a bounded time while there are others. A dialer that has been accepted by
// the peer's kernel waits without limit: the peer may compute for hours before it next drives its
// transport, and a dead one shows as a closed connection.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "src/base/auth.h"
#include "src/base/fd.h"
#include "src/base/socket.h"
#include "transports/tcp/poller.h"
#include "transports/tcp/ways.h"
#include "transports/transport.h"

namespace tutti::tcp {

// Lane number of connections that carry control frames only.
inline constexpr uint32_t k_control_lane = 0xffffffff;

// What travels in Hello::data.
struct Purport {
  uint32_t lane = k_control_lane;
  uint8_t stripe = 0;
  uint8_t stripes = 1;
  uint64_t job = 0;  // hash of the communicator's name
  uint32_t slot_bytes = 0;
  uint32_t credits = 0;
};
std::array<std::byte, 24> encode_purport(const Purport& purport);
// Errors: unsupported for another version of the frames.
Status decode_purport(const std::array<std::byte, 24>& data, Purport* purport);

class Greeting : public Watcher {
 public:
  enum class State : uint8_t { working, done, failed };
  virtual ~Greeting() = default;
  // Moves on as far as it can; never blocks.
  virtual State advance(Deadline now) = 0;
  // When it wants to be advanced even if its socket stays quiet.
  virtual Deadline next_deadline() const = 0;
  const Status& status() const { return status_; }
  Rank peer() const { return peer_; }  // Answerer: once done
  const Purport& purport() const { return purport_; }
  virtual bool dialled() const = 0;
  Fd take();  // once done
  void on_ready(uint32_t) override { ready_ = true; }
  // Whether there is anything for advance() to do.
  bool due(Deadline now) { return std::exchange(ready_, false) || now >= next_deadline(); }

 protected:
  explicit Greeting(Poller* poller) : poller_(poller) {}
  void watch(Fd fd, uint32_t events);
  void unwatch();

  Poller* poller_;
  Fd fd_;
  Status status_;
  Rank peer_ = 0;
  Purport purport_;

 private:
  bool ready_ = true;
};

struct DialPlan {
  Rank me = 0;
  Rank peer = 0;
  std::string who;        // "peer 3 (host b, pid 412)"
  std::string interface;  // for messages
  std::vector<Way> ways;
  Key key{};
  Purport purport;
  Clock::duration timeout{};
};

class Dialer final : public Greeting {
 public:
  Dialer(DialPlan plan, Poller* poller);
  ~Dialer() override { unwatch(); }
  State advance(Deadline now) override;
  Deadline next_deadline() const override { return deadline_; }
  bool dialled() const override { return true; }

 private:
  enum class Stage : uint8_t { pause, connecting, greeting };
  State start(Deadline now);
  State connecting(Deadline now);
  State greet(Deadline now);
  State try_next(Deadline now, Status why);
  State give_up(const Status& why);

  DialPlan plan_;
  Stage stage_ = Stage::pause;
  size_t way_ = 0;
  uint32_t failures_ = 0;
  Deadline give_up_at_;
  Deadline deadline_;
  std::optional<Handshake> handshake_;
};

class Answerer final : public Greeting {
 public:
  Answerer(Accepted accepted, Rank me, uint64_t job, const Key& key, Deadline deadline,
           Poller* poller);
  ~Answerer() override { unwatch(); }
  State advance(Deadline now) override;
  Deadline next_deadline() const override { return handshake_.deadline(); }
  bool dialled() const override { return false; }

 private:
  uint64_t job_;
  short events_ = 0;
  Handshake handshake_;
};

}  // namespace tutti::tcp
