#include "bindings/python/src/torch/lane.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/StreamGuard.h>
#include <torch/version.h>

#include <optional>
#include <thread>

namespace tutti::torch_backend {
namespace {

template <class Stream>
void* native_handle(const Stream& stream) {
  if constexpr (requires { stream.native_handle(); }) {
    return stream.native_handle();
  } else {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "tutti: tensors on ", stream.device(),
                                " need a torch whose c10::Stream tells its native_handle(); "
                                "this is torch " TORCH_VERSION);
  }
}

c10::Stream pool_stream(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
}

bool passed(const c10::Event& event) {
  try {
    return event.query();
  } catch (const std::exception&) {  // the device is lost: nothing to wait for
    return true;
  }
}

}  // namespace

Status run(const Body& body, Calls calls) {
  at::NoGradGuard no_grad;
  try {
    return body(calls);
  } catch (const std::exception& error) {
    return Status(Code::internal_error, error.what());
  }
}

c10::Stream current_stream(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

c10::Event mark(const c10::Stream& stream) {
  c10::Event event(stream.device_type());
  event.record(stream);
  return event;
}

Lane::Lane(c10::Device device, std::shared_ptr<Communicator> communicator)
    : communicator_(std::move(communicator)),
      stream_(pool_stream(device)),
      handle_(native_handle(stream_)) {}

Status Lane::open() {
  const std::lock_guard lock(mutex_);
  const c10::StreamGuard on_lane(stream_);
  return run(
      [&](Calls& c) {
        at::Tensor token = at::zeros({1}, at::device(stream_.device()).dtype(at::kByte));
        void* data = token.mutable_data_ptr();
        return c.all_reduce(data, data, 1, DType::uint8, ReduceOp::sum);
      },
      {*communicator_, handle_});
}

void Lane::enqueue(std::span<const c10::Event> ready, const Body& body,
                   std::span<const c10::intrusive_ptr<TuttiWork>> works) {
  std::optional<c10::StreamGuard> on_lane;
  std::vector<c10::Event> through;
  Status status;
  try {
    on_lane.emplace(stream_);
    const std::lock_guard lock(mutex_);
    for (const c10::Event& event : ready) event.block(stream_);
    status = run(body, {*communicator_, handle_});
    // Of what a failed body has enqueued, too.
    while (through.size() < works.size()) through.push_back(mark(stream_));
  } catch (const std::exception& error) {
    for (const auto& w : works) w->complete(Status(Code::device_error, error.what()));
    return;
  }
  // Without the lock: callbacks of the futures may make further calls.
  for (size_t i = 0; i < works.size(); ++i)
    works[i]->enqueued(status, std::move(through[i]), stream_, communicator_);
}

void Lane::shut_down(std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  const c10::Event last = mark(stream_);
  while (!passed(last)) {
    if (std::chrono::steady_clock::now() > deadline) {
      communicator_->abort("the process group was shut down before its work on " +
                           stream_.device().str() + " was through");
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  static_cast<void>(communicator_->finalize());
}

}  // namespace tutti::torch_backend
