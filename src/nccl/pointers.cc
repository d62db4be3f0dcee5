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

#include "src/cuda/driver.h"

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

using GetAttributes = int (*)(unsigned, int*, void**, unsigned long long);

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

std::atomic<GetAttributes> g_attributes{nullptr};

// cuPointerGetAttributes of the driver that this process has loaded, or null: then there are no
// device pointers. Looked for again only when libraries were loaded since.
GetAttributes driver_attributes() {
  static std::atomic<unsigned long long> seen{0};
  if (GetAttributes known = g_attributes.load(std::memory_order_acquire)) return known;
  unsigned long long loads = 0;
  dl_iterate_phdr(count_loads, &loads);
  if (loads == seen.load()) return nullptr;
  std::string path;
  if (dl_iterate_phdr(find_driver, &path) == 1)
    if (void* driver = ::dlopen(path.c_str(), RTLD_NOLOAD | RTLD_LAZY))  // and so it stays loaded
      g_attributes.store(
          reinterpret_cast<GetAttributes>(::dlsym(driver, "cuPointerGetAttributes")));
  seen.store(loads);
  return g_attributes.load();
}

// CUDA's driver knows its own pointers. Managed memory counts as the host's.
bool is_device_memory(uintptr_t address) {
  const GetAttributes get = driver_attributes();
  if (get == nullptr) return false;
  unsigned type = 0, managed = 0;
  int wanted[] = {cuda::k_attribute_memory_type, cuda::k_attribute_is_managed};
  void* answers[] = {&type, &managed};
  return get(2, wanted, answers, address) == 0 && type == cuda::k_memory_type_device &&
         managed == 0;
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
  // Beside a driver, addresses of the host may become those of a device: it is asked every time.
  if (g_attributes.load(std::memory_order_acquire) != nullptr) return look(first, last, writable);
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

bool driver_is_loaded() { return driver_attributes() != nullptr; }

void forget_places() { g_epoch.fetch_add(1, std::memory_order_relaxed); }

Result<Place> common_place(const void* send, size_t send_bytes, const void* recv,
                           size_t recv_bytes) {
  const Place from = place_of(send, send_bytes, false);
  const Place to = place_of(recv, recv_bytes, true);
  if (from == Place::nowhere || to == Place::nowhere)
    return Status(Code::invalid_argument, from == Place::nowhere
                                              ? sentence("send", send, from, false)
                                              : sentence("receive", recv, to, true));
  const bool used_both = send_bytes > 0 && recv_bytes > 0;
  if (!used_both) return send_bytes > 0 ? from : to;
  if (from == to) return from;
  std::string text = from == Place::device ? sentence("send", send, from, false)
                                           : sentence("receive", recv, to, true);
  text += fmt::format(", the {} buffer host memory: one call takes either, not both",
                      from == Place::device ? "receive" : "send");
  return Status(Code::invalid_usage, text);
}

Status check_places(const void* send, size_t send_bytes, const void* recv, size_t recv_bytes) {
  Result<Place> place = common_place(send, send_bytes, recv, recv_bytes);
  if (!place) return place.status();
  if (*place == Place::host) return {};
  return Status(Code::invalid_usage, (send_bytes > 0 ? sentence("send", send, *place, false)
                                                     : sentence("receive", recv, *place, true)) +
                                         "; this call takes host memory");
}

}  // namespace tutti::nccl
