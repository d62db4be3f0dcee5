#include "src/cuda/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <random>

#include "src/cuda/allocation.h"
#include "src/cuda/window_store.h"

namespace tutti::cuda {
namespace {

std::string toolkit_name(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

// The default one, the legacy one, the one per thread.
bool is_default(Stream stream) { return reinterpret_cast<uintptr_t>(stream) <= 2; }

}  // namespace

Scope::Scope(const Driver& driver, Context context)
    : driver_(driver), status_(driver.check(driver.context_push(context), "cuCtxPushCurrent")) {}

Scope::~Scope() {
  Context old = nullptr;
  if (status_.ok()) driver_.context_pop(&old);
}

// --- Device

Device::~Device() {
  if (context_ == nullptr) return;
  {
    Scope scope(*driver_, context_);
    for (Event e : events_) driver_->event_destroy(e);
    for (Module m : modules_)
      if (m != nullptr) driver_->module_unload(m);
  }
  driver_->primary_release(ordinal_);
}

Status Device::open() {
  int device = 0, count = 0, cooperative = 0;
  TUTTI_RETURN_IF_ERROR(driver_->check(driver_->device_get(&device, ordinal_), "cuDeviceGet"));
  TUTTI_RETURN_IF_ERROR(driver_->check(driver_->device_attribute(&count, k_multiprocessors, device),
                                       "cuDeviceGetAttribute"));
  TUTTI_RETURN_IF_ERROR(
      driver_->check(driver_->device_attribute(&cooperative, k_cooperative_launch, device),
                     "cuDeviceGetAttribute"));
  char text[128] = {};
  TUTTI_RETURN_IF_ERROR(
      driver_->check(driver_->device_name(text, sizeof text - 1, device), "cuDeviceGetName"));
  TUTTI_RETURN_IF_ERROR(driver_->check(driver_->device_uuid(&uuid_, device), "cuDeviceGetUuid"));
  Context context = nullptr;
  TUTTI_RETURN_IF_ERROR(
      driver_->check(driver_->primary_retain(&context, device), "cuDevicePrimaryCtxRetain"));
  name_ = text;
  multiprocessors_ = static_cast<uint32_t>(count);
  cooperative_ = cooperative != 0;
  context_ = context;
  return {};
}

Status Device::load(Family family) {
  Module& module = modules_[static_cast<int>(family)];
  if (module != nullptr) return {};
  const std::span<const std::byte> image = images_.of(family);
  if (image.empty())
    return Status(Code::device_error,
                  "this build of tutti has no device kernels (it was made without nvcc)");
  Scope scope(*driver_, context_);
  TUTTI_RETURN_IF_ERROR(scope.status());
  const int result = driver_->module_load(&module, image.data(), 0, nullptr, nullptr);
  if (result == k_success) return {};
  module = nullptr;
  Status status = driver_->check(result, "cuModuleLoadDataEx");
  if (result != k_no_binary && result != k_unsupported_ptx) return status;
  return Status(
      Code::device_error,
      fmt::format("device {} ({}) cannot run the kernels of this build, made by CUDA {}: {}",
                  ordinal_, name_, toolkit_name(images_.toolkit), status.message()));
}

Result<Function> Device::function(Kernel kernel, DType dtype, Family family) {
  std::lock_guard lock(mutex_);
  Function& known =
      functions_[static_cast<int>(kernel)][static_cast<int>(dtype)][static_cast<int>(family)];
  if (known != nullptr) return known;
  TUTTI_RETURN_IF_ERROR(load(family));
  const std::string symbol = kernel == Kernel::transfers
                                 ? "tutti_transfers"
                                 : fmt::format("tutti_{}_{}_{}",
                                               kernel == Kernel::plan    ? "plan"
                                               : kernel == Kernel::shots ? "shots"
                                                                         : "direct",
                                               cuda::name(family), tutti::name(dtype));
  Scope scope(*driver_, context_);
  TUTTI_RETURN_IF_ERROR(scope.status());
  Function found = nullptr;
  TUTTI_RETURN_IF_ERROR(driver_->check(
      driver_->module_function(&found, modules_[static_cast<int>(family)], symbol.c_str()),
      "cuModuleGetFunction"));
  return known = found;
}

Result<uint32_t> Device::resident_blocks(Function function) {
  Scope scope(*driver_, context_);
  TUTTI_RETURN_IF_ERROR(scope.status());
  int each = 0;
  TUTTI_RETURN_IF_ERROR(driver_->check(driver_->occupancy(&each, function, k_block_threads, 0),
                                       "cuOccupancyMaxActiveBlocksPerMultiprocessor"));
  return static_cast<uint32_t>(each) * multiprocessors_;
}

Result<Event> Device::take_event() {
  {
    std::lock_guard lock(mutex_);
    if (!events_.empty()) {
      Event event = events_.back();
      events_.pop_back();
      return event;
    }
  }
  Scope scope(*driver_, context_);
  TUTTI_RETURN_IF_ERROR(scope.status());
  Event event = nullptr;
  TUTTI_RETURN_IF_ERROR(
      driver_->check(driver_->event_create(&event, k_event_disable_timing), "cuEventCreate"));
  return event;
}

void Device::give_event(Event event) {
  std::lock_guard lock(mutex_);
  events_.push_back(event);
}

Status Device::reach(const Device& other) {
  if (other.ordinal_ == ordinal_) return {};
  std::lock_guard lock(mutex_);
  if (std::find(reached_.begin(), reached_.end(), other.ordinal_) != reached_.end()) return {};
  int can = 0;
  TUTTI_RETURN_IF_ERROR(driver_->check(
      driver_->device_can_access_peer(&can, ordinal_, other.ordinal_), "cuDeviceCanAccessPeer"));
  if (can == 0)
    return Status(Code::unsupported, fmt::format("device {} cannot reach the memory of device {}",
                                                 ordinal_, other.ordinal_));
  Scope scope(*driver_, context_);
  TUTTI_RETURN_IF_ERROR(scope.status());
  const int result = driver_->enable_peer_access(other.context_, 0);
  if (result != k_peer_access_enabled)
    TUTTI_RETURN_IF_ERROR(driver_->check(result, "cuCtxEnablePeerAccess"));
  reached_.push_back(other.ordinal_);
  return {};
}

// --- Runtime

struct Runtime::Registrations {
  std::mutex mutex;
  std::map<void*, int> holders;
};

Runtime::Runtime(std::shared_ptr<const Driver> driver, Images images)
    : driver_(std::move(driver)),
      images_(images),
      identity_(uint64_t{std::random_device()()} << 32 | std::random_device()()),
      registrations_(std::make_shared<Registrations>()),
      windows_(std::make_unique<WindowStore>(*this)) {}

Runtime::~Runtime() = default;

Result<std::shared_ptr<Runtime>> Runtime::open(std::shared_ptr<const Driver> driver,
                                               Images images) {
  std::shared_ptr<Runtime> runtime(new Runtime(driver, images));
  int version = 0, count = 0;
  const int started = driver->init(0);
  if (started == k_stub_library)  // it has no names for its errors either
    return Status(Code::device_error,
                  "cuInit: the library found is the toolkit's stub for linking, not a driver");
  TUTTI_RETURN_IF_ERROR(driver->check(started, "cuInit"));
  TUTTI_RETURN_IF_ERROR(driver->check(driver->driver_version(&version), "cuDriverGetVersion"));
  if (version / 1000 < images.toolkit / 1000)
    return Status(
        Code::device_error,
        fmt::format("the CUDA driver is for CUDA {}, too old for the kernels of this build, "
                    "made by CUDA {}",
                    toolkit_name(version), toolkit_name(images.toolkit)));
  TUTTI_RETURN_IF_ERROR(driver->check(driver->device_count(&count), "cuDeviceGetCount"));
  if (count == 0) return Status(Code::device_error, "the CUDA driver knows no device");
  runtime->devices_.resize(static_cast<size_t>(count));
  return runtime;
}

Result<std::shared_ptr<Runtime>> Runtime::of_process() {
  static std::mutex mutex;
  static auto* runtime = new std::shared_ptr<Runtime>;  // threads may outlive static destructors
  std::lock_guard lock(mutex);
  if (*runtime != nullptr) return *runtime;
  Result<std::shared_ptr<const Driver>> driver = load_driver();
  if (!driver) return driver.status();
  Result<std::shared_ptr<Runtime>> opened = open(*driver);
  if (opened) *runtime = *opened;
  return opened;
}

Result<Device*> Runtime::device(int ordinal) {
  std::lock_guard lock(mutex_);
  if (ordinal < 0 || ordinal >= devices())
    return Status(Code::device_error, fmt::format("device {} of {}", ordinal, devices()));
  std::unique_ptr<Device>& place = devices_[static_cast<size_t>(ordinal)];
  if (place == nullptr) {
    std::unique_ptr<Device> fresh(new Device(driver_, images_, ordinal));
    TUTTI_RETURN_IF_ERROR(fresh->open().with_context(fmt::format("device {}", ordinal)));
    place = std::move(fresh);
  }
  return place.get();
}

std::string Runtime::bus_id(int ordinal) const {
  int device = 0, domain = 0, bus = 0, slot = 0;
  const auto ask = [&](int* value, int attribute) {
    return driver_->device_attribute(value, attribute, device) == k_success;
  };
  if (driver_->device_get(&device, ordinal) != k_success || !ask(&domain, k_pci_domain) ||
      !ask(&bus, k_pci_bus) || !ask(&slot, k_pci_device))
    return {};
  return fmt::format("{:04x}:{:02x}:{:02x}.0", domain, bus, slot);  // a GPU's first function
}

Place Runtime::locate(const void* buffer) const {
  uint32_t type = 0, managed = 0;
  int ordinal = 0;
  DevicePtr begin = 0;
  size_t bytes = 0;
  int attributes[] = {k_attribute_memory_type, k_attribute_is_managed, k_attribute_device,
                      k_attribute_range_start, k_attribute_range_size};
  void* answers[] = {&type, &managed, &ordinal, &begin, &bytes};
  const int result =
      driver_->pointer_attributes(5, attributes, answers, reinterpret_cast<DevicePtr>(buffer));
  Place place;
  if (result != k_success || type != k_memory_type_device || managed != 0) return place;
  place.device = true;
  place.ordinal = ordinal;
  place.begin = begin;
  place.bytes = bytes;
  return place;
}

Status Runtime::check_buffer(const char* which, const void* buffer, uint64_t bytes,
                             int ordinal) const {
  const Place place = locate(buffer);
  const auto bad = [&](std::string why) {
    return Status(Code::invalid_argument, fmt::format("the {} buffer {} {}", which, buffer, why));
  };
  if (!place.device) return bad("is no device memory: it is host memory, or was freed");
  if (place.ordinal != ordinal)
    return bad(fmt::format("is memory of device {}, the communicator is on device {}",
                           place.ordinal, ordinal));
  const uint64_t offset = reinterpret_cast<uint64_t>(buffer) - place.begin;
  if (place.bytes > 0 && offset + bytes > place.bytes)
    return bad(fmt::format("has {} bytes left in its allocation, the call needs {}",
                           place.bytes - offset, bytes));
  return {};
}

Status Runtime::check_stream(Stream stream, Device& device) const {
  if (is_default(stream)) return {};
  Context context = nullptr;
  TUTTI_RETURN_IF_ERROR(driver_->check(driver_->stream_context(stream, &context), "cuStreamGetCtx")
                            .with_context("the stream"));
  if (context == device.context()) return {};
  return Status(Code::invalid_argument,
                fmt::format("the stream belongs to another context than that of device {}",
                            device.ordinal()));
}

Status Runtime::follow(Stream stream, Stream other) const {
  if (stream == other) return {};
  // Of two default streams the current context decides, else the stream that is none.
  Context context = nullptr;
  const Stream known = is_default(other) ? stream : other;
  const int result = is_default(known) ? driver_->context_current(&context)
                                       : driver_->stream_context(known, &context);
  TUTTI_RETURN_IF_ERROR(driver_->check(result, "cuStreamGetCtx").with_context("the stream"));
  if (context == nullptr)
    return Status(Code::device_error, "the default stream of a thread without a CUDA context");
  Scope scope(*driver_, context);
  TUTTI_RETURN_IF_ERROR(scope.status());
  Event event = nullptr;
  TUTTI_RETURN_IF_ERROR(
      driver_->check(driver_->event_create(&event, k_event_disable_timing), "cuEventCreate"));
  Status status = driver_->check(driver_->event_record(event, other), "cuEventRecord");
  if (status.ok())
    status = driver_->check(driver_->stream_wait_event(stream, event, 0), "cuStreamWaitEvent");
  driver_->event_destroy(event);
  return status;
}

Result<std::shared_ptr<const void>> Runtime::register_memory(void* memory, size_t bytes,
                                                             Device& device) {
  std::lock_guard lock(registrations_->mutex);
  int& holders = registrations_->holders[memory];
  if (holders == 0) {
    Scope scope(*driver_, device.context());
    TUTTI_RETURN_IF_ERROR(scope.status());
    RelaxedCapture relaxed(*driver_);
    TUTTI_RETURN_IF_ERROR(
        driver_->check(driver_->host_register(memory, bytes, k_host_portable | k_host_mapped),
                       "cuMemHostRegister"));
  }
  ++holders;
  return std::shared_ptr<const void>(memory, [driver = driver_, all = registrations_, memory,
                                              context = device.context()](const void*) {
    std::lock_guard last(all->mutex);
    if (--all->holders[memory] > 0) return;
    all->holders.erase(memory);
    Scope scope(*driver, context);
    driver->host_unregister(memory);
  });
}

Result<bool> Runtime::capturing(Stream stream) const {
  int state = 0;
  TUTTI_RETURN_IF_ERROR(
      driver_->check(driver_->stream_is_capturing(stream, &state), "cuStreamIsCapturing"));
  return state == k_capture_active;
}

}  // namespace tutti::cuda
