// Harness over tutti::Communicator.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "perf/device_side.h"
#include "perf/harness.h"
#include "tutti/communicator.h"

namespace tutti::perf {

class TuttiHarness final : public Harness {
 public:
  explicit TuttiHarness(std::unique_ptr<Communicator> communicator)
      : communicator_(std::move(communicator)) {}

  Rank rank() const override { return communicator_->rank(); }
  uint32_t ranks() const override { return communicator_->ranks(); }
  bool supports(const Call&) const override { return true; }
  bool run(const Call& call) override;
  bool synchronize() override { return device_ == nullptr || keep(device_->synchronize()); }
  bool record(const std::function<bool()>& body) override;
  bool replay() override { return keep(device_->replay()); }
  bool barrier() override { return keep(communicator_->barrier()); }
  std::vector<double> all_gather(const std::vector<double>& mine) override;
  const std::string& error() const override { return error_; }
  void* allocate(size_t bytes, BufferKind kind) override;
  void release(void* memory, size_t bytes, BufferKind kind) override;
  bool put(void* to, const void* from, size_t bytes) override {
    return keep(device_->put(to, from, bytes));
  }
  bool get(void* to, const void* from, size_t bytes) override {
    return keep(device_->get(to, from, bytes));
  }
  std::string path(const Call& call) override;

  // Calls are on device buffers from now on.
  void use_device(std::unique_ptr<DeviceSide> device) { device_ = std::move(device); }
  const DeviceSide* device() const { return device_.get(); }
  Communicator& communicator() { return *communicator_; }

 private:
  // `calls`: the communicator, or what it does on a stream.
  template <class Calls>
  Status exchange(Calls& calls, const Call& call);
  template <class Calls>
  Status shift(Calls& calls, const Call& call);
  template <class Calls>
  Status dispatch(Calls& calls, const Call& call);
  bool keep(const Status& status) {
    if (!status.ok()) error_ = status.to_string();
    return status.ok();
  }

  std::unique_ptr<DeviceSide> device_;  // outlives the communicator
  std::unique_ptr<Communicator> communicator_;
  std::string error_;
  // all_to_all_v's arguments for the last block size.
  size_t block_ = 0;
  std::vector<size_t> counts_;
  std::vector<size_t> offsets_;
};

}  // namespace tutti::perf
