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
  p.device = {"a device", 5e-6, 1e-7, 6e-7, 5e-13, 7e-13, 9e-7, 4e-12, 3e-6};
  p.corrections.set({"memory", Collective::all_reduce, "ring"}, 2, 64, {1.5, 0.5});
  p.corrections.set({"memory", Collective::all_reduce, "ring"}, 2, 4096, {1.25, 1});
  p.corrections.set({"memory", Collective::all_reduce, "ring"}, 16, 64, {3, 2});
  p.corrections.set({"network/2", Collective::broadcast, "binomial"}, 8, 0, {1e-3, 1e3});
  return p;
}

// The same with prices by size.
Profile curves() {
  Profile p = sample();
  p.links[static_cast<int>(LinkClass::network)][0] = {};
  p.links[static_cast<int>(LinkClass::network)][0].curve.knots = {
      {0, 2e-6}, {8192, 10e-6}, {108192, 20e-6}};
  p.ends.send = p.ends.recv_byte = p.ends.recv = 0;
  p.ends.send_curve.knots = {{64, 1e-7}, {1024, 3e-7}};
  p.ends.recv_curve.knots = {{0, 2e-7}, {65536, 2e-7}, {131072, 8e-7}};
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

TEST(Profile, PricesBySize) {
  const Profile p = curves();
  EXPECT_TRUE(p.by_size());
  EXPECT_FALSE(sample().by_size());
  const Link out{0, 1, 12.5e9, 5e-6, LinkClass::network, true};
  EXPECT_DOUBLE_EQ(p.bandwidth(out), 1e10);
  // What a message takes beyond the link's own pace: alpha + bytes * beta is the curve.
  for (const auto& [bytes, seconds] : {std::pair{0.0, 2e-6},
                                       {4096.0, 6e-6},
                                       {8192.0, 10e-6},
                                       {58192.0, 15e-6},
                                       {108192.0, 20e-6},
                                       {1008192.0, 110e-6}})
    EXPECT_NEAR(p.alpha(out, bytes) + bytes * 1e-10, seconds, 1e-12) << bytes;
  EXPECT_DOUBLE_EQ(p.ends.sending(0), 1e-7);
  EXPECT_DOUBLE_EQ(p.ends.sending(544), 2e-7);
  EXPECT_DOUBLE_EQ(p.ends.sending(1024 + 960), 5e-7);
  EXPECT_DOUBLE_EQ(p.ends.sending(1984, 2), 9e-7);  // the bytes twice as dear, the message not
  EXPECT_DOUBLE_EQ(p.ends.receiving(30000), 2e-7);
  EXPECT_DOUBLE_EQ(p.ends.receiving(196608), 14e-7);
  EXPECT_DOUBLE_EQ(sample().ends.receiving(1000, 2), 2e-7 + 2e-7);
}

TEST(Profile, PricesKernels) {
  const Profile p = sample();
  EXPECT_EQ(p.reduce_cost(DType::float16, ReduceOp::sum), 3e-10);
  EXPECT_EQ(p.reduce_cost(DType::float16, ReduceOp::prod), 2e-10);
  EXPECT_EQ(p.reduce_cost(DType::float32, ReduceOp::sum), 2e-10);
}

TEST(Profile, JsonRoundTrip) {
  Profile one_number;
  one_number.beyond_cache = 2;
  Profile one_price;
  one_price.device.slot = 0;
  for (const Profile& p : {sample(), curves(), Profile(), one_number, one_price}) {
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
      {with(R"("links": {"nic": {"out": {"seconds_by_bytes": [[0, 1e-6]]}}})"),
       "links.nic.out.seconds_by_bytes: expected 2 to 64 knots [bytes, seconds]"},
      {with(R"("links": {"nic": {"out": {"seconds_by_bytes": [[0, 2e-6], [64, 1e-6]]}}})"),
       "links.nic.out.seconds_by_bytes: expected 2 to 64 knots"},
      {with(R"("links": {"nic": {"out": {"seconds_by_bytes": [[64, 1e-6], [64, 2e-6]]}}})"),
       "links.nic.out.seconds_by_bytes: expected 2 to 64 knots"},
      {with(R"("links": {"nic": {"out": {"seconds_by_bytes": [[0, 1e-6], [64, 1e-6]]}}})"),
       "links.nic.out.seconds_by_bytes: expected a last slope of 1e-15"},
      {with(
           R"("links": {"nic": {"out": {"seconds_by_bytes": [[0, 0], [100, 1e-9], [200, 1e-3]]}}})"),
       "links.nic.out.seconds_by_bytes: expected no message faster than the last slope"},
      {with(R"("links": {"nic": {"in": {"alpha_s": 0, "seconds_by_bytes": [[0, 0], [9, 1]]}}})"),
       "links.nic.in.alpha_s: expected nothing beside seconds_by_bytes"},
      {with(R"("overhead": {"send_s_by_bytes": [[0, 0], [1.5, 1]]})"),
       "overhead.send_s_by_bytes: expected 2 to 64 knots"},
      {with(R"("overhead": {"network": {"recv_s_by_bytes": 7}})"),
       "overhead.network.recv_s_by_bytes: expected 2 to 64 knots"},
      {with(R"("overhead": {"recv_s": 1, "recv_s_by_bytes": [[0, 0], [1, 1]]})"),
       "overhead.recv_s: expected nothing beside recv_s_by_bytes"},
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
      {with(R"("device": 7)"), "device: expected an object, found 7"},
      {with(R"("device": {"flag_s": 1e-6})"),
       "device.flag_s: expected one of the keys name, launch_s, packet_s"},
      {with(R"("device": {"name": 1})"), "device.name: expected a text, found 1"},
      {with(R"("device": {"launch_s": -1})"),
       "device.launch_s: expected seconds, 0 to 3600, found -1"},
      {with(R"("device": {"packet_s": "quick"})"), "device.packet_s: expected seconds, 0 to 3600"},
      {with(R"("device": {"slot_s": null})"), "device.slot_s: expected seconds, 0 to 3600"},
      {with(R"("device": {"peer_s": 3601})"), "device.peer_s: expected seconds, 0 to 3600"},
      {with(R"("device": {"proxy_s": []})"), "device.proxy_s: expected seconds, 0 to 3600"},
      {with(R"("device": {"copy_s_per_byte": 0})"),
       "device.copy_s_per_byte: expected seconds per byte, 1e-15 to 1, found 0"},
      {with(R"("device": {"reduce_s_per_byte": 2})"),
       "device.reduce_s_per_byte: expected seconds per byte, 1e-15 to 1, found 2"},
      {with(R"("device": {"peer_s_per_byte": 1e-16})"),
       "device.peer_s_per_byte: expected seconds per byte, 1e-15 to 1"},
      {with(R"("corrections": [])"), "corrections: expected an object, found []"},
      {with(R"("corrections": {"memory": 1})"), "corrections.memory: expected an object"},
      {with(R"("corrections": {"memory": {"all_reduced": {}}})"),
       "corrections.memory.all_reduced: expected a collective"},
      {with(R"("corrections": {"memory": {"all_reduce": {"ring": 1}}})"),
       "corrections.memory.all_reduce.ring: expected an object"},
      {with(R"("corrections": {"memory": {"all_reduce": {"ring": {"two": []}}}})"),
       "corrections.memory.all_reduce.ring.two: expected a number of ranks, 2 to 1048576"},
      {with(R"("corrections": {"memory": {"all_reduce": {"ring": {"1": [[0, 1, 1]]}}}})"),
       "corrections.memory.all_reduce.ring.1: expected a number of ranks"},
      {with(R"("corrections": {"memory": {"all_reduce": {"ring": {"02": [[0, 1, 1]]}}}})"),
       "corrections.memory.all_reduce.ring.02: expected a number of ranks"},
      {with(R"("corrections": {"memory": {"all_reduce": {"ring": {"2": []}}}})"),
       "corrections.memory.all_reduce.ring.2: expected 1 to 64 knots [bytes, factor, factor]"},
      {with(R"("corrections": {"memory": {"all_reduce": {"ring": {"2": [[64, 1]]}}}})"),
       "corrections.memory.all_reduce.ring.2: expected 1 to 64 knots"},
      {with(R"("corrections": {"memory": {"all_reduce": {"ring": {"2": [[64, 0, 1]]}}}})"),
       "corrections.memory.all_reduce.ring.2: expected 1 to 64 knots"},
      {with(
           R"("corrections": {"memory": {"all_reduce": {"ring": {"2": [[64, 1, 1], [64, 1, 1]]}}}})"),
       "corrections.memory.all_reduce.ring.2: expected 1 to 64 knots"},
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
