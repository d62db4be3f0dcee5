#include "bindings/python/src/torch/signals.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/python_headers.h>

#include <chrono>
#include <optional>

namespace tutti::torch_backend {
namespace {

struct State {
  int depth = 0;
  std::chrono::steady_clock::time_point looked;
  std::optional<python_error> raised;
};
thread_local State state;

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
  if (!Py_IsInitialized()) return {};
  const PyGILState_STATE gil = PyGILState_Ensure();
  const bool raised = PyErr_CheckSignals() != 0;
  if (raised) {
    state.raised.emplace();
    state.raised->persist();
  }
  PyGILState_Release(gil);
  return raised ? Status(Code::aborted, "interrupted by a signal of the program") : Status();
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

}  // namespace tutti::torch_backend
