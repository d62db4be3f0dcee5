// Non-blocking framing; see channel.h.
#include "src/communicator/bootstrap/channel.h"

#include <cstring>

namespace tutti {
namespace {

constexpr size_t k_max_text = 4096;

}  // namespace

Encoded encode_frame(FrameType type, uint32_t number, std::string_view payload) {
  std::string text;
  text.reserve(12 + payload.size());
  append(&text, static_cast<uint32_t>(type));
  append(&text, number);
  append(&text, static_cast<uint32_t>(payload.size()));
  text.append(payload);
  return std::make_shared<const std::string>(std::move(text));
}

void Channel::send(Encoded frame) {
  outbox_.push_back(std::move(frame));
  // An error shows again, and is handled, at the next receive() or flush().
  if (outbox_.size() == 1) (void)flush();
}

Status Channel::flush() {
  while (!outbox_.empty() && fd_) {
    const std::string& front = *outbox_.front();
    Result<size_t> put = write_some(fd_.get(), front.data() + sent_, front.size() - sent_);
    if (!put.ok()) return put.status();
    if (*put == 0) return Status();
    sent_ += *put;
    if (sent_ < front.size()) continue;
    outbox_.pop_front();
    sent_ = 0;
  }
  return Status();
}

Status Channel::begin_payload() {
  uint32_t type = 0;
  uint32_t bytes = 0;
  std::memcpy(&type, header_, 4);
  std::memcpy(&incoming_.number, header_ + 4, 4);
  std::memcpy(&bytes, header_ + 8, 4);
  if (type == 0 || type > static_cast<uint32_t>(FrameType::letter)) {
    return Status(Code::remote_error,
                  peer_name(fd_.get()) + " sent a frame of unknown type " + std::to_string(type));
  }
  if (bytes > max_payload_) {
    return Status(Code::remote_error, peer_name(fd_.get()) + " sent a frame of " +
                                          std::to_string(bytes) + " bytes, more than the " +
                                          std::to_string(max_payload_) + " allowed");
  }
  incoming_.type = static_cast<FrameType>(type);
  incoming_.payload.resize(bytes);
  payload_read_ = 0;
  return Status();
}

Status Channel::receive() {
  while (fd_) {
    if (header_read_ < k_header) {
      Result<size_t> got = read_some(fd_.get(), header_ + header_read_, k_header - header_read_);
      if (!got.ok()) return got.status();
      if (*got == 0) return Status();
      header_read_ += *got;
      if (header_read_ < k_header) continue;
      TUTTI_RETURN_IF_ERROR(begin_payload());
    }
    size_t missing = incoming_.payload.size() - payload_read_;
    if (missing > 0) {
      Result<size_t> got = read_some(fd_.get(), incoming_.payload.data() + payload_read_, missing);
      if (!got.ok()) return got.status();
      if (*got == 0) return Status();
      payload_read_ += *got;
      if (*got < missing) continue;
    }
    inbox_.push_back(std::move(incoming_));
    incoming_ = Frame();
    header_read_ = 0;
  }
  return Status();
}

bool Channel::pop(Frame* frame) {
  if (inbox_.empty()) return false;
  *frame = std::move(inbox_.front());
  inbox_.pop_front();
  return true;
}

std::string encode_status(const Status& status) {
  std::string payload(1, static_cast<char>(status.code()));
  return payload + status.message().substr(0, k_max_text);
}

Status decode_status(std::string_view payload) {
  auto code = payload.empty() ? Code::internal_error : static_cast<Code>(payload.front());
  if (payload.empty() || code == Code::ok || code > Code::internal_error) {
    return Status(Code::internal_error, "an unreadable error arrived");
  }
  return Status(code, std::string(payload.substr(1)));
}

}  // namespace tutti
