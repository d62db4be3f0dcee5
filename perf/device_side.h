// A rank's GPU in a measurement: its buffers, its stream, and its calls as a CUDA graph. Through
// the driver, like the library, so that nothing links with CUDA.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "src/cuda/runtime.h"

namespace tutti::perf {

class DeviceSide {
 public:
  // `null_stream`: calls go on the default stream (nccl-tests' -y). Makes the device's context
  // current in this thread. Errors: device_error: no driver, no such device.
  static Result<std::unique_ptr<DeviceSide>> open(int ordinal, bool null_stream);
  // How many devices this process sees; 0 without a driver.
  static int devices();
  ~DeviceSide();
  DeviceSide(const DeviceSide&) = delete;
  DeviceSide& operator=(const DeviceSide&) = delete;

  const std::string& name() const { return device_.name(); }
  int ordinal() const { return device_.ordinal(); }
  void* stream() const { return stream_; }
  Result<void*> allocate(size_t bytes);
  void release(void* memory);
  // Copies; done when they return.
  Status put(void* to, const void* from, size_t bytes);
  Status get(void* to, const void* from, size_t bytes);
  Status synchronize();
  // What `body` enqueues becomes the graph that replay() launches.
  Status record(const std::function<Status()>& body);
  Status replay();

 private:
  DeviceSide(std::shared_ptr<cuda::Runtime> runtime, cuda::Device& device)
      : runtime_(std::move(runtime)),
        driver_(runtime_->driver()),
        device_(device),
        scope_(driver_, device.context()) {}
  void drop_graph();

  std::shared_ptr<cuda::Runtime> runtime_;
  const cuda::Driver& driver_;
  cuda::Device& device_;
  cuda::Scope scope_;
  cuda::Stream stream_ = nullptr;
  cuda::Graph graph_ = nullptr;
  cuda::GraphExec replayed_ = nullptr;
};

}  // namespace tutti::perf
