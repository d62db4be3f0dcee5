#include "tutti/stream_mark.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "src/cuda/runtime.h"

namespace tutti {

struct StreamMark::State {
  std::shared_ptr<cuda::Runtime> runtime;
  cuda::Device* device = nullptr;
  cuda::Event event = nullptr;

  ~State() {
    if (event == nullptr) return;
    cuda::Scope scope(runtime->driver(), device->context());
    if (scope.status().ok()) runtime->driver().event_destroy(event);
  }
};

Result<StreamMark> StreamMark::make(void* stream, const void* memory) {
  Result<std::shared_ptr<cuda::Runtime>> runtime = cuda::Runtime::of_process();
  if (!runtime) return runtime.status();
  const cuda::Place place = (*runtime)->locate(memory);
  if (!place.device)
    return Status(Code::invalid_argument,
                  fmt::format("a mark on a stream: {} is no device memory", memory));
  Result<cuda::Device*> device = (*runtime)->device(place.ordinal);
  if (!device) return device.status();
  auto state = std::make_shared<State>();
  state->runtime = *runtime;
  state->device = *device;
  const cuda::Driver& driver = state->runtime->driver();
  cuda::Scope scope(driver, state->device->context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  TUTTI_RETURN_IF_ERROR(driver.check(
      driver.event_create(&state->event, cuda::k_event_disable_timing), "cuEventCreate"));
  TUTTI_RETURN_IF_ERROR(driver.check(
      driver.event_record(state->event, static_cast<cuda::Stream>(stream)), "cuEventRecord"));
  return StreamMark(std::move(state));
}

Status StreamMark::query() const {
  const int result = state_->runtime->driver().event_query(state_->event);
  if (result == cuda::k_not_ready)
    return Status(Code::in_progress, "the stream has not come to it");
  return state_->runtime->driver().check(result, "cuEventQuery");
}

// Polled: the driver's own wait has no end.
Status StreamMark::wait_for(std::chrono::nanoseconds timeout) const {
  constexpr auto k_longest = std::chrono::microseconds(500);
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  std::chrono::nanoseconds pause = std::chrono::microseconds(5);
  while (true) {
    Status status = query();
    if (status.code() != Code::in_progress || std::chrono::steady_clock::now() >= deadline)
      return status;
    std::this_thread::sleep_for(pause);
    pause = std::min<std::chrono::nanoseconds>(2 * pause, k_longest);
  }
}

Status StreamMark::before(void* stream) const {
  const cuda::Driver& driver = state_->runtime->driver();
  cuda::Scope scope(driver, state_->device->context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  return driver.check(driver.stream_wait_event(static_cast<cuda::Stream>(stream), state_->event, 0),
                      "cuStreamWaitEvent");
}

}  // namespace tutti
