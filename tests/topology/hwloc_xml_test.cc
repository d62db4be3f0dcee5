// hwloc's XML of both versions, and mutants.
#include "topology/hwloc_xml.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <tuple>

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

// Three GPUs and an NVSwitch below a socket, and a matrix as hwloc 2.9 writes it.
std::string with_matrix(std::string_view matrix) {
  std::string xml =
      "<topology version=\"2.0\"><object type=\"Machine\" cpuset=\"0x3\" gp_index=\"1\">"
      "<object type=\"Package\" cpuset=\"0x3\" gp_index=\"2\">"
      "<object type=\"NUMANode\" cpuset=\"0x3\" gp_index=\"3\"/>"
      "<object type=\"Bridge\" gp_index=\"7\" bridge_type=\"0-1\">"
      "<object type=\"Bridge\" gp_index=\"12\" bridge_type=\"1-1\" pci_busid=\"0000:06:00.0\"/>"
      "<object type=\"PCIDev\" gp_index=\"11\" pci_busid=\"0000:0c:00.0\""
      " pci_type=\"0680 [10de:1af1] [10de:1212] a1\"/>";
  for (int gpu = 0; gpu < 3; ++gpu)
    xml += fmt::format(
        "<object type=\"PCIDev\" gp_index=\"{0}\" pci_busid=\"0000:0{0}:00.0\""
        " pci_type=\"0302 [10de:1db1] [10de:1212] a1\">"
        "<object type=\"OSDev\" gp_index=\"2{1}\" name=\"nvml{1}\" osdev_type=\"1\"/>"
        "<object type=\"OSDev\" gp_index=\"3{1}\" name=\"cuda{1}\" osdev_type=\"5\"/></object>",
        8 + gpu % 2 + (gpu == 2 ? -4 : 0), gpu);
  return xml + "</object></object></object>\n" + std::string(matrix) + "</topology>";
}
std::vector<std::tuple<int, int, double>> gpu_links(const Machine& m) {
  std::vector<std::tuple<int, int, double>> links;  // by the GPUs' numbers; -1: a switch, -2: a CPU
  for (const FastLink& l : m.links)
    links.emplace_back(m.parts[l.from].index,
                       l.to == FastLink::k_switch             ? -1
                       : m.parts[l.to].kind == NodeKind::numa ? -2
                                                              : m.parts[l.to].index,
                       l.bandwidth / 1e9);
  return links;
}

TEST(HwlocXml, NVLinksFromTheMatrix) {
  using Links = std::vector<std::tuple<int, int, double>>;
  const Result<Machine> direct = parse_hwloc_xml(with_matrix(
      "<distances2 type=\"NUMANode\" nbobjs=\"1\" kind=\"5\" name=\"NUMALatency\" indexing=\"os\">"
      "<indexes length=\"2\">0 </indexes><u64values length=\"3\">10 </u64values></distances2>"
      "<distances2 type=\"OSDev\" nbobjs=\"3\" kind=\"9\" name=\"NVLinkBandwidth\" "
      "indexing=\"gp\">\n"
      "    <indexes length=\"9\">20 21 22 </indexes>\n"
      "    <u64values length=\"52\">1000000 50000 25000 50000 1000000 0 25000 0 1000000 "
      "</u64values>\n  </distances2>"));
  ASSERT_TRUE(direct.ok()) << direct.status().message();
  EXPECT_EQ(gpu_links(*direct), (Links{{0, 1, 50}, {0, 2, 25}, {1, 0, 50}, {2, 0, 25}}));
  EXPECT_EQ(direct->links[0].kind, "nvlink");
  EXPECT_TRUE(direct->missing.empty());
  ASSERT_TRUE(build_topology({*direct}).ok());

  // Through a switch and to a port of the processor, in lists that are cut; with AMD's name.
  const Result<Machine> switched = parse_hwloc_xml(with_matrix(
      "<distances2hetero nbobjs=\"5\" kind=\"25\" name=\"XGMIBandwidth\">"
      "<indexes length=\"20\">OSDev:20 OSDev:21 </indexes>"
      "<indexes length=\"30\">OSDev:22 PCIDev:11 Bridge:12 </indexes>"
      "<u64values length=\"42\">1000000 0 0 150000 0 0 1000000 0 150000 0 0 0 1000000 </u64values>"
      "<u64values length=\"42\">150000 40000 150000 150000 150000 1000000 0 0 0 40000 0 1000000 "
      "</u64values></distances2hetero>"));
  ASSERT_TRUE(switched.ok()) << switched.status().message();
  EXPECT_EQ(gpu_links(*switched), (Links{{0, -1, 150}, {1, -1, 150}, {2, -1, 150}, {2, -2, 40}}));
  EXPECT_EQ(switched->links[0].kind, "xgmi");
  ASSERT_TRUE(build_topology({*switched}).ok());

  const Result<Machine> none = parse_hwloc_xml(with_matrix(""));
  ASSERT_TRUE(none.ok()) << none.status().message();
  EXPECT_THAT(none->missing, testing::Contains(HasSubstr("links between GPUs")));

  for (const auto& [lists, message] : std::initializer_list<std::pair<const char*, const char*>>{
           {"<indexes>20 21</indexes><u64values>1 2 3</u64values>",
            "line 2, column 1: expected 2 x 2 u64values of NVLinkBandwidth, found 3"},
           {"<indexes>20 21</indexes><u64values>1 2 3 4 5</u64values>", "found 5"},
           {"<indexes>20 21</indexes><u64values>1 x 3 4</u64values>",
            "expected MB/s from 0 to 1000000000 as u64values, found 'x'"},
           {"<indexes>20 21</indexes><u64values>1 -2 3 4</u64values>", "found '-2'"}}) {
    const Result<Machine> bad = parse_hwloc_xml(
        with_matrix(fmt::format("<distances2 name=\"NVLinkBandwidth\">{}</distances2>", lists)));
    ASSERT_FALSE(bad.ok()) << lists;
    EXPECT_THAT(bad.status().message(), HasSubstr(message));
  }
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
  const std::string sound[] = {
      k_version_1, k_version_2,
      with_matrix("<distances2hetero name=\"NVLinkBandwidth\"><indexes>OSDev:20 OSDev:21 PCIDev:11 "
                  "</indexes><u64values>1000000 50000 150000 50000 1000000 150000 150000 150000 "
                  "1000000 </u64values></distances2hetero>")};
  std::mt19937 random(5);
  uint32_t understood = 0;
  for (int i = 0; i < 3000; ++i) {
    Result<Machine> m = parse_hwloc_xml(mutant(sound[i % 3], random));
    if (!m) continue;
    simplify(&*m);
    understood += build_topology({*m}).ok();
  }
  EXPECT_GT(understood, 100u);
}

}  // namespace
}  // namespace tutti
