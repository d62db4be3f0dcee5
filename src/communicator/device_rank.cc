#include "src/communicator/device_rank.h"

#include <fmt/format.h>

namespace tutti {

void DeviceRank::post(std::function<Status()> body, std::function<void(const Status&)> done) {
  impl_.submit([body = std::move(body), done = std::move(done)] {
    Status status = body();
    done(status);
    return status;
  });
}

void DeviceRank::inform(const std::string& text) { impl_.inform(text); }

std::shared_ptr<DeviceRank> Communicator::Impl::device_rank() const {
  std::lock_guard lock(error_mutex_);
  return device_rank_;
}

Status Communicator::Impl::run_on_device(const DeviceOperation& op) {
  if (broken()) return first_error();
  TUTTI_RETURN_IF_ERROR(usable());
  if (!op.transfer())
    TUTTI_RETURN_IF_ERROR(
        validate({op.collective, op.send, op.recv, op.count, op.dtype, op.reduction, op.root}));
  if (op.count == 0) return {};
  if (group_depth_ == 0) {
    if (op.transfer()) count_messages({}, {&op, 1});
    return enqueue_on_device({op});
  }
  group_device_operations_.push_back(op);
  return {};
}

// What was refused has been counted, but its other end may be called again.
Status Communicator::Impl::enqueue_on_device(std::vector<DeviceOperation> operations) {
  Status status = enqueue_counted(std::move(operations));
  if (!status.ok() && !broken()) messages_->leave_out_all();
  return status;
}

// The first buffer says which device is this rank's.
Status Communicator::Impl::enqueue_counted(std::vector<DeviceOperation> operations) {
  if (device_rank() == nullptr) {
    Result<std::shared_ptr<cuda::Runtime>> runtime = cuda::Runtime::of_process();
    if (!runtime) return runtime.status().with_context(fmt::format("rank {}", rank_));
    const DeviceOperation& first = operations[0];
    const bool sends = buffer_bytes(first, rank_, ranks_).send > 0;
    const void* buffer = sends ? first.send : first.recv;
    const cuda::Place place = (*runtime)->locate(buffer);
    if (!place.device)
      return (*runtime)
          ->check_buffer(sends ? "send" : "receive", buffer, 1, 0)
          .with_context(fmt::format("rank {}: {}", rank_, name(first.collective)));
    auto made = std::make_shared<DeviceRank>(*this, place.ordinal);
    device_streams_.store(true, std::memory_order_relaxed);
    std::lock_guard lock(error_mutex_);
    device_rank_ = std::move(made);
  }
  std::vector<DevicePath::Task> tasks;
  tasks.push_back({device_rank_, std::move(operations)});
  return DevicePath::enqueue(std::move(tasks));
}

}  // namespace tutti
