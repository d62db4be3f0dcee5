// Connection: one authenticated TCP socket to a peer. Frames in, frames out, never blocking.
//
// One connection serves one lane (or one stripe of it). It reads into the lane's Inbox, sends
// messages straight from the caller's memory, and squeezes control frames in between messages.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/base/fd.h"
#include "transports/tcp/frame.h"
#include "transports/tcp/inbox.h"
#include "transports/tcp/poller.h"
#include "transports/transport.h"

namespace tutti::tcp {

class Connection;

// Both directions of a lane: what its connections share.
struct Lane {
  Lane(size_t slot_bytes, uint32_t credits) : inbox(slot_bytes, credits) {}
  Inbox inbox;
  uint64_t sent = 0;     // messages handed to the kernel
  uint64_t acked = 0;    // of those, released by the peer
  uint64_t told = 0;     // inbox.released() as the peer last heard it
  bool starved = false;  // a send waits for a credit
  // Takes the peer's count of released messages; false when it released what was never sent.
  bool heard(uint32_t released);
};

// What a connection tells the transport that owns it.
class ConnectionOwner {
 public:
  virtual void on_control(Connection& connection, const FrameHeader& header,
                          std::span<const std::byte> payload) = 0;
  virtual void on_event() = 0;  // a message is complete, or a starved sender has a credit
  virtual void on_end(Connection& connection) = 0;       // broken, or closed after a goodbye
  virtual void wants_write(Connection& connection) = 0;  // the kernel's buffer is full

 protected:
  ~ConnectionOwner() = default;
};

class Connection final : public Watcher {
 public:
  struct Identity {
    Rank peer = 0;
    uint32_t lane = 0;
    uint32_t stripe = 0;
    std::string name;  // "rank 7: peer 3 (host b, pid 412)"
  };
  Connection(Fd fd, Identity identity, Poller* poller, ConnectionOwner* owner);
  ~Connection();

  const Identity& identity() const { return identity_; }
  Lane* lane() const { return lane_; }
  void attach(Lane* lane);

  // --- receiving
  // Reads what has arrived into the lane's inbox and hands control frames to the owner. Stops at
  // messages that have no place yet.
  void pump();

  // --- sending: begin_message(), then push() with the same pieces until it is done.
  bool sending() const { return length_ > 0; }
  void begin_message(const FrameHeader& header);
  Io push(std::span<const iovec> pieces);
  // Goes out before the next message; dropped when the peer has not read the last ones for long.
  void send_control(FrameKind kind, uint8_t flags, std::span<const std::byte> payload);
  bool flush();  // true: no control frame is left
  // No more will be sent, or read but for the peer's end of stream.
  void say_goodbye();
  // After the goodbye: the peer's kernel has all of it, or the peer is gone.
  bool finished() const;

  // --- state
  bool alive() const { return status_.ok() && !peer_left_ && !send_broken_; }
  bool readable() const { return readable_; }
  bool peer_left() const { return peer_left_; }
  // Whether the peer has ever sent a frame. A client's side of a greeting is done first, so that a
  // server that leaves in the meantime never had this connection and says no goodbye on it.
  bool heard() const { return heard_; }
  Status status() const;  // why it ended; ok while alive
  void fail(Status status);

  void on_ready(uint32_t events) override;
  void arm_write();  // ask epoll for EPOLLOUT, until it fires once

 private:
  static constexpr size_t k_buffer_bytes = 16 << 10;

  bool consume();
  bool begin_frame();
  bool begin_payload();
  void finish_message();
  bool copy_payload();
  bool take_control();
  size_t buffered() const { return end_ - begin_; }
  void compact();
  void discard();
  void shut_down();
  void wait_for_kernel();
  void stop_reading();
  void end_of_stream();
  void socket_error(const char* what, int error);
  void set_events(uint32_t events);

  Fd fd_;
  Identity identity_;
  Poller* poller_;
  ConnectionOwner* owner_;
  Lane* lane_ = nullptr;
  Status status_;
  bool readable_ = true;
  bool peer_left_ = false;
  bool heard_ = false;
  // Sending has failed. Whether the peer died or had said goodbye is known once all is read.
  bool send_broken_ = false;
  bool said_goodbye_ = false;
  bool shut_down_ = false;
  bool blocked_ = false;  // the owner knows that a send waits for the kernel
  uint32_t events_ = 0;

  // Receiving: a frame is read (in_frame_), and its place is known (placed_).
  std::unique_ptr<std::byte[]> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  FrameHeader header_;
  bool in_frame_ = false;
  bool placed_ = false;
  size_t done_ = 0;  // payload bytes in place
  std::vector<iovec> scatter_;

  // Sending: header and payload of the message under way, and control frames.
  std::array<std::byte, k_header_bytes> out_header_;
  size_t out_offset_ = 0;  // of the payload in the message
  size_t length_ = 0;      // header + payload; 0: no message under way
  size_t pushed_ = 0;
  std::string control_;
  size_t control_sent_ = 0;
  std::vector<iovec> gather_;
};

}  // namespace tutti::tcp
