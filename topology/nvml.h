// What is asked of NVML, the library of NVIDIA's driver: a table of its functions, so that tests
// can give their own. The library is loaded when it is there; nothing is linked.
#pragma once

#include <cstdint>

#include "topology/machine.h"
#include "tutti/status.h"

namespace tutti {

// As in nvml.h, whose binary interface is stable.
struct NvmlPciInfo {
  char bus_id_legacy[16];
  unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
  char bus_id[32];  // "00000000:07:00.0"
};
using NvmlDevice = void*;

struct NvmlDriver {
  int (*init)() = nullptr;      // nvmlInit_v2
  int (*shutdown)() = nullptr;  // nvmlShutdown
  const char* (*error_string)(int) = nullptr;
  int (*device_count)(unsigned*) = nullptr;                 // nvmlDeviceGetCount_v2
  int (*device_by_index)(unsigned, NvmlDevice*) = nullptr;  // nvmlDeviceGetHandleByIndex_v2
  int (*pci_info)(NvmlDevice, NvmlPciInfo*) = nullptr;      // nvmlDeviceGetPciInfo_v3
  int (*compute_capability)(NvmlDevice, int*,
                            int*) = nullptr;  // nvmlDeviceGetCudaComputeCapability
  int (*nvlink_state)(NvmlDevice, unsigned, unsigned*) = nullptr;      // nvmlDeviceGetNvLinkState
  int (*nvlink_remote)(NvmlDevice, unsigned, NvmlPciInfo*) = nullptr;  // ...RemotePciInfo_v2
  int (*nvlink_remote_type)(NvmlDevice, unsigned,
                            unsigned*) = nullptr;           // ...RemoteDeviceType; may lack
  int (*pcie_generation)(NvmlDevice, unsigned*) = nullptr;  // nvmlDeviceGetMaxPcieLinkGeneration
  int (*pcie_width)(NvmlDevice, unsigned*) = nullptr;       // nvmlDeviceGetMaxPcieLinkWidth

  // Errors: unsupported, with what the loader said.
  static Result<NvmlDriver> load();
};

// Adds what NVML knows to the GPUs of the machine (found by bus id; others are added to the host):
// number, compute capability, NVLink. What NVML would not say goes to machine->missing.
void add_nvml(const NvmlDriver& driver, Machine* machine);

}  // namespace tutti
