#include "bindings/python/src/torch/channel.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

namespace tutti::torch_backend {

Channel::Channel(bool sends, int peer, Connect connect)
    : sends_(sends), peer_(peer), connect_(std::move(connect)), thread_([this] { loop(); }) {}

Channel::~Channel() {
  this->abort("the process group was shut down");
  thread_.join();
}

void Channel::post(at::Tensor tensor, int64_t tag, c10::intrusive_ptr<TuttiWork> work,
                   std::function<void()> then) {
  Status broken;
  {
    std::lock_guard lock(mutex_);
    broken = broken_;
    if (broken.ok()) posted_.push_back({std::move(tensor), tag, work, std::move(then)});
  }
  changed_.notify_one();
  if (!broken.ok()) work->complete(broken);
}

// An idle channel only stops; one in the middle of something breaks at both ends.
void Channel::abort(const std::string& reason) {
  std::shared_ptr<Communicator> communicator;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    if (busy_ || !posted_.empty()) communicator = communicator_;
  }
  changed_.notify_one();
  if (communicator != nullptr) communicator->abort(reason);
}

bool Channel::idle() {
  std::lock_guard lock(mutex_);
  return posted_.empty() && !busy_;
}

void Channel::deliver(Posted posted, const Status& status) {
  if (status.ok() && posted.then) posted.then();
  posted.work->complete(status);
}

void Channel::fail_all(const Status& status) {
  std::list<Posted> failed;
  {
    std::lock_guard lock(mutex_);
    broken_ = status;
    failed.swap(posted_);
  }
  for (Posted& p : failed) deliver(std::move(p), status);
}

void Channel::loop() {
  at::NoGradGuard no_grad;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopping_ || !posted_.empty(); });
  }
  Result<std::unique_ptr<Communicator>> made =
      stopping_ ? Result<std::unique_ptr<Communicator>>(Status(Code::aborted, "shut down"))
                : connect_();
  Status status = made.status();
  if (made) {
    {
      std::lock_guard lock(mutex_);
      communicator_ = std::move(*made);
    }
    status = serve();
  }
  fail_all(status.ok() ? Status(Code::aborted, "the process group was shut down") : status);
}

Status Channel::serve() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      busy_ = false;
      changed_.wait(lock, [&] { return stopping_ || !posted_.empty(); });
      if (stopping_) return {};
      busy_ = true;
    }
    TUTTI_RETURN_IF_ERROR(sends_ ? send_next() : receive_next());
  }
}

Status Channel::send_next() {
  Posted next;
  {
    std::lock_guard lock(mutex_);
    next = std::move(posted_.front());
    posted_.pop_front();
  }
  const Header header{next.tag, static_cast<int64_t>(next.tensor.nbytes())};
  Status status = communicator_->send(&header, sizeof header, DType::uint8, 1);
  if (status.ok() && header.bytes > 0)
    status =
        communicator_->send(next.tensor.const_data_ptr(), next.tensor.nbytes(), DType::uint8, 1);
  deliver(std::move(next), status);
  return status;
}

// One that waits for a message which has come already.
bool Channel::match_unexpected() {
  std::unique_lock lock(mutex_);
  for (auto p = posted_.begin(); p != posted_.end(); ++p) {
    auto u = std::find_if(unexpected_.begin(), unexpected_.end(),
                          [&](const Unexpected& one) { return one.tag == p->tag; });
    if (u == unexpected_.end()) continue;
    Posted posted = std::move(*p);
    const at::Tensor bytes = std::move(u->bytes);
    posted_.erase(p);
    unexpected_.erase(u);
    lock.unlock();
    Status status;
    if (bytes.numel() != static_cast<int64_t>(posted.tensor.nbytes())) {
      status = Status(Code::invalid_usage,
                      "recv of " + std::to_string(posted.tensor.nbytes()) + " bytes from rank " +
                          std::to_string(peer_) + ", tag " + std::to_string(posted.tag) +
                          ", but the message has " + std::to_string(bytes.numel()));
    } else if (bytes.numel() > 0) {
      std::memcpy(posted.tensor.mutable_data_ptr(), bytes.const_data_ptr(), bytes.nbytes());
    }
    deliver(std::move(posted), status);
    return true;
  }
  return false;
}

Status Channel::receive_next() {
  if (match_unexpected()) return {};
  Header header{};
  TUTTI_RETURN_IF_ERROR(communicator_->recv(&header, sizeof header, DType::uint8, 0));
  Posted posted;
  bool found = false;
  {
    std::lock_guard lock(mutex_);
    // The first of this tag is meant. One of another size learns it from match_unexpected().
    auto p = std::find_if(posted_.begin(), posted_.end(),
                          [&](const Posted& one) { return one.tag == header.tag; });
    found = p != posted_.end() && static_cast<int64_t>(p->tensor.nbytes()) == header.bytes;
    if (found) {
      posted = std::move(*p);
      posted_.erase(p);
    }
  }
  return take_payload(header, found ? &posted : nullptr);
}

Status Channel::take_payload(const Header& header, Posted* posted) {
  at::Tensor bytes;
  if (posted == nullptr) bytes = at::empty({header.bytes}, at::kByte);
  void* into = posted != nullptr ? posted->tensor.mutable_data_ptr() : bytes.mutable_data_ptr();
  Status status;
  if (header.bytes > 0)
    status = communicator_->recv(into, static_cast<size_t>(header.bytes), DType::uint8, 0);
  if (posted != nullptr) {
    deliver(std::move(*posted), status);
  } else if (status.ok()) {
    std::lock_guard lock(mutex_);
    unexpected_.push_back({header.tag, std::move(bytes)});
  }
  return status;
}

}  // namespace tutti::torch_backend
