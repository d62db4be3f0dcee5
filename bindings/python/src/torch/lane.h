// Lane: where calls on the tensors of a device go: a communicator, and a stream of torch's pool on
// which they are enqueued one after the other. Streams and events are c10's own, whatever the kind
// of device, so that nothing of CUDA is needed to build this; the communicator gets the raw stream.
#pragma once

#include <c10/core/Event.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <span>

#include "bindings/python/src/torch/calls.h"
#include "bindings/python/src/torch/work.h"

namespace tutti::torch_backend {

using Body = std::function<Status(Calls&)>;

// The body's Status; what torch's operators throw inside it (no memory) becomes one.
Status run(const Body& body, Calls calls);

// The stream that is current for `device` on this thread, and a mark of what is on it now.
c10::Stream current_stream(c10::Device device);
c10::Event mark(const c10::Stream& stream);

class Lane {
 public:
  // Errors (thrown): a torch whose streams do not tell their handle.
  Lane(c10::Device device, std::shared_ptr<Communicator> communicator);

  // A first collective: from then on none waits for other ranks.
  Status open();
  // Enqueues `body` behind all of `ready`, and completes `works` with what comes of it. Bodies run
  // with the lane's stream as the current one: what they allocate and copy is in its order.
  void enqueue(std::span<const c10::Event> ready, const Body& body,
               std::span<const c10::intrusive_ptr<TuttiWork>> works);

  void abort(const std::string& reason) { communicator_->abort(reason); }
  Status error() const { return communicator_->error(); }
  // What is enqueued has `patience` to end.
  void shut_down(std::chrono::milliseconds patience);

 private:
  const std::shared_ptr<Communicator> communicator_;
  const c10::Stream stream_;
  void* const handle_;  // of stream_
  std::mutex mutex_;    // a communicator has one caller at a time
};

}  // namespace tutti::torch_backend
