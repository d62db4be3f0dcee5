// What lies between the devices of a host: NVLink, PCI, sockets. Rank 0 looks, all ranks are told.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "topology/machine.h"
#include "tutti/config.h"

namespace tutti {

// The host with its GPUs, as NCCL's XML: what Config::topology describes, or else what PCI and NVML
// show; with its NICs, where devices of other hosts matter too. Empty where no GPU is found. Takes
// some milliseconds, once per communicator.
std::string look_at_devices(const Config& config, bool nics = false);

// The bus ids of its GPUs, in the order of their numbers.
std::vector<std::string> gpus_of(const std::string& text);

// Rank r of it is the GPU with bus_ids[r] ("0000:07:00.0"); several ranks may have one. `hosts`, by
// rank: on which of several such hosts; empty: all on one. Null where the text does not know one of
// the GPUs, or no NIC to reach other hosts.
std::shared_ptr<const Topology> device_topology(const std::string& text,
                                                const std::vector<std::string>& bus_ids,
                                                const std::vector<uint32_t>& hosts = {});

}  // namespace tutti
