// Discovery: the machine at hand as a parts list. Sockets, cores and PCI come from hwloc or,
// without it, from sysfs; the NICs' speeds, places and states from sysfs; GPUs and NVLink from
// NVML. What could not be found out stands in Machine::missing, with the reason.
#pragma once

#include <string>

#include "topology/hwloc.h"
#include "topology/machine.h"
#include "topology/nvml.h"

namespace tutti {

struct DiscoverOptions {
  std::string sysfs = "/sys";  // tests have trees of their own
  // Empty: the processor itself is asked; some kernels take 10 ms to write that file.
  std::string cpuinfo = "/proc/cpuinfo";
  bool cores = true, gpus = true, nics = true;  // look for them
  std::string name;                             // of the machine; empty: the host's
  const HwlocDriver* hwloc = nullptr;           // null: sysfs
  const NvmlDriver* nvml = nullptr;             // null: GPUs as PCI shows them, without their links
};

// Never fails: of a machine that hides everything, one host with nothing known about it.
Machine discover(const DiscoverOptions& options);
// With hwloc and NVML where they are there. Takes tens of milliseconds: for tools.
Machine discover_all();

}  // namespace tutti
