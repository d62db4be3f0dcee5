// The receiving half of a lane: where its messages arrive, without any socket.
//
// Up to `credits` messages may be under way. Each has a slot; a message that the caller is already
// waiting for (post()) goes straight into the caller's memory instead. Frames of one message may
// come over several connections (stripes), in any order between the connections.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "transports/tcp/frame.h"
#include "tutti/status.h"

namespace tutti::tcp {

class Inbox {
 public:
  Inbox(size_t slot_bytes, uint32_t credits) : slots_(credits), slot_bytes_(slot_bytes) {}

  struct Arrived {
    uint64_t signature = 0;
    size_t bytes = 0;
    const std::byte* data = nullptr;  // null: it lies in the posted pieces
  };

  // The caller waits for the head message and lends `pieces` until unpost(). Where a message has
  // begun to arrive in a caller's memory, only a caller with memory of its length can go on.
  void post(std::span<const iovec> pieces);
  void unpost();

  // A message frame has come; checked against what the lane allows. Errors: remote_error,
  // system_error (no memory for the slot).
  Status begin(const FrameHeader& header);
  // Appends to `out` where bytes [done, header.bytes) of the frame go. False: they belong to a
  // caller who is not there, so the bytes must stay in the socket.
  bool landing(const FrameHeader& header, size_t done, std::vector<iovec>* out) const;
  // All bytes of the frame are in place. True: its message is now complete.
  bool landed(const FrameHeader& header);

  // The k-th message from the head, if all of it is here.
  bool arrived(uint32_t k, Arrived* out) const;
  // Copies the head message to `pieces` (which are long enough).
  void copy_head(std::span<const iovec> pieces) const;
  void release();
  uint64_t released() const { return released_; }
  uint32_t credits() const { return static_cast<uint32_t>(slots_.size()); }
  size_t slot_bytes() const { return slot_bytes_; }

 private:
  struct Slot {
    enum class State : uint8_t { empty, arriving, complete };
    State state = State::empty;
    bool direct = false;    // in the caller's pieces
    uint32_t claimed = 0;   // bytes of the frames that have begun
    uint32_t received = 0;  // bytes of those that are complete
    uint32_t total = 0;
    uint64_t signature = 0;
    std::unique_ptr<std::byte[]> memory;
  };
  Slot& slot(uint64_t sequence) { return slots_[sequence % slots_.size()]; }
  const Slot& slot(uint64_t sequence) const { return slots_[sequence % slots_.size()]; }
  // The full number of a sequence that check() has found to be within the window.
  uint64_t widen(uint32_t sequence) const {
    return released_ + (sequence - static_cast<uint32_t>(released_));
  }

  std::vector<Slot> slots_;
  size_t slot_bytes_;
  uint64_t released_ = 0;
  std::span<const iovec> posted_;
  size_t posted_bytes_ = 0;
  bool is_posted_ = false;
};

// Appends the part [offset, offset + bytes) of `pieces` to `out`, at most `limit` entries.
// Returns the bytes appended.
size_t append_slice(std::span<const iovec> pieces, size_t offset, size_t bytes, size_t limit,
                    std::vector<iovec>* out);
size_t total_bytes(std::span<const iovec> pieces);

}  // namespace tutti::tcp
