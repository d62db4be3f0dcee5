// process_vm_*: loops over partial transfers; the kernel moves at most about 2 GiB per call.
#include "transports/shm/process_vm.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <type_traits>

#include "src/base/fd.h"

namespace tutti::shm {
namespace {

using Transfer = ssize_t (*)(pid_t, const iovec*, unsigned long, const iovec*, unsigned long,
                             unsigned long);

int transfer_all(Transfer transfer, int pid, uint64_t address, std::byte* local, size_t bytes) {
  while (bytes > 0) {
    const iovec here{local, bytes};
    const iovec there{reinterpret_cast<void*>(address), bytes};
    const ssize_t moved = transfer(pid, &here, 1, &there, 1, 0);
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) return moved < 0 ? errno : EFAULT;
    local += moved;
    address += static_cast<uint64_t>(moved);
    bytes -= static_cast<size_t>(moved);
  }
  return 0;
}

}  // namespace

int read_process(int pid, uint64_t address, std::span<std::byte> dst) {
  return transfer_all(&::process_vm_readv, pid, address, dst.data(), dst.size());
}

int write_process(int pid, uint64_t address, std::span<const std::byte> src) {
  return transfer_all(&::process_vm_writev, pid, address, const_cast<std::byte*>(src.data()),
                      src.size());
}

void consent_to_access() {
  const Fd scope(::open("/proc/sys/kernel/yama/ptrace_scope", O_RDONLY | O_CLOEXEC));
  char level = '0';
  if (scope && ::read(scope.get(), &level, 1) == 1 && level == '1') {
    ::prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
  }
}

int probe_process(int pid, uint64_t address, uint64_t value) {
  uint64_t seen = 0;
  if (const int error = read_process(pid, address, std::as_writable_bytes(std::span(&seen, 1)))) {
    return error;
  }
  if (seen != value) return EBADMSG;
  return write_process(pid, address + offsetof(ProbeMemory, scratch),
                       std::as_bytes(std::span(&value, 1)));
}

}  // namespace tutti::shm
