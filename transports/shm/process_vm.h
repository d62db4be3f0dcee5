// Reading and writing another process's private memory (process_vm_readv, process_vm_writev).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tutti::shm {

// 0, or an errno. Transfers of any length; a partial transfer at an unmapped page is EFAULT.
int read_process(int pid, uint64_t address, std::span<std::byte> dst);
int write_process(int pid, uint64_t address, std::span<const std::byte> src);

// Lets the ranks of this job reach this process's memory where Yama asks for consent
// (/proc/sys/kernel/yama/ptrace_scope 1). Peers still need the same user.
void consent_to_access();

// Private memory that peers read and write to find out whether it works.
struct ProbeMemory {
  uint64_t value = 0;
  uint64_t scratch = 0;
};
// 0, or the errno of the first of the two calls that failed; EBADMSG: the value read was another.
int probe_process(int pid, uint64_t address, uint64_t value);

}  // namespace tutti::shm
