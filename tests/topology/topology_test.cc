// The graph by itself: checks, routes and groups of topologies that were put together by hand.
#include "topology/topology.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace tutti {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A way as the names of its nodes.
std::string way(const Topology& t, Rank a, Rank b) {
  std::vector<LinkId> links;
  Routes routes(t);
  if (!routes.find(a, b, &links)) return "none";
  std::string text = t.nodes()[t.node_of(a)].name;
  NodeId at = t.node_of(a);
  for (LinkId l : links) {
    EXPECT_EQ(t.links()[l].from, at) << "the links do not join";
    at = t.links()[l].to;
    text += " " + t.nodes()[at].name;
  }
  EXPECT_EQ(at, t.node_of(b));
  return text;
}

// Two hosts; each has four GPUs, of which 0-1 and 2-3 are joined by NVLink, two PCI switches with
// two GPUs and a NIC each, and a processor that joins the switches.
Topology two_servers() {
  Topology t;
  const NodeId net = t.add_node(NodeKind::network_switch, k_no_node, "net");
  for (int h = 0; h < 2; ++h) {
    const std::string in = h == 0 ? "" : "'";
    const NodeId host = t.add_node(NodeKind::host, net, "host" + in);
    const NodeId cpu = t.add_node(NodeKind::numa, host, "cpu" + in);
    for (int s = 0; s < 2; ++s) {
      const NodeId pci = t.add_node(NodeKind::pci_switch, host, "pci" + std::to_string(s) + in);
      t.add_cable(pci, cpu, LinkClass::pci, 12e9, 1e-6);
      NodeId gpu[2];
      for (int g = 0; g < 2; ++g) {
        gpu[g] = t.add_node(NodeKind::gpu, pci, "gpu" + std::to_string(2 * s + g) + in);
        t.add_rank(gpu[g]);
        t.add_cable(gpu[g], pci, LinkClass::pci, 12e9, 1e-6);
      }
      t.add_cable(gpu[0], gpu[1], LinkClass::nvlink, 40e9, 1e-6);
      const NodeId nic = t.add_node(NodeKind::nic, pci, "nic" + std::to_string(s) + in);
      t.add_cable(pci, nic, LinkClass::pci, 12e9, 1e-6);
      t.add_cable(nic, net, LinkClass::nic, 12.5e9, 2e-6);
    }
  }
  return t;
}

TEST(Topology, RoutesTakeTheWideWayAndNeverAnEndpoint) {
  Topology t = two_servers();
  ASSERT_TRUE(t.finish().ok()) << t.finish().message();
  EXPECT_EQ(way(t, 0, 1), "gpu0 gpu1");
  EXPECT_EQ(way(t, 1, 2), "gpu1 pci0 cpu pci1 gpu2");
  EXPECT_EQ(way(t, 0, 0), "gpu0");
  EXPECT_EQ(way(t, 0, 4), "gpu0 pci0 nic0 net nic0' pci0' gpu0'");
  EXPECT_EQ(way(t, 3, 5), "gpu3 pci1 nic1 net nic0' pci0' gpu1'");
}

TEST(Topology, GroupsFollowContainment) {
  Topology t = two_servers();
  ASSERT_TRUE(t.finish().ok());
  EXPECT_THAT(t.groups(), ElementsAre(ElementsAre(0, 0, 1, 1, 2, 2, 3, 3),
                                      ElementsAre(0, 0, 0, 0, 1, 1, 1, 1)));
}

TEST(Topology, RailsThatDoNotMeetAreFoundAround) {
  Topology t;
  const NodeId rail[2] = {t.add_node(NodeKind::network_switch, k_no_node, "rail0"),
                          t.add_node(NodeKind::network_switch, k_no_node, "rail1")};
  for (int h = 0; h < 2; ++h) {
    const std::string in = h == 0 ? "" : "'";
    const NodeId host = t.add_node(NodeKind::host, k_no_node, "host" + in);
    for (int g = 0; g < 2; ++g) {
      const NodeId gpu = t.add_node(NodeKind::gpu, host, "gpu" + std::to_string(g) + in);
      const NodeId nic = t.add_node(NodeKind::nic, host, "nic" + std::to_string(g) + in);
      t.add_rank(gpu);
      t.add_cable(gpu, host, LinkClass::nvlink, 48e9, 1e-6);
      t.add_cable(gpu, nic, LinkClass::pci, 12e9, 1e-6);
      t.add_cable(host, nic, LinkClass::pci, 12e9, 1e-6);
      t.add_cable(nic, rail[g], LinkClass::nic, 12.5e9, 2e-6);
    }
  }
  ASSERT_TRUE(t.finish().ok()) << t.finish().message();
  EXPECT_EQ(way(t, 0, 2), "gpu0 nic0 rail0 nic0' gpu0'");
  EXPECT_EQ(way(t, 1, 3), "gpu1 nic1 rail1 nic1' gpu1'");
  // Across the rails one of the hosts has to be crossed.
  EXPECT_EQ(way(t, 0, 3), "gpu0 nic0 rail0 nic0' host' gpu1'");
}

TEST(Topology, SwitchesAreCrossedByTheFewest) {
  // A ring of four switches, a rank on each.
  Topology t;
  NodeId sw[4];
  for (int i = 0; i < 4; ++i) {
    sw[i] = t.add_node(NodeKind::network_switch, k_no_node, "s" + std::to_string(i));
    const NodeId rank = t.add_node(NodeKind::rank, k_no_node, "r" + std::to_string(i));
    t.add_rank(rank);
    t.add_cable(rank, sw[i], LinkClass::nic, 1e9, 1e-6);
  }
  // 0-1-2 is slower than 0-3-2, but as short as it.
  t.add_cable(sw[0], sw[1], LinkClass::network, 1e8, 1e-6);
  t.add_cable(sw[1], sw[2], LinkClass::network, 1e8, 1e-6);
  t.add_cable(sw[2], sw[3], LinkClass::network, 1e9, 1e-6);
  t.add_cable(sw[3], sw[0], LinkClass::network, 1e9, 1e-6);
  ASSERT_TRUE(t.finish().ok());
  EXPECT_EQ(way(t, 0, 1), "r0 s0 s1 r1");
  EXPECT_EQ(way(t, 0, 2), "r0 s0 s3 s2 r2");
  EXPECT_TRUE(t.groups().empty());
}

TEST(Topology, RanksMayShareANode) {
  Topology t;
  const NodeId host = t.add_node(NodeKind::host, k_no_node, "host");
  for (int s = 0; s < 2; ++s) {
    const NodeId cpu = t.add_node(NodeKind::cpu, host, "cpu" + std::to_string(s));
    t.add_cable(cpu, host, LinkClass::interconnect, 10e9, 1e-7);
    t.add_rank(cpu);
    t.add_rank(cpu);
  }
  ASSERT_TRUE(t.finish().ok());
  EXPECT_EQ(way(t, 0, 1), "cpu0");
  EXPECT_EQ(way(t, 0, 2), "cpu0 host cpu1");
  EXPECT_THAT(t.groups(), ElementsAre(ElementsAre(0, 0, 1, 1)));
}

TEST(Topology, SaysWhatIsWrong) {
  auto error = [](auto&& break_it) {
    Topology t = two_servers();
    break_it(t);
    const Status s = t.finish();
    EXPECT_EQ(s.code(), Code::invalid_argument);
    return s.message();
  };
  EXPECT_THAT(error([](Topology& t) { t.add_rank(999); }), HasSubstr("rank 8 is on node 999"));
  EXPECT_THAT(error([](Topology& t) { t.add_node(NodeKind::gpu, 999); }),
              HasSubstr("is in node 999"));
  EXPECT_THAT(error([](Topology& t) {
                const auto at = static_cast<NodeId>(t.nodes().size());
                t.add_node(NodeKind::numa, at + 1, "a");
                t.add_node(NodeKind::numa, at, "b");
              }),
              HasSubstr("contains itself"));
  EXPECT_THAT(error([](Topology& t) { t.add_node(NodeKind::host, 1, "inner"); }),
              HasSubstr("host inner is within host host"));
  EXPECT_THAT(error([](Topology& t) { t.add_cable(4, 999, LinkClass::pci, 1e9, 0); }),
              HasSubstr("ends at node 999"));
  EXPECT_THAT(error([](Topology& t) { t.add_cable(4, 4, LinkClass::pci, 1e9, 0); }),
              HasSubstr("leads to where it comes from"));
  for (double bad : {0.0, -1e9, std::numeric_limits<double>::infinity(),
                     std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THAT(error([bad](Topology& t) { t.add_cable(4, 5, LinkClass::pci, bad, 0); }),
                HasSubstr("bandwidth"));
  }
  for (double bad : {-1e-9, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THAT(error([bad](Topology& t) { t.add_cable(4, 5, LinkClass::pci, 1e9, bad); }),
                HasSubstr("latency"));
  }
  EXPECT_THAT(error([](Topology& t) { t.add_rank(t.add_node(NodeKind::gpu, 1, "lost")); }),
              HasSubstr("no way from rank 0 (gpu0 in pci0) to rank 8 (lost"));
  Topology empty;
  EXPECT_THAT(empty.finish().message(), HasSubstr("no ranks"));
}

}  // namespace
}  // namespace tutti
