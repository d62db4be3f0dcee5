// Memory: allocation, registration, windows.
#include <fmt/format.h>

#include "src/cuda/runtime.h"
#include "src/nccl/api.h"
#include "src/nccl/group.h"
#include "src/nccl/life.h"
#include "src/nccl/pointers.h"
#include "src/nccl/windows.h"

namespace tutti::nccl {
namespace {

// A registered range, of the host or of a device. Neither needs registration to be used; what is
// checked here is that programs use their handles rightly.
struct Registration {
  void* buffer = nullptr;
  size_t bytes = 0;
};

using RegistrationTable = HandleTable<Registration, 2>;
using WindowTable = HandleTable<WindowEntry, 3>;

RegistrationTable& registrations() {
  static auto* table = new RegistrationTable;
  return *table;
}
WindowTable& windows() {
  static auto* table = new WindowTable;
  return *table;
}

Result<Place> place_of_range(void* buffer, size_t bytes) {
  if (buffer == nullptr) return invalid_argument("the buffer is null");
  if (bytes == 0) return invalid_argument("a buffer of 0 bytes");
  return common_place(nullptr, 0, buffer, bytes);
}

template <class Table, class Entry>
Result<void*> enroll(Table& table, std::set<const void*>& own, Comm& comm, Entry entry) {
  std::lock_guard lock(comm.memory_mutex());
  void* handle = table.add(std::make_shared<Entry>(std::move(entry)));
  if (handle == nullptr) return Status(Code::system_error, "too many registrations");
  own.insert(handle);
  return handle;
}

template <class Table>
Status dismiss(Table& table, std::set<const void*>& own, Comm& comm, const void* handle,
               const char* what) {
  std::lock_guard lock(comm.memory_mutex());
  if (own.erase(handle) == 0 || !table.retire(handle))
    return invalid_argument(
        fmt::format("rank {}: {} is no {} of this communicator", comm.rank(), handle, what));
  static_cast<void>(table.take(handle));
  return {};
}

// Collective, so that every rank knows how much each of the others offers. Device memory is not.
Status make_window(Comm& comm, WindowEntry entry, ncclWindow_t* out) {
  Result<Window> made = comm.offer_window(entry.on_device ? nullptr : entry.buffer,
                                          entry.on_device ? 0 : entry.bytes);
  if (!made) return made.status();
  entry.window = std::move(*made);
  Result<void*> handle = enroll(windows(), comm.windows(), comm, std::move(entry));
  if (handle) *out = static_cast<ncclWindow_t>(*handle);
  return handle.status();
}

Status register_window(ncclComm_t handle, void* buffer, size_t bytes, ncclWindow_t* out,
                       int flags) {
  constexpr int k_known =
      NCCL_WIN_COLL_SYMMETRIC | NCCL_WIN_STRICT_ORDERING | NCCL_WIN_GIN_ONLY | NCCL_WIN_CFT_COUNTED;
  Found found = find(handle);
  if (!found.status.ok()) return found.status;
  if (out == nullptr) return invalid_argument("the pointer to the window is null");
  *out = nullptr;
  TUTTI_RETURN_IF_ERROR(found.comm->usable());
  if ((flags & ~k_known) != 0)
    return invalid_argument(fmt::format("unknown window flags {:#x}", flags & ~k_known));
  if (reinterpret_cast<uintptr_t>(buffer) % NCCL_WIN_REQUIRED_ALIGNMENT != 0)
    return invalid_argument(fmt::format("the buffer {} is not aligned to {} bytes", buffer,
                                        NCCL_WIN_REQUIRED_ALIGNMENT));
  Result<Place> place = place_of_range(buffer, bytes);
  if (!place) return place.status();
  std::shared_ptr<Comm> comm = found.comm.shared();
  auto body = [comm, out, entry = WindowEntry{buffer, bytes, *place == Place::device, Window()}] {
    return make_window(*comm, entry, out);
  };
  if (!Group::open()) return comm->perform(std::move(body));
  Group::mine().add(comm, true, std::move(body));
  return {};
}

// Device memory where the calling thread has a device: its context is current. Null: it has none.
cuda::Runtime* current_runtime(std::shared_ptr<cuda::Runtime>* keep) {
  if (!driver_is_loaded()) return nullptr;
  Result<std::shared_ptr<cuda::Runtime>> runtime = cuda::Runtime::of_process();
  cuda::Context context = nullptr;
  if (!runtime || (*runtime)->driver().context_current(&context) != 0 || context == nullptr)
    return nullptr;
  *keep = *runtime;
  return keep->get();
}

}  // namespace

Result<WindowEntry> find_window(Comm& comm, ncclWindow_t handle) {
  if (handle == nullptr)
    return invalid_argument(fmt::format("rank {}: the window is null", comm.rank()));
  WindowTable::Pin window = windows().pin(handle);
  std::lock_guard lock(comm.memory_mutex());
  if (!window || comm.windows().count(handle) == 0)
    return invalid_argument(fmt::format("rank {}: {} is no window of this communicator",
                                        comm.rank(), static_cast<void*>(handle)));
  return *window;
}

void forget_memory(Comm& comm) {
  std::lock_guard lock(comm.memory_mutex());
  for (const void* handle : comm.registrations())
    if (registrations().retire(handle)) static_cast<void>(registrations().take(handle));
  for (const void* handle : comm.windows())
    if (windows().retire(handle)) static_cast<void>(windows().take(handle));
  comm.registrations().clear();
  comm.windows().clear();
}

}  // namespace tutti::nccl

using namespace tutti;        // NOLINT: the rest is C functions
using namespace tutti::nccl;  // NOLINT

ncclResult_t pncclMemAlloc(void** ptr, size_t size) {
  return answer("ncclMemAlloc", [&]() -> Status {
    if (ptr == nullptr) return invalid_argument("the pointer to the memory is null");
    *ptr = nullptr;
    if (size == 0) return {};
    std::shared_ptr<cuda::Runtime> keep;
    if (cuda::Runtime* runtime = current_runtime(&keep)) {
      cuda::DevicePtr memory = 0;
      const cuda::Driver& driver = runtime->driver();
      TUTTI_RETURN_IF_ERROR(driver.check(driver.memory_alloc(&memory, size), "cuMemAlloc")
                                .with_context(fmt::format("{} bytes", size)));
      *ptr = reinterpret_cast<void*>(memory);
      return {};
    }
    Status status;
    *ptr = mem_alloc(size, &status);
    return status;
  });
}

ncclResult_t pncclMemFree(void* ptr) {
  return answer("ncclMemFree", [&]() -> Status {
    if (ptr == nullptr) return {};
    forget_places();
    if (driver_is_loaded())
      if (Result<std::shared_ptr<cuda::Runtime>> runtime = cuda::Runtime::of_process();
          runtime && (*runtime)->locate(ptr).device) {
        const cuda::Driver& driver = (*runtime)->driver();
        return driver.check(driver.memory_free(reinterpret_cast<cuda::DevicePtr>(ptr)),
                            "cuMemFree");
      }
    return mem_free(ptr);
  });
}

ncclResult_t pncclCommRegister(const ncclComm_t comm, void* buff, size_t size, void** handle) {
  return answer("ncclCommRegister", [&]() -> Status {
    Found found = find(comm);
    if (!found.status.ok()) return found.status;
    if (handle == nullptr) return invalid_argument("the pointer to the handle is null");
    *handle = nullptr;
    if (Result<Place> place = place_of_range(buff, size); !place) return place.status();
    Result<void*> made =
        enroll(registrations(), found.comm->registrations(), *found.comm, Registration{buff, size});
    if (made) *handle = *made;
    return made.status();
  });
}

ncclResult_t pncclCommDeregister(const ncclComm_t comm, void* handle) {
  return answer("ncclCommDeregister", [&]() -> Status {
    Found found = find(comm);
    if (!found.status.ok()) return found.status;
    if (handle == nullptr) return {};
    return dismiss(registrations(), found.comm->registrations(), *found.comm, handle,
                   "registration");
  });
}

ncclResult_t pncclCommWindowRegister(ncclComm_t comm, void* buff, size_t size, ncclWindow_t* win,
                                     int winFlags) {
  return answer("ncclCommWindowRegister",
                [&] { return in_group(register_window(comm, buff, size, win, winFlags)); });
}

ncclResult_t pncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t win) {
  return answer("ncclCommWindowDeregister", [&]() -> Status {
    Found found = find(comm);
    if (!found.status.ok()) return found.status;
    if (win == nullptr) return {};
    Result<WindowEntry> entry = find_window(*found.comm, win);
    if (!entry) return entry.status();
    TUTTI_RETURN_IF_ERROR(dismiss(windows(), found.comm->windows(), *found.comm, win, "window"));
    return found.comm->communicator()->deregister_window(entry->window);
  });
}

ncclResult_t pncclWinGetUserPtr(ncclComm_t comm, ncclWindow_t win, void** outUserPtr) {
  return answer("ncclWinGetUserPtr", [&]() -> Status {
    Found found = find(comm);
    if (!found.status.ok()) return found.status;
    if (outUserPtr == nullptr) return invalid_argument("the pointer to the answer is null");
    *outUserPtr = nullptr;
    Result<WindowEntry> window = find_window(*found.comm, win);
    if (!window) return window.status();
    *outUserPtr = window->buffer;
    return {};
  });
}

TUTTI_NCCL_MEMORY_NAMES(TUTTI_NCCL_WEAK_ALIAS)
