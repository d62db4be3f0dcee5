// The torch.distributed backend "tutti": one communicator for the collectives of a process group,
// whose progress thread runs them in the order of issue, and a channel for each pair of ranks that
// sends messages.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "bindings/python/src/torch/channel.h"
#include "bindings/python/src/torch/work.h"
#include "tutti/communicator.h"

namespace tutti::torch_backend {

class TuttiBackend final : public c10d::Backend {
 public:
  using Tensors = std::vector<at::Tensor>;
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;

  // Meets the other ranks through the store; `timeout` bounds that and every operation.
  static c10::intrusive_ptr<c10d::Backend> create(const c10::intrusive_ptr<c10d::Store>& store,
                                                  int rank, int size,
                                                  std::chrono::milliseconds timeout);
  TuttiBackend(c10::intrusive_ptr<c10d::Store> store, int rank, int size,
               std::chrono::milliseconds timeout, std::shared_ptr<Communicator> communicator);
  ~TuttiBackend() override;

  const std::string getBackendName() const override { return "tutti"; }
  c10::intrusive_ptr<Options> getBackendOptions() override { return options_; }
  bool supportsCoalescing() const override { return true; }
  bool supportsSplitting() const override { return true; }
  void startCoalescing() override;
  WorkPtr endCoalescing() override;
  c10::intrusive_ptr<c10d::Backend> split(const c10::intrusive_ptr<c10d::Store>& store,
                                          const std::vector<int>& ranks,
                                          const c10::intrusive_ptr<Options>& opts) override;

  WorkPtr broadcast(Tensors&, const c10d::BroadcastOptions&) override;
  WorkPtr allreduce(Tensors&, const c10d::AllreduceOptions&) override;
  WorkPtr allreduce_coalesced(Tensors&, const c10d::AllreduceCoalescedOptions&) override;
  WorkPtr reduce(Tensors&, const c10d::ReduceOptions&) override;
  WorkPtr allgather(std::vector<Tensors>&, Tensors&, const c10d::AllgatherOptions&) override;
  WorkPtr _allgather_base(at::Tensor&, at::Tensor&, const c10d::AllgatherOptions&) override;
  WorkPtr allgather_coalesced(std::vector<Tensors>&, Tensors&,
                              const c10d::AllgatherOptions&) override;
  WorkPtr allgather_into_tensor_coalesced(Tensors&, Tensors&,
                                          const c10d::AllgatherOptions&) override;
  WorkPtr gather(std::vector<Tensors>&, Tensors&, const c10d::GatherOptions&) override;
  WorkPtr scatter(Tensors&, std::vector<Tensors>&, const c10d::ScatterOptions&) override;
  WorkPtr reduce_scatter(Tensors&, std::vector<Tensors>&,
                         const c10d::ReduceScatterOptions&) override;
  WorkPtr _reduce_scatter_base(at::Tensor&, at::Tensor&,
                               const c10d::ReduceScatterOptions&) override;
  WorkPtr reduce_scatter_tensor_coalesced(Tensors&, Tensors&,
                                          const c10d::ReduceScatterOptions&) override;
  WorkPtr alltoall_base(at::Tensor&, at::Tensor&, std::vector<int64_t>&, std::vector<int64_t>&,
                        const c10d::AllToAllOptions&) override;
  WorkPtr alltoall(Tensors&, Tensors&, const c10d::AllToAllOptions&) override;
  WorkPtr barrier(const c10d::BarrierOptions&) override;
  void monitoredBarrier(const c10d::BarrierOptions&, bool wait_all_ranks) override;
  WorkPtr send(Tensors&, int peer, int tag) override;
  WorkPtr recv(Tensors&, int peer, int tag) override;
  WorkPtr recvAnysource(Tensors&, int tag) override;

  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override { return sequence_; }
  void setTimeout(std::chrono::milliseconds timeout) override { options_->timeout = timeout; }
  c10d::ErrorType getError() override;
  void abort() override { abort_all("the program aborted the process group"); }
  void shutdown() override;

  // For the end of the interpreter: every backend of the process.
  static void shutdown_all();

 private:
  using Body = std::function<Status(Communicator&)>;
  struct Call {
    c10d::OpType type;
    const char* title;
    std::vector<at::Tensor> outputs;
    std::chrono::milliseconds timeout;
    bool async;
  };
  WorkPtr launch(Call call, Body body);
  c10::intrusive_ptr<TuttiWork> make_work(Call& call);
  Status run(const Body& body);
  Channel& channel(bool sends, int peer);
  void check_root(const char* operation, int64_t root) const;
  void check_peer(const char* operation, int peer) const;
  void abort_all(const std::string& reason);

  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<Options> options_;
  std::shared_ptr<Communicator> communicator_;
  std::atomic<uint64_t> sequence_{0};
  std::atomic<uint32_t> pending_{0};  // asynchronous operations that are not done
  std::mutex issuing_;                // who issues an operation, or runs one on its own thread
  std::atomic<bool> shut_down_{false};

  std::mutex channels_mutex_;
  std::map<std::pair<bool, int>, std::unique_ptr<Channel>> channels_;

  bool coalescing_ = false;
  std::vector<c10::intrusive_ptr<TuttiWork>> coalesced_;
};

}  // namespace tutti::torch_backend
