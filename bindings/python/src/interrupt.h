// Ctrl-C inside a wait: blocking calls run without the GIL, and handle the program's signals now
// and then while nothing moves.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "bindings/python/src/errors.h"
#include "tutti/communicator.h"

namespace tutti::python {

// How long a wait may be deaf to signals.
constexpr std::chrono::milliseconds k_slice{20};

// Communicator::on_wait of every communicator of this module.
Status handle_signals_while_waiting();

// Runs a blocking call of this thread without the GIL. Throws what a signal's handler raised
// meanwhile; otherwise the call's own status is the caller's.
class BlockingCall {
 public:
  template <class Body>
  static Status run(Body&& body) {
    BlockingCall call;
    Status status;
    {
      nanobind::gil_scoped_release without_gil;
      status = body();
    }
    call.rethrow();
    return status;
  }

 private:
  friend Status handle_signals_while_waiting();
  BlockingCall();
  ~BlockingCall();
  void rethrow();

  BlockingCall* outer_;
  std::chrono::steady_clock::time_point looked_;
  std::optional<nanobind::python_error> raised_;
};

// Waits in slices; `wait_for` waits for one and returns Code::in_progress when that was not enough.
// On a signal whose handler raises: calls `interrupted`, gives the operation a moment to end, and
// throws. `timeout` zero: for ever; else false when it has passed.
bool wait_interruptibly(const std::function<Status(std::chrono::nanoseconds)>& wait_for,
                        std::chrono::nanoseconds timeout, const std::function<void()>& interrupted,
                        Status* status);

// Runs something that blocks and cannot look up by itself (joining, splitting) on a thread of its
// own, so that this one can handle signals. `body` must own what it uses: when interrupted it is
// left alone until it ends by itself.
template <class Value>
Result<Value> run_interruptibly(std::function<Result<Value>()> body,
                                const std::function<void()>& interrupted = {}) {
  struct State {
    std::mutex mutex;
    std::condition_variable ended;
    std::optional<Result<Value>> result;
  };
  auto state = std::make_shared<State>();
  std::thread([state, body = std::move(body)] {
    Result<Value> result = body();
    std::lock_guard lock(state->mutex);
    state->result.emplace(std::move(result));
    state->ended.notify_all();
  }).detach();
  const auto ended_within = [&](std::chrono::milliseconds patience) {
    nanobind::gil_scoped_release without_gil;
    std::unique_lock lock(state->mutex);
    return state->ended.wait_for(lock, patience, [&] { return state->result.has_value(); });
  };
  while (!ended_within(k_slice)) {
    if (PyErr_CheckSignals() == 0) continue;
    nanobind::python_error raised;
    if (interrupted) interrupted();
    static_cast<void>(ended_within(std::chrono::milliseconds(1000)));
    throw raised;
  }
  return std::move(*state->result);
}

}  // namespace tutti::python
