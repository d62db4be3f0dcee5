// The windows of this process and its mappings of other processes' windows, kept from communicator
// to communicator.
//
// A driver allows neither to free memory that another process has mapped nor to map memory twice,
// and a peer that died says nothing. So windows are not freed and mappings stay open until the
// runtime ends: a communicator gives its window back, and a later one takes it.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "src/cuda/allocation.h"

namespace tutti::cuda {

class WindowStore {
 public:
  struct Window {
    std::unique_ptr<Allocation> memory;
    uint64_t bytes = 0;
    int ordinal = 0;
    IpcMemHandle handle{};
  };

  explicit WindowStore(Runtime& runtime) : runtime_(runtime) {}
  ~WindowStore();
  WindowStore(const WindowStore&) = delete;
  WindowStore& operator=(const WindowStore&) = delete;

  // Memory of the device, with whatever it holds. Errors: device_error.
  Result<std::unique_ptr<Window>> take(Device& device, uint64_t bytes);
  // `quiet`: nobody writes into it any more, so that it may be taken again.
  void give(std::unique_ptr<Window> window, bool quiet);
  // Where the device sees another process's window. Errors: device_error.
  Result<std::byte*> open(Device& device, const IpcMemHandle& handle);

 private:
  struct Key {
    int ordinal;
    IpcMemHandle handle;
    bool operator<(const Key& other) const {
      if (ordinal != other.ordinal) return ordinal < other.ordinal;
      return std::memcmp(&handle, &other.handle, sizeof handle) < 0;
    }
  };
  Runtime& runtime_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Window>> idle_, abandoned_;
  std::map<Key, DevicePtr> opened_;
};

}  // namespace tutti::cuda
