// Asynchronous operations: one progress thread per communicator, started by the first of them.
#include "src/communicator/device_rank.h"
#include "src/communicator/one_sided_channel.h"

namespace tutti {

bool Work::done() const {
  if (state_ == nullptr) return true;
  std::lock_guard lock(state_->mutex);
  return state_->done;
}

Status Work::wait() {
  if (state_ == nullptr) return {};
  std::unique_lock lock(state_->mutex);
  state_->finished.wait(lock, [&] { return state_->done; });
  return state_->status;
}

Status Work::wait_for(std::chrono::nanoseconds timeout) {
  if (state_ == nullptr) return {};
  std::unique_lock lock(state_->mutex);
  if (!state_->finished.wait_for(lock, timeout, [&] { return state_->done; }))
    return Status(Code::in_progress, "the operation has not finished");
  return state_->status;
}

Work Communicator::Impl::submit(std::function<Status()> body) {
  auto state = std::make_shared<Work::State>();
  state->body = std::move(body);
  if (!hand_over(state)) {
    state->status = state->body();
    state->done = true;
  }
  return Work(state);
}

// False: there is no thread to run it. None may be to be had; after finalize() and in a forked
// child the work only finds out what is wrong.
bool Communicator::Impl::hand_over(const std::shared_ptr<Work::State>& state) {
  if (!usable().ok()) return false;
  {
    std::lock_guard lock(work_mutex_);
    if (stopping_ && !on_worker()) return false;
    if (!worker_.joinable()) {
      Result<std::thread> thread = start_thread([this] { work_loop(); });
      if (!thread) return false;
      worker_ = std::move(*thread);
    }
    pending_.fetch_add(1, std::memory_order_acq_rel);
    work_.push_back(state);
  }
  work_changed_->notify_one();
  return true;
}

void Communicator::Impl::work_loop() {
  worker_id_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  while (true) {
    std::shared_ptr<Work::State> next;
    {
      std::unique_lock lock(work_mutex_);
      work_changed_->wait(lock, [&] { return stopping_ || !work_.empty(); });
      if (work_.empty()) return;
      next = std::move(work_.front());
      work_.pop_front();
    }
    Status status = next->body();
    next->body = nullptr;
    pending_.fetch_sub(1, std::memory_order_acq_rel);
    {
      std::lock_guard lock(next->mutex);
      next->status = std::move(status);
      next->done = true;
    }
    next->finished.notify_all();
  }
}

// Outstanding work is done (or fails, when broken) before the goodbye.
Status Communicator::Impl::finalize(Clock::duration patience) {
  if (finalized_) return first_error();
  const bool forked = fork_guard_ != nullptr && *static_cast<volatile char*>(fork_guard_) == 0;
  // What streams still hold may run on the progress thread.
  if (const auto device = device_rank()) device->device_path().drain();
  if (forked) {  // the thread and whoever held the lock are the parent's
    if (worker_.joinable()) worker_.detach();
  } else {
    {
      std::lock_guard lock(work_mutex_);
      stopping_ = true;
    }
    work_changed_->notify_one();
    if (worker_.joinable()) worker_.join();
  }
  finalized_ = true;
  const bool alone = enter_call();  // nobody looks meanwhile, nor afterwards
  if (channel_ != nullptr) channel_->close(patience, forked);
  if (router_ != nullptr && !forked)
    for (const auto& t : router_->transports()) t->close(Clock::now() + patience);
  if (alone) leave_call();
  return first_error();
}

}  // namespace tutti
