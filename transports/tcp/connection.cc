// Reading and writing frames on one socket: about one system call per message each way.
#include "transports/tcp/connection.h"

#include <fmt/format.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "src/base/socket.h"

namespace tutti::tcp {
namespace {

constexpr size_t k_most_control = 64 << 10;
// Behind a large payload only the next header is read along, so that the next payload can go
// straight to its place; behind a small one as much as there is, to save system calls.
constexpr size_t k_large_payload = 4096;
constexpr size_t k_most_pieces = 64;

}  // namespace

bool Lane::heard(uint32_t released) {
  const uint32_t advance = released - static_cast<uint32_t>(acked);
  if (advance == 0 || advance > (uint32_t{1} << 31)) return true;  // old news of another stripe
  if (advance > sent - acked) return false;
  acked += advance;
  return true;
}

Connection::Connection(Fd fd, Identity identity, Poller* poller, ConnectionOwner* owner)
    : fd_(std::move(fd)), identity_(std::move(identity)), poller_(poller), owner_(owner) {
  set_events(EPOLLIN);
}

Connection::~Connection() { set_events(0); }

void Connection::attach(Lane* lane) {
  lane_ = lane;
  if (readable_) set_events(events_ | EPOLLIN);
}

// No events: not registered at all, because epoll reports hang-ups even to those who ask nothing.
void Connection::set_events(uint32_t events) {
  if (events == events_) return;
  const uint32_t before = std::exchange(events_, events);
  if (events == 0) return poller_->remove(fd_.get());
  if (before != 0) return poller_->modify(fd_.get(), events, this);
  if (Status added = poller_->add(fd_.get(), events, this); !added.ok()) {
    events_ = 0;
    fail(added.with_context(identity_.name));
  }
}

void Connection::wait_for_kernel() {
  if (std::exchange(blocked_, true)) return;
  owner_->wants_write(*this);
}

void Connection::arm_write() {
  blocked_ = false;
  set_events(events_ | EPOLLOUT);
}

void Connection::on_ready(uint32_t events) {
  if (events & EPOLLOUT) {
    set_events(events_ & ~uint32_t{EPOLLOUT});
    owner_->on_event();
    flush();
  }
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) pump();
}

// --- receiving

void Connection::pump() {
  if (!readable_) return;
  if (said_goodbye_) return discard();
  if (!buffer_) buffer_.reset(new std::byte[k_buffer_bytes]);
  while (consume()) {
    scatter_.clear();
    size_t placed = 0;
    if (in_frame_) {
      if (!lane_->inbox.landing(header_, done_, &scatter_)) return;
      placed = total_bytes(scatter_);
    }
    const bool whole = !in_frame_ || placed == header_.bytes - done_;
    size_t spare = whole ? k_buffer_bytes - end_ : 0;
    if (placed > k_large_payload) spare = std::min(spare, k_header_bytes);
    if (spare > 0) scatter_.push_back({buffer_.get() + end_, spare});
    msghdr message{};
    message.msg_iov = scatter_.data();
    message.msg_iovlen = scatter_.size();
    const ssize_t got = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT);
    if (got <= 0) {
      if (got == 0) return end_of_stream();
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) socket_error("reading from", errno);
      return;
    }
    const size_t bytes = static_cast<size_t>(got);
    done_ += std::min(bytes, placed);
    end_ += bytes - std::min(bytes, placed);
    if (bytes < placed + spare) {  // the socket is empty
      consume();
      return;
    }
  }
}

// Works off the buffer. False: no use in reading more now.
bool Connection::consume() {
  while (true) {
    if (in_frame_) {
      if (!placed_ && !begin_payload()) return false;
      if (!copy_payload()) return false;
      if (done_ < header_.bytes) return true;
      finish_message();
    } else {
      if (buffered() < k_header_bytes) {
        compact();
        return true;
      }
      if (!begin_frame()) return readable_;
    }
  }
}

// Takes a header, and with it the payload of a control frame. False: more bytes are needed, or the
// stream cannot be understood.
bool Connection::begin_frame() {
  const std::span<const std::byte, k_header_bytes> bytes(buffer_.get() + begin_, k_header_bytes);
  if (Status status = decode(bytes, &header_); !status.ok()) {
    stop_reading();
    fail(status.with_context(identity_.name));
    return false;
  }
  const bool is_message = header_.kind == FrameKind::message;
  if (!is_message && buffered() < k_header_bytes + header_.bytes) {
    compact();
    return false;
  }
  if (lane_ != nullptr) {
    const uint64_t acked = lane_->acked;
    if (!lane_->heard(header_.released)) {
      stop_reading();
      fail(
          Status(Code::remote_error, identity_.name + " released messages that it was never sent"));
      return false;
    }
    if (lane_->starved && lane_->acked != acked) {
      lane_->starved = false;
      owner_->on_event();
    }
  }
  begin_ += k_header_bytes;
  if (is_message) {
    in_frame_ = true;
    placed_ = false;
    done_ = 0;
    return true;
  }
  return take_control();
}

bool Connection::take_control() {
  heard_ = true;
  const std::span<const std::byte> payload(buffer_.get() + begin_, header_.bytes);
  begin_ += header_.bytes;
  if (header_.kind == FrameKind::goodbye) {
    peer_left_ = true;
    owner_->on_end(*this);
  } else if (header_.kind != FrameKind::credit) {
    owner_->on_control(*this, header_, payload);
  }
  return readable_;
}

bool Connection::begin_payload() {
  if (lane_ == nullptr) {  // nobody has opened this lane yet; attach() listens again
    set_events(events_ & ~uint32_t{EPOLLIN});
    return false;
  }
  if (Status status = lane_->inbox.begin(header_); !status.ok()) {
    stop_reading();
    fail(status.with_context(identity_.name));
    return false;
  }
  placed_ = true;
  return true;
}

// Moves buffered bytes of the payload to their place. False: its caller is not there.
bool Connection::copy_payload() {
  while (done_ < header_.bytes && buffered() > 0) {
    scatter_.clear();
    if (!lane_->inbox.landing(header_, done_, &scatter_)) return false;
    for (const iovec& piece : scatter_) {
      const size_t part = std::min(piece.iov_len, buffered());
      std::memcpy(piece.iov_base, buffer_.get() + begin_, part);
      begin_ += part;
      done_ += part;
      if (part < piece.iov_len) break;
    }
  }
  if (buffered() == 0) begin_ = end_ = 0;
  return true;
}

void Connection::finish_message() {
  in_frame_ = false;
  if (lane_->inbox.landed(header_)) owner_->on_event();
}

void Connection::compact() {
  if (begin_ == 0) return;
  std::memmove(buffer_.get(), buffer_.get() + begin_, buffered());
  end_ -= begin_;
  begin_ = 0;
}

// --- sending

void Connection::begin_message(const FrameHeader& header) {
  encode(header, out_header_);
  out_offset_ = header.offset;
  length_ = k_header_bytes + header.bytes;
  pushed_ = 0;
}

Io Connection::push(std::span<const iovec> pieces) {
  while (length_ > 0) {
    if (!status_.ok() || send_broken_) return Io::failed;
    gather_.clear();
    // Control frames fit between messages only.
    const size_t control = pushed_ == 0 ? control_.size() - control_sent_ : 0;
    if (control > 0) gather_.push_back({control_.data() + control_sent_, control});
    if (pushed_ < k_header_bytes)
      gather_.push_back({out_header_.data() + pushed_, k_header_bytes - pushed_});
    const size_t payload = std::max(pushed_, k_header_bytes) - k_header_bytes;
    append_slice(pieces, out_offset_ + payload, length_ - k_header_bytes - payload, k_most_pieces,
                 &gather_);
    const size_t offered = total_bytes(gather_);
    msghdr message{};
    message.msg_iov = gather_.data();
    message.msg_iovlen = gather_.size();
    const ssize_t put = ::sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
      socket_error("sending to", errno);
      return Io::failed;
    }
    size_t bytes = put < 0 ? 0 : static_cast<size_t>(put);
    const size_t control_part = std::min(bytes, control);
    control_sent_ += control_part;
    pushed_ += bytes - control_part;
    if (bytes < offered) {
      wait_for_kernel();
      return Io::again;
    }
    if (control > 0) {
      control_.clear();
      control_sent_ = 0;
    }
    if (pushed_ == length_) length_ = 0;
  }
  if (!control_.empty()) flush();
  return Io::done;
}

void Connection::send_control(FrameKind kind, uint8_t flags, std::span<const std::byte> payload) {
  if (!alive() || said_goodbye_ || control_.size() > k_most_control) return;
  FrameHeader header;
  header.kind = kind;
  header.flags = flags;
  header.bytes = static_cast<uint32_t>(payload.size());
  if (lane_ != nullptr) {
    header.released = static_cast<uint32_t>(lane_->inbox.released());
    lane_->told = lane_->inbox.released();
  }
  std::array<std::byte, k_header_bytes> bytes;
  encode(header, bytes);
  control_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  control_.append(reinterpret_cast<const char*>(payload.data()), payload.size());
  flush();
}

bool Connection::flush() {
  if (control_.empty()) return true;
  if (sending() && pushed_ > 0) return false;  // in the middle of a message
  while (status_.ok() && !send_broken_ && control_sent_ < control_.size()) {
    const ssize_t put = ::send(fd_.get(), control_.data() + control_sent_,
                               control_.size() - control_sent_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) {
      if (errno != EAGAIN && errno != EWOULDBLOCK) socket_error("sending to", errno);
      if (alive()) wait_for_kernel();
      return false;
    }
    control_sent_ += static_cast<size_t>(put);
  }
  if (!status_.ok() || send_broken_) return false;
  control_.clear();
  control_sent_ = 0;
  if (said_goodbye_) shut_down();
  return true;
}

void Connection::say_goodbye() {
  if (said_goodbye_ || !status_.ok()) return;
  const bool between_messages = !sending() || pushed_ == 0;
  if (between_messages) {
    length_ = 0;
    send_control(FrameKind::goodbye, 0, {});
  }
  said_goodbye_ = true;
  // In the middle of a message the peer takes the end of the stream for what it is: a loss.
  if (!between_messages || control_.empty()) shut_down();
  if (readable_) set_events(events_ | EPOLLIN);
}

void Connection::shut_down() {
  if (!std::exchange(shut_down_, true)) (void)::shutdown(fd_.get(), SHUT_WR);
}

// After the goodbye nobody waits for messages, but unread data would turn into a reset that can
// overtake what this rank has sent.
void Connection::discard() {
  std::array<std::byte, 4096> trash;
  ssize_t got = 0;
  do {
    got = ::recv(fd_.get(), trash.data(), trash.size(), MSG_DONTWAIT);
  } while (got > 0 || (got < 0 && errno == EINTR));
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
  peer_left_ = true;
  stop_reading();
}

// --- ends

void Connection::fail(Status status) {
  if (!status_.ok()) return;
  status_ = std::move(status);
  owner_->on_end(*this);
}

void Connection::stop_reading() {
  readable_ = false;
  set_events(events_ & ~uint32_t{EPOLLIN});
}

void Connection::end_of_stream() {
  stop_reading();
  if (!peer_left_)
    fail(Status(Code::remote_error, identity_.name + " closed the connection"));
  else
    owner_->on_event();
}

void Connection::socket_error(const char* what, int error) {
  const bool reading = std::string_view(what) == "reading from";
  if (!reading && (error == ECONNRESET || error == EPIPE)) {
    send_broken_ = true;  // the poller reads the rest, and then it is known what happened
    return owner_->on_event();
  }
  if (reading) stop_reading();
  if (reading && peer_left_) return;
  if (error == ECONNRESET || error == EPIPE)
    return fail(Status(Code::remote_error, identity_.name + " reset the connection"));
  if (error == ETIMEDOUT)
    return fail(Status(Code::timeout,
                       identity_.name + " does not answer any more (" + errno_text(error) + ")"));
  fail(Status(Code::remote_error,
              fmt::format("{}: {} it failed: {}", identity_.name, what, errno_text(error))));
}

Status Connection::status() const {
  if (!status_.ok()) return status_;
  if (peer_left_)
    return Status(Code::remote_error, identity_.name + " has closed its communicator");
  if (send_broken_) return Status(Code::remote_error, identity_.name + " reset the connection");
  return {};
}

bool Connection::finished() const {
  if (!readable_ || !status_.ok() || send_broken_) return true;
  int unacknowledged = 0;
  return control_.empty() && ::ioctl(fd_.get(), SIOCOUTQ, &unacknowledged) == 0 &&
         unacknowledged == 0;
}

}  // namespace tutti::tcp
