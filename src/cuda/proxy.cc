#include "src/cuda/proxy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "src/cuda/host_flags.h"

namespace tutti::cuda {
namespace {

// Messages in flight to a peer; the kernels have their own, in slots.
constexpr uint32_t k_credits = 16;
// Of an endpoint's message, at most; a worker may add five at once.
constexpr size_t k_notes = 64, k_notes_of_one = 5;

uint64_t low(uint64_t word) { return word & 0xffffffff; }

}  // namespace

Proxy::Proxy(Router& router, Mirrors& mirrors)
    : router_(router),
      mirrors_(mirrors),
      shape_(mirrors.shape()),
      depth_(std::min(mirrors.shape().depth, k_max_depth)),
      failures_(mirrors.all().size()) {
  for (Rank r = 0; r < mirrors.all().size(); ++r) {
    if (mirrors.all()[r].here == nullptr) continue;
    Peer peer;
    peer.rank = r;
    peer.mirror = mirrors.all()[r];
    peer.flows.resize(shape_.all_lanes() * shape_.workers);
    peers_.push_back(std::move(peer));
  }
}

EndpointOptions Proxy::endpoint_options(const WindowShape& shape) {
  return {.slot_bytes = k_notes * sizeof(Note) + std::max(shape.slot_bytes, shape.packet_bytes),
          .credits = k_credits};
}

Status Proxy::open() {
  for (Peer& peer : peers_) {
    Result<Endpoint*> endpoint =
        router_.transport(peer.rank).open(peer.rank, k_lane, endpoint_options(shape_));
    if (!endpoint) return endpoint.status();
    peer.endpoint = *endpoint;
  }
  return {};
}

bool Proxy::turn() {
  bool moved = false;
  for (Peer& peer : peers_) {
    if (!peer.gone) moved = receive(peer) || moved;
    if (!peer.gone) moved = send(peer) || moved;
  }
  return moved;
}

bool Proxy::holds_back() const {
  return std::any_of(peers_.begin(), peers_.end(),
                     [](const Peer& p) { return !p.gone && !p.notes.empty(); });
}

Status Proxy::status(Rank peer) const {
  std::lock_guard lock(mutex_);
  return failures_[peer];
}

void Proxy::give_up(Peer& peer, Status why) {
  peer.gone = true;
  std::lock_guard lock(mutex_);
  failures_[peer.rank] = std::move(why);
}

// --- places

Inbox& Proxy::inbox(std::byte* window, const Note& n) const {
  return reinterpret_cast<Inbox*>(window + shape_.inbox(0, n.lane))[n.worker];
}
Ack& Proxy::ack(std::byte* window, const Note& n) const {
  return reinterpret_cast<Ack*>(window + shape_.ack(0, n.lane))[n.worker];
}
// As Worker::slot().
std::byte* Proxy::slot(std::byte* window, const Note& n, uint64_t number) const {
  const uint64_t index = uint64_t{n.worker} * depth_ + number % depth_;
  if (n.kind == Kind::packets)
    return window + shape_.packets(0, n.lane) + index * 2 * shape_.packet_bytes;
  return window + shape_.slots(0, n.lane) + index * shape_.slot_bytes;
}

// --- from the kernels to the peer

bool Proxy::send(Peer& peer) {
  bool moved = false;
  while (true) {
    if (peer.notes.empty()) gather(peer);
    if (peer.notes.empty()) return moved;
    const iovec pieces[] = {{peer.notes.data(), peer.notes.size() * sizeof(Note)},
                            {const_cast<std::byte*>(peer.payload), peer.notes.back().bytes}};
    const Io io = peer.endpoint->send(k_signature, {pieces, peer.payload != nullptr ? 2u : 1u});
    if (io == Io::failed) give_up(peer, peer.endpoint->status());
    if (io != Io::done) return moved;
    peer.notes.clear();
    peer.payload = nullptr;
    moved = true;
  }
}

void Proxy::gather(Peer& peer) {
  const uint32_t lanes = mirrors_.lanes(), workers = mirrors_.workers();
  for (uint32_t i = 0; i < lanes * workers; ++i) {
    const uint32_t at = peer.next++ % (lanes * workers);
    if (look_at(peer, at / workers, at % workers)) return;
    if (peer.notes.size() + k_notes_of_one > k_notes) return;
  }
}

// Adds what is new; true: the last note has a payload, and none may follow it. What was written
// last is read first, so that what came before it is seen as well.
bool Proxy::look_at(Peer& peer, uint32_t lane, uint32_t worker) {
  Flow& f = flow(peer, lane, worker);
  Note note;
  note.lane = static_cast<uint8_t>(lane);
  note.worker = static_cast<uint16_t>(worker);
  const auto add = [&](Kind kind, uint64_t value) {
    note.kind = kind;
    note.value = value;
    peer.notes.push_back(note);
  };
  const Inbox& to = inbox(peer.mirror.there, note);
  const Ack& back = ack(peer.mirror.there, note);
  const uint64_t receiver_left = HostFlags::acquire(&back.left);
  if (const uint64_t tail = HostFlags::acquire(&back.tail); tail != f.acked)
    add(Kind::ack, f.acked = tail);
  if (receiver_left != 0 && !f.receiver_left) {
    add(Kind::receiver_left, receiver_left);
    f.receiver_left = true;
  }
  const uint64_t sender_left = HostFlags::acquire(&to.left);
  const uint64_t tokens = HostFlags::acquire(&to.tokens);
  if (std::optional<Note> message = next_message(peer, note)) {
    peer.notes.push_back(*message);
    return true;
  }
  // What the next message lacks comes after this token; or never, when its sender has left.
  if (tokens != f.tokens) add(Kind::token, f.tokens = tokens);
  if (sender_left != 0 && !f.sender_left) {
    add(Kind::sender_left, sender_left);
    f.sender_left = true;
  }
  return false;
}

// The next message of the worker, if all of it is there.
std::optional<Proxy::Note> Proxy::next_message(Peer& peer, Note note) {
  Flow& f = flow(peer, note.lane, note.worker);
  const uint64_t number = f.sent + 1;
  const Inbox& to = inbox(peer.mirror.there, note);
  const uint64_t size = HostFlags::load(&to.sizes[number % depth_]);
  if (size >> 32 != low(number)) return std::nullopt;
  const bool packets = (size & k_in_packets) != 0;
  note.kind = packets ? Kind::packets : Kind::slot;
  note.bytes = static_cast<uint32_t>(size) & ~k_in_packets;
  const std::byte* from = slot(peer.mirror.there, note, number);
  if (packets) {
    if (!pack(peer, f, reinterpret_cast<const uint64_t*>(from), static_cast<uint32_t>(number),
              note.bytes))
      return std::nullopt;
    from = reinterpret_cast<const std::byte*>(peer.packed.data());
  } else if (HostFlags::acquire(&to.head) < number) {
    return std::nullopt;
  }
  note.value = HostFlags::load(&to.tags[number % depth_]);
  if (note.value >> 32 != low(number)) return std::nullopt;
  peer.payload = from;
  f.sent = number;
  f.words = 0;
  return note;
}

// The data of the packets, once all of them are there.
bool Proxy::pack(Peer& peer, Flow& f, const uint64_t* packets, uint32_t number, uint32_t bytes) {
  const auto words = static_cast<uint32_t>(bytes / sizeof(uint32_t));
  for (; f.words < words; ++f.words)
    if (HostFlags::load(&packets[f.words]) >> 32 != number) return false;
  peer.packed.resize(words);
  for (uint32_t w = 0; w < words; ++w)
    peer.packed[w] = static_cast<uint32_t>(HostFlags::load(&packets[w]));
  return true;
}

// --- from the peer to the kernels

bool Proxy::receive(Peer& peer) {
  bool moved = false;
  while (true) {
    Message message;
    const Io io = peer.endpoint->peek(&message);
    if (io == Io::failed) give_up(peer, peer.endpoint->status());
    if (io != Io::done) return moved;
    Status status;
    const std::byte* data = message.data;
    if (data == nullptr) {
      peer.received.resize(message.bytes);
      status = peer.endpoint->fetch(0, peer.received);
      data = peer.received.data();
    }
    if (status.ok() && message.signature != k_signature)
      status = Status(Code::remote_error, "another kind of message");
    if (status.ok()) status = take(peer, {data, message.bytes});
    peer.endpoint->release();
    moved = true;
    if (status.ok()) continue;
    give_up(peer, status.with_context(fmt::format("from the proxy of rank {}", peer.rank)));
    return moved;
  }
}

Status Proxy::take(Peer& peer, std::span<const std::byte> message) {
  while (message.size() >= sizeof(Note)) {
    Note note;
    std::memcpy(&note, message.data(), sizeof note);
    message = message.subspan(sizeof note);
    if (note.bytes > message.size()) break;
    TUTTI_RETURN_IF_ERROR(apply(peer, note, message.data()));
    message = message.subspan(note.bytes);
    if (message.empty()) return {};
  }
  return Status(Code::remote_error, "a message that makes no sense");
}

Status Proxy::apply(Peer& peer, const Note& note, const std::byte* payload) {
  if (note.lane >= shape_.all_lanes() || note.worker >= shape_.workers)
    return Status(Code::remote_error,
                  fmt::format("a message for worker {} of lane {}", note.worker, note.lane));
  Inbox& from = inbox(peer.mirror.here, note);
  Ack& back = ack(peer.mirror.here, note);
  switch (note.kind) {
    case Kind::ack:
      HostFlags::release(&back.tail, note.value);
      return {};
    case Kind::token:
      HostFlags::release(&from.tokens, note.value);
      return {};
    case Kind::sender_left:
      HostFlags::release(&from.left, note.value);
      return {};
    case Kind::receiver_left:
      HostFlags::release(&back.left, note.value);
      return {};
    case Kind::slot:
    case Kind::packets:
      return put(peer, note, payload);
  }
  return Status(Code::remote_error, "a message of an unknown kind");
}

Status Proxy::put(Peer& peer, const Note& note, const std::byte* payload) {
  Flow& f = flow(peer, note.lane, note.worker);
  const uint64_t number = f.received + 1;
  const bool packets = note.kind == Kind::packets;
  // Before it is written again, the kernel has read what was there.
  const uint64_t consumed = HostFlags::acquire(&ack(peer.mirror.there, note).tail);
  if (note.value >> 32 != low(number) || number > consumed + depth_ ||
      note.bytes > (packets ? shape_.packet_bytes : shape_.slot_bytes))
    return Status(Code::remote_error,
                  fmt::format("message {} of {} bytes out of order, too long or too early",
                              note.value >> 32, note.bytes));
  std::byte* to = slot(peer.mirror.here, note, number);
  Inbox& from = inbox(peer.mirror.here, note);
  uint64_t& tag = from.tags[number % depth_];
  if (packets) {
    HostFlags::store(&tag, note.value);
    for (uint32_t w = 0; w < note.bytes / sizeof(uint32_t); ++w) {
      uint32_t data = 0;
      std::memcpy(&data, payload + w * sizeof data, sizeof data);
      HostFlags::store(reinterpret_cast<uint64_t*>(to) + w, low(number) << 32 | data);
    }
  } else {
    std::memcpy(to, payload, note.bytes);
    HostFlags::store(&tag, note.value);
    HostFlags::release(&from.head, number);
  }
  f.received = number;
  return {};
}

}  // namespace tutti::cuda
