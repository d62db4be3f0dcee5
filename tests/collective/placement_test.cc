// Where ranks are: what they tell each other, the hierarchy and the topology that follow, and what
// an unreadable description does to all of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "src/communicator/host_report.h"
#include "src/communicator/peers.h"
#include "topology/load.h"
#include "tutti/communicator.h"

namespace tutti {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* k_two_sockets = R"(<system version="1">
  <cpu numaid="0" affinity="0000000f" arch="x86_64">
    <pci busid="0000:05:00.0" class="0x020700" link_speed="16.0 GT/s PCIe" link_width="16">
      <nic><net name="mlx5_0" dev="0" speed="200000"/></nic></pci></cpu>
  <cpu numaid="1" affinity="000000f0" arch="x86_64">
    <pci busid="0000:85:00.0" class="0x020700" link_speed="16.0 GT/s PCIe" link_width="16">
      <nic><net name="mlx5_1" dev="1" speed="200000"/></nic></pci></cpu>
</system>)";

// Hosts with so many ranks each, bound to the lists in turn.
PeerTable table(uint32_t hosts, const std::vector<std::string>& cpus) {
  std::vector<PeerIdentity> peers;
  for (uint32_t h = 0; h < hosts; ++h)
    for (const std::string& list : cpus) {
      PeerIdentity p;
      p.host = 100 + h;
      p.host_name = "h" + std::to_string(h);
      p.allowed = list;
      peers.push_back(p);
    }
  PeerTable t(peers);
  const Result<std::vector<Machine>> machine = parse_machines(k_two_sockets);
  EXPECT_TRUE(machine.ok());
  EXPECT_TRUE(t.add_views(std::vector<Machine>(hosts, machine->at(0))).ok());
  return t;
}

// What a host with that TUTTI_TOPO tells the others, where its ranks work on GPUs.
Machine view_of(const std::string& topology) {
  Config config;
  config.topology = topology;
  const Result<Machine> seen = look_at_host(config, {.nics = false, .gpus = true});
  EXPECT_TRUE(seen.ok()) << seen.status().message();
  const Result<Machine> told = decode_report(encode_report(seen));
  EXPECT_TRUE(told.ok()) << told.status().message();
  return told ? *told : Machine();
}

// The machine's GPUs by their numbers.
std::vector<std::string> gpus_of(const Machine& m) {
  std::vector<std::string> gpus(m.count(NodeKind::gpu));
  for (const Part& p : m.parts)
    if (p.kind == NodeKind::gpu) gpus.at(static_cast<size_t>(p.index)) = p.busid;
  return gpus;
}

// Ranks on these GPUs of equal hosts, host by host.
PeerTable on_gpus(const Machine& view, const std::vector<std::vector<std::string>>& gpus) {
  std::vector<PeerIdentity> peers;
  for (size_t h = 0; h < gpus.size(); ++h)
    for (const std::string& gpu : gpus[h]) {
      PeerIdentity p;
      p.host = 100 + h;
      p.host_name = "h" + std::to_string(h);
      p.gpu = normal_bus_id(gpu);
      EXPECT_FALSE(p.gpu.empty()) << gpu;
      peers.push_back(p);
    }
  PeerTable t(peers);
  const Status added = t.add_views(std::vector<Machine>(gpus.size(), view));
  EXPECT_TRUE(added.ok()) << added.message();
  return t;
}

Placement placed(const PeerTable& t) {
  Placement p = place(t);
  const Status s = follow_links(t, &p);
  EXPECT_TRUE(s.ok()) << s.message();
  EXPECT_NE(p.topology, nullptr);
  return p;
}

std::string exit_name(const Topology& t, Rank r) {
  return t.exit_of(r) == k_no_node ? "none" : t.nodes()[t.exit_of(r)].name;
}

TEST(Placement, IdentitiesTravel) {
  PeerIdentity p = PeerIdentity::of_this_process(Config());
  EXPECT_FALSE(p.allowed.empty());
  const Result<PeerIdentity> again = PeerIdentity::decode(p.encode());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->allowed, p.allowed);
  EXPECT_EQ(again->host_name, p.host_name);
  EXPECT_EQ(again->gpu, "");
  const std::string text = p.encode();
  for (size_t cut = 0; cut < text.size(); ++cut)
    EXPECT_FALSE(PeerIdentity::decode(text.substr(0, cut)).ok()) << cut;
  EXPECT_FALSE(PeerIdentity::decode(text + std::string(1000, '1')).ok());
  EXPECT_FALSE(PeerIdentity::decode(text + "0000:07:00").ok());  // no bus id
  Config config;
  config.gpu = "00000000:0C:00.0";  // as NVML writes it
  p = PeerIdentity::of_this_process(config);
  EXPECT_EQ(p.gpu, "0000:0c:00.0");
  p.leaf = 7;
  p.interfaces = 3;
  const Result<PeerIdentity> full = PeerIdentity::decode(p.encode());
  ASSERT_TRUE(full.ok());
  EXPECT_EQ(full->gpu, p.gpu);
  EXPECT_EQ(full->leaf, 7u);
  EXPECT_EQ(full->interfaces, 3u);
  for (const uint32_t nonsense : {0u, k_most_host_interfaces + 1}) {
    p.interfaces = nonsense;
    EXPECT_FALSE(PeerIdentity::decode(p.encode()).ok());
  }
}

TEST(Placement, BusIdsHaveOneForm) {
  EXPECT_EQ(normal_bus_id("0000:07:00.0"), "0000:07:00.0");
  EXPECT_EQ(normal_bus_id("07:00.0"), "0000:07:00.0");
  EXPECT_EQ(normal_bus_id("00010008:1A:0B.7"), "10008:1a:0b.7");
  for (const char* junk : {"", "7:00.0", "0000:07:00", "0000:07:00.0 ", " 0000:07:00.0",
                           "0000-07:00.0", "0000:07:00:0", "0000:0g:00.0", "123456789:07:00.0",
                           "0000:+7:00.0", "0000:07:00.", ":07:00.0", "gpu0"})
    EXPECT_EQ(normal_bus_id(junk), "") << junk;
}

// Every NVLink of a DGX-1 between ranks, in units of one link, each way.
std::map<std::pair<Rank, Rank>, int> nvlinks(const Topology& t) {
  std::map<std::pair<Rank, Rank>, int> links;
  for (const Link& l : t.links())
    for (Rank a = 0; a < t.ranks() && l.link_class == LinkClass::nvlink; ++a)
      for (Rank b = 0; b < t.ranks(); ++b)
        if (t.node_of(a) == l.from && t.node_of(b) == l.to)
          links[{a, b}] += static_cast<int>(l.bandwidth / nvlink_bandwidth(70) + 0.5);
  return links;
}

TEST(Placement, RanksOnScrambledGpusOfADgx1HaveRingsOfNvLinksOfTheirOwn) {
  const Machine view = view_of("dgx1-v100");
  std::vector<std::string> gpus = gpus_of(view);
  ASSERT_EQ(gpus.size(), 8u);
  std::mt19937 random(1);
  for (int trial = 0; trial < 20; ++trial) {
    std::shuffle(gpus.begin(), gpus.end(), random);
    const PeerTable t = on_gpus(view, {gpus});
    const Placement p = placed(t);
    ASSERT_EQ(p.orders.size(), 3u);
    auto left = nvlinks(*p.topology);
    for (const std::vector<Rank>& ring : p.orders) {
      ASSERT_EQ(ring.size(), 8u);
      for (size_t i = 0; i < 8; ++i) {
        const int links = --left[std::make_pair(ring[i], ring[(i + 1) % 8])];
        EXPECT_GE(links, 0) << trial << ": " << ring[i] << " - " << ring[(i + 1) % 8];
        EXPECT_GE((--left[std::make_pair(ring[(i + 1) % 8], ring[i])]), 0) << trial;
      }
    }
    // The quads are a level: GPUs 0 to 3 and 4 to 7, whichever ranks are on them.
    ASSERT_EQ(p.hierarchy.level.size(), 2u);
    for (Rank a = 0; a < 8; ++a)
      for (Rank b = 0; b < 8; ++b) {
        const auto quad = [&](Rank r) { return view.parts[t.part[r]].index / 4; };
        EXPECT_EQ(p.hierarchy.level[0][a] == p.hierarchy.level[0][b], quad(a) == quad(b));
      }
  }
}

TEST(Placement, EachGpuOfADgxH100HasTheNicBesideItAsRail) {
  const Machine view = view_of("dgx-h100");
  std::vector<std::string> gpus = gpus_of(view), other = gpus;
  ASSERT_EQ(gpus.size(), 8u);
  std::mt19937 random(2);
  std::shuffle(gpus.begin(), gpus.end(), random);
  std::shuffle(other.begin(), other.end(), random);
  const PeerTable t = on_gpus(view, {gpus, other});
  const Placement p = placed(t);
  std::set<NodeId> used;
  for (Rank r = 0; r < 16; ++r) {
    const Part& gpu = view.parts[t.part[r]];
    ASSERT_EQ(gpu.kind, NodeKind::gpu);
    std::vector<std::string> beside;
    for (const Part& n : view.parts)
      if (n.kind == NodeKind::nic && n.parent == gpu.parent) beside.push_back(n.name);
    EXPECT_THAT(beside, testing::Contains(exit_name(*p.topology, r))) << r;
    used.insert(p.topology->exit_of(r));
  }
  EXPECT_EQ(used.size(), 16u);
  // NVSwitch joins all GPUs alike: hosts are the only level.
  ASSERT_EQ(p.hierarchy.level.size(), 1u);
  EXPECT_EQ(p.hierarchy.level[0], t.host);
  // Rings leave each host by NICs of their own.
  std::set<NodeId> left;
  for (const std::vector<Rank>& ring : p.orders)
    for (size_t i = 0; i < ring.size(); ++i)
      if (t.host[ring[i]] != t.host[ring[(i + 1) % ring.size()]]) {
        EXPECT_TRUE(left.insert(p.topology->exit_of(ring[i])).second);
      }
  EXPECT_EQ(left.size(), 2 * p.orders.size());
}

TEST(Placement, GpusOfOtherRecordedMachines) {
  const Machine a100 = view_of("dgx-a100");
  const PeerTable two = on_gpus(a100, {gpus_of(a100), gpus_of(a100)});
  std::set<NodeId> used;
  const Placement rails = placed(two);
  for (Rank r = 0; r < 16; ++r) used.insert(rails.topology->exit_of(r));
  EXPECT_EQ(used.size(), 16u);  // a NIC for each
  // PCI only: GPUs below one switch or processor are nearer to each other.
  const Machine p40 = view_of("p40x8-roce");
  std::vector<std::string> gpus = gpus_of(p40);
  std::swap(gpus[1], gpus[6]);
  const PeerTable pci = on_gpus(p40, {gpus});
  const Placement levels = placed(pci);
  ASSERT_GE(levels.hierarchy.level.size(), 2u);
  for (Rank r = 0; r < 8; ++r)
    EXPECT_EQ(levels.hierarchy.level[0][r] == levels.hierarchy.level[0][0],
              p40.parts[pci.part[r]].parent == p40.parts[pci.part[0]].parent)
        << r;
  EXPECT_FALSE(levels.orders.empty());  // the ranks' own order crosses back and forth
  // A tray of an NVL72: four GPUs, of which two hang on each processor.
  const Machine tray = view_of("gb200-nvl72");
  const Placement trays = placed(on_gpus(tray, {gpus_of(tray), gpus_of(tray), gpus_of(tray)}));
  ASSERT_EQ(trays.hierarchy.level.size(), 1u);
  EXPECT_EQ(trays.topology->ranks(), 3 * gpus_of(tray).size());
}

TEST(Placement, RanksMayShareAGpu) {
  const Machine view = view_of("dgx1-v100");
  const std::vector<std::string> gpus = gpus_of(view);
  std::vector<std::string> twice = gpus;  // ranks r and r + 8
  twice.insert(twice.end(), gpus.begin(), gpus.end());
  const Placement p = placed(on_gpus(view, {twice}));
  ASSERT_EQ(p.orders.size(), 3u);
  for (const std::vector<Rank>& ring : p.orders) {
    ASSERT_EQ(ring.size(), 16u);
    for (size_t i = 0; i < 16; i += 2) EXPECT_EQ(ring[i] % 8, ring[i + 1] % 8);
  }
  for (Rank a = 0; a < 16; ++a)
    for (Rank b = 0; b < 16; ++b)
      EXPECT_EQ(p.hierarchy.level[0][a] == p.hierarchy.level[0][b], a % 8 == b % 8);
  // All on one.
  const PeerTable one = on_gpus(view, {{gpus[3], gpus[3], gpus[3]}});
  EXPECT_EQ(place(one).hierarchy.level.size(), 1u);
  EXPECT_TRUE(one.topology().ok());
}

TEST(Placement, AGpuThatNobodyKnowsLeavesTheRankToItsCpus) {
  Machine view = view_of("dgx-a100");
  std::vector<PeerIdentity> peers(3);
  peers[0].gpu = gpus_of(view)[5];
  peers[1].gpu = "0000:ee:00.0";
  peers[1].allowed = view.parts[0].cpus;
  peers[2].allowed = view.parts[0].cpus;
  PeerTable t(peers);
  ASSERT_TRUE(t.add_views({view}).ok());
  EXPECT_EQ(view.parts[t.part[0]].kind, NodeKind::gpu);
  EXPECT_EQ(view.parts[t.part[0]].index, 5);
  EXPECT_NE(t.part[1], k_no_part);
  EXPECT_EQ(view.parts[t.part[1]].kind, NodeKind::numa);
  EXPECT_EQ(t.part[1], t.part[2]);
  EXPECT_FALSE(t.gpu_is_unknown(0));
  EXPECT_TRUE(t.gpu_is_unknown(1));
  EXPECT_FALSE(t.gpu_is_unknown(2));  // works on none
  EXPECT_TRUE(t.topology().ok());
}

// --- specs

constexpr const char* k_two_nodes = "node:2{nics=2x100Gb/s,lat=5us} gpu:4{bw=48GB/s,lat=1us}";

Machine spec_host(const std::string& spec) { return view_of(spec); }

std::vector<PeerIdentity> ranks_on(const std::vector<uint32_t>& hosts) {
  std::vector<PeerIdentity> peers;
  for (const uint32_t h : hosts) {
    peers.emplace_back();
    peers.back().host = 100 + h;
    peers.back().pid = 1000 + static_cast<uint32_t>(peers.size());
    peers.back().host_name = "h" + std::to_string(h);
  }
  return peers;
}

TEST(Placement, ASpecOfOneHostTakesItsRanksInOrder) {
  PeerTable t(ranks_on({0, 0, 0, 0}));
  ASSERT_TRUE(t.add_views({spec_host("node:1{bw=10Gb/s} numa:2{bw=20GB/s,lat=200ns} "
                                     "gpu:[1,3]{bw=48GB/s,lat=1us}")})
                  .ok());
  EXPECT_THAT(t.part, ElementsAre(0, 1, 2, 3));
  const Placement p = placed(t);
  ASSERT_EQ(p.hierarchy.level.size(), 2u);
  EXPECT_THAT(p.hierarchy.level[0], ElementsAre(0, 1, 1, 1));
  EXPECT_THAT(p.hierarchy.level[1], ElementsAre(0, 0, 0, 0));
  Routes routes(*p.topology);
  std::vector<LinkId> way;
  ASSERT_TRUE(routes.find(0, 1, &way));
  ASSERT_EQ(way.size(), 4u);
  double latency = 0;
  for (const LinkId l : way) latency += p.topology->links()[l].latency;
  EXPECT_DOUBLE_EQ(latency, 2.4e-6);
  EXPECT_EQ(p.topology->links()[way[1]].bandwidth, 20e9);
}

TEST(Placement, HostsWithSpecsOfTheirOwnAreJoined) {
  PeerTable t(ranks_on({0, 1, 0, 1, 1, 2}));
  const Machine small = spec_host("gpu:2{bw=48GB/s}");
  const Machine large = spec_host("node:1{nics=2x100Gb/s,lat=5us} gpu:4{bw=48GB/s,lat=1us}");
  const Machine known = parse_machines(k_two_sockets)->at(0);
  ASSERT_TRUE(t.add_views({small, large, known}).ok());
  EXPECT_THAT(t.part, ElementsAre(0, 0, 1, 1, 2, k_no_part));
  const Placement p = placed(t);
  ASSERT_EQ(p.hierarchy.level.size(), 1u);
  EXPECT_THAT(p.hierarchy.level[0], ElementsAre(0, 1, 0, 1, 1, 2));
  Routes routes(*p.topology);
  std::vector<LinkId> way;
  ASSERT_TRUE(routes.find(0, 1, &way));
  double narrowest = 1e15;
  for (const LinkId l : way) narrowest = std::min(narrowest, p.topology->links()[l].bandwidth);
  EXPECT_EQ(narrowest, 1.25e9);  // a host without a NIC: 10 Gb/s assumed
  ASSERT_TRUE(routes.find(1, 5, &way));
  EXPECT_EQ(exit_name(*p.topology, 1), "nic0");
  EXPECT_EQ(exit_name(*p.topology, 4), "nic1");
  // What a NIC's cable costs is the network's price, as for hosts that are found out.
  EXPECT_TRUE(std::any_of(way.begin(), way.end(), [&](LinkId l) {
    return p.topology->links()[l].link_class == LinkClass::network;
  }));
}

TEST(Placement, ASpecOfSeveralHostsDescribesTheJob) {
  PeerTable t(ranks_on({0, 0, 0, 0, 0, 0, 0, 0}));
  ASSERT_TRUE(t.add_views({spec_host(k_two_nodes)}).ok());
  const Placement p = placed(t);
  EXPECT_EQ(p.hosts, 1u);
  ASSERT_EQ(p.hierarchy.level.size(), 2u);
  EXPECT_THAT(p.hierarchy.level[0], ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
  EXPECT_THAT(p.hierarchy.level[1], testing::Each(0));
  std::set<NodeId> rails;
  for (Rank r = 0; r < 8; ++r) rails.insert(p.topology->exit_of(r));
  EXPECT_EQ(rails.size(), 4u);
  // Fewer ranks than leaves, dealt to real hosts as it happens.
  PeerTable five(ranks_on({0, 1, 0, 1, 0}));
  ASSERT_TRUE(five.add_views({spec_host(k_two_nodes), spec_host(k_two_nodes)}).ok());
  EXPECT_THAT(place(five).hierarchy.level[0], ElementsAre(0, 0, 0, 0, 1));
  // Leaves that the ranks have had before, in a communicator that this one was split from.
  std::vector<PeerIdentity> again = ranks_on({0, 0, 0, 0});
  for (size_t r = 0; r < 4; ++r) again[r].leaf = static_cast<PartId>(r % 2 * 4 + r / 2);
  PeerTable split(again);
  ASSERT_TRUE(split.add_views({spec_host(k_two_nodes)}).ok());
  EXPECT_THAT(place(split).hierarchy.level[0], ElementsAre(0, 1, 0, 1));
}

TEST(Placement, RanksThatDoNotFitASpec) {
  PeerTable sixteen(ranks_on(std::vector<uint32_t>(16, 0)));
  EXPECT_EQ(
      sixteen.add_views({spec_host(k_two_nodes)}).message(),
      std::string("ranks do not fit the topology: 16 ranks, 8 leaves in \"") + k_two_nodes + "\"");
  PeerTable t(ranks_on({0, 1, 1, 1}));
  const Status one = t.add_views({spec_host("gpu:2{bw=48GB/s}"), spec_host("gpu:2{bw=48GB/s}")});
  EXPECT_EQ(one.code(), Code::invalid_usage);
  EXPECT_EQ(one.message(),
            "ranks do not fit the topology of host h1: 3 ranks, 2 leaves in \"gpu:2{bw=48GB/s}\"");
  const Status two = t.add_views({parse_machines(k_two_sockets)->at(0), spec_host(k_two_nodes)});
  EXPECT_EQ(two.message(),
            std::string("ranks have different topologies: rank 0 (host h0, pid 1001) none, rank 1 "
                        "(host h1, pid 1002) \"") +
                k_two_nodes + "\"; a spec of several hosts must be the same on all");
  // A leaf that no spec has: never from our own ranks.
  std::vector<PeerIdentity> lost = ranks_on({0, 0});
  lost[1].leaf = 8;
  EXPECT_FALSE(PeerTable(lost).add_views({spec_host(k_two_nodes)}).ok());
}

TEST(Placement, BoundRanksMakeALevelOfSockets) {
  const PeerTable t = table(2, {"0-1", "2-3", "4-5", "6-7"});
  EXPECT_EQ(t.views.size(), 1u);  // equal hosts are kept once
  const Placement p = place(t);
  ASSERT_EQ(p.hierarchy.level.size(), 2u);
  EXPECT_THAT(p.hierarchy.level[0], ElementsAre(0, 0, 1, 1, 2, 2, 3, 3));
  EXPECT_THAT(p.hierarchy.level[1], ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
  const Result<Topology> topology = t.topology();
  ASSERT_TRUE(topology.ok()) << topology.status().message();
  ASSERT_EQ(topology->ranks(), 8u);
  // Rails: each socket has a NIC of its own.
  EXPECT_EQ(topology->nodes()[topology->exit_of(0)].name, "mlx5_0");
  EXPECT_EQ(topology->nodes()[topology->exit_of(2)].name, "mlx5_1");
  EXPECT_EQ(topology->nodes()[topology->host_of(topology->node_of(7))].name, "h1.1");
}

TEST(Placement, UnevenAndUnboundRanks) {
  const PeerTable uneven = table(2, {"0", "1", "4"});
  ASSERT_EQ(place(uneven).hierarchy.level.size(), 2u);
  EXPECT_THAT(place(uneven).hierarchy.level[0], ElementsAre(0, 0, 1, 2, 2, 3));
  // Ranks that may run anywhere: hosts only.
  const PeerTable unbound = table(2, {"0-7", "0-7"});
  EXPECT_THAT(unbound.part, testing::Each(k_no_part));
  ASSERT_EQ(place(unbound).hierarchy.level.size(), 1u);
  EXPECT_TRUE(unbound.topology().ok());
  // Ranks bound in turns are grouped by where they are.
  EXPECT_THAT(place(table(1, {"0", "4", "1", "5"})).hierarchy.level[0], ElementsAre(0, 1, 0, 1));
  // One rank on each host: flat.
  EXPECT_TRUE(place(table(3, {""})).hierarchy.level.empty());
}

TEST(Placement, SwitchesAboveHostsAreLevels) {
  PeerTable t = table(5, {"0-7", "0-7"});
  std::vector<Machine> hosts(5, t.views[0]);
  const char* above[] = {"core.rack0", "core.rack1", "core.rack0", "core.rack1", "core.rack1"};
  for (size_t h = 0; h < hosts.size(); ++h) hosts[h].switches = above[h];
  ASSERT_TRUE(t.add_views(hosts).ok());
  EXPECT_EQ(t.views.size(), 2u);
  const Placement p = place(t);
  ASSERT_EQ(p.hierarchy.level.size(), 2u);
  EXPECT_THAT(p.hierarchy.level[0], ElementsAre(0, 0, 1, 1, 2, 2, 3, 3, 4, 4));
  EXPECT_THAT(p.hierarchy.level[1], ElementsAre(0, 0, 1, 1, 0, 0, 1, 1, 1, 1));
  const Result<Topology> topology = t.topology();
  ASSERT_TRUE(topology.ok()) << topology.status().message();
  Routes routes(*topology);
  std::vector<LinkId> near, far;
  ASSERT_TRUE(routes.find(0, 4, &near) && routes.find(0, 2, &far));
  EXPECT_EQ(near.size() + 2, far.size());  // up to the core and down again
  // Racks of single ranks, and a host that knows no switch.
  PeerTable single = table(3, {"0-7"});
  std::vector<Machine> three(3, single.views[0]);
  three[0].switches = three[1].switches = "rack0";
  ASSERT_TRUE(single.add_views(three).ok());
  ASSERT_EQ(place(single).hierarchy.level.size(), 1u);
  EXPECT_THAT(place(single).hierarchy.level[0], ElementsAre(0, 0, 1));
  EXPECT_TRUE(single.topology().ok());
}

TEST(Placement, RanksUseTheInterfacesNearestToThem) {
  Machine host = parse_machines(k_two_sockets)->at(0);
  const auto bound = [](const std::vector<std::string>& lists) {
    std::vector<PeerIdentity> ranks(lists.size());
    for (size_t r = 0; r < ranks.size(); ++r) ranks[r].allowed = lists[r];
    return ranks;
  };
  // Known by names that are no interface's.
  EXPECT_TRUE(nearest_interfaces(host, bound({"0-7"}), 0, 1).empty());
  for (Part& p : host.parts)
    if (p.kind == NodeKind::nic) p.interface = p.name == "mlx5_0" ? "ib0" : "ib1";
  const std::vector<PeerIdentity> here = bound({"4-7", "0-3", "5"});
  EXPECT_THAT(nearest_interfaces(host, here, 0, 1), ElementsAre("ib1"));
  EXPECT_THAT(nearest_interfaces(host, here, 1, 1), ElementsAre("ib0"));
  EXPECT_THAT(nearest_interfaces(host, here, 2, 1), ElementsAre("ib1"));
  const std::vector<PeerIdentity> anywhere = bound(std::vector<std::string>(4, "0-7"));  // dealt
  EXPECT_THAT(nearest_interfaces(host, anywhere, 0, 1), ElementsAre("ib0"));
  EXPECT_THAT(nearest_interfaces(host, anywhere, 3, 1), ElementsAre("ib1"));
  // One rank with both, the nearer one first.
  EXPECT_THAT(nearest_interfaces(host, bound({"4"}), 0, 2), ElementsAre("ib1", "ib0"));
  // Two each of four, nobody's taken twice.
  for (const char* name : {"ib2", "ib3"}) {
    Part p;
    p.kind = NodeKind::nic;
    p.parent = 0;
    p.name = p.interface = name;
    host.add(p);
  }
  const std::vector<std::string> first = nearest_interfaces(host, bound({"0", "1"}), 0, 2);
  const std::vector<std::string> second = nearest_interfaces(host, bound({"0", "1"}), 1, 2);
  std::set<std::string> all(first.begin(), first.end());
  all.insert(second.begin(), second.end());
  EXPECT_EQ(all.size(), 4u);
}

TEST(Placement, OneRankWithSeveralInterfacesHasTheirSum) {
  std::vector<PeerIdentity> peers = ranks_on({0, 1});
  for (PeerIdentity& p : peers) p.interfaces = 2;
  PeerTable t(peers);
  const Machine host = parse_machines(k_two_sockets)->at(0);
  ASSERT_TRUE(t.add_views({host, host}).ok());
  EXPECT_EQ(t.interfaces_each(0), 2u);
  const Result<Topology> topology = t.topology();
  ASSERT_TRUE(topology.ok());
  Routes routes(*topology);
  std::vector<LinkId> way;
  ASSERT_TRUE(routes.find(0, 1, &way));
  for (const LinkId l : way)
    if (topology->links()[l].link_class == LinkClass::network) {
      EXPECT_EQ(topology->links()[l].bandwidth, 50e9);
    }
  // Four ranks of a host, or all on one: as before.
  PeerTable many(ranks_on({0, 0, 0, 0, 1}));
  EXPECT_EQ(many.interfaces_each(0), 1u);
}

TEST(Placement, ReportsAndTheirErrorsTravel) {
  const Result<std::vector<Machine>> machine = parse_machines(k_two_sockets);
  const Result<Machine> there = decode_report(encode_report(machine->at(0)));
  ASSERT_TRUE(there.ok()) << there.status().message();
  EXPECT_EQ(*there, machine->at(0));
  const Result<Machine> error =
      decode_report(encode_report(Status(Code::invalid_argument, "x: line 5")));
  EXPECT_EQ(error.status().code(), Code::invalid_argument);
  EXPECT_EQ(error.status().message(), "x: line 5");
  Machine racked = machine->at(0);
  racked.switches = "core.rack \"3\"";
  EXPECT_FALSE(decode_report(encode_report(racked)).ok());  // no names
  racked.switches = "core.rack\"3\"";
  EXPECT_EQ(*decode_report(encode_report(racked)), racked);
  for (const char* junk : {"", "E", "M", "M<system", "X", "Ez"})
    EXPECT_EQ(decode_report(junk).status().code(), Code::remote_error) << junk;
  // Many ports: without NICs rather than not at all.
  Machine large = machine->at(0);
  for (int i = 0; i < 2000; ++i) {
    Part nic = large.parts[1];
    nic.busid = "0000:" + std::to_string(i);
    large.add(nic);
  }
  const Result<Machine> trimmed = decode_report(encode_report(large));
  ASSERT_TRUE(trimmed.ok()) << trimmed.status().message();
  EXPECT_EQ(trimmed->count(NodeKind::numa), 2u);
  EXPECT_EQ(trimmed->count(NodeKind::nic), 0u);
  // With sockets of several NUMA nodes between the ports.
  Machine nested;
  for (int i = 0; i < 4; ++i) {
    Part p;
    p.kind = NodeKind::numa;
    if (i % 2 == 1) p.parent = static_cast<PartId>(nested.parts.size() - 2), p.index = i / 2;
    p.name = (i % 2 == 0 ? "package" : "numa") + std::to_string(i / 2);
    nested.add(p);
    Part nic;
    nic.kind = NodeKind::nic;
    nic.name = std::string(2000, 'x');
    nested.add(nic);
  }
  const Result<Machine> bare = decode_report(encode_report(nested, 2000));
  ASSERT_TRUE(bare.ok()) << bare.status().message();
  ASSERT_EQ(bare->count(NodeKind::numa), 4u);
  EXPECT_EQ(bare->parts[3].name, "numa1");
  EXPECT_EQ(bare->parts[bare->parts[3].parent].name, "package1");
}

TEST(Placement, LooksAtThisHostAndAtRecordedOnes) {
  const Result<Machine> here = look_at_host(Config());
  ASSERT_TRUE(here.ok()) << here.status().message();
  EXPECT_GE(here->count(NodeKind::numa), 1u);
  Config config;
  config.topology = "dgx-a100";
  const Result<Machine> a100 = look_at_host(config);
  ASSERT_TRUE(a100.ok()) << a100.status().message();
  EXPECT_EQ(a100->count(NodeKind::numa), 8u);
  // Of NICs those that tcp may use.
  EXPECT_EQ(a100->count(NodeKind::nic), usable_interfaces(config).size());
  EXPECT_EQ(look_at_host(config, {.nics = false})->count(NodeKind::nic), 8u);
  EXPECT_EQ(a100->count(NodeKind::gpu), 0u);
  EXPECT_TRUE(a100->links.empty());
  const Result<Machine> gpus = look_at_host(config, {.nics = false, .gpus = true});
  EXPECT_EQ(gpus->count(NodeKind::gpu), 8u);
  EXPECT_EQ(gpus->links.size(), 8u);
  EXPECT_TRUE(decode_report(encode_report(a100)).ok());
  config.switches = "core.rack3";
  EXPECT_EQ(look_at_host(config)->switches, "core.rack3");
  config.switches = "core..rack3";
  EXPECT_THAT(look_at_host(config).status().message(),
              HasSubstr("TUTTI_SWITCHES=\"core..rack3\": expected"));
  config.switches.clear();
  config.topology = "/nowhere/topo.xml";
  EXPECT_THAT(look_at_host(config).status().message(),
              HasSubstr("TUTTI_TOPO: /nowhere/topo.xml: No such file"));
  for (const auto& [what, why] :
       {std::pair{"gpu:8{bw=-1GB/s}", "cluster spec, column 10: expected a rate"},
        {"gpu:8{bw=0GB/s}", "cluster spec, column 10: expected a rate of 1B/s"},
        {"gpu:0{bw=1GB/s}", "cluster spec, column 5: expected a count"},
        {"node:2{bw=1Gb/s} gpu:[1,2,3]{bw=1GB/s}", "gpu has 3 counts for 2 parents"},
        {"dgx-a100*4", "'dgx-a100*4' is several hosts; this is one of them"},
        {"dgx-a1000", "'dgx-a1000' is no recorded machine (cpu-2s-genoa,"}}) {
    config.topology = what;
    EXPECT_THAT(look_at_host(config).status().message(), HasSubstr(why));
    EXPECT_THAT(look_at_host(config).status().message(), testing::StartsWith("TUTTI_TOPO: "));
  }
  // Specs, as text, as a recorded machine and in a file.
  config.topology = "gpu:8{bw=48GB/s}";
  EXPECT_EQ(look_at_host(config)->inside, config.topology);
  EXPECT_EQ(own_spec(config)->inside, config.topology);
  config.topology = "cpu-2s-icelake";
  EXPECT_FALSE(look_at_host(config)->inside.empty());
  EXPECT_TRUE(own_spec(config)->inside.empty());  // its host's first rank says it
  const std::string path = testing::TempDir() + "/tutti_host.spec";
  std::ofstream(path) << "# a comment\nnode:2{bw=10Gb/s}\n  core:4{bw=10GB/s}\n";
  config.topology = path;
  const Result<Machine> from_file = look_at_host(config);
  unlink(path.c_str());
  ASSERT_TRUE(from_file.ok()) << from_file.status().message();
  EXPECT_EQ(from_file->inside, "node:2{bw=10Gb/s} core:4{bw=80Gb/s}");
  EXPECT_TRUE(from_file->describes_cluster());
  EXPECT_EQ(*decode_report(encode_report(from_file)), *from_file);
}

// Joins with a TUTTI_TOPO for each rank; what they met.
std::vector<Status> join_with(const std::vector<std::string>& topologies) {
  const Result<UniqueId> id = UniqueId::create();
  EXPECT_TRUE(id.ok()) << id.status().message();
  std::vector<Status> seen(topologies.size());
  std::vector<std::unique_ptr<Communicator>> world(topologies.size());
  std::vector<std::thread> threads;
  for (Rank r = 0; r < topologies.size(); ++r)
    threads.emplace_back([&, r] {
      Config config;
      config.topology = topologies[r];
      config.init_timeout = 60;
      auto made = Communicator::create(*id, r, static_cast<uint32_t>(topologies.size()), config);
      seen[r] = made.status();
      if (made) world[r] = std::move(*made);
    });
  for (std::thread& t : threads) t.join();
  return seen;
}

TEST(Placement, SpecsThatDoNotFitOrDifferAreTheSameErrorOnAllRanks) {
  const std::string four = "gpu:4{bw=48GB/s}", two = "gpu:2{bw=48GB/s}";
  for (const Status& s : join_with({four, four, four})) EXPECT_TRUE(s.ok()) << s.message();
  for (const Status& s : join_with({four, "", four})) EXPECT_TRUE(s.ok()) << s.message();
  for (const Status& s : join_with({two, two, two})) {
    EXPECT_EQ(s.code(), Code::invalid_usage);
    EXPECT_THAT(s.message(), HasSubstr("ranks do not fit the topology of host "));
    EXPECT_THAT(s.message(), HasSubstr(": 3 ranks, 2 leaves in \"gpu:2{bw=48GB/s}\""));
  }
  for (const Status& s : join_with({four, four, k_two_nodes})) {
    EXPECT_EQ(s.code(), Code::invalid_usage);
    EXPECT_THAT(s.message(), HasSubstr("ranks have different topologies: rank 0 (host "));
    EXPECT_THAT(s.message(), HasSubstr("\"gpu:4{bw=48GB/s}\", rank 2 (host "));
    EXPECT_THAT(s.message(), HasSubstr(k_two_nodes));
  }
  for (const Status& s : join_with({"", four, ""})) {
    EXPECT_EQ(s.code(), Code::invalid_usage);
    EXPECT_THAT(s.message(), HasSubstr(") no spec, rank 1 (host "));
  }
  for (const Status& s : join_with({"gpu:4{bw=0GB/s}", four, four})) {
    EXPECT_EQ(s.code(), Code::invalid_argument);
    EXPECT_THAT(s.message(), HasSubstr("peer 0 (host "));
    EXPECT_THAT(s.message(), HasSubstr("column 10: expected a rate of 1B/s"));
  }
  for (const Status& s : join_with({four, "gpu:4{bw=fast}", four})) {
    EXPECT_EQ(s.code(), Code::invalid_argument);
    EXPECT_THAT(s.message(), HasSubstr("peer 1 (host "));
    EXPECT_THAT(s.message(), HasSubstr("cluster spec, column 10: expected a rate such as"));
  }
}

TEST(Placement, AGpuThatIsNoneIsAnErrorOnAllRanks) {
  const Result<UniqueId> id = UniqueId::create();
  ASSERT_TRUE(id.ok()) << id.status().message();
  std::vector<Status> seen(2);
  std::vector<std::thread> threads;
  for (Rank r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      Config config;
      if (r == 1) config.gpu = "gpu 7";
      config.init_timeout = 60;
      seen[r] = Communicator::create(*id, r, 2, config).status();
    });
  for (std::thread& t : threads) t.join();
  for (const Status& s : seen)
    EXPECT_THAT(s.message(), HasSubstr("gpu: \"gpu 7\" is no PCI bus id")) << s.to_string();
}

TEST(Placement, AMalformedFileIsTheSameErrorOnAllRanks) {
  char path[] = "/tmp/tutti-topo-XXXXXX";
  const int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  close(fd);
  std::ofstream(path) << "<system version=\"1\">\n  <cpu numaid=\"zero\"/>\n</system>\n";
  const Result<UniqueId> id = UniqueId::create();
  ASSERT_TRUE(id.ok()) << id.status().message();
  constexpr uint32_t k_ranks = 3;
  std::vector<Status> seen(k_ranks);
  std::vector<std::thread> threads;
  for (Rank r = 0; r < k_ranks; ++r)
    threads.emplace_back([&, r] {
      Config config;
      if (r == 0) config.topology = path;  // the others have no such setting
      config.init_timeout = 60;
      seen[r] = Communicator::create(*id, r, k_ranks, config).status();
    });
  for (std::thread& t : threads) t.join();
  unlink(path);
  for (Rank r = 0; r < k_ranks; ++r) {
    EXPECT_EQ(seen[r].code(), Code::invalid_argument) << seen[r].to_string();
    EXPECT_THAT(seen[r].message(), HasSubstr("peer 0 (host "));
    EXPECT_THAT(seen[r].message(),
                HasSubstr("line 2, column 16: expected a whole number from -1 to 65535 for "
                          "numaid, found 'zero'"));
  }
}

}  // namespace
}  // namespace tutti
