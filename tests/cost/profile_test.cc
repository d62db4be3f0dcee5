// Profiles: prices, and the JSON form with its errors.
#include "src/cost/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tutti {
namespace {

using testing::HasSubstr;

Profile sample() {
  Profile p;
  p.name = "box";
  p.source = "measured";
  p.links[static_cast<int>(LinkClass::nic)][0] = {2.5e-6, 1e-10, 1};
  p.links[static_cast<int>(LinkClass::nic)][1].efficiency = 0.9;
  p.links[static_cast<int>(LinkClass::pci)][1].alpha = 1e-6;
  p.ends.send = 1e-7;
  p.ends.recv = 2e-7;
  p.call_overhead = 3e-7;
  p.copy = 1e-10;
  p.gamma = 2e-10;
  p.kernels[{DType::float16, ReduceOp::sum}] = 3e-10;
  p.kernels[{DType::float16, ReduceOp::max}] = 4e-10;
  p.eager_bytes = 65536;
  p.credits = 8;
  p.machine = "a machine; 2 CPUs; Linux 6";
  p.ends.recv_byte = 1e-10;
  p.network_ends = EndCost{1e-6, 2e-6, 3e-10, 4e-10};
  p.cpus = 2;
  p.handover = 2e-6;
  p.cache_bytes = 1 << 20;
  p.beyond_cache = 1.5;
  p.flag = 3e-7;
  p.flag_handover = 4e-6;
  p.serial_lanes = false;
  return p;
}

TEST(Profile, PricesLinksByClassAndDirection) {
  const Profile p = sample();
  const Link out{0, 1, 12.5e9, 5e-6, LinkClass::nic, true};
  const Link in{1, 0, 12.5e9, 5e-6, LinkClass::nic, false};
  const Link other{1, 0, 40e9, 1e-6, LinkClass::nvlink, true};
  EXPECT_DOUBLE_EQ(p.alpha(out), 2.5e-6);
  EXPECT_DOUBLE_EQ(p.bandwidth(out), 1e10);
  EXPECT_DOUBLE_EQ(p.alpha(in), 5e-6);
  EXPECT_DOUBLE_EQ(p.bandwidth(in), 12.5e9 * 0.9);
  EXPECT_DOUBLE_EQ(p.alpha(other), 1e-6);
  EXPECT_DOUBLE_EQ(p.bandwidth(other), 40e9);
}

TEST(Profile, PricesKernels) {
  const Profile p = sample();
  EXPECT_EQ(p.reduce_cost(DType::float16, ReduceOp::sum), 3e-10);
  EXPECT_EQ(p.reduce_cost(DType::float16, ReduceOp::prod), 2e-10);
  EXPECT_EQ(p.reduce_cost(DType::float32, ReduceOp::sum), 2e-10);
}

TEST(Profile, JsonRoundTrip) {
  for (const Profile& p : {sample(), Profile()}) {
    const Result<Profile> back = parse_profile(to_json(p));
    ASSERT_TRUE(back.ok()) << to_json(p) << back.status().message();
    EXPECT_EQ(*back, p) << to_json(p);
  }
}

TEST(Profile, MistakesNameTheKey) {
  const auto with = [](std::string rest) {
    return R"({"format": "tutti profile 1", )" + rest + "}";
  };
  const std::pair<std::string, const char*> cases[] = {
      {"", "not JSON at byte"},
      {"[", "not JSON at byte"},
      {std::string(1000, '['), "nested too deeply"},
      {"[]", "the profile: expected an object, found []"},
      {"{}", "format: expected \"tutti profile 1\", found nothing"},
      {R"({"format": "nccl"})", "format: expected \"tutti profile 1\", found \"nccl\""},
      {with(R"("colour": 1)"), "colour: expected one of the keys format, name"},
      {with(R"("name": 1)"), "name: expected a text, found 1"},
      {with(R"("copy_s_per_byte": -1)"), "copy_s_per_byte: expected seconds per byte"},
      {with(R"("links": 3)"), "links: expected an object, found 3"},
      {with(R"("links": {"wool": {}})"), "links.wool: expected memory, nvlink"},
      {with(R"("links": {"nic": {"up": {}}})"), "links.nic.up: expected one of the keys out, in"},
      {with(R"("links": {"nic": {"out": 7}})"), "links.nic.out: expected an object, found 7"},
      {with(R"("links": {"nic": {"out": {"alpha_s": -1e-6}}})"),
       "links.nic.out.alpha_s: expected seconds, 0 to 3600, found -1e-06"},
      {with(R"("links": {"nic": {"out": {"alpha_s": "fast"}}})"),
       "links.nic.out.alpha_s: expected seconds, 0 to 3600, found \"fast\""},
      {with(R"("links": {"nic": {"out": {"beta_s_per_byte": 0}}})"),
       "links.nic.out.beta_s_per_byte: expected seconds per byte, 1e-15 to 1, found 0"},
      {with(R"("links": {"nic": {"in": {"beta_s_per_byte": 1e-9, "efficiency": 0.5}}})"),
       "links.nic.in.efficiency: expected no efficiency beside beta_s_per_byte"},
      {with(R"("overhead": {"send_s": null})"), "overhead.send_s: expected seconds"},
      {with(R"("overhead": {"pause_s": 1})"), "overhead.pause_s: expected one of the keys"},
      {with(R"("reduce_s_per_byte": {"float33": {}})"),
       "reduce_s_per_byte.float33: expected an element type"},
      {with(R"("reduce_s_per_byte": {"float32": {"xor": 1}})"),
       "reduce_s_per_byte.float32.xor: expected a reduction operator"},
      {with(R"("reduce_s_per_byte": {"float32": {"sum": 2}})"),
       "reduce_s_per_byte.float32.sum: expected seconds per byte, 0 to 1, found 2"},
      {with(R"("overhead": {"network": {"call_s": 1}})"),
       "overhead.network.call_s: expected one of"},
      {with(R"("overhead": {"network": 7})"), "overhead.network"},
      {with(R"("cpus": {"per_host": -1})"), "cpus.per_host: expected CPUs"},
      {with(R"("cpus": {"per_host": 1.5})"), "cpus.per_host: expected a whole number"},
      {with(R"("cpus": {"beyond_cache": 0.5})"), "cpus.beyond_cache: expected a factor"},
      {with(R"("machine": 3)"), "machine: expected a text"},
      {with(R"("protocol": {"credits": 0})"), "protocol.credits: expected messages"},
      {with(R"("protocol": {"credits": 1.5})"), "protocol.credits: expected a whole number"},
      {with(R"("protocol": {"serial_lanes": 1})"), "protocol.serial_lanes: expected true or"},
  };
  for (const auto& [json, message] : cases) {
    const Result<Profile> p = parse_profile(json);
    ASSERT_FALSE(p.ok()) << json;
    EXPECT_EQ(p.status().code(), Code::invalid_argument);
    EXPECT_THAT(p.status().message(), HasSubstr(message)) << json;
  }
}

}  // namespace
}  // namespace tutti
