// hwloc's XML of both versions, and mutants.
#include "topology/hwloc_xml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/topology/samples.h"

namespace tutti {
namespace {

using testing::HasSubstr;

// Two packages of one NUMA node, each with two cores of two threads; a GPU and a NIC behind a
// bridge.
constexpr const char* k_version_2 = R"(<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
  <object type="Machine" os_index="0" cpuset="0x000000ff">
    <info name="HostName" value="box"/><info name="Architecture" value="x86_64"/>
    <object type="Package" os_index="0" cpuset="0x0000000f">
      <info name="CPUVendor" value="GenuineIntel"/><info name="CPUFamilyNumber" value="6"/><info name="CPUModelNumber" value="143"/>
      <object type="NUMANode" os_index="0" cpuset="0x0000000f"><page_type size="4096" count="5"/></object>
      <object type="L3Cache" cpuset="0x0000000f">
        <object type="Core" os_index="0" cpuset="0x00000003"><object type="PU" os_index="0" cpuset="0x1"/><object type="PU" os_index="1" cpuset="0x2"/></object>
        <object type="Core" os_index="1" cpuset="0x0000000c"><object type="PU" os_index="2" cpuset="0x4"/><object type="PU" os_index="3" cpuset="0x8"/></object>
      </object>
      <object type="Bridge" bridge_type="0-1" bridge_pci="0000:[00-06]">
        <object type="Bridge" bridge_type="1-1" pci_busid="0000:00:01.0" pci_link_speed="31.507692">
          <object type="PCIDev" pci_busid="0000:01:00.0" pci_type="0302 [10de:20b0] [10de:144e] a1" pci_link_speed="31.507692"/>
          <object type="PCIDev" pci_busid="0000:02:00.0" pci_type="0207 [15b3:101b] [15b3:0006] 00" pci_link_speed="0.000000">
            <object type="OSDev" name="ib0" osdev_type="2"/><object type="OSDev" name="mlx5_0" osdev_type="3"/>
          </object>
          <object type="PCIDev" pci_busid="0000:03:00.0" pci_type="0108 [144d:a808] [144d:a801] 00" pci_link_speed="3.9"/>
          <object type="PCIDev" pci_busid="0000:04:00.0" pci_type="0300 [1a03:2000] [1a03:2000] 30" pci_link_speed="0.0"/>
        </object>
      </object>
    </object>
    <object type="Package" os_index="1" cpuset="0x000000f0">
      <object type="NUMANode" os_index="1" cpuset="0x000000f0"/>
      <object type="Core" os_index="0" cpuset="0x00000030"><object type="PU" os_index="4" cpuset="0x10"/></object>
      <object type="Core" os_index="1" cpuset="0x000000c0"><object type="PU" os_index="6" cpuset="0x40"/></object>
    </object>
  </object>
</topology>)";

// Two sockets of two NUMA nodes, which contain the cores.
constexpr const char* k_version_1 = R"(<topology>
  <object type="Machine" os_index="0" cpuset="0x000000ff">
    <object type="Socket" os_index="0" cpuset="0x0000000f">
      <object type="NUMANode" os_index="0" cpuset="0x00000003"><object type="Core" os_index="0" cpuset="0x1"><object type="PU" os_index="0" cpuset="0x1"/></object>
        <object type="Core" os_index="1" cpuset="0x2"/></object>
      <object type="NUMANode" os_index="1" cpuset="0x0000000c"><object type="Core" os_index="2" cpuset="0x4"/><object type="Core" os_index="3" cpuset="0x8"/></object>
    </object>
    <object type="Socket" os_index="1" cpuset="0x000000f0">
      <object type="NUMANode" os_index="2" cpuset="0x00000030"><object type="Core" os_index="4" cpuset="0x10"/><object type="Core" os_index="5" cpuset="0x20"/></object>
      <object type="NUMANode" os_index="3" cpuset="0x000000c0"><object type="Core" os_index="6" cpuset="0x40"/><object type="Core" os_index="7" cpuset="0x80"/></object>
    </object>
  </object>
</topology>)";

TEST(HwlocXml, Version2) {
  Result<Machine> m = parse_hwloc_xml(k_version_2);
  ASSERT_TRUE(m.ok()) << m.status().message();
  EXPECT_EQ(m->name, "box");
  EXPECT_EQ(m->count(NodeKind::numa), 2u);  // the packages are the nodes
  EXPECT_EQ(m->count(NodeKind::cpu), 4u);
  EXPECT_EQ(m->count(NodeKind::gpu), 1u);  // not the console
  EXPECT_EQ(m->count(NodeKind::nic), 1u);
  const PartId gpu = m->find_busid("0000:01:00.0"), nic = m->find_busid("0000:02:00.0");
  ASSERT_NE(gpu, k_no_part);
  ASSERT_NE(nic, k_no_part);
  EXPECT_NEAR(m->parts[gpu].bandwidth, 31.5e9, 0.1e9);
  EXPECT_EQ(m->parts[gpu].vendor, "0x10de");
  EXPECT_EQ(m->parts[nic].name, "mlx5_0");
  EXPECT_EQ(m->parts[nic].interface, "ib0");
  EXPECT_EQ(m->parts[nic].bandwidth, 0);
  EXPECT_EQ(m->parts[gpu].parent, m->parts[nic].parent);
  const Part& numa = m->parts[m->parts[m->parts[gpu].parent].parent];
  EXPECT_EQ(numa.cpus, "0-3");
  EXPECT_EQ(numa.cpu_vendor, "GenuineIntel");
  EXPECT_EQ(numa.model, 143);
  std::vector<std::string> assumed;
  const Result<Topology> t = build_topology({*m}, {Endpoints::cores, {}, 0, true}, &assumed);
  ASSERT_TRUE(t.ok()) << t.status().message();
  EXPECT_EQ(t->ranks(), 4u);
  ASSERT_EQ(t->groups().size(), 1u);
  EXPECT_THAT(t->groups()[0], testing::ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(assumed, testing::Contains(HasSubstr("mlx5_0: its speed was not found out")));
}

TEST(HwlocXml, Version1) {
  const Result<Machine> m = parse_hwloc_xml(k_version_1);
  ASSERT_TRUE(m.ok()) << m.status().message();
  EXPECT_EQ(m->count(NodeKind::cpu), 8u);
  const Result<Topology> t = build_topology({*m});
  ASSERT_TRUE(t.ok()) << t.status().message();
  const auto groups = t->groups();
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_THAT(groups[0], testing::ElementsAre(0, 0, 1, 1, 2, 2, 3, 3));
  EXPECT_THAT(groups[1], testing::ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
}

TEST(HwlocXml, ErrorsNameThePlace) {
  for (const auto& [text, message] : std::initializer_list<std::pair<const char*, const char*>>{
           {"<system/>", "line 1, column 1: expected <topology>, found <system>"},
           {"<topology version=\"7.0\"/>",
            "column 20: expected version 1 or 2 of hwloc's XML, found '7.0'"},
           {"<topology version=\"2.0\"/>", "expected an object of type Machine in it, found none"},
           {"<topology><object type='Machine'><object type='NUMANode' "
            "cpuset='zz'/></object></topology>",
            "column 66: expected a set such as \"0x0000ffff,0x00000001\" for cpuset, found 'zz'"},
           {"<topology><object type='Machine'><object type='PCIDev' pci_type='0302 [10de:1db1]' "
            "pci_link_speed='x'/></object></topology>",
            "expected GB/s from 0 to 10000 for pci_link_speed, found 'x'"}}) {
    const Result<Machine> r = parse_hwloc_xml(text);
    ASSERT_FALSE(r.ok()) << text;
    EXPECT_THAT(r.status().message(), HasSubstr(message)) << text;
  }
}

TEST(HwlocXml, MutantsNeitherCrashNorHang) {
  std::mt19937 random(5);
  uint32_t understood = 0;
  for (int i = 0; i < 3000; ++i) {
    Result<Machine> m = parse_hwloc_xml(mutant(i % 2 ? k_version_1 : k_version_2, random));
    if (!m) continue;
    simplify(&*m);
    understood += build_topology({*m}).ok();
  }
  EXPECT_GT(understood, 100u);
}

}  // namespace
}  // namespace tutti
