// Windows: what an ncclWindow_t stands for.
#pragma once

#include "src/nccl/comm.h"

namespace tutti::nccl {

// Memory of this rank, and what the others offer with it.
struct WindowEntry {
  void* buffer = nullptr;
  size_t bytes = 0;
  bool on_device = false;  // then it is not offered
  Window window;
};

// Errors: invalid_argument when the handle is null, or no window of this communicator.
Result<WindowEntry> find_window(Comm& comm, ncclWindow_t handle);

}  // namespace tutti::nccl
