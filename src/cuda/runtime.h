// Runtime: the devices of this process through a Driver: their primary contexts, kernels and
// events, and what a pointer or stream is. One per process, kept by whoever owns communicators.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "src/cuda/driver.h"
#include "src/cuda/image.h"
#include "src/cuda/launch.h"
#include "tutti/types.h"

namespace tutti::cuda {

class Runtime;
class WindowStore;

enum class Kernel : uint8_t { plan, shots, direct, transfers };
inline constexpr int k_kernels = 4;

// Makes a device's primary context current for a scope.
class Scope {
 public:
  Scope(const Driver& driver, Context context);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  const Status& status() const { return status_; }

 private:
  const Driver& driver_;
  Status status_;
};

class Device {
 public:
  ~Device();
  int ordinal() const { return ordinal_; }
  const std::string& name() const { return name_; }
  const DeviceUuid& uuid() const { return uuid_; }
  Context context() const { return context_; }
  uint32_t multiprocessors() const { return multiprocessors_; }
  bool cooperative() const { return cooperative_; }

  // Loaded on first use; transfers are of no type and of sum. Errors: device_error: no kernels in
  // this build, a driver that is too old for them, a device that they were not built for.
  Result<Function> function(Kernel kernel, DType dtype, Family family);
  // Blocks of k_block_threads that fit on the device at once.
  Result<uint32_t> resident_blocks(Function function);

  // Events without timing; given back, they are used again.
  Result<Event> take_event();
  void give_event(Event event);
  // This device may read and write the other's memory from now on.
  Status reach(const Device& other);

 private:
  friend class Runtime;
  Device(std::shared_ptr<const Driver> driver, Images images, int ordinal)
      : driver_(std::move(driver)), images_(images), ordinal_(ordinal) {}
  Status open();
  Status load(Family family);

  std::shared_ptr<const Driver> driver_;
  Images images_;
  int ordinal_;
  std::string name_;
  DeviceUuid uuid_{};
  Context context_ = nullptr;
  uint32_t multiprocessors_ = 0;
  bool cooperative_ = false;
  std::mutex mutex_;
  Module modules_[k_families] = {};
  Function functions_[k_kernels][k_dtypes][k_families] = {};
  std::vector<Event> events_;
  std::vector<int> reached_;
};

// What a buffer is.
struct Place {
  bool device = false;  // memory of `ordinal`; else host memory or unknown to the driver
  int ordinal = 0;
  DevicePtr begin = 0;  // of its allocation
  uint64_t bytes = 0;
};

class Runtime {
 public:
  // Errors: device_error: no device, a driver older than the kernels.
  static Result<std::shared_ptr<Runtime>> open(std::shared_ptr<const Driver> driver,
                                               Images images = built_in_images());

  // The one over this process's driver, opened when it is first needed: primary contexts, mappings
  // of peers' windows and what a pointer is belong to the process, whoever asks. Errors: as open();
  // the next call tries again.
  static Result<std::shared_ptr<Runtime>> of_process();

  ~Runtime();

  const Driver& driver() const { return *driver_; }
  // Tells runtimes apart, also those of other processes.
  uint64_t identity() const { return identity_; }
  WindowStore& windows() { return *windows_; }
  int devices() const { return static_cast<int>(devices_.size()); }
  // Opened on first use. Errors: device_error naming the ordinal.
  Result<Device*> device(int ordinal);

  // "0000:07:00.0": where the device is on PCI; empty where the driver does not say.
  std::string bus_id(int ordinal) const;

  Place locate(const void* buffer) const;
  // ok when [buffer, +bytes) is memory of `ordinal`. Errors: invalid_argument that says what it is.
  Status check_buffer(const char* which, const void* buffer, uint64_t bytes, int ordinal) const;
  // ok when the stream (null: the default one) belongs to the device's primary context.
  Status check_stream(Stream stream, Device& device) const;
  Result<bool> capturing(Stream stream) const;
  // Host memory that devices of this process reach for as long as somebody keeps what is returned.
  // Errors: device_error.
  Result<std::shared_ptr<const void>> register_memory(void* memory, size_t bytes, Device& device);
  // What is enqueued on `stream` from now on comes after what is on `other` now. A default stream
  // is that of the other's context, or of the current one. Errors: device_error.
  Status follow(Stream stream, Stream other) const;

 private:
  Runtime(std::shared_ptr<const Driver> driver, Images images);
  std::shared_ptr<const Driver> driver_;
  Images images_;
  uint64_t identity_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Device>> devices_;  // null until opened
  struct Registrations;
  std::shared_ptr<Registrations> registrations_;
  std::unique_ptr<WindowStore> windows_;  // before the devices it is on
};

}  // namespace tutti::cuda
