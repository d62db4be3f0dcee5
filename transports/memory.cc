// Shared memory: memfds, and tutti::mem_alloc / mem_free on top of the registry.
#include "transports/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <string>

#include "src/base/socket.h"
#include "tutti/communicator.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace tutti {
namespace {

constexpr size_t k_page = 4096;
constexpr size_t k_huge_page = size_t{2} << 20;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

Status cannot(const char* what, uint64_t bytes, int error) {
  return Status(Code::system_error, std::string("cannot ") + what + " " + std::to_string(bytes) +
                                        " bytes of shared memory: " + errno_text(error));
}

// Large segments start at a huge page boundary, so that systems that allow it can use huge pages.
std::byte* map_aligned(int fd, size_t bytes) {
  const size_t alignment = bytes >= k_huge_page ? k_huge_page : k_page;
  void* room = ::mmap(nullptr, bytes + alignment, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return nullptr;
  auto* begin = static_cast<std::byte*>(room);
  auto* base = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<uintptr_t>(room), alignment));
  std::byte* end = begin + bytes + alignment;
  if (base > begin) ::munmap(begin, base - begin);
  if (end > base + bytes) ::munmap(base + bytes, end - (base + bytes));
  if (::mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != base) {
    const int error = errno;
    ::munmap(base, bytes);
    errno = error;
    return nullptr;
  }
  if (alignment == k_huge_page) ::madvise(base, bytes, MADV_HUGEPAGE);
  return base;
}

}  // namespace

Result<Fd> make_memfd(const char* name) {
  int fd = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (fd < 0 && errno == EINVAL) {  // before Linux 6.3
    fd = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  }
  if (fd < 0) {
    return Status(Code::system_error,
                  std::string("cannot create shared memory (memfd): ") + errno_text(errno));
  }
  Fd owned(fd);
  if (::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) != 0) {
    return Status(Code::system_error,
                  std::string("cannot seal shared memory: ") + errno_text(errno));
  }
  return owned;
}

Status grow_memfd(int fd, uint64_t bytes) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
      bytes > limit.rlim_cur) {
    return Status(Code::system_error, "cannot make " + std::to_string(bytes) +
                                          " bytes of shared memory: the file size limit "
                                          "(ulimit -f) is " +
                                          std::to_string(limit.rlim_cur) + " bytes");
  }
  if (::ftruncate(fd, static_cast<off_t>(bytes)) != 0) return cannot("make", bytes, errno);
  return {};
}

Status reserve_memfd(int fd, uint64_t offset, uint64_t bytes) {
  while (::fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes)) != 0) {
    if (errno != EINTR) return cannot("reserve", bytes, errno);
  }
  return {};
}

Result<std::byte*> map_memfd(int fd, uint64_t offset, uint64_t bytes, bool writable) {
  void* memory = ::mmap(nullptr, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
                        fd, static_cast<off_t>(offset));
  if (memory == MAP_FAILED) return cannot("map", bytes, errno);
  return static_cast<std::byte*>(memory);
}

SegmentRegistry& SegmentRegistry::instance() {
  // Never destroyed: static objects of the program may still free segments at exit.
  static auto* registry = new SegmentRegistry;
  return *registry;
}

Result<void*> SegmentRegistry::allocate(size_t bytes) {
  if (bytes > SIZE_MAX - 2 * k_huge_page) return cannot("make", bytes, ENOMEM);
  const size_t size = round_up(std::max<size_t>(bytes, 1), k_page);
  auto fd = make_memfd("tutti-mem_alloc");
  if (!fd) return fd.status();
  TUTTI_RETURN_IF_ERROR(grow_memfd(fd->get(), size));
  std::byte* base = map_aligned(fd->get(), size);
  if (base == nullptr) return cannot("map", size, errno);
  // Populating reserves, and unlike fallocate it heeds the huge page advice; older kernels lack it.
  if (::madvise(base, size, MADV_POPULATE_WRITE) != 0) {
    Status reserved =
        errno == EINVAL ? reserve_memfd(fd->get(), 0, size) : cannot("reserve", size, errno);
    if (!reserved.ok()) {
      ::munmap(base, size);
      return reserved;
    }
  }
  auto segment = std::make_shared<Segment>();
  segment->base = base;
  segment->bytes = size;
  segment->fd = std::move(*fd);
  const std::unique_lock lock(mutex_);
  segment->id = next_id_++;
  by_address_.emplace(reinterpret_cast<uintptr_t>(base), std::move(segment));
  generation_.fetch_add(1, std::memory_order_acq_rel);
  return static_cast<void*>(base);
}

Status SegmentRegistry::free(void* memory) {
  const std::unique_lock lock(mutex_);
  auto it = by_address_.find(reinterpret_cast<uintptr_t>(memory));
  if (it == by_address_.end()) {
    return Status(Code::invalid_argument, "mem_free of memory that did not come from mem_alloc");
  }
  ::munmap(it->second->base, it->second->bytes);
  by_address_.erase(it);
  generation_.fetch_add(1, std::memory_order_acq_rel);
  return {};
}

std::shared_ptr<const Segment> SegmentRegistry::find(const void* memory, size_t bytes) const {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  const std::shared_lock lock(mutex_);
  auto it = by_address_.upper_bound(address);
  if (it == by_address_.begin()) return nullptr;
  --it;
  const size_t inside = address - it->first;
  const bool holds = inside <= it->second->bytes && bytes <= it->second->bytes - inside;
  return holds && inside < it->second->bytes ? it->second : nullptr;
}

bool SegmentRegistry::alive(uint64_t id) const {
  const std::shared_lock lock(mutex_);
  return std::any_of(by_address_.begin(), by_address_.end(),
                     [&](const auto& entry) { return entry.second->id == id; });
}

void* mem_alloc(size_t bytes, Status* error) {
  auto memory = SegmentRegistry::instance().allocate(bytes);
  if (error != nullptr) *error = memory.status();
  return memory.ok() ? *memory : nullptr;
}

Status mem_free(void* memory) { return SegmentRegistry::instance().free(memory); }

}  // namespace tutti
