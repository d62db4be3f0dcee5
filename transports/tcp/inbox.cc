// Slots of a lane: allocated on first use, filled by frames, read and released by the caller.
#include "transports/tcp/inbox.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace tutti::tcp {

size_t total_bytes(std::span<const iovec> pieces) {
  size_t bytes = 0;
  for (const iovec& piece : pieces) bytes += piece.iov_len;
  return bytes;
}

size_t append_slice(std::span<const iovec> pieces, size_t offset, size_t bytes, size_t limit,
                    std::vector<iovec>* out) {
  size_t appended = 0;
  for (const iovec& piece : pieces) {
    if (appended == bytes || limit == 0) break;
    if (offset >= piece.iov_len) {
      offset -= piece.iov_len;
      continue;
    }
    const size_t part = std::min(piece.iov_len - offset, bytes - appended);
    out->push_back({static_cast<std::byte*>(piece.iov_base) + offset, part});
    appended += part;
    offset = 0;
    --limit;
  }
  return appended;
}

void Inbox::post(std::span<const iovec> pieces) {
  posted_ = pieces;
  posted_bytes_ = total_bytes(pieces);
  is_posted_ = true;
}

void Inbox::unpost() {
  posted_ = {};
  posted_bytes_ = 0;
  is_posted_ = false;
}

Status Inbox::begin(const FrameHeader& header) {
  TUTTI_RETURN_IF_ERROR(check(header, {slot_bytes_, credits(), static_cast<uint32_t>(released_)}));
  const uint64_t sequence = widen(header.sequence);
  Slot& s = slot(sequence);
  if (s.state == Slot::State::complete)
    return Status(Code::remote_error, fmt::format("message {} came twice", sequence));
  if (s.state == Slot::State::empty) {
    s.direct = is_posted_ && sequence == released_ && header.total <= posted_bytes_;
    if (!s.direct && header.total > 0 && s.memory == nullptr) {
      s.memory.reset(new (std::nothrow) std::byte[slot_bytes_]);
      if (s.memory == nullptr)
        return Status(Code::system_error,
                      fmt::format("no memory for a message slot of {} bytes", slot_bytes_));
    }
    s.state = Slot::State::arriving;
    s.received = 0;
    s.claimed = 0;
    s.total = header.total;
    s.signature = header.signature;
  } else if (s.total != header.total || s.signature != header.signature ||
             uint64_t{s.claimed} + header.bytes > s.total) {
    return Status(Code::remote_error, fmt::format("stripes of message {} disagree", sequence));
  }
  s.claimed += header.bytes;
  return {};
}

bool Inbox::landing(const FrameHeader& header, size_t done, std::vector<iovec>* out) const {
  constexpr size_t k_most_pieces = 64;
  const Slot& s = slot(widen(header.sequence));
  const size_t offset = header.offset + done;
  const size_t bytes = header.bytes - done;
  if (s.direct) {
    if (!is_posted_ || posted_bytes_ < s.total) return false;
    append_slice(posted_, offset, bytes, k_most_pieces, out);
  } else if (bytes > 0) {
    out->push_back({s.memory.get() + offset, bytes});
  }
  return true;
}

bool Inbox::landed(const FrameHeader& header) {
  Slot& s = slot(widen(header.sequence));
  s.received += header.bytes;
  if (s.received < s.total) return false;
  s.state = Slot::State::complete;
  return true;
}

bool Inbox::arrived(uint32_t k, Arrived* out) const {
  if (k >= credits()) return false;
  const Slot& s = slot(released_ + k);
  if (s.state != Slot::State::complete) return false;
  *out = {s.signature, s.total, s.direct ? nullptr : s.memory.get()};
  return true;
}

void Inbox::copy_head(std::span<const iovec> pieces) const {
  const Slot& s = slot(released_);
  if (s.direct) return;
  size_t offset = 0;
  for (const iovec& piece : pieces) {
    const size_t part = std::min(piece.iov_len, s.total - offset);
    if (part > 0) std::memcpy(piece.iov_base, s.memory.get() + offset, part);
    offset += part;
  }
}

void Inbox::release() {
  Slot& s = slot(released_);
  s.state = Slot::State::empty;
  s.direct = false;
  ++released_;
}

}  // namespace tutti::tcp
