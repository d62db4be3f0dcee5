// Channel: the messages from one rank to another, apart from the collectives, so that isend and
// irecv progress in any order. A communicator of two ranks and a thread, made when first used.
// Messages carry their tag: one that nobody waits for yet is kept until somebody does.
#pragma once

#include <ATen/ATen.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "bindings/python/src/torch/work.h"
#include "tutti/communicator.h"

namespace tutti::torch_backend {

class Channel {
 public:
  using Connect = std::function<Result<std::unique_ptr<Communicator>>()>;
  Channel(bool sends, int peer, Connect connect);
  ~Channel();

  // The tensor is contiguous; both give their end through `work`.
  void post(at::Tensor tensor, int64_t tag, c10::intrusive_ptr<TuttiWork> work,
            std::function<void()> then);
  void abort(const std::string& reason);
  bool idle();

 private:
  struct Header {
    int64_t tag;
    int64_t bytes;
  };
  struct Posted {
    at::Tensor tensor;
    int64_t tag;
    c10::intrusive_ptr<TuttiWork> work;
    std::function<void()> then;  // after a receive: copies to where it belongs
  };
  struct Unexpected {
    int64_t tag;
    at::Tensor bytes;
  };

  void loop();
  Status serve();
  Status send_next();
  Status receive_next();
  Status take_payload(const Header& header, Posted* posted);
  bool match_unexpected();
  void fail_all(const Status& status);
  static void deliver(Posted posted, const Status& status);

  const bool sends_;
  const int peer_;
  const Connect connect_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Posted> posted_;  // in the order of issue
  std::deque<Unexpected> unexpected_;
  bool stopping_ = false;
  bool busy_ = false;
  Status broken_;
  std::shared_ptr<Communicator> communicator_;
  std::thread thread_;
};

}  // namespace tutti::torch_backend
