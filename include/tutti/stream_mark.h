// StreamMark: a place in a CUDA stream that the host can ask about and wait for.
#pragma once

#include <chrono>
#include <memory>

#include "tutti/status.h"

namespace [[gnu::visibility("default")]] tutti {  // all else in libtutti.so is hidden

// Copies share the place.
class StreamMark {
 public:
  // The end of what is on `stream` (cudaStream_t) now. `memory`: of the device whose default stream
  // is meant by null. Errors: invalid_argument: it is no device memory; device_error.
  static Result<StreamMark> make(void* stream, const void* memory);

  // Code::in_progress until the stream has passed it. Errors: device_error.
  Status query() const;
  // Blocks; Code::in_progress when the stream has not passed it in time. Errors: as query().
  Status wait_for(std::chrono::nanoseconds timeout) const;
  // What is enqueued on `stream` from now on comes after it. Errors: device_error.
  Status before(void* stream) const;

 private:
  struct [[gnu::visibility("hidden")]] State;
  explicit StreamMark(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

}  // namespace tutti
