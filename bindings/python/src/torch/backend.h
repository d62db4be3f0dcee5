// The torch.distributed backend "tutti": one communicator for the collectives of a process group on
// CPU tensors, whose progress thread runs them in the order of issue, and a lane for each device,
// where calls are enqueued in stream order; channels for each pair of ranks that sends messages.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <tuple>

#include "bindings/python/src/torch/channel.h"
#include "bindings/python/src/torch/device_channel.h"
#include "bindings/python/src/torch/lane.h"
#include "bindings/python/src/torch/tensors.h"
#include "tutti/communicator.h"

namespace tutti::torch_backend {

class TuttiBackend final : public c10d::Backend {
 public:
  using Tensors = std::vector<at::Tensor>;
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;

  // Meets the other ranks through the store; `timeout` bounds that and every operation. Besides CPU
  // tensors, those on devices of type `served` are taken: "cuda", or one whose memory and streams
  // are CUDA's under another name.
  static c10::intrusive_ptr<c10d::Backend> create(const c10::intrusive_ptr<c10d::Store>& store,
                                                  int rank, int size,
                                                  std::chrono::milliseconds timeout,
                                                  const std::string& served);
  TuttiBackend(c10::intrusive_ptr<c10d::Store> store, int rank, int size,
               std::chrono::milliseconds timeout, c10::DeviceType served,
               std::shared_ptr<Communicator> communicator);
  ~TuttiBackend() override;

  const std::string getBackendName() const override { return "tutti"; }
  c10::intrusive_ptr<Options> getBackendOptions() override { return options_; }
  bool supportsCoalescing() const override { return true; }
  bool supportsSplitting() const override { return true; }
  void startCoalescing() override;
  WorkPtr endCoalescing() override;
  // What init_process_group(device_id=) asks for; else a device's first collective does it.
  void eagerConnectSingleDevice(at::Device device) override;
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
  struct Call {
    c10d::OpType type;
    const char* title;
    std::vector<at::Tensor> outputs;
    std::vector<at::Tensor> inputs;  // what else is used
    std::chrono::milliseconds timeout;
    bool async;
    bool host_waits = false;  // even on a device
  };
  WorkPtr launch(Call call, Body body);
  WorkPtr launch_here(Call call, Body body);
  WorkPtr launch_on_device(c10::Device device, Call call, Body body);
  WorkPtr post_message(Message message, Call call);
  void launch_messages();
  c10::intrusive_ptr<TuttiWork> make_work(Call& call,
                                          std::optional<TuttiWork::OnDevice> on_device = {});
  Result<std::unique_ptr<Communicator>> connect(bool sends, int peer, const std::string& what);
  Channel& channel(bool sends, int peer);
  DeviceChannel& device_channel(bool sends, int peer, c10::Device device);
  Lane& lane(c10::Device device);
  Status open_lane(c10::Device device);
  Status join_device(std::unique_ptr<Communicator>* made);
  void check(const char* operation, const Tensors& tensors) const;
  void check_one(const char* operation, const Tensors& tensors) const;
  void check_base(const char* operation, const at::Tensor& whole, const at::Tensor& part) const;
  void check_pairs(const char* operation, const Tensors& wholes, const Tensors& parts) const;
  void check_root(const char* operation, int64_t root) const;
  void check_peer(const char* operation, int peer) const;
  void abort_all(const std::string& reason);
  Status first_error();

  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<Options> options_;
  const c10::DeviceType served_;
  std::shared_ptr<Communicator> communicator_;
  std::atomic<uint64_t> sequence_{0};
  std::atomic<uint32_t> pending_{0};  // asynchronous operations that are not done
  std::mutex issuing_;                // who issues an operation, or runs one on its own thread
  std::atomic<bool> shut_down_{false}, aborted_{false};

  std::mutex channels_mutex_;
  std::map<std::pair<bool, int>, std::unique_ptr<Channel>> channels_;
  std::map<std::tuple<bool, int, c10::DeviceIndex>, std::unique_ptr<DeviceChannel>>
      device_channels_;

  std::mutex opening_;  // who makes a lane
  std::mutex lanes_mutex_;
  std::map<c10::DeviceIndex, std::unique_ptr<Lane>> lanes_;
  Lane* being_opened_ = nullptr;

  // Between startCoalescing() and endCoalescing(): what has been issued, and the messages of
  // devices, which are issued together at the end.
  struct Posted {
    Message message;
    c10::Event ready;
    c10::intrusive_ptr<TuttiWork> work;
  };
  bool coalescing_ = false;
  std::vector<c10::intrusive_ptr<TuttiWork>> coalesced_;
  std::vector<Posted> messages_;
};

}  // namespace tutti::torch_backend
