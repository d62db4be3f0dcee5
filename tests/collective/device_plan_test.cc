// Which plans run between devices: by what lies between them, by rules, by launches where devices
// are shared, and by size where nothing is known.
#include "src/communicator/device_plan.h"

#include <gtest/gtest.h>

#include "src/communicator/device_links.h"
#include "src/cuda/peer_world.h"
#include "src/cuda/ranges.h"
#include "topology/spec.h"

namespace tutti {
namespace {

DeviceWorld world(uint32_t ranks, std::shared_ptr<const Topology> topology = nullptr,
                  uint32_t turns = 1) {
  DeviceWorld w;
  w.ranks = ranks;
  w.topology = std::move(topology);
  w.turns = turns;
  w.window = cuda::PeerWorld::default_shape(ranks);
  w.blocks = 108;
  return w;
}

std::shared_ptr<const Topology> machine(const char* name, uint32_t ranks) {
  Config config;
  config.topology = name;
  const std::string text = look_at_devices(config);
  std::vector<std::string> ids = gpus_of(text);
  EXPECT_GE(ids.size(), ranks);
  ids.resize(ranks);
  return device_topology(text, ids);
}

DevicePlanner planner(DeviceWorld w, const char* tune = "", bool deterministic = false) {
  Result<std::vector<TuneRule>> rules = parse_tune(tune);
  EXPECT_TRUE(rules.ok()) << rules.status().to_string();
  return DevicePlanner(std::move(w), builtin_profile(), *rules, deterministic);
}

DevicePlanner::Call all_reduce(uint64_t bytes, bool in_place = false) {
  return {Collective::all_reduce, bytes / 4, DType::float32, ReduceOp::sum, 0, in_place};
}

std::string algorithm(DevicePlanner& p, const DevicePlanner::Call& call) {
  Result<DevicePlanner::Chosen> chosen = p.choose(call);
  return chosen ? chosen->plan->algorithm() : chosen.status().to_string();
}

// So many ranks on each of the hosts.
DeviceWorld on_hosts(uint32_t hosts, uint32_t each) {
  Placement p;
  p.ranks = hosts * each;
  p.hosts = hosts;
  for (Rank r = 0; r < p.ranks; ++r) p.host.push_back(r / each);
  p.hierarchy = Hierarchy::even(p.ranks, {each});
  DeviceWorld w = world(p.ranks);
  w.hosts = std::make_shared<const Placement>(p);
  return w;
}

// Few steps for what is small, few bytes between the hosts for what is large; all of it is served.
TEST(DevicePlans, OverSeveralHosts) {
  DevicePlanner p = planner(on_hosts(2, 4));
  const std::string small = algorithm(p, all_reduce(64)),
                    large = algorithm(p, all_reduce(64 << 20));
  EXPECT_NE(small, large);
  EXPECT_TRUE(large.starts_with("hierarchical_scatter")) << large;
  const Result<std::string> why = p.explain(all_reduce(64 << 20));
  ASSERT_TRUE(why.ok()) << why.status().to_string();
  EXPECT_NE(why->find("8 ranks with devices of 2 hosts"), std::string::npos) << *why;
  EXPECT_NE(why->find("the least time over the network"), std::string::npos) << *why;
  for (Collective c : {Collective::all_gather, Collective::reduce_scatter, Collective::broadcast,
                       Collective::reduce, Collective::gather, Collective::scatter,
                       Collective::all_to_all, Collective::all_reduce})
    for (uint64_t count : {1, 5000, 1 << 20})
      for (bool in_place : {false, true}) {
        const auto chosen = p.choose({c, count, DType::float32, ReduceOp::sum, 5, in_place});
        EXPECT_TRUE(chosen.ok()) << name(c) << ": " << chosen.status().to_string();
      }
  DevicePlanner ruled = planner(on_hosts(2, 4), "all_reduce:0-inf:hierarchical_leader/slots");
  EXPECT_TRUE(algorithm(ruled, all_reduce(64)).starts_with("hierarchical_leader"));
}

// Hosts whose links are known: NVLink inside of each and a NIC for every GPU are worth more than
// what is assumed of hosts, and the plans still follow the hosts.
TEST(DevicePlans, OverTheLinksOfSeveralHosts) {
  Config config;
  config.topology = "dgx-a100";
  const std::string text = look_at_devices(config, true);
  std::vector<std::string> ids = gpus_of(text);
  ASSERT_EQ(ids.size(), 8u);
  for (size_t i = 0; i < 8; ++i) ids.push_back(std::string(ids[i]));
  DeviceWorld w = on_hosts(2, 8);
  Placement known = *w.hosts;
  known.topology = device_topology(text, ids, known.host);
  ASSERT_NE(known.topology, nullptr);
  ASSERT_EQ(known.topology->ranks(), 16u);
  EXPECT_NE(known.topology->host_of(known.topology->node_of(7)),
            known.topology->host_of(known.topology->node_of(8)));
  const auto seconds = [](const Placement& hosts) {
    const auto priced =
        price_on_devices(device_placement(hosts), builtin_profile(), Collective::all_reduce,
                         64 << 20, DType::float32, ReduceOp::sum, WireProtocol::slots);
    EXPECT_TRUE(priced.ok()) << priced.status().to_string();
    return priced->front().seconds;
  };
  EXPECT_LT(seconds(known), 0.5 * seconds(*w.hosts));
  w.hosts = std::make_shared<const Placement>(known);
  DevicePlanner p = planner(w);
  // Either has an eighth of the block cross between the hosts.
  const std::string large = algorithm(p, all_reduce(64 << 20));
  EXPECT_TRUE(large.starts_with("hierarchical_scatter") || large == "halving_doubling") << large;

  // Ranks that are not known to be at GPUs are at an assumed distance, as before.
  Placement elsewhere = *on_hosts(2, 8).hosts;
  Result<Topology> cores = make_cluster("node:2{nics=8x200Gb/s} cpu:8{bw=10GB/s}");
  ASSERT_TRUE(cores.ok()) << cores.status().to_string();
  elsewhere.topology = std::make_shared<const Topology>(std::move(*cores));
  EXPECT_EQ(device_placement(elsewhere).topology, nullptr);
}

TEST(DevicePlans, BySizeWhereNothingIsKnown) {
  DevicePlanner p = planner(world(4));
  EXPECT_EQ(algorithm(p, all_reduce(32768)), "direct_one_shot");
  EXPECT_EQ(algorithm(p, all_reduce(32772)), "direct_two_shot");
  EXPECT_FALSE(p.choose(all_reduce(64))->wire.has_value());
  for (Collective c :
       {Collective::all_gather, Collective::reduce_scatter, Collective::broadcast,
        Collective::reduce, Collective::gather, Collective::scatter, Collective::all_to_all})
    EXPECT_EQ(algorithm(p, {c, 1000, DType::float32, ReduceOp::sum, 1, false}), "direct");
  EXPECT_NE(p.explain(all_reduce(64))->find("nothing is known"), std::string::npos);
  EXPECT_NE(p.explain(all_reduce(64))->find("direct_one_shot, in a kernel of its own:"),
            std::string::npos);
  EXPECT_NE(p.explain(all_reduce(1 << 20))->find("direct_two_shot:"), std::string::npos);
  DeviceWorld plain = world(4);
  plain.window = plain.window.without_shots();
  EXPECT_NE(planner(plain).explain(all_reduce(64))->find("direct_one_shot:"), std::string::npos);
  EXPECT_EQ(device_topology("", {"0000:07:00.0"}), nullptr);
  EXPECT_EQ(device_topology("<system version=\"1\"/>", {"0000:07:00.0", ""}), nullptr);
}

// Between eight GPUs on NVSwitch everyone reaches everyone: few steps when small, few bytes when
// large. Packets have no flag to wait for, but twice the bytes.
TEST(DevicePlans, ByPriceOnNvlink) {
  DevicePlanner p = planner(world(8, machine("dgx-a100", 8)));
  EXPECT_EQ(algorithm(p, all_reduce(64)), "direct_one_shot");
  EXPECT_EQ(p.choose(all_reduce(64))->wire, cuda::Wire::packets);
  Result<DevicePlanner::Chosen> large = p.choose(all_reduce(64 << 20));
  ASSERT_TRUE(large.ok()) << large.status().to_string();
  EXPECT_EQ(large->wire, cuda::Wire::slots);
  EXPECT_NE(large->plan->algorithm(), "direct_one_shot");
  const std::string why = *p.explain(all_reduce(64 << 20));
  EXPECT_NE(why.find("* " + large->plan->algorithm()), std::string::npos) << why;
  EXPECT_NE(why.find("least time over the links"), std::string::npos) << why;
}

// GPUs on PCI under two sockets: what crosses the sockets is dear, so large calls do not take the
// plan in which everybody sends to everybody at once.
TEST(DevicePlans, LinksDecide) {
  DevicePlanner nvlink = planner(world(8, machine("dgx-a100", 8)));
  DevicePlanner pci = planner(world(8, machine("p40x8-roce", 8)));
  const std::string on_nvlink = *nvlink.explain(all_reduce(64 << 20)),
                    on_pci = *pci.explain(all_reduce(64 << 20));
  EXPECT_NE(on_nvlink, on_pci);
  EXPECT_EQ(algorithm(pci, all_reduce(64 << 20)).rfind("ring", 0), 0u) << on_pci;
}

// The same for a rank in place and one that is not: their messages meet.
TEST(DevicePlans, FormsOfOneChoiceMeet) {
  for (const char* name : {"dgx-a100", "p40x8-roce"})
    for (uint32_t ranks : {2u, 3u, 8u}) {
      DevicePlanner p = planner(world(ranks, machine(name, ranks)));
      for (int c = 0; c < k_collectives; ++c)
        for (uint64_t count : {1u, 1000u, 300000u}) {
          DevicePlanner::Call call{
              static_cast<Collective>(c), count, DType::float16, ReduceOp::max, 1, false};
          if (call.collective == Collective::all_to_all_v ||
              call.collective == Collective::send_recv || call.collective == Collective::barrier)
            continue;
          const Result<DevicePlanner::Chosen> apart = p.choose(call);
          call.in_place = true;
          const Result<DevicePlanner::Chosen> together = p.choose(call);
          ASSERT_TRUE(apart.ok()) << apart.status().to_string();
          ASSERT_TRUE(together.ok()) << together.status().to_string();
          EXPECT_EQ(apart->plan->algorithm(), together->plan->algorithm());
          EXPECT_EQ(apart->wire, together->wire);
          EXPECT_FALSE(together->copy_first);
          const Algorithm* a = find_algorithm(apart->plan->algorithm());
          if (a != nullptr && a->in_place_differs(call.collective, ranks)) {
            EXPECT_EQ(apart->plan->shape().in_place, together->plan->shape().in_place);
          }
        }
    }
}

TEST(DevicePlans, RulesDecide) {
  DevicePlanner p = planner(world(4),
                            "all_reduce:0-4K:auto/slots;4K-64K:double_binary_tree/packets;"
                            "64K-inf:ring");
  EXPECT_EQ(algorithm(p, all_reduce(64)), "direct_one_shot");
  EXPECT_EQ(p.choose(all_reduce(64))->wire, cuda::Wire::slots);
  // Four lanes: packets give no order among them.
  EXPECT_NE(
      p.choose(all_reduce(8192)).status().message().find("tune, on devices: double_binary_tree"),
      std::string::npos)
      << p.choose(all_reduce(8192)).status().message();
  EXPECT_EQ(algorithm(p, all_reduce(65536)), "ring");
  EXPECT_FALSE(p.choose(all_reduce(65536))->wire.has_value());
  EXPECT_EQ(p.choose(all_reduce(8192)).status().code(), Code::unsupported);
  EXPECT_NE(p.explain(all_reduce(65536))->find("of TUTTI_TUNE says so"), std::string::npos);
  DevicePlanner doubling = planner(world(4), "all_reduce:0-inf:recursive_doubling");
  EXPECT_TRUE(doubling.choose(all_reduce(1000))->copy_first);
  EXPECT_FALSE(doubling.choose(all_reduce(1000, true))->copy_first);
}

TEST(DevicePlans, DeterministicIsTheSameForAllSizes) {
  DevicePlanner p = planner(world(8, machine("dgx-a100", 8)), "", true);
  for (uint64_t bytes : {uint64_t{4}, uint64_t{32768}, uint64_t{64} << 20})
    EXPECT_EQ(algorithm(p, all_reduce(bytes)), "direct_two_shot");
}

// Where a device takes turns, launches are what costs.
TEST(DevicePlans, FewestLaunchesOnASharedDevice) {
  DevicePlanner p = planner(world(4, nullptr, 4));
  EXPECT_NE(p.explain(all_reduce(64))->find("share a device"), std::string::npos);
  const auto launches = [](const PlanPtr& plan, uint64_t bytes) {
    const cuda::WindowShape window = world(4).window;
    const auto cut = cuda::fit_cut(plan, bytes / 4, DType::float32, window, 108, {});
    return *cuda::RangeBook(plan, 0, window).count(cut->layout.rounds());
  };
  PlanRequest request;
  request.ranks = 4;
  request.in_place = true;
  for (uint64_t bytes : {uint64_t{64}, uint64_t{256} << 20}) {
    const uint32_t chosen = launches(p.choose(all_reduce(bytes))->plan, bytes);
    for (const char* other : {"direct_one_shot", "direct_two_shot", "ring"})
      EXPECT_LE(chosen, launches(*make_plan(other, request), bytes)) << other << " " << bytes;
  }
}

// What was measured takes the place of what is assumed, and says so.
TEST(DevicePlans, MeasuredPricesDecide) {
  const auto with = [](const DeviceCost& cost, DeviceWorld w) {
    Profile profile = builtin_profile();
    profile.device = cost;
    return DevicePlanner(std::move(w), profile, {}, false);
  };
  const auto links = [] { return world(8, machine("dgx-a100", 8)); };
  // Messages that cost a tenth of a second each: the fewest one after the other win.
  DeviceCost dear;
  dear.packet = dear.slot = 0.1;
  DevicePlanner usual = with({}, links()), flags = with(dear, links());
  const DevicePlanner::Call large = all_reduce(1 << 20), small = all_reduce(4096);
  EXPECT_EQ(algorithm(usual, large), "direct_two_shot");
  EXPECT_EQ(algorithm(flags, large), "double_binary_tree");
  EXPECT_EQ(algorithm(usual, small), "direct_one_shot");
  EXPECT_EQ(algorithm(flags, small), "recursive_doubling");
  // Again, and by a planner of another rank: prices decide alone.
  DevicePlanner other = with(dear, links());
  EXPECT_EQ(algorithm(other, large), algorithm(flags, large));
  // Packets that cost much more than slots are not used.
  DeviceCost packets;
  packets.packet = 0.1;
  packets.slot = 1e-7;
  DevicePlanner slots = with(packets, links());
  EXPECT_EQ(slots.choose(small)->wire, cuda::Wire::slots);
  EXPECT_EQ(usual.choose(small)->wire, cuda::Wire::packets);

  const auto line = [&](DevicePlanner& p, const std::string& what) {
    const Result<std::string> text = p.explain(small);
    EXPECT_TRUE(text.ok()) << text.status().to_string();
    const size_t at = text->find("  " + what + " ");
    return at == std::string::npos ? *text : text->substr(at, text->find('\n', at) - at);
  };
  EXPECT_TRUE(line(slots, "a message of packets, at either end").ends_with("measured"));
  EXPECT_TRUE(line(slots, "a launch").ends_with("assumed"));
  EXPECT_TRUE(line(usual, "a message of packets, at either end").ends_with("assumed"));
  packets.name = "a device";
  DevicePlanner named = with(packets, links());
  EXPECT_NE(named.explain(small)->find("prices of devices were measured on a device"),
            std::string::npos);
  DevicePlanner turns = with({}, world(4, nullptr, 4));
  EXPECT_TRUE(line(turns, "until the next process has the device").ends_with("assumed"));
}

// Links that nobody knows, but what lies between two devices was measured: that decides, not the
// size alone.
TEST(DevicePlans, ByWhatWasMeasuredBetweenTwoDevices) {
  Profile profile = builtin_profile();
  profile.device.peer_byte = 1e-6;  // so slow that bytes count where they do not otherwise
  DevicePlanner p(world(4), profile, {}, false);
  EXPECT_NE(algorithm(p, all_reduce(32768)), "direct_one_shot");
  EXPECT_NE(p.explain(all_reduce(32768))->find("measured between two devices"), std::string::npos);
  for (Collective c :
       {Collective::all_gather, Collective::reduce_scatter, Collective::broadcast,
        Collective::reduce, Collective::gather, Collective::scatter, Collective::all_to_all})
    for (bool in_place : {false, true})
      EXPECT_TRUE(p.choose({c, 1000, DType::float32, ReduceOp::sum, 1, in_place}).ok()) << name(c);
}

}  // namespace
}  // namespace tutti
