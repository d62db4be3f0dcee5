// The hot path: send() is one sendmsg, peek() and recv() are at most one recvmsg.
#include "transports/tcp/endpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace tutti::tcp {
namespace {

// Credits for large messages go back early, so that a stream does not stall; those for small ones
// wait for a message to ride on, as a frame of their own costs more than it brings.
constexpr size_t k_prompt_credit = 8 << 10;

}  // namespace

TcpEndpoint::TcpEndpoint(Rank peer, uint32_t lane, const EndpointOptions& options, uint32_t stripes,
                         Activity* activity)
    : Endpoint(peer, lane),
      lane_state_(options.slot_bytes, options.credits),
      connections_(stripes, nullptr),
      activity_(activity) {}

void TcpEndpoint::attach(uint32_t stripe, Connection* connection) {
  connections_[stripe] = connection;
  ++attached_;
  connection->attach(&lane_state_);
  ++activity_->events;
}

void TcpEndpoint::fail(Status status) {
  if (failure_.ok()) failure_ = std::move(status);
  ++activity_->events;
}

void TcpEndpoint::close(Status status) {
  if (Status why = this->status(); !why.ok()) status = std::move(why);
  fail(std::move(status));
  std::fill(connections_.begin(), connections_.end(), nullptr);
}

bool TcpEndpoint::broken() const {
  if (!failure_.ok()) return true;
  return std::any_of(connections_.begin(), connections_.end(), [](const Connection* connection) {
    return connection != nullptr && !connection->alive();
  });
}

Status TcpEndpoint::status() const {
  if (!failure_.ok()) return failure_;
  for (const Connection* connection : connections_) {
    if (connection == nullptr || connection->alive()) continue;
    return connection->status();
  }
  return {};
}

void TcpEndpoint::pump() {
  for (Connection* connection : connections_) {
    if (connection != nullptr) connection->pump();
  }
}

// --- sending

Io TcpEndpoint::send(uint64_t signature, std::span<const iovec> pieces) {
  if (broken()) return Io::failed;
  if (!connected()) return Io::again;
  if (!sending_) {
    const size_t total = total_bytes(pieces);
    if (total > slot_bytes()) {
      fail(Status(Code::invalid_argument,
                  fmt::format("a message of {} bytes to peer {} on lane {}, which was opened for "
                              "{} bytes",
                              total, peer(), lane(), slot_bytes())));
      return Io::failed;
    }
    if (lane_state_.sent - lane_state_.acked >= credits()) {
      pump();
      if (lane_state_.sent - lane_state_.acked >= credits()) {
        lane_state_.starved = true;
        return broken() ? Io::failed : Io::again;
      }
    }
    lane_state_.starved = false;
    begin(signature, total);
  }
  return push(pieces);
}

void TcpEndpoint::begin(uint64_t signature, size_t total) {
  used_ = total < k_stripe_from ? 1 : static_cast<uint32_t>(connections_.size());
  FrameHeader header;
  header.kind = FrameKind::message;
  header.sequence = static_cast<uint32_t>(lane_state_.sent);
  header.released = static_cast<uint32_t>(lane_state_.inbox.released());
  header.total = static_cast<uint32_t>(total);
  header.signature = signature;
  lane_state_.told = lane_state_.inbox.released();
  const size_t share = (total / used_ + 63) / 64 * 64;
  for (uint32_t i = 0; i < used_; ++i) {
    const size_t from = std::min(total, i * share);
    const size_t to = i + 1 == used_ ? total : std::min(total, from + share);
    header.offset = static_cast<uint32_t>(from);
    header.bytes = static_cast<uint32_t>(to - from);
    connections_[i]->begin_message(header);
  }
  sending_ = true;
}

Io TcpEndpoint::push(std::span<const iovec> pieces) {
  bool all = true;
  for (uint32_t i = 0; i < used_; ++i) {
    const Io io = connections_[i]->push(pieces);
    if (io == Io::failed) return Io::failed;
    all = all && io == Io::done;
  }
  if (!all) return Io::again;
  sending_ = false;
  ++lane_state_.sent;
  return Io::done;
}

// --- receiving

// The k-th message, after a look at the sockets if need be. What the caller learns here is no news
// that wait() must return for.
bool TcpEndpoint::look(uint32_t k, Inbox::Arrived* arrived) {
  if (lane_state_.inbox.arrived(k, arrived)) return true;
  const uint64_t events = activity_->events;
  pump();
  if (!lane_state_.inbox.arrived(k, arrived)) return false;
  if (activity_->seen == events && activity_->events == events + 1)
    activity_->seen = activity_->events;
  return true;
}

Io TcpEndpoint::peek_at(uint32_t k, Message* message) {
  Inbox::Arrived arrived;
  if (!look(k, &arrived)) return broken() ? Io::failed : Io::again;
  *message = {arrived.signature, arrived.bytes, arrived.data};
  return Io::done;
}

Status TcpEndpoint::fetch(size_t offset, std::span<std::byte> dst) {
  Inbox::Arrived arrived;
  if (!lane_state_.inbox.arrived(0, &arrived))
    return Status(Code::invalid_usage, "fetch() without a message");
  if (offset > arrived.bytes || dst.size() > arrived.bytes - offset)
    return Status(Code::invalid_argument, "fetch() beyond the end of the message");
  if (!dst.empty()) std::memcpy(dst.data(), arrived.data + offset, dst.size());
  return {};
}

Io TcpEndpoint::recv(std::span<const iovec> pieces, uint64_t* signature, size_t* bytes) {
  Inbox::Arrived arrived;
  lane_state_.inbox.post(pieces);
  const bool here = look(0, &arrived);
  lane_state_.inbox.unpost();
  if (!here) return broken() ? Io::failed : Io::again;
  *signature = arrived.signature;
  *bytes = arrived.bytes;
  if (arrived.bytes > total_bytes(pieces)) return Io::failed;
  lane_state_.inbox.copy_head(pieces);
  finish(arrived.bytes);
  return Io::done;
}

void TcpEndpoint::release() {
  Inbox::Arrived arrived;
  if (lane_state_.inbox.arrived(0, &arrived)) finish(arrived.bytes);
}

void TcpEndpoint::finish(size_t bytes) {
  lane_state_.inbox.release();
  if (connections_[0] == nullptr) return;
  if (credit_is_due(bytes)) return connections_[0]->send_control(FrameKind::credit, 0, {});
  if (!std::exchange(owing_, true)) activity_->owing.push_back(this);
}

bool TcpEndpoint::settle() {
  const bool owed = lane_state_.told != lane_state_.inbox.released() && connections_[0] != nullptr;
  if (owed && !std::exchange(overdue_, true)) return false;
  if (owed) connections_[0]->send_control(FrameKind::credit, 0, {});
  owing_ = overdue_ = false;
  return true;
}

bool TcpEndpoint::credit_is_due(size_t bytes) const {
  const uint64_t owed = lane_state_.inbox.released() - lane_state_.told;
  const uint64_t limit =
      bytes >= k_prompt_credit ? (credits() + 1) / 2 : (uint64_t{credits()} * 3 + 3) / 4;
  return owed >= std::max<uint64_t>(1, limit);
}

}  // namespace tutti::tcp
