// LineEndpoint: see line_endpoint.h. The hot path is send -> publish and peek_at -> release.
#include "transports/line/line_endpoint.h"

#include <algorithm>
#include <string>
#include <utility>

#include "kernels/cpu/kernels.h"
#include "transports/line/line_transport.h"

namespace tutti::line {
namespace {

// Unsuccessful polls between two looks at whether the peer is still there.
constexpr uint32_t k_idle_mask = 255;

size_t total_of(std::span<const iovec> pieces) {
  size_t total = 0;
  for (const iovec& piece : pieces) total += piece.iov_len;
  return total;
}

void gather(std::byte* dst, std::span<const iovec> pieces) {
  for (const iovec& piece : pieces) {
    if (piece.iov_len == 0) continue;
    kernels::publish(dst, static_cast<const std::byte*>(piece.iov_base), piece.iov_len);
    dst += piece.iov_len;
  }
}

}  // namespace

struct LineEndpoint::Slot {
  // Another endpoint that was given a message of the slot, as its message number `index`.
  struct Sharer {
    const LineEndpoint* endpoint;
    uint64_t index;
  };
  uint64_t offset = 0;
  size_t reserved = 0;  // bytes of it that may be touched
  std::vector<Sharer> sharers;

  bool sharers_done() {
    std::erase_if(sharers, [](const Sharer& sharer) {
      return sharer.endpoint->broken_ || sharer.endpoint->consumed() > sharer.index;
    });
    return sharers.empty();
  }
};

// Slot i of either ring serves the messages whose number is i modulo the ring. Made on first use:
// small messages get cuts of the heap, so that thousands of connections do not cost a page per
// slot; larger ones each a place in a lazily reserved area.
struct LineEndpoint::Slots {
  Slots(uint32_t small_credits, uint32_t credits)
      : small(std::bit_ceil(small_credits)), large(std::bit_ceil(credits)) {}

  std::vector<Slot> small, large;
  uint64_t area = 0;  // of the larger ones; 0: not yet
  size_t stride = 0;
  alignas(64) std::byte line[k_inline_bytes];  // what reserve() hands out for inline messages
};

LineEndpoint::LineEndpoint(LineTransport& transport, Rank peer, Channel& mine, uint64_t slot_bytes)
    : Endpoint(peer, mine.lane),
      out_(mine.lines()),
      out_mask_(mine.ring - 1),
      credits_(mine.credits),
      small_credits_(mine.small_credits),
      peer_bell_(&transport.arena_of(peer)->bell()),
      my_ack_(&mine.consumed),
      peer_arena_(transport.arena_of(peer)),
      transport_(transport),
      slot_bytes_(slot_bytes) {}

LineEndpoint::~LineEndpoint() = default;

// --- sending

bool LineEndpoint::refresh_credit(uint32_t credits) {
  if (peer_ack_ == nullptr && !attach()) return false;
  acked_ = std::max(acked_, peer_ack_->load(std::memory_order_acquire));
  return sent_ - acked_ < credits;
}

Io LineEndpoint::out_of_credit() {
  if ((++idle_ & k_idle_mask) == 0) transport_.look_after(*this);
  return broken_ ? Io::failed : Io::again;
}

void LineEndpoint::publish(uint64_t signature, uint32_t tag) {
  Line& line = out(sent_);
  line.signature = signature;
  line.head.store(pack_head(sent_, tag, consumed_), std::memory_order_release);
  ++sent_;
  ring(*peer_bell_);
}

void LineEndpoint::publish_place(uint64_t signature, uint32_t tag, const Place& place) {
  std::memcpy(out(sent_).payload, &place, sizeof place);
  publish(signature, tag);
}

void LineEndpoint::publish_slot(uint64_t signature, size_t bytes, Slot& slot) {
  last_slot_ = &slot;
  publish_place(signature, k_tag_slot, {bytes, slot.offset, 0});
}

Io LineEndpoint::send(uint64_t signature, std::span<const iovec> pieces) {
  if (!has_credit(small_credits_)) [[unlikely]]
    return out_of_credit();
  if (pieces.size() == 1 && pieces[0].iov_len <= k_inline_bytes) {
    copy_small(out(sent_).payload, static_cast<const std::byte*>(pieces[0].iov_base),
               pieces[0].iov_len);
    publish(signature, static_cast<uint32_t>(pieces[0].iov_len));
    return Io::done;
  }
  const size_t total = total_of(pieces);
  if (total > k_inline_bytes) return send_in_slot(signature, pieces, total);
  gather(out(sent_).payload, pieces);
  publish(signature, static_cast<uint32_t>(total));
  return Io::done;
}

Io LineEndpoint::send_in_slot(uint64_t signature, std::span<const iovec> pieces, size_t total) {
  Slot* slot = has_credit(credits(total)) ? take_slot(total) : nullptr;
  if (slot == nullptr) return out_of_credit();
  gather(memory_of(*slot), pieces);
  publish_slot(signature, total, *slot);
  return Io::done;
}

std::byte* LineEndpoint::memory_of(const Slot& slot) { return transport_.arena().at(slot.offset); }

LineEndpoint::Slot* LineEndpoint::take_slot(size_t bytes) {
  if (slots_ == nullptr) slots_ = std::make_unique<Slots>(small_credits_, credits_);
  std::vector<Slot>& ring = bytes <= k_small_message ? slots_->small : slots_->large;
  Slot& slot = ring[sent_ & (ring.size() - 1)];
  if (!slot.sharers_done()) return nullptr;
  if (bytes <= slot.reserved) return &slot;
  if (Status s = reserve_slot(slot, bytes); !s.ok()) {
    break_with(std::move(s));
    return nullptr;
  }
  return &slot;
}

// The first message through a slot, or one larger than all before it.
Status LineEndpoint::reserve_slot(Slot& slot, size_t bytes) {
  OwnedArena& arena = transport_.arena();
  if (bytes > std::max(slot_bytes_, k_inline_bytes)) {
    return {Code::invalid_argument, "a message of " + std::to_string(bytes) + " bytes to rank " +
                                        std::to_string(peer()) + " exceeds the slot of " +
                                        std::to_string(slot_bytes_) + " bytes"};
  }
  if (bytes <= k_small_message) {
    const size_t want = std::bit_ceil(bytes);
    Result<uint64_t> offset = arena.allocate(want);
    if (!offset) return offset.status();
    slot.offset = *offset;
    slot.reserved = want;
    return {};
  }
  if (slots_->area == 0) {
    slots_->stride = (slot_bytes_ + k_page - 1) / k_page * k_page;
    Result<uint64_t> area = arena.allocate_lazy(slots_->stride * slots_->large.size());
    if (!area) return area.status();
    slots_->area = *area;
  }
  const auto index = static_cast<uint64_t>(&slot - slots_->large.data());
  const uint64_t at = slots_->area + index * slots_->stride;
  // Whole powers of two, so that slowly growing messages do not cost a system call each.
  const size_t want = std::min(slots_->stride, std::bit_ceil(std::max(bytes, k_page)));
  TUTTI_RETURN_IF_ERROR(arena.reserve(at, want));
  slot.offset = at;
  slot.reserved = want;
  return {};
}

std::byte* LineEndpoint::reserve(size_t bytes) {
  if (!has_credit(credits(bytes))) {
    (void)out_of_credit();
    return nullptr;
  }
  if (bytes <= k_inline_bytes) {
    if (slots_ == nullptr) slots_ = std::make_unique<Slots>(small_credits_, credits_);
    reserved_slot_ = nullptr;
  } else {
    reserved_slot_ = take_slot(bytes);
    if (reserved_slot_ == nullptr) return nullptr;
  }
  reserved_ = bytes + 1;
  return reserved_memory();
}

std::byte* LineEndpoint::reserved_memory() {
  return reserved_slot_ == nullptr ? slots_->line : memory_of(*reserved_slot_);
}

void LineEndpoint::commit(uint64_t signature, size_t bytes) {
  if (reserved_ == 0 || bytes >= reserved_) {
    break_with(Status(Code::internal_error,
                      "commit of " + std::to_string(bytes) + " bytes without a matching reserve"));
    return;
  }
  reserved_ = 0;
  if (bytes > k_inline_bytes) {
    publish_slot(signature, bytes, *reserved_slot_);
    return;
  }
  copy_small(out(sent_).payload, reserved_memory(), bytes);
  publish(signature, static_cast<uint32_t>(bytes));
}

Io LineEndpoint::share(uint64_t signature, Endpoint& first) {
  auto& origin = static_cast<LineEndpoint&>(first);
  if (origin.sent_ == 0) {
    break_with(Status(Code::invalid_usage, "share() before anything was committed"));
    return Io::failed;
  }
  // The last line of `first` lies in this rank's arena and changes only with its next message.
  const Line& line = origin.out(origin.sent_ - 1);
  const uint32_t tag = tag_of(line.head.load(std::memory_order_relaxed));
  Place place;
  std::memcpy(&place, line.payload, sizeof place);
  const bool small = tag <= k_inline_bytes || (tag == k_tag_slot && place.bytes <= k_small_message);
  if (!has_credit(small ? small_credits_ : credits_)) return out_of_credit();
  std::memcpy(out(sent_).payload, line.payload, k_inline_bytes);
  if (tag == k_tag_slot) {
    // The slot may itself have been shared to `first`: its readers are kept where it lives.
    last_slot_ = origin.last_slot_;
    last_slot_->sharers.push_back({this, sent_});
  } else if (tag == k_tag_ref) {
    last_ref_ = sent_ + 1;
  }
  publish(signature, tag);
  return Io::done;
}

Io LineEndpoint::send_ref(uint64_t signature, const void* memory, size_t bytes) {
  if (!has_credit(credits_)) [[unlikely]]
    return out_of_credit();
  MemoryRef ref;
  const Io io = transport_.export_ref(*this, memory, bytes, &ref);
  if (io != Io::done) return io == Io::again ? out_of_credit() : io;
  publish_place(signature, k_tag_ref, {bytes, ref.offset, ref.segment});
  last_ref_ = sent_;
  return Io::done;
}

uint64_t LineEndpoint::consumed() const {
  if (acked_ == sent_) return acked_;
  const Channel* theirs =
      peer_ack_ != nullptr ? nullptr : peer_arena_->find_channel(transport_.rank(), lane());
  const std::atomic<uint64_t>* ack = theirs != nullptr ? &theirs->consumed : peer_ack_;
  return ack == nullptr ? acked_ : std::max(acked_, ack->load(std::memory_order_acquire));
}

// --- receiving

bool LineEndpoint::attach() {
  Channel* theirs = peer_arena_->find_channel(transport_.rank(), lane());
  if (theirs == nullptr) return false;
  if (theirs->credits != credits_ || theirs->small_credits != small_credits_ ||
      theirs->slot_bytes != slot_bytes_) {
    break_with(Status(Code::invalid_usage,
                      "rank " + std::to_string(peer()) + " opened lane " + std::to_string(lane()) +
                          " with " + std::to_string(theirs->credits) + " credits of " +
                          std::to_string(theirs->slot_bytes) + " bytes, this rank with " +
                          std::to_string(credits_) + " of " + std::to_string(slot_bytes_)));
    return false;
  }
  in_mask_ = theirs->ring - 1;
  in_ = theirs->lines();
  peer_ack_ = &theirs->consumed;
  return true;
}

Io LineEndpoint::peek_at(uint32_t k, Message* message) {
  if (in_ == nullptr && !attach()) [[unlikely]]
    return nothing_arrived(k);
  const uint64_t index = consumed_ + k;
  const Line& line = in_[index & in_mask_];
  const uint64_t head = line.head.load(std::memory_order_acquire);
  if (!announces(head, index)) return nothing_arrived(k);
  const uint32_t newly_acked = acked_of(head) - static_cast<uint32_t>(acked_);
  if (static_cast<int32_t>(newly_acked) > 0) acked_ += newly_acked;
  if (index >= seen_) seen_ = index + 1;
  message->signature = line.signature;
  const uint32_t tag = tag_of(head);
  if (tag <= k_inline_bytes) [[likely]] {
    message->bytes = tag;
    message->data = line.payload;
    return Io::done;
  }
  return read_line(line, head, message);
}

Io LineEndpoint::read_line(const Line& line, uint64_t head, Message* message) {
  Place place;
  std::memcpy(&place, line.payload, sizeof place);
  message->bytes = place.bytes;
  if (tag_of(head) == k_tag_slot) {
    message->data = peer_arena_->at(place.offset);
    if (message->data != nullptr) return Io::done;
    break_with(Status(Code::system_error, "the arena of rank " + std::to_string(peer()) +
                                              " cannot be mapped at offset " +
                                              std::to_string(place.offset)));
    return Io::failed;
  }
  auto address = transport_.import_ref(peer(), {place.segment, place.offset}, place.bytes);
  if (!address) {
    break_with(address.status());
    return Io::failed;
  }
  message->data = *address;
  return Io::done;
}

Io LineEndpoint::nothing_arrived(uint32_t k) {
  if ((++idle_ & k_idle_mask) == 0) transport_.look_after(*this);
  if (!broken_) return Io::again;
  // It may have arrived between the poll and the peer's end.
  if (in_ == nullptr) return Io::failed;
  const uint64_t index = consumed_ + k;
  const bool arrived = announces(in_[index & in_mask_].head.load(std::memory_order_acquire), index);
  return arrived ? Io::again : Io::failed;
}

Status LineEndpoint::fetch(size_t offset, std::span<std::byte> dst) {
  Message message;
  const Io io = peek_at(0, &message);
  if (io != Io::done) {
    return io == Io::failed ? status_ : Status(Code::invalid_usage, "fetch without a message");
  }
  if (offset > message.bytes || dst.size() > message.bytes - offset) {
    return Status(Code::invalid_argument, "fetch of bytes " + std::to_string(offset) + "+" +
                                              std::to_string(dst.size()) + " of a message of " +
                                              std::to_string(message.bytes));
  }
  if (dst.empty()) return {};
  if (message.data != nullptr) {
    kernels::copy(dst.data(), message.data + offset, dst.size());
    return {};
  }
  Place place;
  std::memcpy(&place, in_[consumed_ & in_mask_].payload, sizeof place);
  return transport_.remote_read(peer(), place.offset + offset, dst);
}

void LineEndpoint::release() {
  ++consumed_;
  my_ack_->store(consumed_, std::memory_order_release);
  ring(*peer_bell_);
}

Io LineEndpoint::recv(std::span<const iovec> pieces, uint64_t* signature, size_t* bytes) {
  Message message;
  const Io io = peek_at(0, &message);
  if (io != Io::done) return io;
  *signature = message.signature;
  *bytes = message.bytes;
  if (message.bytes > total_of(pieces)) return Io::failed;
  size_t offset = 0;
  for (const iovec& piece : pieces) {
    const size_t part = std::min(piece.iov_len, message.bytes - offset);
    if (part == 0) continue;
    auto* dst = static_cast<std::byte*>(piece.iov_base);
    if (message.data != nullptr) {
      kernels::copy(dst, message.data + offset, part);
    } else if (Status s = fetch(offset, {dst, part}); !s.ok()) {
      break_with(std::move(s));
      return Io::failed;
    }
    offset += part;
  }
  release();
  return Io::done;
}

// --- for the transport

Status LineEndpoint::status() const { return status_; }

bool LineEndpoint::has_news() {
  if (in_ == nullptr && !attach()) return false;
  bool news = false;
  if (announces(in_[seen_ & in_mask_].head.load(std::memory_order_acquire), seen_)) {
    ++seen_;
    news = true;
  }
  const uint64_t before = std::exchange(acked_, consumed());
  return acked_ != before || news;
}

void LineEndpoint::break_with(Status status) {
  if (broken_) return;
  status_ = std::move(status);
  broken_ = true;
}

}  // namespace tutti::line
