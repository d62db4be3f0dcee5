// Where ranks are: what they tell each other, the hierarchy and the topology that follow, and what
// an unreadable description does to all of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
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
  t.add_views(std::vector<Machine>(hosts, machine->at(0)));
  return t;
}

TEST(Placement, IdentitiesTravel) {
  PeerIdentity p = PeerIdentity::of_this_process(Config());
  EXPECT_FALSE(p.allowed.empty());
  const Result<PeerIdentity> again = PeerIdentity::decode(p.encode());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->allowed, p.allowed);
  EXPECT_EQ(again->host_name, p.host_name);
  const std::string text = p.encode();
  for (size_t cut : {size_t{0}, size_t{10}, text.size() - p.allowed.size() - 1})
    EXPECT_FALSE(PeerIdentity::decode(text.substr(0, cut)).ok()) << cut;
  EXPECT_FALSE(PeerIdentity::decode(text + std::string(1000, '1')).ok());
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
  t.add_views(hosts);
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
  single.add_views(three);
  ASSERT_EQ(place(single).hierarchy.level.size(), 1u);
  EXPECT_THAT(place(single).hierarchy.level[0], ElementsAre(0, 0, 1));
  EXPECT_TRUE(single.topology().ok());
}

TEST(Placement, RanksUseTheInterfaceNearestToThem) {
  Machine host = parse_machines(k_two_sockets)->at(0);
  EXPECT_EQ(nearest_interface(host, {"0-7"}, 0), "");  // known by names that are no interface's
  for (Part& p : host.parts)
    if (p.kind == NodeKind::nic) p.interface = p.name == "mlx5_0" ? "ib0" : "ib1";
  const std::vector<std::string> bound = {"4-7", "0-3", "5"};
  EXPECT_EQ(nearest_interface(host, bound, 0), "ib1");
  EXPECT_EQ(nearest_interface(host, bound, 1), "ib0");
  EXPECT_EQ(nearest_interface(host, bound, 2), "ib1");
  const std::vector<std::string> anywhere(4, "0-7");  // dealt
  EXPECT_EQ(nearest_interface(host, anywhere, 0), "ib0");
  EXPECT_EQ(nearest_interface(host, anywhere, 3), "ib1");
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
  EXPECT_EQ(look_at_host(config, false)->count(NodeKind::nic), 8u);
  EXPECT_EQ(a100->count(NodeKind::gpu), 0u);
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
  for (const char* spec :
       {"node:4{nics=2x100Gb/s} gpu:8{bw=48GB/s}", "gpu:8{bw=48GB/s}", "cpu-2s-icelake"}) {
    config.topology = spec;
    EXPECT_THAT(look_at_host(config).status().message(),
                HasSubstr(std::string("TUTTI_TOPO: ") + spec + ": a spec does not say what this"));
  }
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
