// A device for torch whose streams, events and memory are those of the fake CUDA driver
// (tests/cuda): torch's PrivateUse1 backend. What the "tutti" backend does with CUDA tensors runs
// on it without a GPU, in stream order: copies and fills are enqueued, other operators synchronise
// their stream and run on the CPU. Freed memory is overwritten at once on the stream that it was
// allocated on, as the next user of a caching allocator would, unless it was recorded on others.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "src/cuda/driver.h"

namespace tutti::cuda {
extern "C" {
#define DECLARE(member, symbol, arguments) int symbol arguments;
TUTTI_CUDA_FUNCTIONS(DECLARE)
#undef DECLARE
}
}  // namespace tutti::cuda

extern "C" {
void* fake_cuda_allocate(size_t bytes, int device);
void fake_cuda_free(void* memory);
void* fake_cuda_stream(int device);
}

namespace {

namespace cuda = tutti::cuda;
using namespace tutti::cuda;  // the driver's functions

constexpr auto k_type = c10::DeviceType::PrivateUse1;
constexpr c10::DeviceIndex k_devices = 4;

void check(int result, const char* function) {
  TORCH_CHECK(result == cuda::k_success, function, " failed with ", result);
}

// --- streams

// Streams by number, and pools of them.
class Streams {
 public:
  c10::Stream take(c10::DeviceIndex device) {
    constexpr size_t k_pool = 32;
    const auto [pool, turn] = [&] {
      const std::lock_guard lock(mutex_);
      return std::pair(pools_[device], turns_[device]++);
    }();
    if (pool.size() == k_pool) return pool[turn % k_pool];
    const c10::Stream made = add(device);
    const std::lock_guard lock(mutex_);
    pools_[device].push_back(made);
    return made;
  }
  c10::Stream add(c10::DeviceIndex device) {
    const std::lock_guard lock(mutex_);
    all_.push_back(static_cast<cuda::Stream>(fake_cuda_stream(device)));
    return c10::Stream(c10::Stream::UNSAFE, {k_type, device},
                       static_cast<c10::StreamId>(all_.size()));
  }
  cuda::Stream handle(const c10::Stream& stream) {
    const std::lock_guard lock(mutex_);
    if (stream.id() != 0) return all_.at(static_cast<size_t>(stream.id()) - 1);
    cuda::Stream& known = defaults_[stream.device_index()];
    if (known == nullptr)
      known = static_cast<cuda::Stream>(fake_cuda_stream(stream.device_index()));
    return known;
  }

 private:
  std::mutex mutex_;
  std::vector<cuda::Stream> all_;
  std::map<c10::DeviceIndex, cuda::Stream> defaults_;
  std::map<c10::DeviceIndex, std::vector<c10::Stream>> pools_;
  std::map<c10::DeviceIndex, size_t> turns_;
};
Streams& streams() {
  static auto* the_one = new Streams;
  return *the_one;
}

thread_local c10::DeviceIndex t_device = 0;
thread_local std::map<c10::DeviceIndex, c10::StreamId> t_current;

c10::Stream current(c10::DeviceIndex device) {
  return c10::Stream(c10::Stream::UNSAFE, {k_type, device}, t_current[device]);
}

// `work` in the order of the stream; what a graph holds may run again.
void enqueue(cuda::Stream stream, std::function<void()> work) {
  using Work = std::function<void()>;
  int capture = cuda::k_capture_none;
  check(cuStreamIsCapturing(stream, &capture), "cuStreamIsCapturing");
  const auto once = [](void* data) { (*std::unique_ptr<Work>(static_cast<Work*>(data)))(); };
  const auto again = [](void* data) { (*static_cast<Work*>(data))(); };
  auto* held = new Work(std::move(work));
  check(capture == cuda::k_capture_none ? cuLaunchHostFunc(stream, once, held)
                                        : cuLaunchHostFunc(stream, again, held),
        "cuLaunchHostFunc");
}

// --- memory

struct Block {
  void* memory;
  size_t bytes;
  c10::Stream stream;  // it was allocated on
  std::mutex mutex;
  std::set<c10::StreamId> recorded;
};

void wait_for(cuda::Stream stream, cuda::Stream other) {
  cuda::Event event = nullptr;
  check(cuEventCreate(&event, cuda::k_event_disable_timing), "cuEventCreate");
  check(cuEventRecord(event, other), "cuEventRecord");
  check(cuStreamWaitEvent(stream, event, 0), "cuStreamWaitEvent");
  check(cuEventDestroy_v2(event), "cuEventDestroy");
}

void give_back(void* context) {
  const std::unique_ptr<Block> block(static_cast<Block*>(context));
  const cuda::Stream stream = streams().handle(block->stream);
  for (c10::StreamId id : block->recorded)
    wait_for(stream,
             streams().handle(c10::Stream(c10::Stream::UNSAFE, block->stream.device(), id)));
  enqueue(stream, [memory = block->memory, bytes = block->bytes] {
    std::memset(memory, 0xEE, bytes);
    fake_cuda_free(memory);
  });
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device device(k_type, t_device);
    if (bytes == 0) return {nullptr, device};
    void* memory = fake_cuda_allocate(bytes, t_device);
    TORCH_CHECK(memory != nullptr, "the fake device is out of memory");
    auto* block = new Block{memory, bytes, current(t_device), {}, {}};
    return {memory, block, give_back, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};
Allocator g_allocator;
REGISTER_ALLOCATOR(k_type, &g_allocator);

// --- the device

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return k_type; }
  c10::Device exchangeDevice(c10::Device d) const override {
    const c10::Device old = getDevice();
    setDevice(d);
    return old;
  }
  c10::Device getDevice() const override { return {k_type, t_device}; }
  void setDevice(c10::Device d) const override {
    TORCH_CHECK(d.index() < k_devices, "no device ", d);
    if (d.has_index()) t_device = d.index();
  }
  void uncheckedSetDevice(c10::Device d) const noexcept override { t_device = d.index(); }
  c10::Stream getStream(c10::Device d) const override { return current(d.index()); }
  c10::Stream getDefaultStream(c10::Device d) const override {
    return c10::Stream(c10::Stream::DEFAULT, d);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device d, bool) const override {
    return streams().take(d.has_index() ? d.index() : t_device);
  }
  c10::Stream getNewStream(c10::Device d, int) const override {
    return streams().add(d.has_index() ? d.index() : t_device);
  }
  c10::Stream exchangeStream(c10::Stream s) const override {
    const c10::Stream old = current(s.device_index());
    t_current[s.device_index()] = s.id();
    return old;
  }
  void* getStreamNativeHandle(const c10::Stream s) const override { return streams().handle(s); }
  c10::DeviceIndex deviceCount() const noexcept override { return k_devices; }

  void record(void** event, const c10::Stream& stream, c10::DeviceIndex,
              c10::EventFlag) const override {
    if (*event == nullptr)
      check(cuEventCreate(reinterpret_cast<cuda::Event*>(event), cuda::k_event_disable_timing),
            "cuEventCreate");
    check(cuEventRecord(static_cast<cuda::Event>(*event), streams().handle(stream)),
          "cuEventRecord");
  }
  void block(void* event, const c10::Stream& stream) const override {
    check(cuStreamWaitEvent(streams().handle(stream), static_cast<cuda::Event>(event), 0),
          "cuStreamWaitEvent");
  }
  bool queryEvent(void* event) const override {
    const int result = cuEventQuery(static_cast<cuda::Event>(event));
    if (result == cuda::k_not_ready) return false;
    check(result, "cuEventQuery");
    return true;
  }
  void synchronizeEvent(void* event) const override {
    check(cuEventSynchronize(static_cast<cuda::Event>(event)), "cuEventSynchronize");
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    static_cast<void>(cuEventDestroy_v2(static_cast<cuda::Event>(event)));
  }
  bool queryStream(const c10::Stream& s) const override {
    return cuStreamQuery(streams().handle(s)) == cuda::k_success;
  }
  void synchronizeStream(const c10::Stream& s) const override {
    check(cuStreamSynchronize(streams().handle(s)), "cuStreamSynchronize");
  }
  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& s) const override {
    if (data.get_deleter() != &give_back) return;
    auto* block = static_cast<Block*>(data.get_context());
    if (block->stream == s) return;
    const std::lock_guard lock(block->mutex);
    block->recorded.insert(s.id());
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return k_devices; }
  void setCurrentDevice(c10::DeviceIndex d) const override { t_device = d; }
  c10::DeviceIndex getCurrentDevice() const override { return t_device; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex d) const override {
    return std::exchange(t_device, d);
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex d) const override {
    return std::exchange(t_device, d);
  }
};

// --- operators

// The same memory as a tensor of the CPU. It keeps nothing alive.
at::Tensor on_host(const at::Tensor& t) {
  void* data = const_cast<void*>(t.const_data_ptr());
  return at::from_blob(data, t.sizes(), t.strides(),
                       at::TensorOptions().dtype(t.scalar_type()).device(at::kCPU));
}

cuda::Stream current_handle(const at::Tensor& t) {
  return streams().handle(current(t.get_device()));
}

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(device.value_or(at::Device(k_type, t_device)));
  return at::detail::empty_generic(size, &g_allocator,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   dtype.value_or(at::kFloat), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(device.value_or(at::Device(k_type, t_device)));
  return at::detail::empty_strided_generic(size, stride, &g_allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           dtype.value_or(at::kFloat));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  if (from.numel() == 0) return to;
  const cuda::Stream stream = current_handle(to.is_cpu() ? from : to);
  // Memory of the host that may go away is copied now, as drivers do with what is not pinned.
  const at::Tensor source = from.is_cpu() ? from.clone() : on_host(from);
  const at::Tensor target = to.is_cpu() ? to : on_host(to);
  enqueue(stream, [source, target] {
    const at::NoGradGuard no_grad;
    target.copy_(source);
  });
  if (to.is_cpu()) check(cuStreamSynchronize(stream), "cuStreamSynchronize");
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  TORCH_CHECK(from.sizes() == to.sizes(), "the fake device resizes nothing");
  return copy_from(from, to, false);
}

at::Tensor& fill(at::Tensor& self, const at::Scalar& value) {
  if (self.numel() == 0) return self;
  enqueue(current_handle(self), [target = on_host(self), value] {
    const at::NoGradGuard no_grad;
    target.fill_(value);
  });
  return self;
}

at::Tensor& zero(at::Tensor& self) { return fill(self, 0); }

at::Scalar item(const at::Tensor& self) { return self.cpu().item(); }

at::Tensor& set_storage(at::Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size,
                        c10::IntArrayRef stride) {
  return at::native::set_storage_cpu_(self, std::move(source), offset, size, stride);
}

void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("fill_.Scalar", &fill);
  m.impl("zero_", &zero);
  m.impl("_local_scalar_dense", &item);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
}

// --- what tests ask of it

// Its current stream stands still for so long.
void delay(int64_t device, int64_t milliseconds) {
  enqueue(streams().handle(current(static_cast<c10::DeviceIndex>(device))),
          [milliseconds] { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); });
}

cuda::GraphExec g_graph = nullptr;

void begin_capture(int64_t device) {
  check(cuStreamBeginCapture_v2(streams().handle(current(static_cast<c10::DeviceIndex>(device))),
                                cuda::k_capture_thread_local),
        "cuStreamBeginCapture");
}

void end_capture(int64_t device) {
  cuda::Graph graph = nullptr;
  check(
      cuStreamEndCapture(streams().handle(current(static_cast<c10::DeviceIndex>(device))), &graph),
      "cuStreamEndCapture");
  check(cuGraphInstantiateWithFlags(&g_graph, graph, 0), "cuGraphInstantiate");
}

void replay(int64_t device) {
  check(cuGraphLaunch(g_graph, streams().handle(current(static_cast<c10::DeviceIndex>(device)))),
        "cuGraphLaunch");
}

TORCH_LIBRARY(fake_accelerator, m) {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  m.def("delay(int device, int milliseconds) -> ()", &delay);
  m.def("begin_capture(int device) -> ()", &begin_capture);
  m.def("end_capture(int device) -> ()", &end_capture);
  m.def("replay(int device) -> ()", &replay);
}

}  // namespace
