// Memory for as long as an object lives, and how a few bytes get there.
#pragma once

#include <memory>
#include <span>

#include "src/cuda/runtime.h"

namespace tutti::cuda {

// Allocations and copies of its own are allowed while a thread captures a stream.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(const Driver& driver) : driver_(driver) {
    driver_.exchange_capture_mode(&mode_);
  }
  ~RelaxedCapture() { driver_.exchange_capture_mode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  const Driver& driver_;
  int mode_ = k_capture_relaxed;
};

// Memory of a device, or pinned memory of the host that the device reaches.
class Allocation {
 public:
  static Result<std::unique_ptr<Allocation>> on_device(Runtime& runtime, Device& device,
                                                       uint64_t bytes);
  static Result<std::unique_ptr<Allocation>> pinned(Runtime& runtime, Device& device,
                                                    uint64_t bytes);
  ~Allocation();
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;
  std::byte* data() const { return data_; }
  // [offset, + bytes) becomes zero. Waits for it, on a stream of its own.
  Status zero(uint64_t offset, uint64_t bytes);
  // [offset, + content.size()) becomes `content`, likewise.
  Status write(uint64_t offset, std::span<const std::byte> content);
  // `content` becomes what is at offset, likewise.
  Status read(uint64_t offset, std::span<std::byte> content) const;
  DevicePtr address() const { return reinterpret_cast<DevicePtr>(data_); }

 private:
  Allocation(Runtime& runtime, Device& device, std::byte* data, bool pinned)
      : runtime_(runtime), device_(device), data_(data), pinned_(pinned) {}
  template <class Enqueue>
  Status on_own_stream(const char* function, Enqueue&& enqueue) const;

  Runtime& runtime_;
  Device& device_;
  std::byte* data_;
  bool pinned_;
};

}  // namespace tutti::cuda
