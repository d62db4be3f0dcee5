// The recorded machines: they load, have the links that their makers give, and their NICs and
// groups are those that anyone would draw.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "topology/load.h"

namespace tutti {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Cluster load(const std::string& what) {
  Result<Cluster> c = load_cluster(what);
  EXPECT_TRUE(c.ok()) << c.status().message();
  return c ? std::move(*c) : Cluster();
}

std::vector<std::string> nics(const Topology& t) {
  std::vector<std::string> names;
  for (Rank r = 0; r < t.ranks(); ++r)
    names.push_back(t.exit_of(r) == k_no_node ? "" : t.nodes()[t.exit_of(r)].name);
  return names;
}

std::map<uint32_t, uint32_t> sizes(const std::vector<uint32_t>& level) {
  std::map<uint32_t, uint32_t> size;
  for (uint32_t g : level) ++size[g];
  return size;
}

TEST(Machines, AllLoadAndAreComplete) {
  std::set<std::string_view> names;
  for (const RecordedMachine& r : recorded_machines()) {
    names.insert(r.name);
    const Cluster c = load(std::string(r.name));
    EXPECT_GT(c.topology.ranks(), 0u) << r.name;
    EXPECT_FALSE(title_of(r).empty()) << r.name;
    EXPECT_EQ(c.recorded, &r);
  }
  for (const char* needed :
       {"dgx1-p100", "dgx1-v100", "dgx2", "dgx-a100", "dgx-h100", "gb200-nvl72", "p40x8-roce",
        "mi300x", "cpu-2s-icelake", "cpu-2s-genoa", "vm-2cpu"})
    EXPECT_EQ(names.count(needed), 1u) << needed;
}

TEST(Machines, Dgx1IsTheHybridCubeMesh) {
  const Cluster c = load("dgx1-v100");
  ASSERT_EQ(c.topology.ranks(), 8u);
  // Six links of 25 GB/s from every GPU.
  std::map<NodeId, double> out;
  for (const Link& l : c.topology.links())
    if (l.link_class == LinkClass::nvlink) out[l.from] += l.bandwidth;
  ASSERT_EQ(out.size(), 8u);
  for (const auto& [gpu, bandwidth] : out) EXPECT_DOUBLE_EQ(bandwidth, 150e9);
  // Quads, not PCI pairs.
  const auto groups = c.topology.groups();
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_THAT(groups[0], ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
  EXPECT_THAT(nics(c.topology), ElementsAre("mlx5_0", "mlx5_0", "mlx5_1", "mlx5_1", "mlx5_2",
                                            "mlx5_2", "mlx5_3", "mlx5_3"));
}

TEST(Machines, NvSwitchMachinesAreFlatInside) {
  for (const auto& [name, ranks, width] :
       {std::tuple{"dgx2", 16u, 150e9}, {"dgx-a100", 8u, 300e9}, {"dgx-h100", 8u, 450e9}}) {
    const Cluster c = load(name);
    EXPECT_EQ(c.topology.ranks(), ranks);
    EXPECT_TRUE(c.topology.groups().empty()) << name;
    Routes routes(c.topology);
    std::vector<LinkId> way;
    for (Rank a = 0; a < ranks; ++a)
      for (Rank b = 0; b < ranks; ++b) {
        if (a == b) continue;
        ASSERT_TRUE(routes.find(a, b, &way));
        ASSERT_EQ(way.size(), 2u);
        EXPECT_DOUBLE_EQ(c.topology.links()[way[0]].bandwidth, width);
      }
  }
  // One rail each.
  for (const char* name : {"dgx-a100", "dgx-h100", "mi300x"}) {
    const std::vector<std::string> used = nics(load(name).topology);
    EXPECT_EQ(std::set<std::string>(used.begin(), used.end()).size(), 8u) << name;
  }
}

TEST(Machines, Nvl72IsOneDomainOfEighteenHosts) {
  const Cluster c = load("gb200-nvl72");
  ASSERT_EQ(c.topology.ranks(), 72u);
  std::set<NodeId> hosts;
  for (Rank r = 0; r < 72; ++r) hosts.insert(c.topology.host_of(c.topology.node_of(r)));
  EXPECT_EQ(hosts.size(), 18u);
  Routes routes(c.topology);
  std::vector<LinkId> way;
  ASSERT_TRUE(routes.find(0, 71, &way));
  ASSERT_EQ(way.size(), 2u);  // tray to tray over NVLink
  EXPECT_DOUBLE_EQ(c.topology.links()[way[0]].bandwidth, 900e9);
  EXPECT_TRUE(c.topology.groups().empty());  // trays are no nearer to themselves
}

TEST(Machines, PciServersHaveEveryLevel) {
  const Cluster c = load("p40x8-roce*4");
  ASSERT_EQ(c.topology.ranks(), 32u);
  const auto groups = c.topology.groups();
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(sizes(groups[0]).size(), 8u);
  EXPECT_EQ(sizes(groups[1]).size(), 4u);
  EXPECT_EQ(c.recorded->name, "p40x8-roce");
}

TEST(Machines, ManyHostsInReasonableTime) {
  const Cluster c = load("dgx-h100*256");
  EXPECT_EQ(c.topology.ranks(), 2048u);
  ASSERT_EQ(c.topology.groups().size(), 1u);
  // What is assumed is said once, not 256 times.
  EXPECT_LT(c.missing.size(), 5u);
}

TEST(Load, SaysWhatItCannotFind) {
  EXPECT_THAT(load_cluster("dgx-z").status().message(),
              HasSubstr("'dgx-z' is no recorded machine (cpu-2s-genoa, "));
  EXPECT_THAT(load_cluster("dgx2*0").status().message(),
              HasSubstr("cluster 'dgx2*0', column 6: expected how many of them"));
  EXPECT_THAT(load_cluster("gb200-nvl72*2").status().message(),
              HasSubstr("a machine of several hosts cannot be multiplied"));
  EXPECT_THAT(load_cluster("/nowhere/topo.xml").status().message(), HasSubstr("no file"));
  EXPECT_THAT(load_cluster("gpu:").status().message(), HasSubstr("cluster spec, column 5"));
  EXPECT_EQ(load("node:2{bw=1GB/s} gpu:4{bw=1GB/s}").topology.ranks(), 8u);
  EXPECT_THAT(parse_cluster_text("<x/>").status().message(),
              HasSubstr("expected <system> (NCCL) or <topology> (hwloc), found <x>"));
}

}  // namespace
}  // namespace tutti
