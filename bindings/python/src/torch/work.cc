#include "bindings/python/src/torch/work.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/python_headers.h>

#include "bindings/python/src/torch/signals.h"

namespace tutti::torch_backend {

using std::chrono::milliseconds;

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
                     std::function<void(const std::string&)> on_overdue)
    : c10d::Work(rank, type, title, outputs),
      outputs_(std::move(outputs)),
      sequence_(sequence),
      timeout_(timeout),
      on_overdue_(std::move(on_overdue)),
      future_(
          c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()))) {
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

bool TuttiWork::isCompleted() {
  std::lock_guard<std::mutex> lock(mutex_);
  return completed_;
}

bool TuttiWork::isSuccess() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return completed_ && !exception_;
}

bool TuttiWork::wait_until_done(milliseconds patience) {
  WithoutGil without_gil;
  std::unique_lock<std::mutex> lock(mutex_);
  return cv_.wait_for(lock, patience, [&] { return completed_; });
}

// In slices, so that Ctrl-C works: the main thread handles the program's signals in between.
bool TuttiWork::wait(milliseconds timeout) {
  constexpr milliseconds k_slice{50};
  if (timeout == kNoTimeout) timeout = timeout_;
  const auto start = std::chrono::steady_clock::now();
  while (!wait_until_done(k_slice)) {
    if (timeout.count() > 0 && std::chrono::steady_clock::now() - start > timeout) {
      const std::string text = "rank " + std::to_string(rank_) + ": " +
                               c10d::opTypeToString(opType_) + " #" + std::to_string(sequence_) +
                               " was not done within " + std::to_string(timeout.count()) + " ms";
      on_overdue_(text);
      // The abort names who was waited for, if it comes through.
      if (wait_until_done(milliseconds(1000))) break;
      std::rethrow_exception(to_exception(Status(Code::timeout, text)));
    }
    if (!Py_IsInitialized()) continue;
    const PyGILState_STATE gil = PyGILState_Ensure();
    const bool raised = PyErr_CheckSignals() != 0;
    if (raised) {
      python_error error;
      error.persist();
      PyGILState_Release(gil);
      on_overdue_("interrupted by a signal of the program");
      wait_until_done(milliseconds(1000));
      throw error;
    }
    PyGILState_Release(gil);
  }
  std::unique_lock<std::mutex> lock(mutex_);
  const std::exception_ptr error = exception_;
  lock.unlock();
  if (error) std::rethrow_exception(error);
  return true;
}

void TuttiWork::abort() { on_overdue_("the program aborted the operation"); }

c10::intrusive_ptr<c10d::Work> all_of(int rank, uint64_t sequence,
                                      const std::vector<c10::intrusive_ptr<TuttiWork>>& works) {
  std::vector<at::Tensor> outputs;
  for (const auto& w : works)
    for (const at::Tensor& t : w->result()) outputs.push_back(t);
  auto all =
      c10::make_intrusive<TuttiWork>(rank, c10d::OpType::COALESCED, nullptr, std::move(outputs),
                                     sequence, kNoTimeout, [works](const std::string&) {
                                       for (const auto& w : works) w->abort();
                                     });
  if (works.empty()) all->complete({});
  struct Countdown {
    std::atomic<size_t> left;
    std::mutex mutex;
    Status first;
  };
  auto countdown = std::make_shared<Countdown>();
  countdown->left = works.size();
  for (const auto& w : works)
    w->getFuture()->addCallback([all, countdown](c10::ivalue::Future& f) {
      if (f.hasError()) {
        std::lock_guard<std::mutex> lock(countdown->mutex);
        if (countdown->first.ok())
          countdown->first = Status(Code::remote_error, f.tryRetrieveErrorMessage());
      }
      if (countdown->left.fetch_sub(1) == 1) all->complete(countdown->first);
    });
  return all;
}

}  // namespace tutti::torch_backend
