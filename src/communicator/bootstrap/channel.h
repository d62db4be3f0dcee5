// Frames over an authenticated connection: what the root and the ranks of the tree say to each
// other. Never used before the handshake is done; every length has a cap all the same.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>

#include "src/base/socket.h"

namespace tutti {

enum class FrameType : uint8_t {
  join = 1,     // rank -> root: JoinRequest
  place,        // root -> rank: Placement
  linked,       // rank -> root: connected to its parent
  ready,        // root -> top of the tree -> all: every rank is linked
  broken,       // anyone -> all: code and sentence; the job is over
  gather_up,    // child -> parent: the blobs of a subtree
  gather_down,  // parent -> child: all blobs
  barrier_up,
  barrier_down,
  error,    // anyone -> all: a record of post_error()
  goodbye,  // the sender leaves in order
  letter,   // of the council, on connections of its own
};

struct Frame {
  FrameType type = FrameType::goodbye;
  uint32_t number = 0;  // of the collective call
  std::string payload;
};

// A frame ready to be sent, shared by the connections that carry it.
using Encoded = std::shared_ptr<const std::string>;
Encoded encode_frame(FrameType type, uint32_t number, std::string_view payload);

class Channel {
 public:
  Channel(Fd fd, size_t max_payload) : fd_(std::move(fd)), max_payload_(max_payload) {
    set_no_delay(fd_.get());
  }

  // Queues and sends what goes without blocking.
  void send(Encoded frame);
  Status flush();  // sends more of the queue; an error of the connection
  bool flushed() const { return outbox_.empty(); }
  // Reads what is there; complete frames go to pop(). remote_error at end of file.
  Status receive();
  bool pop(Frame* frame);
  void set_max_payload(size_t bytes) { max_payload_ = bytes; }

  int fd() const { return fd_.get(); }
  void close() { fd_.reset(); }
  bool closed() const { return !fd_; }
  short events() const { return static_cast<short>(POLLIN | (flushed() ? 0 : POLLOUT)); }

 private:
  static constexpr size_t k_header = 12;
  Status begin_payload();

  Fd fd_;
  size_t max_payload_;
  std::deque<Encoded> outbox_;
  size_t sent_ = 0;  // bytes of the front of outbox_
  char header_[k_header] = {};
  size_t header_read_ = 0;
  size_t payload_read_ = 0;
  Frame incoming_;
  std::deque<Frame> inbox_;
};

// Fixed-size parts of payloads, little endian on the wire (the handshake has seen to that both ends
// are).
template <class T>
void append(std::string* to, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  to->append(reinterpret_cast<const char*>(&value), sizeof value);
}
// Takes a value off the front of `from`; false when it is too short.
template <class T>
bool take(std::string_view* from, T* value) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (from->size() < sizeof *value) return false;
  __builtin_memcpy(value, from->data(), sizeof *value);
  from->remove_prefix(sizeof *value);
  return true;
}

// A Status as payload of `broken`, and back. Texts are cut at 4 KiB.
std::string encode_status(const Status& status);
Status decode_status(std::string_view payload);

}  // namespace tutti
