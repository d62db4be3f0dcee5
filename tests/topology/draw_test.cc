// Drawings: sound XML, with every part of a machine in it.
#include "topology/draw.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "topology/load.h"
#include "topology/spec.h"
#include "topology/xml.h"

namespace tutti {
namespace {

using testing::HasSubstr;

TEST(Draw, EveryMachineWithAllItsParts) {
  for (const RecordedMachine& r : recorded_machines()) {
    const Result<Cluster> c = load_cluster(std::string(r.name));
    ASSERT_TRUE(c.ok());
    const std::string svg = to_svg(c->topology, "a <title> & \"more\"", 32);
    const Result<XmlElement> parsed = parse_xml(svg);
    ASSERT_TRUE(parsed.ok()) << r.name << ": " << parsed.status().message();
    EXPECT_EQ(parsed->name, "svg");
    for (const TopologyNode& n : c->topology.nodes()) {
      if (n.kind == NodeKind::nic || n.kind == NodeKind::gpu) {
        EXPECT_THAT(svg, HasSubstr(">" + n.name + "<")) << r.name;
      }
    }
    EXPECT_EQ(svg.find("nan"), std::string::npos) << r.name;
  }
}

TEST(Draw, LargeClustersShowTheFirstHosts) {
  const Result<Topology> t = make_cluster("rack:2{bw=9GB/s} node:50{bw=9GB/s} gpu:8{bw=9GB/s}");
  ASSERT_TRUE(t.ok());
  const std::string svg = to_svg(*t, "cluster", 3);
  EXPECT_THAT(svg, HasSubstr("and 97 more hosts"));
  EXPECT_THAT(svg, HasSubstr("node2"));
  EXPECT_EQ(svg.find("node3"), std::string::npos);
  EXPECT_LT(svg.size(), 40000u);
  EXPECT_TRUE(parse_xml(svg).ok());
}

TEST(Draw, RatesInTheUnitsOfTheirKind) {
  EXPECT_EQ(rate_text(50e9, LinkClass::nic), "400 Gb/s");
  EXPECT_EQ(rate_text(31.5e9, LinkClass::pci), "31.5 GB/s");
  EXPECT_EQ(rate_text(1e6, LinkClass::network), "8 Mb/s");
}

}  // namespace
}  // namespace tutti
