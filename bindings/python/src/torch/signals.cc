#include "bindings/python/src/torch/signals.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/python_headers.h>

#include <future>
#include <optional>

namespace tutti::torch_backend {
namespace {

using std::chrono::milliseconds;

struct State {
  int depth = 0;
  std::chrono::steady_clock::time_point looked;
  std::optional<python_error> raised;
};
thread_local State state;

// What a handler of the program's signals raises now.
std::optional<python_error> raised_by_signals() {
  std::optional<python_error> raised;
  if (!Py_IsInitialized()) return raised;
  const PyGILState_STATE gil = PyGILState_Ensure();
  if (PyErr_CheckSignals() != 0) {
    raised.emplace();
    raised->persist();
  }
  PyGILState_Release(gil);
  return raised;
}

}  // namespace

WithoutGil::WithoutGil()
    : state_(Py_IsInitialized() && PyGILState_Check() ? PyEval_SaveThread() : nullptr) {}
WithoutGil::~WithoutGil() {
  if (state_ != nullptr) PyEval_RestoreThread(static_cast<PyThreadState*>(state_));
}

Status handle_signals() {
  const auto now = std::chrono::steady_clock::now();
  if (state.depth == 0 || now - state.looked < std::chrono::milliseconds(20)) return {};
  state.looked = now;
  std::optional<python_error> raised = raised_by_signals();
  if (!raised) return {};
  state.raised.emplace(std::move(*raised));
  return Status(Code::aborted, "interrupted by a signal of the program");
}

SignalScope::SignalScope() { ++state.depth; }
SignalScope::~SignalScope() {
  --state.depth;
  state.raised.reset();
}

void SignalScope::rethrow() {
  if (!state.raised) return;
  python_error error = std::move(*state.raised);
  state.raised.reset();
  throw error;
}

bool wait_with_signals(const std::function<bool(milliseconds)>& done_within, milliseconds patience,
                       const std::function<void()>& stop) {
  constexpr milliseconds k_slice{50}, k_end{1000};
  const auto start = std::chrono::steady_clock::now();
  while (!done_within(k_slice)) {
    if (patience.count() > 0 && std::chrono::steady_clock::now() - start > patience) return false;
    std::optional<python_error> raised = raised_by_signals();
    if (!raised) continue;
    stop();
    static_cast<void>(done_within(k_end));
    throw std::move(*raised);
  }
  return true;
}

void run_with_signals(const std::function<void()>& body, const std::function<void()>& stop) {
  std::future<void> done = std::async(std::launch::async, body);  // its destructor waits
  const auto done_within = [&](milliseconds time) {
    return done.wait_for(time) == std::future_status::ready;
  };
  wait_with_signals(done_within, milliseconds(0), stop);
  done.get();
}

}  // namespace tutti::torch_backend
