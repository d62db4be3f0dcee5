// What may serve a collective between devices, priced over the links between them: the plans of the
// tuner, once for each wire protocol of the plan interpreter (src/cuda/program.h).
//
// Links have the profile's prices where it has some for their class (nvlink, pci, network), else
// the topology's bandwidth. What devices themselves charge (a launch, a flag, a byte reduced), what
// a proxy adds to a message over the network (src/cuda/proxy.h), and what lies between devices
// whose links are not known, is the profile's too where `tutti tune` has measured it; else assumed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/planner/planner.h"

namespace tutti {

// Devices in place of ranks: flat, on one host, reached by loads and stores. `topology`: its rank r
// is on the device of rank r.
Placement device_placement(uint32_t ranks, std::shared_ptr<const Topology> topology);
// Devices on several hosts, in place of `ranks`, one each; over the links of its topology where
// that has every rank at its GPU.
Placement device_placement(const Placement& ranks);
struct DevicePrice {
  double value = 0;  // seconds, or seconds per byte
  bool measured = false;
};
// What devices charge: the profile's prices, else what is assumed. DeviceCost says what is what.
struct DevicePrices {
  explicit DevicePrices(const DeviceCost& given);
  DevicePrice launch, packet, slot, copy, reduce;
  DevicePrice peer, peer_byte;  // a link has half of `peer`: a way goes up one and down another
  DevicePrice proxy;
};
// A line for each: its value, and whether it was measured.
std::string to_text(const DevicePrices& prices);
// The prices of devices on the links of `given`.
Profile device_profile(const Profile& given, WireProtocol protocol);

struct DeviceCandidate {
  Choice choice;
  WireProtocol protocol = WireProtocol::slots;
  double seconds = 0;
};
// Best first. `only`: that protocol alone. Errors: as price_candidates().
Result<std::vector<DeviceCandidate>> price_on_devices(const Placement& placement,
                                                      const Profile& given, Collective collective,
                                                      uint64_t bytes, DType dtype, ReduceOp op,
                                                      std::optional<WireProtocol> only);

}  // namespace tutti
