// Ctrl-C inside an operation that runs on the caller's own thread.
#pragma once

#include "tutti/status.h"

namespace tutti::torch_backend {

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
