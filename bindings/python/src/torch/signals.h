// The GIL and Ctrl-C inside operations that block.
#pragma once

#include <chrono>
#include <functional>

#include "tutti/status.h"

namespace tutti::torch_backend {

// What blocks must not hold the GIL: progress threads run Python callbacks and drop tensors that
// have Python objects. Releases it where this thread has it (c10d's bindings do not always).
class WithoutGil {
 public:
  WithoutGil();
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  void* state_;
};

// Communicator::on_wait of every communicator: inside a SignalScope, handles the program's signals.
Status handle_signals();

class SignalScope {
 public:
  SignalScope();
  ~SignalScope();
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;
  // Throws what a handler raised, if one did.
  void rethrow();
};

// Waits until `done_within` (which waits for at most the given time) is true, and handles the
// program's signals in between: when a handler raises, `stop` is called, the end awaited for a
// moment, and the exception thrown. False after `patience` (0: never).
bool wait_with_signals(const std::function<bool(std::chrono::milliseconds)>& done_within,
                       std::chrono::milliseconds patience, const std::function<void()>& stop);

// Runs `body`, which cannot handle signals itself, on a thread of its own; throws what it throws,
// or what a handler raises once `stop` has ended it.
void run_with_signals(const std::function<void()>& body, const std::function<void()>& stop);

}  // namespace tutti::torch_backend
