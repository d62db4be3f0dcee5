#include "src/cuda/window_store.h"

#include <algorithm>

namespace tutti::cuda {

WindowStore::~WindowStore() {
  for (const auto& [key, address] : opened_) {
    Result<Device*> device = runtime_.device(key.ordinal);
    if (!device) continue;
    Scope scope(runtime_.driver(), (*device)->context());
    runtime_.driver().ipc_close(address);
  }
}

Result<std::unique_ptr<WindowStore::Window>> WindowStore::take(Device& device, uint64_t bytes) {
  std::unique_ptr<Window> window;
  {
    std::lock_guard lock(mutex_);
    const auto found = std::find_if(idle_.begin(), idle_.end(), [&](const auto& w) {
      return w->bytes == bytes && w->ordinal == device.ordinal();
    });
    if (found != idle_.end()) {
      window = std::move(*found);
      idle_.erase(found);
    }
  }
  if (window == nullptr) {
    window = std::make_unique<Window>();
    window->bytes = bytes;
    window->ordinal = device.ordinal();
    auto memory = Allocation::on_device(runtime_, device, bytes);
    if (!memory) return memory.status();
    window->memory = std::move(*memory);
    const Driver& driver = runtime_.driver();
    Scope scope(driver, device.context());
    TUTTI_RETURN_IF_ERROR(scope.status());
    TUTTI_RETURN_IF_ERROR(driver.check(driver.ipc_get(&window->handle, window->memory->address()),
                                       "cuIpcGetMemHandle"));
  }
  return window;
}

void WindowStore::give(std::unique_ptr<Window> window, bool quiet) {
  std::lock_guard lock(mutex_);
  (quiet ? idle_ : abandoned_).push_back(std::move(window));
}

Result<std::byte*> WindowStore::open(Device& device, const IpcMemHandle& handle) {
  std::lock_guard lock(mutex_);
  const Key key{device.ordinal(), handle};
  if (const auto found = opened_.find(key); found != opened_.end())
    return reinterpret_cast<std::byte*>(found->second);
  const Driver& driver = runtime_.driver();
  Scope scope(driver, device.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  RelaxedCapture relaxed(driver);
  DevicePtr address = 0;
  TUTTI_RETURN_IF_ERROR(driver.check(driver.ipc_open(&address, handle, k_ipc_lazy_peer_access),
                                     "cuIpcOpenMemHandle"));
  opened_.emplace(key, address);
  return reinterpret_cast<std::byte*>(address);
}

}  // namespace tutti::cuda
