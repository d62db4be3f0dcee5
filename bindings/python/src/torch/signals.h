// The GIL and Ctrl-C inside operations that block.
#pragma once

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

}  // namespace tutti::torch_backend
