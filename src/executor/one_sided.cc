#include "src/executor/one_sided.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu/kernels.h"

namespace tutti {
namespace {

// Messages of one peer before the next peer's turn, and bytes of one that is read in place: whoever
// waits for the lock around progress() gets it soon.
constexpr int k_most_messages = 8;
constexpr uint64_t k_most_bytes = uint64_t{4} << 20;

enum class Part : uint64_t { header = 1, body = 2 };

uint64_t signature_of(uint64_t put, Part part) {
  return (put * 4 + static_cast<uint64_t>(part)) * 0x9e3779b97f4a7c15ULL;
}

}  // namespace

Status OneSided::open() {
  for (Rank r = 0; r < router_.ranks(); ++r) {
    if (r == router_.self()) continue;
    Result<Endpoint*> endpoint = router_.endpoint(r, k_one_sided_lane);
    if (!endpoint) return endpoint.status();
    peers_[r].endpoint = *endpoint;
  }
  return {};
}

void OneSided::add_window(uint32_t number, void* memory, uint64_t bytes) {
  std::lock_guard lock(windows_mutex_);
  if (bytes > 0) windows_[number] = {static_cast<std::byte*>(memory), bytes};
}

void OneSided::remove_window(uint32_t number) {
  std::lock_guard lock(windows_mutex_);
  windows_.erase(number);
}

// --- target

Status OneSided::progress(bool* moved) {
  for (Rank r = 0; r < peers_.size(); ++r) {
    Peer& peer = peers_[r];
    if (peer.endpoint == nullptr || !peer.gone.ok()) continue;
    for (int i = 0; i < k_most_messages; ++i) {
      Message message;
      const Io io = peer.endpoint->peek(&message);
      if (io == Io::failed) peer.gone = peer.endpoint->status();
      if (io != Io::done) break;
      *moved = true;
      TUTTI_RETURN_IF_ERROR(receive(r, message));
      if (peer.within > 0) break;  // there is more of it
    }
  }
  return {};
}

Status OneSided::receive(Rank origin, const Message& message) {
  Peer& peer = peers_[origin];
  TUTTI_RETURN_IF_ERROR(peer.left == 0 ? begin(origin, message) : fill(origin, message));
  if (peer.within > 0) return {};
  peer.endpoint->release();
  if (peer.left > 0) return {};
  ++peer.received;
  raise(origin, peer.header.signal);
  return {};
}

Status OneSided::begin(Rank origin, const Message& message) {
  Peer& peer = peers_[origin];
  const uint64_t along = message.bytes - sizeof(Header);  // bytes of the put in this message
  bool sound = message.signature == signature_of(peer.received, Part::header) &&
               message.bytes >= sizeof(Header) && message.data != nullptr;
  if (sound) std::memcpy(&peer.header, message.data, sizeof(Header));
  sound = sound && (along == 0 || along == peer.header.bytes);
  if (!sound)
    return Status(Code::remote_error,
                  fmt::format("rank {}: rank {} sends something else than put number {}",
                              router_.self(), origin, peer.received));
  if (peer.header.bytes == 0) return {};
  std::lock_guard lock(windows_mutex_);
  Result<std::byte*> to = place(origin, peer.header);
  if (!to) return to.status();
  kernels::copy(*to, message.data + sizeof(Header), along);
  peer.left = peer.header.bytes - along;
  return {};
}

// The next bytes of the put; message.data is null where they must be read from the origin.
Status OneSided::fill(Rank origin, const Message& message) {
  Peer& peer = peers_[origin];
  if (message.signature != signature_of(peer.received, Part::body) || message.bytes == 0 ||
      message.bytes - peer.within > peer.left)
    return Status(Code::remote_error,
                  fmt::format("rank {}: rank {} sends something else than the bytes of put number "
                              "{}",
                              router_.self(), origin, peer.received));
  // An origin that has given up owns its memory again; it has said so before.
  if (std::optional<ErrorRecord> error = router_.transport(origin).posted_error())
    return Status(error->code, error->message);
  std::lock_guard lock(windows_mutex_);
  Result<std::byte*> to = place(origin, peer.header);
  if (!to) return to.status();
  const uint64_t part = std::min<uint64_t>(message.bytes - peer.within, k_most_bytes);
  std::byte* next = *to + (peer.header.bytes - peer.left);
  if (message.data != nullptr) {
    kernels::copy(next, message.data + peer.within, part);
  } else {
    TUTTI_RETURN_IF_ERROR(peer.endpoint->fetch(peer.within, {next, part}));
  }
  peer.left -= part;
  peer.within += part;
  if (peer.within == message.bytes) peer.within = 0;
  return {};
}

// Looked up anew for every message: the window may have been removed meanwhile.
Result<std::byte*> OneSided::place(Rank origin, const Header& header) const {
  const auto found = windows_.find(static_cast<uint32_t>(header.window));
  if (found == windows_.end())
    return Status(Code::invalid_usage,
                  fmt::format("rank {} puts {} bytes into window {} of rank {}, which has "
                              "deregistered it",
                              origin, header.bytes, header.window, router_.self()));
  const Window& window = found->second;
  if (header.offset > window.bytes || header.bytes > window.bytes - header.offset)
    return Status(Code::remote_error,
                  fmt::format("rank {} puts {} bytes at {} into window {} of rank {}, which has {} "
                              "bytes",
                              origin, header.bytes, header.offset, header.window, router_.self(),
                              window.bytes));
  return window.memory + header.offset;
}

// --- signals

uint64_t OneSided::raised(Rank peer, uint64_t signal) const {
  const auto found = raised_.find({peer, signal});
  return found == raised_.end() ? 0 : found->second;
}

bool OneSided::take(const Signals& wanted) {
  for (const auto& [key, count] : wanted)
    if (raised(key.first, key.second) < count) return false;
  for (const auto& [key, count] : wanted) {
    const auto found = raised_.find(key);
    if (found != raised_.end() && (found->second -= count) == 0) raised_.erase(found);
  }
  return true;
}

// --- origin

void OneSided::start(const Put& put) {
  out_ = {put, {put.signal, put.window, put.offset, put.bytes}, Stage::header, 0, 0};
  failure_ = Status();
}

Io OneSided::advance(bool* moved) {
  if (out_.put.peer == router_.self()) {
    failure_ = copy_to_self();
    if (!failure_.ok()) return Io::failed;
    raise(router_.self(), out_.put.signal);
    return Io::done;
  }
  Peer& to = peers_[out_.put.peer];
  while (out_.stage != Stage::done) {
    const Io io = step(to);
    if (io == Io::failed) failure_ = to.endpoint->status();
    if (io != Io::done) return io;
    *moved = true;
  }
  ++to.sent;
  return Io::done;
}

Status OneSided::copy_to_self() {
  if (out_.put.bytes == 0) return {};
  std::lock_guard lock(windows_mutex_);
  Result<std::byte*> to = place(router_.self(), out_.header);
  if (!to) return to.status();
  std::memmove(*to, out_.put.data, out_.put.bytes);
  return {};
}

// done: there is a next stage, or the same one has gone further.
Io OneSided::step(Peer& to) {
  const uint64_t signature = signature_of(to.sent, Part::body);
  auto* data = const_cast<std::byte*>(out_.put.data);
  switch (out_.stage) {
    case Stage::header:
      return send_header(to);
    case Stage::pieces: {
      const iovec piece{data + out_.offset,
                        std::min<uint64_t>(out_.put.bytes - out_.offset, router_.slot_bytes())};
      const Io io = to.endpoint->send(signature, {&piece, 1});
      if (io != Io::done) return io;
      out_.offset += piece.iov_len;
      if (out_.offset == out_.put.bytes) out_.stage = Stage::done;
      return io;
    }
    case Stage::reference: {
      const Io io = to.endpoint->send_ref(signature, data, out_.put.bytes);
      if (io != Io::done) return io;
      out_.consumed = to.endpoint->sent();
      out_.stage = Stage::reading;
      return io;
    }
    case Stage::reading:
      if (to.endpoint->consumed() < out_.consumed)
        return to.endpoint->status().ok() ? Io::again : Io::failed;
      out_.stage = Stage::done;
      return Io::done;
    case Stage::done:
      break;
  }
  return Io::done;
}

Io OneSided::send_header(Peer& to) {
  const uint64_t bytes = out_.put.bytes;
  const bool refer = router_.pulls(out_.put.peer, bytes);
  const bool along = !refer && bytes > 0 && bytes <= router_.slot_bytes() - sizeof(Header);
  const iovec pieces[] = {{&out_.header, sizeof(Header)},
                          {const_cast<std::byte*>(out_.put.data), bytes}};
  const Io io = to.endpoint->send(signature_of(to.sent, Part::header),
                                  std::span(pieces).first(along ? 2 : 1));
  if (io != Io::done) return io;
  out_.stage = along || bytes == 0 ? Stage::done : refer ? Stage::reference : Stage::pieces;
  return io;
}

}  // namespace tutti
