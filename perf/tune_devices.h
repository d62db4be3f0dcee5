// Prices of devices, measured through the library's own device path: kernels of groups for copies
// and reductions, the plan interpreter for launches and flags, on one device between blocks of a
// grid (PlanWorld) and on two between their windows (PeerWorld).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/cost/profile.h"
#include "src/cuda/runtime.h"

namespace tutti::perf {

struct DeviceProbe {
  uint32_t repetitions = 7;       // medians count
  uint32_t launches = 20;         // of a repetition, one behind the other
  uint64_t small = 4 << 20;       // bytes that are copied, reduced and sent ...
  uint64_t large = 64 << 20;      // ... at two sizes: what a launch costs drops out
  uint32_t few = 16, many = 128;  // messages of a chain, likewise
  double patience = 20;           // seconds until a launch counts as stuck
};

struct DeviceFindings {
  DeviceCost cost;
  std::vector<std::string> left_out;  // what was not measured, and why
};

// Whatever can be measured: with one device all that needs no second one. Nothing that fails keeps
// the rest from being measured.
DeviceFindings measure_devices(cuda::Runtime& runtime, const DeviceProbe& probe);

// The proxy of messages to another host: two ranks, a device each, as if on two hosts, over
// sockets; their messages on host buffers and what `known` has are taken off. Adds its price, or
// says why not. Uses the process's Runtime.
void measure_proxy(const DeviceProbe& probe, DeviceFindings& known);

}  // namespace tutti::perf
