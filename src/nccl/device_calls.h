// Calls on device buffers: NCCL's operations as the communicator's
// (src/communicator/device_path.h).
#pragma once

#include <vector>

#include "src/communicator/device_path.h"
#include "src/nccl/comm.h"

namespace tutti::nccl {

// An NCCL communicator to its DevicePath; its host calls run on its lane.
class DeviceHost final : public DevicePath::Host {
 public:
  DeviceHost(Comm& comm, int device) : comm_(comm), path_(*this, device) {}
  DevicePath& device_path() override { return path_; }
  Communicator::Impl* impl() const override {
    Communicator* made = comm_.communicator();
    return made == nullptr ? nullptr : &made->impl();
  }
  Rank rank() const override { return comm_.rank(); }
  uint32_t ranks() const override { return comm_.ranks(); }
  Status usable() const override { return comm_.usable(); }
  bool blocking() const override { return comm_.blocking(); }
  void post(std::function<Status()> body, std::function<void(const Status&)> done) override {
    comm_.post(std::move(body), std::move(done));
  }
  bool here() const override { return comm_.lane().here(); }
  void add_async_error(const Status& status) override { comm_.add_async_error(status); }
  void inform(const std::string& text) override;

 private:
  Comm& comm_;
  DevicePath path_;
};

DeviceOperation device_operation(const Operation& operation);

struct DeviceTask {
  std::shared_ptr<Comm> comm;
  std::vector<Operation> operations;  // checked, on device
};

// Enqueues what a group (or one call) does on devices; see DevicePath::enqueue(), whose errors it
// has. in_progress where a communicator with blocking = 0 has to wait for its ranks first.
Status enqueue_on_devices(const std::vector<DeviceTask>& tasks);

}  // namespace tutti::nccl
