// How many CPUs this process may use: what waiting threads must know before they spin.
#pragma once

#include <cstdint>
#include <string>

namespace tutti {

// The smaller of the affinity mask and the CPU quota of the process's control groups; at least 1.
uint32_t available_cpus();

// CPUs that control groups grant: the least quota / period from the process's group up to the root,
// of version 2 (cpu.max) or 1 (cpu.cfs_quota_us); infinity where nothing limits. `root` is put
// before /proc/self/cgroup and /sys/fs/cgroup.
double cgroup_cpus(const std::string& root = "");

}  // namespace tutti
