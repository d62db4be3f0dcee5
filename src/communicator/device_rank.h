// DeviceRank: a rank of a Communicator to its DevicePath. What needs the CPU executor runs on the
// communicator's progress thread.
#pragma once

#include <memory>

#include "src/communicator/device_path.h"

namespace tutti {

class DeviceRank final : public DevicePath::Host {
 public:
  DeviceRank(Communicator::Impl& impl, int device) : impl_(impl), path_(*this, device) {}
  DevicePath& device_path() override { return path_; }
  Communicator::Impl* impl() const override { return &impl_; }
  Rank rank() const override { return impl_.rank(); }
  uint32_t ranks() const override { return impl_.ranks(); }
  Status usable() const override { return impl_.first_error(); }
  bool blocking() const override { return true; }
  void post(std::function<Status()> body, std::function<void(const Status&)> done) override;
  bool here() const override { return impl_.on_worker(); }
  // The communicator knows: calls on the host latch their errors, and the watch latches the rest.
  void add_async_error(const Status&) override {}
  void inform(const std::string& text) override;

 private:
  Communicator::Impl& impl_;
  DevicePath path_;
};

}  // namespace tutti
