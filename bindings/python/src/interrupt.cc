#include "bindings/python/src/interrupt.h"

namespace tutti::python {
namespace {

using SteadyClock = std::chrono::steady_clock;

// The call that this thread is in. (A binding's own state: the library has none.)
thread_local BlockingCall* current = nullptr;

}  // namespace

BlockingCall::BlockingCall() : outer_(std::exchange(current, this)) {}
BlockingCall::~BlockingCall() { current = outer_; }
void BlockingCall::rethrow() {
  if (raised_) throw nanobind::python_error(std::move(*raised_));
}

Status handle_signals_while_waiting() {
  BlockingCall* call = current;
  if (call == nullptr) return {};  // a progress thread: its caller looks up by itself
  const SteadyClock::time_point now = SteadyClock::now();
  if (now - call->looked_ < k_slice) return {};
  call->looked_ = now;
  nanobind::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() == 0) return {};
  call->raised_.emplace();
  return Status(Code::aborted, "interrupted by a signal of the program");
}

bool wait_interruptibly(const std::function<Status(std::chrono::nanoseconds)>& wait_for,
                        std::chrono::nanoseconds timeout, const std::function<void()>& interrupted,
                        Status* status) {
  const auto deadline = SteadyClock::now() + timeout;
  const auto waited_for = [&](std::chrono::nanoseconds patience) {
    nanobind::gil_scoped_release without_gil;
    *status = wait_for(patience);
    return status->code() != Code::in_progress;
  };
  while (true) {
    std::chrono::nanoseconds patience = k_slice;
    if (timeout.count() > 0) patience = std::min(patience, deadline - SteadyClock::now());
    if (waited_for(std::max(patience, std::chrono::nanoseconds(0)))) return true;
    if (PyErr_CheckSignals() != 0) {
      nanobind::python_error raised;
      interrupted();
      static_cast<void>(waited_for(std::chrono::seconds(1)));
      throw raised;
    }
    if (timeout.count() > 0 && SteadyClock::now() >= deadline) return false;
  }
}

}  // namespace tutti::python
