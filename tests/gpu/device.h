// The device that the tests of this folder run on, or why there is none.
#pragma once

#include <memory>
#include <string>

#include "src/cuda/runtime.h"

namespace tutti::cuda {

struct FoundDevice {
  std::shared_ptr<const Driver> driver;
  std::shared_ptr<Runtime> runtime;
  Device* device = nullptr;  // the first; null: there is none
  std::string missing;       // "no device here: ..." (by which ctest knows a skipped test)
};

inline FoundDevice find_device() {
  FoundDevice found;
  const auto without = [&](const std::string& why) {
    found.missing = "no device here: " + why;
    return found;
  };
  auto driver = load_driver();
  if (!driver) return without(driver.status().message());
  found.driver = *driver;
  if (built_in_images().toolkit == 0) return without("this build has no kernels (no nvcc)");
  auto runtime = Runtime::open(found.driver);
  if (!runtime) return without(runtime.status().message());
  found.runtime = *runtime;
  auto device = found.runtime->device(0);
  if (!device) return without(device.status().message());
  found.device = *device;
  return found;
}

}  // namespace tutti::cuda
