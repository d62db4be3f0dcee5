// Every call first asks whether the fault of the day lets it through.
#include "transports/faulty/faulty_endpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace tutti::faulty {

FaultyEndpoint::FaultyEndpoint(Endpoint* inner, std::vector<Fault> faults, Shared* shared)
    : Endpoint(inner->peer(), inner->lane()),
      inner_(inner),
      faults_(std::move(faults)),
      shared_(shared) {
  for (const Fault& fault : faults_) {
    watches_arrivals_ |=
        fault.kind == Kind::delay || fault.kind == Kind::reorder || fault.kind == Kind::corrupt;
    if (fault.kind == Kind::again) percent_again_ = std::max(percent_again_, fault.amount);
  }
}

Status FaultyEndpoint::status() const {
  if (shared_->dead)
    return Status(Code::aborted, fmt::format("rank {} is dead (fault injection)", shared_->rank));
  return loss_.ok() ? inner_->status() : loss_;
}

bool FaultyEndpoint::backs_off() {
  return percent_again_ > 0 && shared_->random() % 100 < percent_again_;
}

void FaultyEndpoint::count_message() {
  ++messages_;
  ++shared_->messages;
  for (const Fault& fault : faults_) {
    const bool loses = fault.kind == Kind::drop || fault.kind == Kind::reset;
    if (!loses || !loss_.ok() || messages_ < fault.amount) continue;
    loss_ =
        Status(Code::remote_error,
               fmt::format("rank {}: rank {} {} the connection (fault injection)", shared_->rank,
                           peer(), fault.kind == Kind::drop ? "closed" : "reset"));
    if (shared_->first_loss.ok()) shared_->first_loss = loss_;
  }
  shared_->after_message();
}

// --- sending

template <class Call>
Io FaultyEndpoint::attempt_send(Call&& call) {
  if (stopped()) return Io::failed;
  if (backs_off()) return Io::again;
  const Io io = call();
  if (io == Io::done) count_message();
  return io;
}

Io FaultyEndpoint::send(uint64_t signature, std::span<const iovec> pieces) {
  return attempt_send([&] { return inner_->send(signature, pieces); });
}

std::byte* FaultyEndpoint::reserve(size_t bytes) {
  return stopped() || backs_off() ? nullptr : inner_->reserve(bytes);
}

void FaultyEndpoint::commit(uint64_t signature, size_t bytes) {
  if (stopped()) return;
  inner_->commit(signature, bytes);
  count_message();
}

Io FaultyEndpoint::share(uint64_t signature, Endpoint& first) {
  // `first` is of this transport, so it is one of ours.
  return attempt_send(
      [&] { return inner_->share(signature, *static_cast<FaultyEndpoint&>(first).inner_); });
}

Io FaultyEndpoint::send_ref(uint64_t signature, const void* memory, size_t bytes) {
  return attempt_send([&] { return inner_->send_ref(signature, memory, bytes); });
}

// --- receiving

// Notes what has arrived below since the last time.
void FaultyEndpoint::discover() {
  Message message;
  while (inner_->peek_at(static_cast<uint32_t>(arrived_.size()), &message) == Io::done) {
    Arrived arrived;
    arrived.at = Clock::now();
    arrived.tick = shared_->ticks;
    ++total_arrived_;
    for (const Fault& fault : faults_) {
      if (fault.kind == Kind::delay) arrived.at += std::chrono::microseconds(fault.amount);
      if (fault.kind == Kind::reorder) arrived.tick += shared_->random() % (fault.amount + 1);
      if (fault.kind == Kind::corrupt && fault.amount == total_arrived_) arrived.corrupt = true;
    }
    arrived_.push_back(std::move(arrived));
  }
}

// What has been seen once stays visible; nothing is visible before what precedes it.
bool FaultyEndpoint::visible(uint32_t k) {
  discover();
  while (shown_ <= k && shown_ < arrived_.size()) {
    const Arrived& next = arrived_[shown_];
    if (shared_->ticks < next.tick || Clock::now() < next.at) break;
    ++shown_;
  }
  return k < shown_;
}

void FaultyEndpoint::damage(Arrived& arrived, Message* message) {
  if (message->bytes == 0) {
    message->signature ^= 1;
    return;
  }
  if (arrived.damaged.empty()) {
    arrived.damaged.resize(message->bytes);
    if (message->data != nullptr)
      std::memcpy(arrived.damaged.data(), message->data, message->bytes);
    else if (!inner_->fetch(0, arrived.damaged).ok())
      return;
    arrived.damaged[message->bytes / 2] ^= std::byte{0x10};
  }
  message->data = arrived.damaged.data();
}

Io FaultyEndpoint::peek_at(uint32_t k, Message* message) {
  if (stopped()) return Io::failed;
  ++shared_->ticks;
  if (k >= shown_ && backs_off()) return Io::again;
  if (!watches_arrivals_) return inner_->peek_at(k, message);
  const bool seen = visible(k);
  if (!seen) {
    // Held back, or not there: then the transport below knows whether it will ever come.
    if (k < arrived_.size()) return Io::again;
    const Io below = inner_->peek_at(k, message);
    return below == Io::done ? Io::again : below;
  }
  const Io io = inner_->peek_at(k, message);
  if (io == Io::done && arrived_[k].corrupt) damage(arrived_[k], message);
  return io;
}

Status FaultyEndpoint::fetch(size_t offset, std::span<std::byte> dst) {
  if (stopped()) return status();
  if (arrived_.empty() || arrived_[0].damaged.empty()) return inner_->fetch(offset, dst);
  const auto& damaged = arrived_[0].damaged;
  if (offset > damaged.size() || dst.size() > damaged.size() - offset)
    return Status(Code::invalid_argument, "fetch() beyond the end of the message");
  std::memcpy(dst.data(), damaged.data() + offset, dst.size());
  return {};
}

void FaultyEndpoint::release() {
  if (stopped()) return;
  inner_->release();
  if (!arrived_.empty()) {
    arrived_.pop_front();
    if (shown_ > 0) --shown_;
  }
  count_message();
}

Io FaultyEndpoint::recv(std::span<const iovec> pieces, uint64_t* signature, size_t* bytes) {
  if (stopped()) return Io::failed;
  if (!watches_arrivals_) {
    ++shared_->ticks;
    if (backs_off()) return Io::again;
    const Io io = inner_->recv(pieces, signature, bytes);
    if (io == Io::done) count_message();
    return io;
  }
  Message message;
  if (const Io io = peek_at(0, &message); io != Io::done) return io;
  *signature = message.signature;
  *bytes = message.bytes;
  size_t room = 0;
  for (const iovec& piece : pieces) room += piece.iov_len;
  if (room < message.bytes) return Io::failed;
  size_t offset = 0;
  for (const iovec& piece : pieces) {
    const size_t part = std::min(piece.iov_len, message.bytes - offset);
    if (part > 0 && !fetch(offset, {static_cast<std::byte*>(piece.iov_base), part}).ok())
      return Io::failed;
    offset += part;
  }
  release();
  return Io::done;
}

}  // namespace tutti::faulty
