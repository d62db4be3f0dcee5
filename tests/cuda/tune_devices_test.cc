// Prices of devices, measured on the fake driver: what is there is measured, what fails is named.
#include "perf/tune_devices.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "tests/cuda/fake_cuda.h"

namespace tutti::cuda {
namespace {

using perf::DeviceFindings;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// Little work: the fake's kernels are threads.
perf::DeviceProbe quick() {
  perf::DeviceProbe probe;
  probe.repetitions = 3;
  probe.launches = 2;
  probe.small = 4096;
  probe.large = 1 << 20;
  probe.few = 4;
  probe.many = 64;
  return probe;
}

DeviceFindings measure_once(FakeCuda& fake) {
  fake.multiprocessors = 8;
  const std::shared_ptr<Runtime> runtime = fake.runtime();
  return perf::measure_devices(*runtime, quick());
}
// Where other programs disturb it, threads that have more to do may take less time. Then again.
DeviceFindings measure(FakeCuda& fake) {
  for (int attempt = 0;; ++attempt) {
    DeviceFindings found = measure_once(fake);
    const bool disturbed = std::any_of(
        found.left_out.begin(), found.left_out.end(),
        [](const std::string& text) { return text.find("too busy") != std::string::npos; });
    if (!disturbed || attempt == 20) return found;
  }
}

void expect_seconds(const std::optional<double>& price, const char* what) {
  ASSERT_TRUE(price.has_value()) << what;
  EXPECT_GT(*price, 0) << what;
  EXPECT_LT(*price, 10) << what;
}

TEST(TuneDevices, OneDeviceHasAllButWhatTakesTwo) {
  FakeCuda fake(1);
  const DeviceFindings found = measure(fake);
  expect_seconds(found.cost.packet, "packet");
  expect_seconds(found.cost.slot, "slot");
  expect_seconds(found.cost.copy, "copy");
  expect_seconds(found.cost.reduce, "reduce");
  expect_seconds(found.cost.launch, "launch");
  EXPECT_FALSE(found.cost.peer || found.cost.peer_byte || found.cost.proxy);
  EXPECT_NE(found.cost.name, "");
  ASSERT_FALSE(found.left_out.empty());
  EXPECT_EQ(found.left_out.back(), "what lies between two devices: there is one device");
  Profile profile;
  profile.device = found.cost;
  const Result<Profile> back = parse_profile(to_json(profile));
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(*back, profile);
}

TEST(TuneDevices, TwoDevicesHaveAWayBetweenThem) {
  FakeCuda fake(2);
  const DeviceFindings found = measure(fake);
  expect_seconds(found.cost.copy, "copy");
  expect_seconds(found.cost.peer_byte, "peer_byte");
  // Threads are as far from each other on one device as on two: that may measure as nothing.
  if (found.cost.peer) {
    expect_seconds(found.cost.peer, "peer");
  } else {
    ASSERT_FALSE(found.left_out.empty());
    EXPECT_THAT(found.left_out.back(), HasSubstr("a flag between devices"));
  }
}

TEST(TuneDevices, DevicesThatDoNotReachEachOtherAreOne) {
  FakeCuda fake(2);
  fake.peers_reach = false;
  const DeviceFindings found = measure(fake);
  expect_seconds(found.cost.packet, "packet");
  EXPECT_FALSE(found.cost.peer_byte);
  ASSERT_FALSE(found.left_out.empty());
  EXPECT_THAT(found.left_out.back(), HasSubstr("what lies between two devices: "));
}

// Each of the driver's calls may fail, soon or late: the rest is measured, and what is not is said
// with the call that failed; nothing waits for a kernel that was never launched.
TEST(TuneDevices, WhatFailsIsNamedAndTheRestMeasured) {
  for (const char* function :
       {"cuStreamCreate", "cuMemAlloc", "cuLaunchKernel", "cuLaunchCooperativeKernel",
        "cuStreamQuery", "cuMemHostAlloc", "cuModuleLoadDataEx", "cuMemcpyHtoDAsync"}) {
    for (const int after : {0, 3}) {
      FakeCuda fake(2);
      fake.fail(function, k_out_of_memory, 1, after);
      const DeviceFindings found = measure_once(fake);
      const bool failed = fake.calls(function) > after;
      ASSERT_TRUE(failed || after > 0) << function;
      std::string all;
      for (const std::string& text : found.left_out) all += text + "; ";
      EXPECT_EQ(all.find("CUDA_ERROR") != std::string::npos, failed)
          << function << " after " << after << ": " << all;
      EXPECT_TRUE(found.cost.measured()) << function << " after " << after << ": " << all;
    }
  }
}

TEST(TuneDevices, WithoutADeviceThatRunsThereIsNoPrice) {
  FakeCuda fake(1);
  fake.fail("cuDevicePrimaryCtxRetain", k_out_of_memory, 100);
  const DeviceFindings found = measure(fake);
  EXPECT_FALSE(found.cost.measured());
  EXPECT_EQ(found.cost.name, "");
  EXPECT_THAT(found.left_out, ElementsAre(AllOf(HasSubstr("prices of devices: "),
                                                HasSubstr("cuDevicePrimaryCtxRetain"))));
}

TEST(TuneDevices, WithoutKernelsThereIsNoPrice) {
  FakeCuda fake(2);
  fake.fail("cuModuleLoadDataEx", k_no_binary, 1000);
  const DeviceFindings found = measure_once(fake);
  EXPECT_FALSE(found.cost.measured());
  EXPECT_EQ(found.cost.name, "");
  EXPECT_EQ(found.left_out.size(), 3u);
  for (const std::string& text : found.left_out) EXPECT_THAT(text, HasSubstr(": "));
}

}  // namespace
}  // namespace tutti::cuda
