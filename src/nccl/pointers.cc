#include "src/nccl/pointers.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <link.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <string>
#include <string_view>

namespace tutti::nccl {
namespace {

constexpr size_t k_remembered = 64;  // per thread; a power of two
constexpr uintptr_t k_page = 4096;

struct Range {
  uintptr_t begin = 0, end = 0;  // whole pages known to be host memory
  uint32_t epoch = 0;
  bool writable = false;
};

std::atomic<uint32_t> g_epoch{1};
thread_local Range t_ranges[k_remembered];

// The kernel reads the eight bytes before it rejects the first argument. (Valgrind and sandboxes
// that know no such call answer something else than EFAULT: then the buffer is believed.)
bool readable(uintptr_t address) {
  const uintptr_t word = address & ~uintptr_t{7};
  return ::syscall(SYS_rt_sigprocmask, ~0, word, nullptr, 8) == 0 || errno != EFAULT;
}

// The kernel adds zero to the word, atomically.
bool writable_word(uintptr_t address) {
  uint32_t own = 0;
  const uintptr_t word = address & ~uintptr_t{3};
  const auto add_zero = static_cast<uint32_t>(FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 0));
  return ::syscall(SYS_futex, &own, FUTEX_WAKE_OP_PRIVATE, 0, 0, word, add_zero) >= 0 ||
         errno != EFAULT;
}

using GetAttribute = int (*)(void*, int, unsigned long long);

// Libraries loaded so far; the dynamic linker tells it with the first of them.
int count_loads(dl_phdr_info* info, size_t, void* loads) {
  *static_cast<unsigned long long*>(loads) = info->dlpi_adds;
  return 1;
}

int find_driver(dl_phdr_info* info, size_t, void* path) {
  const std::string_view name = info->dlpi_name;
  if (name.find("/libcuda.so") == std::string_view::npos) return 0;
  *static_cast<std::string*>(path) = name;
  return 1;
}

// cuPointerGetAttribute of the driver that this process has loaded, or null: then there are no
// device pointers. Looked for again only when libraries were loaded since.
GetAttribute driver_attribute() {
  static std::atomic<unsigned long long> seen{0};
  static std::atomic<GetAttribute> attribute{nullptr};
  unsigned long long loads = 0;
  dl_iterate_phdr(count_loads, &loads);
  if (attribute.load() != nullptr || loads == seen.load()) return attribute.load();
  std::string path;
  if (dl_iterate_phdr(find_driver, &path) == 1)
    if (void* driver = ::dlopen(path.c_str(), RTLD_NOLOAD | RTLD_LAZY))  // and so it stays loaded
      attribute.store(reinterpret_cast<GetAttribute>(::dlsym(driver, "cuPointerGetAttribute")));
  seen.store(loads);
  return attribute.load();
}

// CUDA's driver knows its own pointers.
bool is_device_memory(uintptr_t address) {
  constexpr int k_memory_type = 2, k_is_managed = 8;  // CUpointer_attribute
  constexpr unsigned k_device = 2;                    // CUmemorytype
  const GetAttribute get = driver_attribute();
  unsigned type = 0, managed = 0;
  if (get == nullptr || get(&type, k_memory_type, address) != 0 || type != k_device) return false;
  get(&managed, k_is_managed, address);
  return managed == 0;
}

Place look(uintptr_t first, uintptr_t last, bool writable) {
  for (uintptr_t address : {first, last}) {
    if (is_device_memory(address)) return Place::device;
    if (!readable(address) || (writable && !writable_word(address))) return Place::nowhere;
  }
  return Place::host;
}

std::string sentence(const char* which, const void* buffer, Place place, bool writable) {
  if (place == Place::device)
    return fmt::format("the {} buffer {} is device memory", which, buffer);
  return fmt::format(
      "the {} buffer {} is neither host memory that this process can {} nor memory "
      "of a device that it can use",
      which, buffer, writable ? "write" : "read");
}

}  // namespace

Place place_of(const void* buffer, size_t bytes, bool writable) {
  if (bytes == 0) return Place::host;
  const auto first = reinterpret_cast<uintptr_t>(buffer);
  const uintptr_t last = first + bytes - 1;
  if (last < first) return Place::nowhere;
  Range& known = t_ranges[(first / k_page) % k_remembered];
  const uint32_t epoch = g_epoch.load(std::memory_order_relaxed);
  if (first >= known.begin && last < known.end && known.epoch == epoch &&
      (known.writable || !writable))
    return Place::host;
  const Place place = look(first, last, writable);
  if (place == Place::host)
    known = {first & ~(k_page - 1), (last | (k_page - 1)) + 1, epoch, writable};
  return place;
}

void forget_places() { g_epoch.fetch_add(1, std::memory_order_relaxed); }

Status check_places(const void* send, size_t send_bytes, const void* recv, size_t recv_bytes) {
  const Place from = place_of(send, send_bytes, false);
  const Place to = place_of(recv, recv_bytes, true);
  if (from == Place::host && to == Place::host) return {};
  const bool used_both = send_bytes > 0 && recv_bytes > 0;
  std::string text = from != Place::host ? sentence("send", send, from, false)
                                         : sentence("receive", recv, to, true);
  if (used_both && from != to && from != Place::nowhere && to != Place::nowhere)
    text += fmt::format(", the {} buffer host memory: one call takes either, not both",
                        from == Place::device ? "receive" : "send");
  const bool device = from == Place::device || to == Place::device;
  if (device) text += "; this build of tutti has no device backend";
  return Status(device ? Code::invalid_usage : Code::invalid_argument, text);
}

}  // namespace tutti::nccl
