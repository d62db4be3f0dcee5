#include "src/nccl/device_calls.h"

#include "src/nccl/log.h"

namespace tutti::nccl {

DeviceOperation device_operation(const Operation& op) {
  DeviceOperation o;
  o.collective = collective_of(op.kind);
  o.sends = op.kind == Operation::Kind::send;
  o.send = op.send;
  o.recv = op.recv;
  o.count = op.count;
  o.dtype = op.dtype();
  if (op.reduces()) o.reduction = op.reduction;
  o.late_scalar = op.late_scalar;
  o.root = op.rooted() || op.transfer() ? static_cast<Rank>(op.root) : 0;
  o.stream = reinterpret_cast<cuda::Stream>(op.stream);
  return o;
}

void DeviceHost::inform(const std::string& text) {
  if (logs(LogLevel::info, Subsystem::init)) log_line(LogLevel::info, Subsystem::init, text);
}

Status enqueue_on_devices(const std::vector<DeviceTask>& tasks) {
  std::vector<DevicePath::Task> all;
  for (const DeviceTask& task : tasks) {
    DevicePath::Task& one = all.emplace_back();
    one.host = task.comm->device_host();
    for (const Operation& op : task.operations) one.operations.push_back(device_operation(op));
  }
  return DevicePath::enqueue(std::move(all));
}

}  // namespace tutti::nccl
