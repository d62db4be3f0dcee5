// What torch.distributed gets back from an operation.
#pragma once

#include <atomic>
#include <functional>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

#include "tutti/status.h"

namespace tutti::torch_backend {

// The exception that a Status becomes: torch.distributed.DistBackendError.
std::exception_ptr to_exception(const Status& status);

class TuttiWork : public c10d::Work {
 public:
  // `outputs`: what the future holds. `on_overdue`: called when wait() passes `timeout` (0: none).
  TuttiWork(int rank, c10d::OpType type, const char* title, std::vector<at::Tensor> outputs,
            uint64_t sequence, std::chrono::milliseconds timeout,
            std::function<void(const std::string&)> on_overdue);

  void complete(const Status& status);

  bool isCompleted() override;
  bool isSuccess() const override;
  bool wait(std::chrono::milliseconds timeout) override;
  void abort() override;
  std::vector<at::Tensor> result() override { return outputs_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }
  uint64_t getSequencenumber() const override { return sequence_; }

 private:
  bool wait_until_done(std::chrono::milliseconds patience);

  const std::vector<at::Tensor> outputs_;
  const uint64_t sequence_;
  const std::chrono::milliseconds timeout_;
  const std::function<void(const std::string&)> on_overdue_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

// Done when all of several are: what endCoalescing() gives.
c10::intrusive_ptr<c10d::Work> all_of(int rank, uint64_t sequence,
                                      const std::vector<c10::intrusive_ptr<TuttiWork>>& works);

}  // namespace tutti::torch_backend
