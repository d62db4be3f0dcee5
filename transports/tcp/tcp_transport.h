// TcpTransport: listens, dials, keeps the connections of one rank and tells peers what it must.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "src/base/auth.h"
#include "transports/tcp/card.h"
#include "transports/tcp/connection.h"
#include "transports/tcp/endpoint.h"
#include "transports/tcp/greeting.h"
#include "transports/tcp/poller.h"
#include "transports/transport.h"

namespace tutti::tcp {

class TcpTransport final : public Transport, private ConnectionOwner {
 public:
  static Result<std::unique_ptr<Transport>> make(const TransportOptions& options);
  ~TcpTransport() override;

  std::string_view name() const override { return "tcp"; }
  Capabilities capabilities() const override;
  std::string card() const override { return encode_card(card_); }
  Status connect(std::span<const std::string> cards, Deadline deadline) override;
  bool reaches(Rank peer) const override;
  Result<Endpoint*> open(Rank peer, uint32_t lane, const EndpointOptions& options) override;
  std::vector<Rank> lost() const override;
  Status progress() override;
  void wait(Clock::duration timeout) override;

  void announce(const CallRecord& record) override { call_ = record; }
  std::optional<CallRecord> peer_call(Rank peer) override;
  void post_error(const ErrorRecord& record) override;
  std::optional<ErrorRecord> posted_error() override { return posted_error_; }

  Result<MemoryRef> describe(const void* memory, size_t bytes) override;
  Result<void*> map(Rank peer, MemoryRef ref, size_t bytes) override;
  Status remote_read(Rank peer, uint64_t address, std::span<std::byte> dst) override;
  Status remote_write(Rank peer, uint64_t address, std::span<const std::byte> src) override;
  std::byte* window(Rank) override { return nullptr; }

  void close(Deadline deadline) override;

 private:
  struct Listener final : Watcher {
    Fd fd;
    bool ready = false;
    void on_ready(uint32_t) override { ready = true; }
  };
  // What is known of a peer that this rank has had to do with.
  struct Peer {
    Card card;
    std::vector<Connection*> connections;
    std::optional<CallRecord> call;
    Deadline asked{};  // when it was last asked for its call
    bool dialling_control = false;
    bool told_error = false;
    bool left = false;
    Status lost;
  };

  TcpTransport(const TransportOptions& options, Poller poller);
  Status listen();
  Status listen_on_interface(const Interface& interface, uint8_t number);

  // --- peers and connections (tcp_transport.cc)
  Result<Peer*> peer_of(Rank rank);
  std::string describe_peer(Rank rank);
  void dial(Rank rank, Peer& peer, const Purport& purport);
  void admit(Greeting& greeting);
  void adopt(Connection& connection, const Purport& purport, TcpEndpoint& endpoint);
  TcpEndpoint* find(Rank peer, uint32_t lane) const;
  void poll(Clock::duration timeout);
  void accept_all();
  void make_room();
  void advance_greetings();
  void greeting_failed(Greeting& greeting);
  void lose(Rank rank, const Status& status);

  // --- talking outside of messages (control.cc)
  Connection* control_connection(Rank rank, Peer& peer);
  void send_call(Connection& connection, bool query);
  bool cut_off() const;
  void send_error(Connection& connection, Peer& peer);
  void on_control(Connection& connection, const FrameHeader& header,
                  std::span<const std::byte> payload) override;
  void on_event() override { ++activity_.events; }
  void on_end(Connection& connection) override;
  void wants_write(Connection& connection) override { blocked_.push_back(&connection); }

  TransportOptions options_;
  Poller poller_;
  Key key_;
  uint64_t job_;
  std::vector<Interface> interfaces_;  // that are used, by name
  std::string interface_names_;        // "eth0, eth1"
  uint32_t scope_ = 0;
  Card card_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<std::string> cards_;
  std::unordered_map<Rank, std::unique_ptr<Peer>> peers_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<std::unique_ptr<Greeting>> greetings_;
  std::unordered_map<uint64_t, std::unique_ptr<TcpEndpoint>> endpoints_;
  std::vector<Connection*> blocked_;
  std::unordered_map<Connection*, Purport> parked_;
  Activity activity_;
  uint32_t idle_polls_ = 0;
  CallRecord call_;
  std::optional<ErrorRecord> own_error_;
  std::optional<ErrorRecord> posted_error_;
  Status failure_;  // the first peer that was lost, or what is wrong here
  bool closed_ = false;
};

}  // namespace tutti::tcp
