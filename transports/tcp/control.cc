// What travels beside the messages: call records, errors, ends.
//
// Nothing of it costs the hot path anything. Records go on request only; an error frame is sent
// once per peer. A connection in the middle of a message, or whose peer has not taken what was sent
// before, cannot carry them in time; then a connection of their own is dialled, by either side.
#include <fmt/format.h>

#include <algorithm>

#include "transports/tcp/tcp_transport.h"

namespace tutti::tcp {
namespace {

constexpr std::chrono::milliseconds k_ask_every{20};
// A rank that has failed may never drive its transport again: so long it stays to tell the others.
constexpr std::chrono::seconds k_telling{1};

bool can_talk_now(const Connection& connection) {
  if (!connection.alive() || connection.sending()) return false;
  if (connection.identity().lane == k_control_lane) return true;
  const Lane* lane = connection.lane();
  return lane != nullptr && lane->sent == lane->acked;
}

}  // namespace

// A connection on which a frame reaches the peer without delay; dials one if there is none.
Connection* TcpTransport::control_connection(Rank rank, Peer& peer) {
  for (Connection* connection : peer.connections) {
    if (can_talk_now(*connection)) return connection;
  }
  if (!peer.dialling_control && !peer.left && peer.lost.ok() && !closed_) {
    peer.dialling_control = true;
    dial(rank, peer, {k_control_lane, 0, 1, job_, 0, 0});
  }
  return nullptr;
}

void TcpTransport::send_call(Connection& connection, bool query) {
  const std::string record = encode_call(call_);
  connection.send_control(FrameKind::call, query ? k_query : 0, std::as_bytes(std::span(record)));
}

std::optional<CallRecord> TcpTransport::peer_call(Rank rank) {
  if (rank == options_.rank) return call_;
  auto peer = peer_of(rank);
  if (!peer.ok()) return std::nullopt;
  const Deadline now = Clock::now();
  if (now - (*peer)->asked >= k_ask_every) {
    if (Connection* connection = control_connection(rank, **peer)) {
      send_call(*connection, true);
      (*peer)->asked = now;
    }
  }
  return (*peer)->call;
}

void TcpTransport::send_error(Connection& connection, Peer& peer) {
  const std::string record = encode_error(*own_error_);
  connection.send_control(FrameKind::error, 0, std::as_bytes(std::span(record)));
  if (can_talk_now(connection)) peer.told_error = true;
}

void TcpTransport::post_error(const ErrorRecord& record) {
  if (own_error_) return;
  own_error_ = record;
  for (auto& [rank, peer] : peers_) {
    for (Connection* connection : peer->connections) {
      if (connection->alive()) send_error(*connection, *peer);
    }
    if (!peer->told_error) (void)control_connection(rank, *peer);  // admit() sends it
  }
  const Deadline enough = Clock::now() + k_telling;
  while (!closed_ && cut_off() && Clock::now() < enough) poll(std::chrono::milliseconds(1));
}

// Whether some rank may hear of this rank's error from nobody. As a rule the bootstrap carries
// errors to ranks without a connection to this one, but a rank that has left may have cut it. Then
// they ask (peer_call) as soon as they wait.
bool TcpTransport::cut_off() const {
  uint32_t told = 1;
  bool cut = false;
  for (const auto& [rank, peer] : peers_) {
    told += peer->told_error || peer->left || !peer->lost.ok();
    cut = cut || peer->left;
  }
  return cut && told < options_.ranks;
}

void TcpTransport::on_control(Connection& connection, const FrameHeader& header,
                              std::span<const std::byte> payload) {
  auto peer = peer_of(connection.identity().peer);
  if (!peer.ok()) return;
  Status understood;
  if (header.kind == FrameKind::call) {
    CallRecord record;
    understood = decode_call(payload, &record);
    if (understood.ok()) {
      (*peer)->call = record;
      if (header.flags & k_query) send_call(connection, false);
    }
  } else if (header.kind == FrameKind::error) {
    ErrorRecord record;
    understood = decode_error(payload, &record);
    if (understood.ok() && !posted_error_) posted_error_ = std::move(record);
  }
  if (!understood.ok()) connection.fail(understood.with_context(connection.identity().name));
  on_event();
}

void TcpTransport::on_end(Connection& connection) {
  const Rank rank = connection.identity().peer;
  const bool never_had = connection.identity().lane == k_control_lane && !connection.heard();
  if (never_had) {  // a rank that is gone refuses the next one
    on_event();
  } else if (connection.peer_left()) {
    if (auto peer = peer_of(rank); peer.ok()) (*peer)->left = true;
    on_event();
  } else if (!closed_) {
    lose(rank, connection.status());
  }
}

}  // namespace tutti::tcp
