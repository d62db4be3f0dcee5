// LineEndpoint: the two channels between this rank and a peer, for one lane.
//
// Small messages travel in the line that announces them; larger ones are copied to a slot of the
// sender's arena, and send_ref names memory that the peer reads itself. Nothing here locks, divides
// or makes a system call while messages flow; slots are reserved at their first use.
#pragma once

#include <memory>
#include <vector>

#include "transports/line/arena.h"
#include "transports/transport.h"

namespace tutti::line {

class LineTransport;

class LineEndpoint final : public Endpoint {
 public:
  // `mine` lies in this rank's arena; the peer's channel is found when it has made it.
  LineEndpoint(LineTransport& transport, Rank peer, Channel& mine, uint64_t slot_bytes);
  ~LineEndpoint() override;

  Io send(uint64_t signature, std::span<const iovec> pieces) override;
  std::byte* reserve(size_t bytes) override;
  void commit(uint64_t signature, size_t bytes) override;
  bool supports_reserve() const override { return true; }
  Io share(uint64_t signature, Endpoint& first) override;
  bool supports_share() const override { return true; }
  Io send_ref(uint64_t signature, const void* memory, size_t bytes) override;
  uint64_t sent() const override { return sent_; }
  uint64_t consumed() const override;

  Io peek(Message* message) override { return peek_at(0, message); }
  Io peek_at(uint32_t k, Message* message) override;
  Status fetch(size_t offset, std::span<std::byte> dst) override;
  void release() override;
  Io recv(std::span<const iovec> pieces, uint64_t* signature, size_t* bytes) override;

  Status status() const override;

  // --- for the transport
  // Whether something happened that the owner has not looked at; says so once.
  bool has_news();
  // The connection is over; what has arrived stays readable.
  void break_with(Status status);
  bool refs_outstanding() const { return consumed() < last_ref_; }
  bool broken() const { return broken_; }

 private:
  struct Slot;
  struct Slots;

  // Of messages of so many bytes.
  uint32_t credits(size_t bytes) const {
    return bytes <= k_small_message ? small_credits_ : credits_;
  }
  bool has_credit(uint32_t credits) { return sent_ - acked_ < credits || refresh_credit(credits); }
  bool refresh_credit(uint32_t credits);
  Io out_of_credit();
  // The slot for the next message; null when its readers are not done or it cannot be reserved.
  Slot* take_slot(size_t bytes);
  Status reserve_slot(Slot& slot, size_t bytes);
  std::byte* memory_of(const Slot& slot);
  std::byte* reserved_memory();
  void publish(uint64_t signature, uint32_t tag);
  void publish_place(uint64_t signature, uint32_t tag, const Place& place);
  void publish_slot(uint64_t signature, size_t bytes, Slot& slot);
  Io send_in_slot(uint64_t signature, std::span<const iovec> pieces, size_t total);

  Line& out(uint64_t index) { return out_[index & out_mask_]; }
  bool attach();  // finds the peer's channel; true when there is one
  Io nothing_arrived(uint32_t k);
  Io read_line(const Line& line, uint64_t head, Message* message);

  // Sending.
  Line* out_;
  uint64_t sent_ = 0;
  uint64_t acked_ = 0;  // of those, known to be released by the peer
  uint32_t out_mask_;
  uint32_t credits_, small_credits_;
  // Receiving.
  const Line* in_ = nullptr;
  uint64_t consumed_ = 0;
  uint64_t seen_ = 0;  // messages that peek or has_news have reported
  uint32_t in_mask_ = 0;
  uint32_t idle_ = 0;  // polls that found nothing
  Bell* peer_bell_;
  std::atomic<uint64_t>* my_ack_;
  const std::atomic<uint64_t>* peer_ack_ = nullptr;
  Arena* peer_arena_;
  LineTransport& transport_;
  // Rarely touched.
  uint64_t slot_bytes_;
  uint64_t last_ref_ = 0;          // sent() after the last send_ref
  uint64_t reserved_ = 0;          // 1 + bytes of an open reserve(), 0: none
  Slot* reserved_slot_ = nullptr;  // and where; null: small enough for the line
  std::unique_ptr<Slots> slots_;
  Slot* last_slot_ = nullptr;  // where the last slot message lies, maybe another endpoint's
  Status status_;
  bool broken_ = false;
};

}  // namespace tutti::line
