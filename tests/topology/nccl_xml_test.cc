// NCCL's XML: figures, links, errors by place, round trips, and mutants of a sound file.
#include "topology/nccl_xml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/topology/samples.h"
#include "topology/load.h"

namespace tutti {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Machine sample() {
  const Result<std::vector<Machine>> hosts = parse_nccl_xml(k_nccl_sample);
  EXPECT_TRUE(hosts.ok()) << hosts.status().message();
  return hosts ? hosts->at(0) : Machine();
}

const Part& part(const Machine& m, std::string_view name) {
  for (const Part& p : m.parts)
    if (p.name == name) return p;
  ADD_FAILURE() << "no part " << name;
  return m.parts[0];
}

TEST(NcclXml, ReadsPartsAndFigures) {
  const Machine m = sample();
  EXPECT_EQ(m.count(NodeKind::numa), 2u);
  EXPECT_EQ(m.count(NodeKind::gpu), 3u);
  EXPECT_EQ(m.count(NodeKind::nic), 3u);
  EXPECT_EQ(part(m, "numa0").cpus, "0-15,32-47");
  EXPECT_EQ(part(m, "numa1").cpus, "16-31,48-63");
  EXPECT_EQ(part(m, "gpu0").busid, "0000:0a:00.0");
  EXPECT_NEAR(part(m, "gpu0").bandwidth, 15.75e9, 0.01e9);
  EXPECT_EQ(part(m, "gpu2").bandwidth, 0);  // not said
  EXPECT_EQ(part(m, "gpu0").sm, 70);
  EXPECT_DOUBLE_EQ(part(m, "mlx5_0").port_bandwidth, 12.5e9);
  EXPECT_DOUBLE_EQ(part(m, "mlx5_0").port_latency, 1.5e-6);
  EXPECT_DOUBLE_EQ(part(m, "eth0").port_bandwidth, 1.25e9);
  EXPECT_EQ(m.parts[part(m, "mlx5_0").parent].busid, "0000:05:00.0");  // the card
  ASSERT_EQ(m.links.size(), 2u);
  EXPECT_DOUBLE_EQ(m.links[0].bandwidth, 50e9);
  EXPECT_THAT(m.missing, ElementsAre(HasSubstr("gpu0: an nvlink leads to 0000:99:00.0")));
}

TEST(NcclXml, RanksAreThoseOfTheFile) {
  std::vector<std::string> assumed;
  const Result<Topology> t = build_topology({sample()}, {}, &assumed);
  ASSERT_TRUE(t.ok()) << t.status().message();
  ASSERT_EQ(t->ranks(), 3u);
  EXPECT_EQ(t->nodes()[t->node_of(0)].name, "gpu1");
  EXPECT_EQ(t->nodes()[t->node_of(1)].name, "gpu0");
  EXPECT_THAT(assumed,
              testing::Contains(HasSubstr("gpu2: the bandwidth of its link was not found out; "
                                          "15.75 GB/s assumed")));
  EXPECT_THAT(assumed, testing::Contains(HasSubstr("the links between its 2 NUMA nodes")));
  // Over NVLink, not PCI; gpu2 over both sockets.
  Routes routes(*t);
  std::vector<LinkId> way;
  ASSERT_TRUE(routes.find(0, 1, &way));
  ASSERT_EQ(way.size(), 1u);
  EXPECT_EQ(t->links()[way[0]].link_class, LinkClass::nvlink);
  ASSERT_TRUE(routes.find(0, 2, &way));
  EXPECT_EQ(way.size(), 4u);
  // The fast cards of the other socket are nearer, in time, than 10 Gb/s beside the GPU.
  EXPECT_EQ(t->nodes()[t->exit_of(2)].name, "mlx5_1");
  EXPECT_EQ(t->nodes()[t->exit_of(0)].name, "mlx5_1");  // mlx5_0 says 1.5 us
}

TEST(NcclXml, WritesWhatItReadsBack) {
  for (const RecordedMachine& r : recorded_machines()) {
    if (!r.text.starts_with("<")) continue;
    const Result<std::vector<Machine>> once = parse_machines(r.text);
    ASSERT_TRUE(once.ok()) << r.name << ": " << once.status().message();
    if (once->at(0).count(NodeKind::gpu) == 0) continue;  // cores are not in NCCL's XML
    const std::string text = to_nccl_xml(*once);
    const Result<std::vector<Machine>> again = parse_nccl_xml(text);
    ASSERT_TRUE(again.ok()) << r.name << ": " << again.status().message() << "\n" << text;
    EXPECT_TRUE(*again == *once) << r.name << "\n" << text;
    EXPECT_EQ(to_nccl_xml(*again), text);
  }
  Machine m = sample();
  const Result<std::vector<Machine>> again = parse_nccl_xml(to_nccl_xml({m}));
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(again->at(0).parts, m.parts);
  EXPECT_EQ(again->at(0).links, m.links);
}

TEST(NcclXml, SeveralHostsByTheirHash) {
  const Result<std::vector<Machine>> hosts = parse_nccl_xml(R"(<system version="1">
    <cpu host_hash="0x1" numaid="0"><pci busid="0:1" class="0x030200"><gpu dev="0" sm="90" rank="0"/></pci>
      <nic><net name="a" speed="400000"/></nic></cpu>
    <cpu host_hash="0x2" numaid="0"><pci busid="0:1" class="0x030200"><gpu dev="0" sm="90" rank="1"/></pci>
      <nic><net name="b" speed="400000"/></nic></cpu></system>)");
  ASSERT_TRUE(hosts.ok()) << hosts.status().message();
  ASSERT_EQ(hosts->size(), 2u);
  const Result<Topology> t = build_topology(*hosts);
  ASSERT_TRUE(t.ok()) << t.status().message();
  EXPECT_EQ(t->ranks(), 2u);
  EXPECT_NE(t->host_of(t->node_of(0)), t->host_of(t->node_of(1)));
}

// Each host with what is its own, also the links between its processors.
TEST(NcclXml, SeveralHostsKeepTheirNamesAndSwitches) {
  Machine a = sample(), b = sample();
  a.name = "left";
  a.switches = "core.rack0";
  b.name = "right";
  b.switches = "core.rack1";
  b.copies = 3;
  a.sockets = {{0, 5, 20e9}};
  while (a.parts[a.sockets[0].to].kind != NodeKind::numa) ++a.sockets[0].to;
  const std::string text = to_nccl_xml({a, b});
  const Result<std::vector<Machine>> again = parse_nccl_xml(text);
  ASSERT_TRUE(again.ok()) << again.status().message() << "\n" << text;
  ASSERT_EQ(again->size(), 2u);
  for (const auto& [before, after] : {std::pair(a, again->at(0)), std::pair(b, again->at(1))}) {
    EXPECT_EQ(after.name, before.name);
    EXPECT_EQ(after.switches, before.switches);
    EXPECT_EQ(after.copies, before.copies);
    EXPECT_EQ(after.sockets, before.sockets);
    EXPECT_EQ(after.parts, before.parts);
  }
  EXPECT_EQ(to_nccl_xml(*again), text);
  // What <system> says is said of all.
  const Result<std::vector<Machine>> both = parse_nccl_xml(
      "<system version='1' tutti_switches='core' tutti_name='all'><cpu host_hash='0x1' "
      "numaid='0'/><cpu host_hash='0x2' numaid='0' tutti_switches='edge'/></system>");
  ASSERT_TRUE(both.ok()) << both.status().message();
  EXPECT_EQ(both->at(0).switches, "core");
  EXPECT_EQ(both->at(1).switches, "edge");
  EXPECT_EQ(both->at(1).name, "all");
}

TEST(NcclXml, OtherLinks) {
  const Result<std::vector<Machine>> hosts =
      parse_nccl_xml(R"(<system version="1"><cpu numaid="0x0" arch="arm64">
    <pci busid="0:1" class="0x030200"><gpu dev="0" sm="103"><nvlink target="f" count="10" tclass="0x068000"/>
      <nvlink target="g" count="8" tclass="0x068000"/><c2c bw="44712" count="5"/></gpu></pci>
    <pci busid="0:2" class="0x120000"><gpu dev="1" sm="94" gcn="gfx942"><xgmi target="0:3" count="1" tclass="0x120000"/></gpu></pci>
    <pci busid="0:3" class="0x120000"><gpu dev="2" sm="94" gcn="gfx942"/></pci></cpu></system>)");
  ASSERT_TRUE(hosts.ok()) << hosts.status().message();
  const Machine& m = hosts->at(0);
  ASSERT_EQ(m.links.size(), 4u);
  EXPECT_EQ(m.links[0].to, FastLink::k_switch);
  EXPECT_DOUBLE_EQ(m.links[0].bandwidth + m.links[1].bandwidth, 900e9);
  EXPECT_EQ(m.parts[m.links[2].to].kind, NodeKind::numa);
  EXPECT_DOUBLE_EQ(m.links[2].bandwidth, 5 * 44712e6);
  EXPECT_DOUBLE_EQ(m.links[3].bandwidth, 64e9);
  EXPECT_TRUE(build_topology(*hosts).ok()) << build_topology(*hosts).status().message();
}

struct Bad {
  const char* text;
  const char* message;
};

TEST(NcclXml, ErrorsNameThePlace) {
  for (const Bad& bad : std::initializer_list<Bad>{
           {"<graphs version='1'/>", "line 1, column 1: expected <system>, found <graphs>"},
           {"<system><cpu numaid='0'/></system>",
            "line 1, column 1: expected attribute version of <system>, found none"},
           {"<system version='3'/>", "column 18: expected a whole number from 1 to 2 for version"},
           {"<system version='1'/>", "expected a <cpu> in <system>, found none"},
           {"<system version='1'>\n<cpu numaid='x'/></system>",
            "line 2, column 14: expected a whole number from -1 to 65535 for numaid, found 'x'"},
           {"<system version='1'><cpu/></system>", "expected attribute numaid of <cpu>"},
           {"<system version='1'><cpu numaid='0' tutti_switches='a b'/></system>",
            "expected up to four names of switches joined by dots"},
           {"<system version='1'><cpu numaid='0'/><link host_hash='7' from='0' to='1' "
            "speed='1'/></system>",
            "expected the host_hash of a <cpu>"},
           {"<system version='1'><cpu numaid='0'><pci class='0x030200'/></cpu></system>",
            "expected attribute busid of <pci>, found none"},
           {"<system version='1'><cpu numaid='0'><pci busid='a' link_speed='fast' "
            "link_width='16'/></cpu></system>",
            "expected a PCI speed such as \"16.0 GT/s PCIe\" for link_speed, found 'fast'"},
           {"<system version='1'><cpu numaid='0'><pci busid='a' link_speed='8 GB/s' "
            "link_width='16'/></cpu></system>",
            "expected a PCI speed"},
           {"<system version='1'><cpu numaid='0'><nic><net name='a' "
            "speed='-5'/></nic></cpu></system>",
            "expected a number from -1 to 1e+09 for speed, found '-5'"},
           {"<system version='1'><cpu numaid='0'><nic><net name='a' "
            "speed='1e300'/></nic></cpu></system>",
            "for speed, found '1e300'"},
           {"<system version='1'><cpu numaid='0'><nic><net name='a' "
            "speed='nan'/></nic></cpu></system>",
            "for speed, found 'nan'"},
           {"<system version='1'><cpu numaid='0' affinity='xyz'/></system>",
            "expected a mask such as \"0000ffff,0000ffff\" for affinity, found 'xyz'"},
           {"<system version='1'><cpu numaid='0'/><cpu numaid='0'/></system>",
            "expected each numaid of a host once, found a second 0"},
           {"<system version='1'><cpu numaid='0'><pci busid='a' class='0x03'/><pci busid='A' "
            "class='0x03'/></cpu></system>",
            "expected each busid of a host once, found a second a"},
           {"<system version='1'><cpu numaid='0'><pci busid='a'><gpu dev='0' sm='70'><nvlink "
            "target='a' count='0'/></gpu></pci></cpu></system>",
            "expected a whole number from 1 to 1024 for count, found '0'"},
           {"<system version='1'><cpu numaid='0'><pci busid='a'><gpu dev='0' sm='70'><nvlink "
            "target='a' count='1'/></gpu></pci></cpu></system>",
            "expected another GPU than itself as target"},
           {"<system version='1'><cpu numaid='0'/><link from='0' to='1' speed='5'/></system>",
            "expected a link between two numaids of the host, found 0 and 1"},
           {"<system version='1'><cpu numaid='0'/><cpu numaid='1'/><link from='0' to='1' "
            "speed='0'/></system>",
            "expected a number from 1 to 1e+09 for speed, found '0'"},
           {"<system version='1'><cpu numaid='0'/><cpu numaid='1'/><link from='0' to='1' "
            "speed='-3'/></system>",
            "expected a number from 1 to 1e+09 for speed, found '-3'"},
           {"<system version='1'><cpu numaid='0'><pci busid='a'><gpu dev='0' sm='70'><nvlink "
            "target='b' count='1' tclass='0x068000' speed='-1'/></gpu></pci></cpu></system>",
            "expected a number from 0 to 1e+09 for speed, found '-1'"},
           {"<system version='1' tutti_inside='gpu:8{bw=-1GB/s}'><cpu numaid='0'/></system>",
            "column 35: expected a spec (cluster spec, column 10: expected a rate"}}) {
    const Result<std::vector<Machine>> r = parse_nccl_xml(bad.text);
    ASSERT_FALSE(r.ok()) << bad.text;
    EXPECT_EQ(r.status().code(), Code::invalid_argument);
    EXPECT_THAT(r.status().message(), HasSubstr(bad.message)) << bad.text;
  }
}

// Every change of the text is either understood or refused with a place; what is understood can be
// built or is refused by name.
TEST(NcclXml, MutantsNeitherCrashNorHang) {
  std::mt19937 random(4);
  uint32_t refused = 0, built = 0;
  for (int i = 0; i < 4000; ++i) {
    const Result<std::vector<Machine>> hosts = parse_nccl_xml(mutant(k_nccl_sample, random));
    if (!hosts) {
      EXPECT_THAT(hosts.status().message(), HasSubstr("line "));
      ++refused;
      continue;
    }
    const Result<Topology> t = build_topology(*hosts);
    built += t.ok();
    EXPECT_TRUE(t.ok() || !t.status().message().empty());
  }
  EXPECT_GT(refused, 1000u);
  EXPECT_GT(built, 100u);
}

}  // namespace
}  // namespace tutti
