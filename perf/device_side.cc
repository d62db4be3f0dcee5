// A rank's GPU in a measurement, see device_side.h.
#include "perf/device_side.h"

namespace tutti::perf {

int DeviceSide::devices() {
  const auto runtime = cuda::Runtime::of_process();
  return runtime ? (*runtime)->devices() : 0;
}

Result<std::unique_ptr<DeviceSide>> DeviceSide::open(int ordinal, bool null_stream) {
  auto runtime = cuda::Runtime::of_process();
  if (!runtime) return runtime.status();
  auto device = (*runtime)->device(ordinal);
  if (!device) return device.status();
  std::unique_ptr<DeviceSide> side(new DeviceSide(*runtime, **device));
  TUTTI_RETURN_IF_ERROR(side->scope_.status());
  if (!null_stream)
    TUTTI_RETURN_IF_ERROR(side->driver_.check(
        side->driver_.stream_create(&side->stream_, cuda::k_stream_non_blocking),
        "cuStreamCreate"));
  return side;
}

DeviceSide::~DeviceSide() {
  static_cast<void>(synchronize());
  drop_graph();
  if (stream_ != nullptr) driver_.stream_destroy(stream_);
}

Result<void*> DeviceSide::allocate(size_t bytes) {
  cuda::DevicePtr memory = 0;
  TUTTI_RETURN_IF_ERROR(driver_.check(driver_.memory_alloc(&memory, bytes), "cuMemAlloc"));
  return reinterpret_cast<void*>(memory);
}

void DeviceSide::release(void* memory) {
  driver_.memory_free(reinterpret_cast<cuda::DevicePtr>(memory));
}

Status DeviceSide::put(void* to, const void* from, size_t bytes) {
  TUTTI_RETURN_IF_ERROR(driver_.check(
      driver_.copy_to_device(reinterpret_cast<cuda::DevicePtr>(to), from, bytes, stream_),
      "cuMemcpyHtoDAsync"));
  return synchronize();
}

Status DeviceSide::get(void* to, const void* from, size_t bytes) {
  TUTTI_RETURN_IF_ERROR(driver_.check(
      driver_.copy_to_host(to, reinterpret_cast<cuda::DevicePtr>(from), bytes, stream_),
      "cuMemcpyDtoHAsync"));
  return synchronize();
}

Status DeviceSide::synchronize() {
  return driver_.check(driver_.stream_synchronize(stream_), "cuStreamSynchronize");
}

Status DeviceSide::record(const std::function<Status()>& body) {
  drop_graph();
  TUTTI_RETURN_IF_ERROR(driver_.check(
      driver_.stream_begin_capture(stream_, cuda::k_capture_thread_local), "cuStreamBeginCapture"));
  Status status = body();
  Status ended = driver_.check(driver_.stream_end_capture(stream_, &graph_), "cuStreamEndCapture");
  if (status.ok()) status = std::move(ended);
  if (status.ok())
    status = driver_.check(driver_.graph_instantiate(&replayed_, graph_, 0), "cuGraphInstantiate");
  return status;
}

Status DeviceSide::replay() {
  return driver_.check(driver_.graph_launch(replayed_, stream_), "cuGraphLaunch");
}

void DeviceSide::drop_graph() {
  if (replayed_ != nullptr) driver_.graph_exec_destroy(replayed_);
  if (graph_ != nullptr) driver_.graph_destroy(graph_);
  replayed_ = nullptr;
  graph_ = nullptr;
}

}  // namespace tutti::perf
