// Prices of devices through whatever libcuda.so.1 the process finds: a real driver (label gpu), or
// the fake one. Skipped where there is none. tests/cuda has what fails.
#include <gtest/gtest.h>

#include <algorithm>

#include "perf/tune_devices.h"
#include "tests/gpu/device.h"

namespace tutti::cuda {
namespace {

TEST(TuneDevice, WhatThisMachineHasIsMeasuredOrNamed) {
  const FoundDevice found = find_device();
  if (found.device == nullptr) GTEST_SKIP() << found.missing;
  const auto runtime = Runtime::of_process();
  ASSERT_TRUE(runtime.ok()) << runtime.status().to_string();
  perf::DeviceProbe probe;
  probe.repetitions = 3;
  probe.launches = 4;
  probe.small = 4096;
  probe.large = 1 << 20;
  perf::DeviceFindings prices = perf::measure_devices(**runtime, probe);
  EXPECT_TRUE(prices.cost.measured());
  // With known prices the proxy's is what is left; with these, next to nothing is taken off.
  prices.cost.launch = prices.cost.packet = 1e-9;
  perf::measure_proxy(probe, prices);
  const bool named =
      std::any_of(prices.left_out.begin(), prices.left_out.end(),
                  [](const std::string& text) { return text.starts_with("the proxy: "); });
  EXPECT_NE(prices.cost.proxy.has_value(), named);
  if ((*runtime)->devices() < 2) {
    EXPECT_TRUE(named);
  } else if (named) {
    EXPECT_NE(prices.left_out.back().find("leaves nothing for it"), std::string::npos)
        << prices.left_out.back();
  } else {
    EXPECT_GT(*prices.cost.proxy, 0);
    EXPECT_LT(*prices.cost.proxy, 10);
  }
  for (const std::string& text : prices.left_out) RecordProperty("left_out", text);
}

}  // namespace
}  // namespace tutti::cuda
