// Staging: device buffers through pinned host memory, for whatever the kernels do not serve: ranks
// on other hosts, processes that share a GPU, send/recv, vector calls. In stream order:
//
//   stream: copy inputs to the host | tell the host | wait for its answer | copy outputs back
//   host:                             run the call on the CPU executor, answer
//
// The wait is the stream's own (a memory operation): no multiprocessor spins and no thread blocks
// in the driver. All values are the same at every replay, so a captured call can be replayed; its
// memory stays until the communicator ends. Calls run in the order in which they were posted, on
// whatever streams: ranks must agree on it. Captured ones run as their graphs are launched.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "src/cuda/runtime.h"

namespace tutti::cuda {

class Staging {
 public:
  // A buffer of the call. `device` may be null where the rank has none.
  struct Buffer {
    DevicePtr device = 0;
    uint64_t bytes = 0;
    bool input = false;   // copied to the host before the call
    bool output = false;  // and back after it
  };

  class Ticket {
   public:
    // The host copy of buffer i; null where it has no bytes.
    std::byte* host(size_t i) const { return hosts_[i]; }
    // The call has ended, well or not: the stream goes on.
    void answer();

   private:
    friend class Staging;
    std::vector<Buffer> buffers_;
    std::vector<std::byte*> hosts_;
    uint32_t* flag_ = nullptr;  // in pinned memory; 1: answered
    DevicePtr flag_on_device_ = 0;
    std::byte* memory_ = nullptr;
    uint64_t bytes_ = 0;
    Event finished_ = nullptr;
    bool captured_ = false;
    bool open_ = false;  // between prepare() and finish()
    bool busy_ = false;  // until finished_
    std::function<void()> job_;
  };

  Staging(Runtime& runtime, Device& device) : runtime_(runtime), device_(device) {}
  // Waits for the streams to pass what was enqueued.
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Memory for the buffers. Errors: device_error when it cannot be had.
  Result<Ticket*> prepare(Stream stream, std::vector<Buffer> buffers);
  // Enqueues, behind the calls before, the copies to the host; then `job` runs in a thread of the
  // driver, once per replay: it
  // must neither block nor call the driver, and see to it that answer() is called.
  Status post(Ticket& ticket, Stream stream, std::function<void()> job);
  // Enqueues the wait and the copies back.
  Status finish(Ticket& ticket, Stream stream);
  // Waits until all that was enqueued (not captured) has passed.
  void drain();
  // Whether drain() would wait for nothing.
  bool quiet();

 private:
  std::vector<Event> pending();
  Status follow_last(const Ticket& ticket, Stream stream);
  Status allocate(Ticket& ticket, uint64_t bytes);

  Runtime& runtime_;
  Device& device_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Ticket>> tickets_;
  Event last_ = nullptr;  // after the last call that was not captured, on last_stream_
  Stream last_stream_ = nullptr;
};

}  // namespace tutti::cuda
