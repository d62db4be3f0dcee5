#include "bindings/python/src/torch/work.h"

#include <c10/core/StreamGuard.h>
#include <torch/csrc/Exceptions.h>

#include <algorithm>
#include <thread>

#include "bindings/python/src/torch/signals.h"

namespace tutti::torch_backend {

using std::chrono::milliseconds;

namespace {

const c10::TypePtr& list_of_tensors() {
  static const c10::TypePtr type = c10::ListType::create(c10::TensorType::get());
  return type;
}

c10::intrusive_ptr<c10::ivalue::Future> future_on(std::vector<c10::Device> devices) {
  return c10::make_intrusive<c10::ivalue::Future>(list_of_tensors(), std::move(devices));
}

}  // namespace

std::exception_ptr to_exception(const Status& status) {
  if (status.ok()) return nullptr;
  try {
    C10_THROW_ERROR(DistBackendError, "tutti: " + status.to_string());
  } catch (...) {
    return std::current_exception();
  }
}

TuttiWork::TuttiWork(int rank, c10d::OpType type, const char* title,
                     std::vector<at::Tensor> outputs, uint64_t sequence, milliseconds timeout,
                     std::function<void(const std::string&)> on_overdue,
                     std::optional<OnDevice> on_device)
    : c10d::Work(rank, type, title, outputs),
      outputs_(std::move(outputs)),
      sequence_(sequence),
      timeout_(timeout),
      on_overdue_(std::move(on_overdue)),
      future_(future_on(on_device ? std::vector{on_device->issued_from.device()}
                                  : std::vector<c10::Device>())),
      on_device_(std::move(on_device)) {}

// Nobody waited: the allocator has to know that the lane may still use them.
TuttiWork::~TuttiWork() {
  if (!on_device_) return;
  try {
    let_go(std::move(on_device_->used));
  } catch (const std::exception&) {  // the device is lost, and its memory with it
  }
}

void TuttiWork::complete(const Status& status) {
  const std::exception_ptr error = to_exception(status);
  finish(error);
  if (error) {
    future_->setError(error);
  } else {
    future_->markCompleted(at::IValue(outputs_));
  }
}

void TuttiWork::enqueued(const Status& status, c10::Event through, const c10::Stream& lane,
                         std::shared_ptr<Communicator> communicator) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    through_ = std::move(through);
    lane_ = lane;
    communicator_ = std::move(communicator);
  }
  complete(status);
}

bool TuttiWork::isCompleted() {
  std::lock_guard<std::mutex> lock(mutex_);
  return completed_ && (exception_ || !through_ || through_->query());
}

bool TuttiWork::isSuccess() const {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!completed_ || exception_ || (through_ && !through_->query())) return false;
  }
  return late_error().ok();
}

// Of calls that had returned: what the stream then finds in the buffers is undefined.
Status TuttiWork::late_error() const {
  std::unique_lock<std::mutex> lock(mutex_);
  const std::shared_ptr<Communicator> communicator = communicator_;
  lock.unlock();
  return communicator == nullptr ? Status() : communicator->error();
}

bool TuttiWork::wait_until_done(milliseconds patience) {
  WithoutGil without_gil;
  std::unique_lock<std::mutex> lock(mutex_);
  return cv_.wait_for(lock, patience, [&] { return completed_; });
}

bool TuttiWork::wait_until_through(milliseconds patience) {
  WithoutGil without_gil;
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!isCompleted()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return true;
}

void TuttiWork::wait_for(bool (TuttiWork::*done_within)(milliseconds), milliseconds timeout) {
  const auto done = [&](milliseconds time) { return (this->*done_within)(time); };
  const auto stop = [&] { on_overdue_("interrupted by a signal of the program"); };
  if (wait_with_signals(done, timeout, stop)) return;
  const std::string text = "rank " + std::to_string(rank_) + ": " + c10d::opTypeToString(opType_) +
                           " #" + std::to_string(sequence_) + " was not done within " +
                           std::to_string(timeout.count()) + " ms";
  on_overdue_(text);
  // The abort names who was waited for, if it comes through.
  if (!done(milliseconds(1000))) std::rethrow_exception(to_exception(Status(Code::timeout, text)));
}

bool TuttiWork::wait(milliseconds timeout) {
  const bool given = timeout != kNoTimeout;
  if (!given) timeout = timeout_;
  wait_for(&TuttiWork::wait_until_done, timeout);
  if (const std::exception_ptr error = exception()) std::rethrow_exception(error);
  if (!on_device_) return true;
  synchronize();
  if (given || on_device_->host_waits) wait_for(&TuttiWork::wait_until_through, timeout);
  if (const std::exception_ptr error = to_exception(late_error())) std::rethrow_exception(error);
  return true;
}

void TuttiWork::synchronize() {
  std::vector<at::Tensor> used;
  bool behind = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!through_) return;
    const c10::Stream current =
        c10::impl::VirtualGuardImpl(lane_->device_type()).getStream(lane_->device());
    through_->block(current);
    used.swap(on_device_->used);
    behind = current == on_device_->issued_from;
  }
  // Memory that is freed now serves what comes next on the stream that the call was issued from.
  if (!behind) let_go(std::move(used));
}

void TuttiWork::let_go(std::vector<at::Tensor> used) const {
  if (!lane_) return;
  const c10::impl::VirtualGuardImpl guard(lane_->device_type());
  for (const at::Tensor& t : used)
    if (t.defined() && t.has_storage()) guard.recordDataPtrOnStream(t.storage().data_ptr(), *lane_);
}

void TuttiWork::abort() { on_overdue_("the program aborted the operation"); }

// --- several as one

namespace {

class Together final : public c10d::Work {
 public:
  using Works = std::vector<c10::intrusive_ptr<TuttiWork>>;

  Together(int rank, uint64_t sequence, Works works)
      : c10d::Work(rank, c10d::OpType::COALESCED), sequence_(sequence), works_(std::move(works)) {
    std::vector<c10::Device> devices;
    for (const auto& w : works_)
      for (c10::Device d : w->getFuture()->devices()) devices.push_back(d);
    future_ = future_on(devices);
    if (works_.empty()) future_->markCompleted(at::IValue(outputs()));
    auto left = std::make_shared<std::atomic<size_t>>(works_.size());
    for (const auto& w : works_)
      w->getFuture()->addCallback(
          [left, works = works_, future = future_](c10::ivalue::Future&) {
            if (left->fetch_sub(1) == 1) complete(works, *future);
          },
          /*uses_future=*/false);
  }

  bool isCompleted() override {
    return std::all_of(works_.begin(), works_.end(), [](auto& w) { return w->isCompleted(); });
  }
  bool isSuccess() const override {
    return std::all_of(works_.begin(), works_.end(), [](auto& w) { return w->isSuccess(); });
  }
  std::exception_ptr exception() const override {
    for (const auto& w : works_)
      if (std::exception_ptr error = w->exception()) return error;
    return nullptr;
  }
  bool wait(milliseconds timeout) override {
    const auto start = std::chrono::steady_clock::now();
    milliseconds left = timeout;
    for (const auto& w : works_) {
      w->wait(left);
      if (timeout == kNoTimeout) continue;
      const auto past = std::chrono::steady_clock::now() - start;
      left = std::max(milliseconds(1), timeout - std::chrono::duration_cast<milliseconds>(past));
    }
    return true;
  }
  void synchronize() override {
    for (const auto& w : works_) w->synchronize();
  }
  void blockCurrentStream() override { synchronize(); }
  void abort() override {
    for (const auto& w : works_) w->abort();
  }
  std::vector<at::Tensor> result() override { return outputs(); }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }
  uint64_t getSequencenumber() const override { return sequence_; }

 private:
  std::vector<at::Tensor> outputs() const { return outputs_of(works_); }
  static std::vector<at::Tensor> outputs_of(const Works& works) {
    std::vector<at::Tensor> outputs;
    for (const auto& w : works)
      for (const at::Tensor& t : w->result()) outputs.push_back(t);
    return outputs;
  }

  // All have completed. Callbacks of the future come after all of them on every device.
  static void complete(const Works& works, c10::ivalue::Future& future) {
    for (const auto& w : works)
      if (const auto one = w->getFuture(); one->hasError())
        return future.setError(one->exception_ptr());
    std::vector<c10::Stream> streams;
    for (c10::Device d : future.devices())
      streams.push_back(c10::impl::VirtualGuardImpl(d.type()).getStreamFromGlobalPool(d));
    const c10::MultiStreamGuard guard(streams);
    for (const auto& w : works) w->getFuture()->wait();  // these streams wait, not the thread
    future.markCompleted(at::IValue(outputs_of(works)));
  }

  const uint64_t sequence_;
  const Works works_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

}  // namespace

c10::intrusive_ptr<c10d::Work> all_of(int rank, uint64_t sequence,
                                      std::vector<c10::intrusive_ptr<TuttiWork>> works) {
  return c10::make_intrusive<Together>(rank, sequence, std::move(works));
}

}  // namespace tutti::torch_backend
