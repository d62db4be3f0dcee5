// TcpEndpoint: one lane to one peer over one connection, or over several that share large messages.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "transports/tcp/connection.h"
#include "transports/transport.h"

namespace tutti::tcp {

// Whether a waiter has something to look at: events are counted where they happen, and what the
// caller has been told is not news to it.
class TcpEndpoint;
struct Activity {
  uint64_t events = 0;
  uint64_t seen = 0;
  std::vector<TcpEndpoint*> owing;  // lanes whose peers have not heard of all credits yet
};

class TcpEndpoint final : public Endpoint {
 public:
  // `stripes`: connections of this lane.
  TcpEndpoint(Rank peer, uint32_t lane, const EndpointOptions& options, uint32_t stripes,
              Activity* activity);

  Io send(uint64_t signature, std::span<const iovec> pieces) override;
  std::byte* reserve(size_t) override { return nullptr; }
  void commit(uint64_t, size_t) override {}
  bool supports_reserve() const override { return false; }
  Io share(uint64_t, Endpoint&) override { return Io::failed; }
  bool supports_share() const override { return false; }
  Io send_ref(uint64_t, const void*, size_t) override { return Io::failed; }
  uint64_t sent() const override { return lane_state_.sent; }
  uint64_t consumed() const override { return lane_state_.acked; }

  Io peek(Message* message) override { return peek_at(0, message); }
  Io peek_at(uint32_t k, Message* message) override;
  Status fetch(size_t offset, std::span<std::byte> dst) override;
  void release() override;
  Io recv(std::span<const iovec> pieces, uint64_t* signature, size_t* bytes) override;
  Status status() const override;

  // --- for the transport
  size_t slot_bytes() const { return lane_state_.inbox.slot_bytes(); }
  uint32_t credits() const { return lane_state_.inbox.credits(); }
  bool has(uint32_t stripe) const { return connections_[stripe] != nullptr; }
  void attach(uint32_t stripe, Connection* connection);
  void fail(Status status);  // it will never be connected
  // Tells the peer of credits that no message has carried since the last call. True: nothing is
  // owed.
  bool settle();
  void close(Status status);  // its connections are about to go

 private:
  // Messages from here on are split over all stripes.
  static constexpr size_t k_stripe_from = 128 << 10;

  bool connected() const { return attached_ == connections_.size(); }
  bool broken() const;
  void pump();
  void begin(uint64_t signature, size_t total);
  Io push(std::span<const iovec> pieces);
  bool look(uint32_t k, Inbox::Arrived* arrived);
  bool credit_is_due(size_t bytes) const;
  void finish(size_t bytes);

  Lane lane_state_;
  std::vector<Connection*> connections_;
  size_t attached_ = 0;
  Activity* activity_;
  Status failure_;
  bool sending_ = false;
  bool owing_ = false;    // listed in Activity::owing
  bool overdue_ = false;  // and seen there by settle() before
  uint32_t used_ = 1;     // stripes of the message under way
};

}  // namespace tutti::tcp
