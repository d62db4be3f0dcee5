// Cluster specs: what they build, and what they say about mistakes.
#include "topology/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

namespace tutti {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char k_example[] =
    "rack:8{bw=400Gb/s,lat=3us} node:16{nics=8x100Gb/s,lat=5us} gpu:8{bw=48GB/s,lat=1us}";

struct Way {
  double latency = 0;
  double bandwidth = 1e30;
  size_t links = 0;
};
Way way(const Topology& t, Rank a, Rank b) {
  std::vector<LinkId> links;
  Routes routes(t);
  EXPECT_TRUE(routes.find(a, b, &links));
  Way w;
  w.links = links.size();
  for (LinkId i : links) {
    w.latency += t.links()[i].latency;
    w.bandwidth = std::min(w.bandwidth, t.links()[i].bandwidth);
  }
  return w;
}
Topology made(std::string_view text) {
  Result<Topology> t = make_cluster(text);
  EXPECT_TRUE(t.ok()) << text << ": " << t.status().message();
  return t.ok() ? std::move(*t) : Topology();
}

TEST(ClusterSpec, TheIssuesExample) {
  const Topology t = made(k_example);
  ASSERT_EQ(t.ranks(), 1024u);
  // GPU to GPU in a node: up and down.
  EXPECT_DOUBLE_EQ(way(t, 0, 7).latency, 2e-6);
  EXPECT_DOUBLE_EQ(way(t, 0, 7).bandwidth, 48e9);
  // In a rack: and two NICs (with their buses) to the rack's switch.
  EXPECT_DOUBLE_EQ(way(t, 0, 8).latency, 12e-6);
  EXPECT_DOUBLE_EQ(way(t, 0, 8).bandwidth, 12.5e9);
  EXPECT_EQ(way(t, 0, 8).links, 6u);
  // Between racks: and the core.
  EXPECT_DOUBLE_EQ(way(t, 0, 1023).latency, 18e-6);
  EXPECT_EQ(way(t, 0, 1023).links, 8u);
  const auto groups = t.groups();
  ASSERT_EQ(groups.size(), 2u);
  for (Rank r = 0; r < t.ranks(); ++r) {
    ASSERT_EQ(groups[0][r], r / 8);
    ASSERT_EQ(groups[1][r], r / 128);
  }
}

TEST(ClusterSpec, EveryRankHasItsRail) {
  for (const auto& [nics, gpus] : {std::pair{8u, 8u}, {4u, 8u}, {2u, 6u}, {1u, 8u}, {8u, 4u}}) {
    const Topology t = made("node:2{nics=" + std::to_string(nics) +
                            "x100Gb/s} gpu:" + std::to_string(gpus) + "{bw=48GB/s,lat=1us}");
    std::map<NodeId, uint32_t> users;
    for (Rank r = 0; r < gpus; ++r) {
      const NodeId nic = t.exit_of(r);
      ASSERT_NE(nic, k_no_node);
      EXPECT_EQ(t.nodes()[nic].name, "nic" + std::to_string(r * nics / gpus));
      ++users[nic];
    }
    EXPECT_EQ(users.size(), std::min(nics, gpus));
  }
}

TEST(ClusterSpec, UnevenGroups) {
  const Topology t = made("node:3{bw=10Gb/s} gpu:[2,3,1]{bw=10GB/s}");
  EXPECT_THAT(t.groups(), ElementsAre(ElementsAre(0, 0, 1, 1, 1, 2)));
}

TEST(ClusterSpec, Oversubscription) {
  const Topology t = made("rack:2{over=2} node:4{nics=2x100Gb/s} gpu:4{bw=48GB/s}");
  double up = 0;
  for (const Link& l : t.links())
    if (t.nodes()[l.from].name == "rack0" && l.outward) up = l.bandwidth;
  EXPECT_DOUBLE_EQ(up, 4 * 2 * 12.5e9 / 2);
}

TEST(ClusterSpec, DirectionsMayDiffer) {
  const Topology t = made("rank:2{bw=1GB/s,in=2GB/s}");
  for (const Link& l : t.links()) EXPECT_EQ(l.bandwidth, l.outward ? 1e9 : 2e9);
}

TEST(ClusterSpec, HostsAndKinds) {
  const Topology one = made("gpu:4{bw=48GB/s}");
  EXPECT_EQ(one.nodes()[0].kind, NodeKind::host);
  EXPECT_EQ(one.exit_of(0), k_no_node);
  EXPECT_EQ(one.links()[0].link_class, LinkClass::nvlink);
  const Topology star = made("rank:4{bw=48GB/s}");
  EXPECT_EQ(star.nodes()[0].kind, NodeKind::network_switch);
  EXPECT_EQ(star.links()[0].link_class, LinkClass::network);
  const Topology deep =
      made("node:2{bw=10Gb/s} socket:2{bw=20GB/s} core:4{bw=8GB/s,lat=100ns,class=memory}");
  EXPECT_EQ(deep.ranks(), 16u);
  EXPECT_EQ(deep.nodes()[deep.nodes()[deep.node_of(0)].parent].kind, NodeKind::numa);
  EXPECT_EQ(deep.groups().size(), 2u);
  const Topology bare = made("rack:2{bw=40Gb/s} rank:4{bw=10Gb/s}");
  EXPECT_EQ(bare.nodes()[bare.nodes()[bare.node_of(0)].parent].kind, NodeKind::network_switch);
}

TEST(ClusterSpec, SixteenThousandRanks) {
  const Topology t =
      made("rack:64{over=2,lat=1us} node:32{nics=8x100Gb/s,lat=2us} gpu:8{bw=200GB/s,lat=1us}");
  EXPECT_EQ(t.ranks(), 16384u);
  EXPECT_DOUBLE_EQ(way(t, 0, 16383).latency, 8e-6);
  // Flat: a route must not look at all the others.
  EXPECT_EQ(made("rank:16384{bw=1GB/s}").ranks(), 16384u);
}

TEST(ClusterSpec, TextRoundTrip) {
  for (const char* text :
       {k_example, "rank:1{bw=1B/s}", "node:2{bw=10Gb/s,in=3.5MB/s} gpu:[8,4]{bw=1.5GiB/s}",
        "pod:2{over=1.5} node:2{nics=2x1Tb/s,lat=1ps} x-y:3{bw=7kB/s,lat=3600s,class=pci}"}) {
    const Result<ClusterSpec> spec = parse_cluster(text);
    ASSERT_TRUE(spec.ok()) << spec.status().message();
    const std::string again = to_text(*spec);
    const Result<ClusterSpec> back = parse_cluster(again);
    ASSERT_TRUE(back.ok()) << again << ": " << back.status().message();
    EXPECT_EQ(*back, *spec) << again;
    EXPECT_EQ(to_text(*back), again);
  }
  EXPECT_EQ(to_text(*parse_cluster(k_example)),
            "rack:8{bw=50GB/s,lat=3us} node:16{nics=8x100Gb/s,lat=5us} gpu:8{bw=48GB/s,lat=1us}");
}

TEST(ClusterSpec, AnyNumberReadsBack) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 3000; ++i) {
    ClusterSpec spec;
    spec.levels.emplace_back();
    spec.levels[0].name = "rank";
    spec.levels[0].counts = {2};
    spec.levels[0].bandwidth = std::exp(std::uniform_real_distribution<double>(1, 34)(random));
    spec.levels[0].latency = std::exp(std::uniform_real_distribution<double>(-25, 8)(random));
    const std::string text = to_text(spec);
    const Result<ClusterSpec> back = parse_cluster(text);
    ASSERT_TRUE(back.ok()) << text << ": " << back.status().message();
    ASSERT_EQ(*back, spec) << text;
  }
}

TEST(ClusterSpec, MistakesAreNamedByPlace) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "column 1: expected a level such as gpu:8{bw=48GB/s}, found the end"},
      {"gpu", "column 4: expected ':' and a count, found the end"},
      {"gpu:", "column 5: expected a count, 1 to 1048576, found the end"},
      {"gpu:0{bw=1GB/s}", "column 5: expected a count, 1 to 1048576, found '0{bw=1GB/s}'"},
      {"gpu:-3{bw=1GB/s}", "column 5: expected a count"},
      {"gpu:99999999999{bw=1GB/s}", "column 5: expected a count"},
      {"gpu:8", "column 6: expected '{' and the links"},
      {"gpu:8{}", "column 7: expected bw, in, lat, nics, over or class, found '}'"},
      {"gpu:8{lat=1us}", "column 14: expected bw=, nics= or over= among the attributes of gpu"},
      {"gpu:8{bw=fast}", "column 10: expected a rate such as 100Gb/s or 48GB/s, found 'fast}'"},
      {"gpu:8{bw=48}", "column 12: expected a rate such as 100Gb/s or 48GB/s, found '}'"},
      {"gpu:8{bw=48GB}", "column 12: expected a rate such as"},
      {"gpu:8{bw=0GB/s}", "column 10: expected a rate of 1B/s to 1000TB/s, found '0GB/s}'"},
      {"gpu:8{bw=-1GB/s}", "column 10: expected a rate of 1B/s"},
      {"gpu:8{bw=nanGB/s}", "column 10: expected a rate"},
      {"gpu:8{bw=1e999GB/s}", "column 10: expected a rate"},
      {"gpu:8{bw=1GB/s,lat=-1us}", "column 20: expected a time of 0s to 3600s"},
      {"gpu:8{bw=1GB/s,lat=1}", "column 21: expected a time such as 5us"},
      {"gpu:8{bw=1GB/s,bw=1GB/s}", "column 16: expected each attribute once"},
      {"gpu:8{bw=1GB/s,over=2}", "column 16: expected one of bw, nics and over"},
      {"gpu:8{bw=1GB/s,color=red}", "column 16: expected bw, in, lat, nics, over or class"},
      {"gpu:8{bw=1GB/s,class=wool}", "column 22: expected memory, nvlink"},
      {"gpu:8{bw=1GB/s", "column 15: expected ',' or '}', found the end"},
      {"gpu:8{bw=1GB/s}x", "column 16: expected a space before the next level, found 'x'"},
      {"gpu:2{bw=1GB/s} gpu:2{bw=1GB/s}", "column 17: expected a name that no other level has"},
      {"node:2{nics=0x1GB/s} gpu:2{bw=1GB/s}", "column 13: expected a number of NICs, 1 to 64"},
      {"node:2{nics=2*1GB/s} gpu:2{bw=1GB/s}", "column 14: expected 'x' and the rate"},
      {"a:2{nics=1x1GB/s} b:2{nics=1x1GB/s} c:1{bw=1B/s}", "column 23: expected nics on one level"},
      {"node:2{over=0} gpu:2{bw=1GB/s}", "column 13: expected a factor of 0.001"},
      {"node:2{bw=1GB/s} gpu:[1,2{bw=1GB/s}", "column 26: expected ',' or ']'"},
      {"a:1{bw=1B/s} b:1{bw=1B/s} c:1{bw=1B/s} d:1{bw=1B/s} e:1{bw=1B/s} f:1{bw=1B/s} "
       "g:1{bw=1B/s} h:1{bw=1B/s} i:1{bw=1B/s}",
       "8 levels are the most"},
  };
  for (const auto& [text, message] : cases) {
    const Result<ClusterSpec> spec = parse_cluster(text);
    ASSERT_FALSE(spec.ok()) << text;
    EXPECT_EQ(spec.status().code(), Code::invalid_argument);
    EXPECT_THAT(spec.status().message(), HasSubstr(message)) << text;
  }
  const std::pair<const char*, const char*> unbuildable[] = {
      {"node:3{bw=1GB/s} gpu:[1,2]{bw=1GB/s}", "gpu has 2 counts for 3 parents"},
      {"node:3{bw=1GB/s} gpu:2{nics=2x1GB/s}", "nics on the innermost level, gpu"},
      {"node:3{bw=1GB/s} gpu:2{over=2}", "over on the innermost level, gpu"},
      {"node:2000{bw=1GB/s} gpu:2000{bw=1GB/s}", "more than 1048576 of gpu"},
  };
  for (const auto& [text, message] : unbuildable) {
    const Result<Topology> t = make_cluster(text);
    ASSERT_FALSE(t.ok()) << text;
    EXPECT_THAT(t.status().message(), HasSubstr(message)) << text;
  }
}

}  // namespace
}  // namespace tutti
