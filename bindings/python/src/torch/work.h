// What torch.distributed gets back from an operation.
//
// On the CPU it is complete when its result is in place. On a device it is complete when it has
// been enqueued: wait() makes the current stream wait for it, and the future's callbacks run on
// streams that do, as with NCCL; isCompleted() asks whether the device is through.
#pragma once

#include <c10/core/Event.h>

#include <atomic>
#include <functional>
#include <optional>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

#include "tutti/communicator.h"

namespace tutti::torch_backend {

// The exception that a Status becomes: torch.distributed.DistBackendError.
std::exception_ptr to_exception(const Status& status);

class TuttiWork : public c10d::Work {
 public:
  struct OnDevice {
    c10::Stream issued_from;       // the caller's current stream
    std::vector<at::Tensor> used;  // kept until that stream is behind the operation
    bool host_waits = false;       // wait() blocks its thread, too
  };

  // `outputs`: what the future holds. `on_overdue`: called when wait() passes `timeout` (0: none).
  TuttiWork(int rank, c10d::OpType type, const char* title, std::vector<at::Tensor> outputs,
            uint64_t sequence, std::chrono::milliseconds timeout,
            std::function<void(const std::string&)> on_overdue,
            std::optional<OnDevice> on_device = std::nullopt);
  ~TuttiWork() override;

  void complete(const Status& status);
  // For an operation on a device, with `lane` the current stream: `through` marks its end there,
  // `communicator` knows of errors that come later.
  void enqueued(const Status& status, c10::Event through, const c10::Stream& lane,
                std::shared_ptr<Communicator> communicator);

  bool isCompleted() override;
  bool isSuccess() const override;
  bool wait(std::chrono::milliseconds timeout) override;
  void synchronize() override;
  void blockCurrentStream() override { synchronize(); }
  void abort() override;
  std::vector<at::Tensor> result() override { return outputs_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }
  uint64_t getSequencenumber() const override { return sequence_; }

 private:
  bool wait_until_done(std::chrono::milliseconds patience);
  bool wait_until_through(std::chrono::milliseconds patience);
  void wait_for(bool (TuttiWork::*done_within)(std::chrono::milliseconds),
                std::chrono::milliseconds timeout);
  Status late_error() const;
  void let_go(std::vector<at::Tensor> used) const;

  const std::vector<at::Tensor> outputs_;
  const uint64_t sequence_;
  const std::chrono::milliseconds timeout_;
  const std::function<void(const std::string&)> on_overdue_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;

  std::optional<OnDevice> on_device_;
  // Once enqueued:
  std::optional<c10::Event> through_;
  std::optional<c10::Stream> lane_;
  std::shared_ptr<Communicator> communicator_;
};

// Done when all of several are: what endCoalescing() gives.
c10::intrusive_ptr<c10d::Work> all_of(int rank, uint64_t sequence,
                                      std::vector<c10::intrusive_ptr<TuttiWork>> works);

}  // namespace tutti::torch_backend
