// DeviceChannel: the messages from one rank to another on device tensors: a lane of a communicator
// of two ranks. It is connected in the background when first used, so that sends and receives may
// be issued in any order; from then on callers enqueue themselves.
//
// Messages of a channel match in their order, as with NCCL: a stream cannot look at tags.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "bindings/python/src/torch/lane.h"

namespace tutti::torch_backend {

class DeviceChannel {
 public:
  using Connect = std::function<Result<std::unique_ptr<Communicator>>()>;
  // `connect` ends early when the process group is shut down.
  DeviceChannel(c10::Device device, Connect connect);
  ~DeviceChannel();

  // Enqueues `body` behind `ready` and completes `work`, now or once connected.
  void post(c10::Event ready, Body body, c10::intrusive_ptr<TuttiWork> work);
  void abort(const std::string& reason);
  void shut_down(std::chrono::milliseconds patience);
  Status error();

 private:
  struct Posted {
    c10::Event ready;
    Body body;
    c10::intrusive_ptr<TuttiWork> work;
  };
  void connect(const Connect& connect);
  void enqueue(const Posted& posted);

  const c10::Device device_;
  std::mutex mutex_;
  std::list<Posted> waiting_;  // in the order of issue
  bool connecting_ = true;     // and what waits goes first
  Status broken_;
  std::unique_ptr<Lane> lane_;
  std::thread thread_;
};

}  // namespace tutti::torch_backend
