#include "src/cuda/allocation.h"

#include <fmt/format.h>

namespace tutti::cuda {

Result<std::unique_ptr<Allocation>> Allocation::on_device(Runtime& runtime, Device& device,
                                                          uint64_t bytes) {
  Scope scope(runtime.driver(), device.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  RelaxedCapture relaxed(runtime.driver());
  DevicePtr memory = 0;
  TUTTI_RETURN_IF_ERROR(
      runtime.driver()
          .check(runtime.driver().memory_alloc(&memory, bytes), "cuMemAlloc")
          .with_context(fmt::format("{} bytes on device {}", bytes, device.ordinal())));
  return std::unique_ptr<Allocation>(
      new Allocation(runtime, device, reinterpret_cast<std::byte*>(memory), false));
}

Result<std::unique_ptr<Allocation>> Allocation::pinned(Runtime& runtime, Device& device,
                                                       uint64_t bytes) {
  Scope scope(runtime.driver(), device.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  RelaxedCapture relaxed(runtime.driver());
  void* memory = nullptr;
  TUTTI_RETURN_IF_ERROR(runtime.driver().check(
      runtime.driver().host_alloc(&memory, bytes, k_host_portable | k_host_mapped),
      "cuMemHostAlloc"));
  return std::unique_ptr<Allocation>(
      new Allocation(runtime, device, static_cast<std::byte*>(memory), true));
}

Allocation::~Allocation() {
  Scope scope(runtime_.driver(), device_.context());
  if (pinned_) {
    runtime_.driver().host_free(data_);
  } else {
    runtime_.driver().memory_free(address());
  }
}

template <class Enqueue>
Status Allocation::on_own_stream(const char* function, Enqueue&& enqueue) const {
  const Driver& driver = runtime_.driver();
  Scope scope(driver, device_.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  RelaxedCapture relaxed(driver);
  Stream stream = nullptr;
  TUTTI_RETURN_IF_ERROR(
      driver.check(driver.stream_create(&stream, k_stream_non_blocking), "cuStreamCreate"));
  Status status = driver.check(enqueue(driver, stream), function);
  if (status.ok()) status = driver.check(driver.stream_synchronize(stream), "cuStreamSynchronize");
  driver.stream_destroy(stream);
  return status;
}

Status Allocation::zero(uint64_t offset, uint64_t bytes) {
  return on_own_stream("cuMemsetD8Async", [&](const Driver& driver, Stream stream) {
    return driver.memory_set(address() + offset, 0, bytes, stream);
  });
}

Status Allocation::write(uint64_t offset, std::span<const std::byte> content) {
  return on_own_stream("cuMemcpyHtoDAsync", [&](const Driver& driver, Stream stream) {
    return driver.copy_to_device(address() + offset, content.data(), content.size(), stream);
  });
}

Status Allocation::read(uint64_t offset, std::span<std::byte> content) const {
  return on_own_stream("cuMemcpyDtoHAsync", [&](const Driver& driver, Stream stream) {
    return driver.copy_to_host(content.data(), address() + offset, content.size(), stream);
  });
}

}  // namespace tutti::cuda
