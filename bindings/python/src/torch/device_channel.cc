#include "bindings/python/src/torch/device_channel.h"

namespace tutti::torch_backend {

DeviceChannel::DeviceChannel(c10::Device device, Connect connect)
    : device_(device), thread_([this, connect = std::move(connect)] { this->connect(connect); }) {}

DeviceChannel::~DeviceChannel() {
  if (thread_.joinable()) thread_.join();
}

void DeviceChannel::connect(const Connect& connect) {
  Result<std::unique_ptr<Communicator>> made = connect();
  Status status = made.status();
  std::unique_ptr<Lane> lane;
  try {
    if (made) lane = std::make_unique<Lane>(device_, std::move(*made));
  } catch (const std::exception& error) {
    status = Status(Code::device_error, error.what());
  }
  std::unique_lock lock(mutex_);
  broken_ = status;
  lane_ = std::move(lane);
  while (!waiting_.empty()) {
    std::list<Posted> next;
    next.swap(waiting_);
    lock.unlock();
    for (const Posted& posted : next) enqueue(posted);
    next.clear();
    lock.lock();
  }
  connecting_ = false;
}

void DeviceChannel::enqueue(const Posted& posted) {
  if (lane_ == nullptr) return posted.work->complete(broken_);
  lane_->enqueue({&posted.ready, 1}, posted.body, {&posted.work, 1});
}

void DeviceChannel::post(c10::Event ready, Body body, c10::intrusive_ptr<TuttiWork> work) {
  Posted posted{std::move(ready), std::move(body), std::move(work)};
  {
    const std::lock_guard lock(mutex_);
    if (connecting_) {
      waiting_.push_back(std::move(posted));
      return;
    }
  }
  enqueue(posted);
}

void DeviceChannel::abort(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (lane_ != nullptr) lane_->abort(reason);
}

// Connecting has ended by itself.
void DeviceChannel::shut_down(std::chrono::milliseconds patience) {
  if (thread_.joinable()) thread_.join();
  if (lane_ != nullptr) lane_->shut_down(patience);
}

Status DeviceChannel::error() {
  const std::lock_guard lock(mutex_);
  return lane_ == nullptr ? broken_ : lane_->error();
}

}  // namespace tutti::torch_backend
