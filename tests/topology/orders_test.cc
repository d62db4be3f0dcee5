// Orders that follow the links: on all recorded machines, alone and as clusters, on specs, and on
// random graphs against an exhaustive search.
#include "topology/orders.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <random>
#include <set>

#include "topology/load.h"
#include "topology/spec.h"

namespace tutti {
namespace {

Topology load(const std::string& what) {
  Result<Cluster> c = load_cluster(what);
  EXPECT_TRUE(c.ok()) << c.status().message();
  return std::move(c->topology);
}

// All ranks once.
void expect_permutation(const std::vector<Rank>& order, uint32_t ranks, const std::string& what) {
  std::vector<Rank> sorted = order;
  std::sort(sorted.begin(), sorted.end());
  ASSERT_EQ(sorted.size(), ranks) << what;
  for (Rank r = 0; r < ranks; ++r) ASSERT_EQ(sorted[r], r) << what;
}

// Every container that holds some but not all ranks is left once. `meshed`: inside of hosts, direct
// links decide instead.
void expect_contiguous(const Topology& t, const std::vector<Rank>& ring, bool meshed,
                       const std::string& what) {
  for (NodeId n = 0; n < t.nodes().size(); ++n) {
    const bool in_host = t.host_of(n) != k_no_node && t.host_of(n) != n;
    if (meshed && in_host) continue;
    uint32_t held = 0;
    for (Rank r = 0; r < t.ranks(); ++r)
      for (NodeId up = t.node_of(r); up != k_no_node; up = t.nodes()[up].parent) held += up == n;
    if (held == 0) continue;
    EXPECT_EQ(exits(t, ring, n), held == t.ranks() ? 0u : 1u) << what << ": " << t.describe(n);
  }
}

// Links of a kind between GPUs, in units of the narrowest, each way.
std::map<std::pair<Rank, Rank>, int> direct_links(const Topology& t) {
  std::map<NodeId, Rank> rank;
  for (Rank r = 0; r < t.ranks(); ++r) rank[t.node_of(r)] = r;
  double unit = 0;
  for (const Link& l : t.links())
    if (l.link_class == LinkClass::nvlink && rank.count(l.from) && rank.count(l.to))
      unit = unit == 0 ? l.bandwidth : std::min(unit, l.bandwidth);
  std::map<std::pair<Rank, Rank>, int> links;
  for (const Link& l : t.links())
    if (l.link_class == LinkClass::nvlink && rank.count(l.from) && rank.count(l.to))
      links[{rank[l.from], rank[l.to]}] += static_cast<int>(l.bandwidth / unit + 0.5);
  return links;
}

TEST(RingOrders, AllRecordedMachinesAloneAndAsClusters) {
  for (const RecordedMachine& r : recorded_machines())
    for (const char* copies : {"", "*2", "*5"}) {
      const std::string what = std::string(r.name) + copies;
      const Result<Cluster> c = load_cluster(what);
      if (!c) continue;  // specs and racks say themselves how many there are
      const Topology& t = c->topology;
      const RingOrders o = ring_orders(t);
      ASSERT_FALSE(o.rings.empty()) << what;
      EXPECT_TRUE(o.complete) << what;
      const bool meshed = !direct_links(t).empty();
      EXPECT_EQ(o.disjoint, meshed) << what;
      for (const auto& ring : o.rings) {
        expect_permutation(ring, t.ranks(), what);
        expect_contiguous(t, ring, meshed, what);
      }
      expect_permutation(tree_order(t), t.ranks(), what);
      expect_contiguous(t, tree_order(t), false, what + " tree");
    }
}

TEST(RingOrders, NvLinkMeshesAreCoveredByRingsThatShareNoLink) {
  for (const auto& [name, count] :
       {std::pair{"dgx1-p100", 2u}, {"dgx1-v100", 3u}, {"mi300x", 3u}, {"dgx1-v100*4", 3u}}) {
    const Topology t = load(name);
    const RingOrders o = ring_orders(t);
    ASSERT_EQ(o.rings.size(), count) << name;
    std::map<std::pair<Rank, Rank>, int> left = direct_links(t);
    for (const auto& ring : o.rings)
      for (size_t i = 0; i < ring.size(); ++i) {
        const Rank a = ring[i], b = ring[(i + 1) % ring.size()];
        if (t.host_of(t.node_of(a)) != t.host_of(t.node_of(b))) continue;
        // Forwards one direction, backwards the other.
        EXPECT_GE(--left[std::make_pair(a, b)], 0) << name << ": " << a << " - " << b;
        EXPECT_GE(--left[std::make_pair(b, a)], 0) << name << ": " << b << " - " << a;
      }
    // A DGX-1 has nothing left; every GPU of the MI300X box has one link of seven.
    if (std::string(name) == "dgx1-v100" || std::string(name) == "dgx1-p100") {
      for (const auto& [ends, n] : left) EXPECT_EQ(n, 0) << name;
    }
  }
}

TEST(RingOrders, ClustersUseEveryNic) {
  const Topology t = load("dgx-h100*4");
  const RingOrders o = ring_orders(t);
  ASSERT_EQ(o.rings.size(), 8u);
  std::set<NodeId> out;
  for (const auto& ring : o.rings)
    for (size_t i = 0; i < ring.size(); ++i) {
      const Rank a = ring[i], b = ring[(i + 1) % ring.size()];
      if (t.host_of(t.node_of(a)) != t.host_of(t.node_of(b))) out.insert(t.exit_of(a));
    }
  EXPECT_EQ(out.size(), 4u * 8u);
}

// Fewer NICs than GPUs: rings enter and leave each host by NICs of their own.
TEST(RingOrders, RingsShareNoNic) {
  for (const char* spec : {"node:4{nics=2x100Gb/s} gpu:8{bw=48GB/s}",
                           "node:3{nics=4x100Gb/s} numa:2{bw=100GB/s} gpu:4{bw=48GB/s}"}) {
    const Result<Topology> t = make_cluster(spec);
    ASSERT_TRUE(t.ok()) << t.status().message();
    const RingOrders o = ring_orders(*t);
    ASSERT_EQ(o.rings.size(), spec[5] == '4' ? 2u : 4u);
    std::map<LinkId, uint32_t> crossed;
    Routes routes(*t);
    std::vector<LinkId> way;
    for (const std::vector<Rank>& ring : o.rings)
      for (size_t i = 0; i < ring.size(); ++i) {
        ASSERT_TRUE(routes.find(ring[i], ring[(i + 1) % ring.size()], &way));
        for (LinkId l : way)
          if (t->links()[l].link_class == LinkClass::nic) ++crossed[l];
      }
    for (const auto& [link, times] : crossed)
      EXPECT_EQ(times, 1u) << spec << ": " << t->describe_link(link);
    EXPECT_FALSE(crossed.empty()) << spec;
  }
}

TEST(RingOrders, RacksSocketsAndUnevenHosts) {
  for (const char* spec : {"rack:3{bw=1GB/s} node:2{bw=1GB/s} socket:2{bw=9GB/s} core:3{bw=9GB/s}",
                           "node:3{nics=2x1GB/s} gpu:[4,1,3]{bw=9GB/s}", "gpu:1{bw=1GB/s}",
                           "gpu:2{bw=1GB/s}", "a:7{bw=1GB/s}"}) {
    const Result<Topology> t = make_cluster(spec);
    ASSERT_TRUE(t.ok()) << t.status().message();
    for (const auto& ring : ring_orders(*t).rings) {
      expect_permutation(ring, t->ranks(), spec);
      expect_contiguous(*t, ring, false, spec);
    }
    expect_contiguous(*t, tree_order(*t), false, spec);
  }
}

TEST(RingOrders, PairsWithoutACycleStayNeighbours) {
  // Four GPUs on PCI, of which 0-2 and 1-3 are bridged by NVLink.
  Topology t;
  const NodeId host = t.add_node(NodeKind::host, k_no_node, "host");
  const NodeId pci = t.add_node(NodeKind::pci_switch, host, "pci");
  NodeId gpu[4];
  for (int i = 0; i < 4; ++i) {
    gpu[i] = t.add_node(NodeKind::gpu, host, "gpu" + std::to_string(i));
    t.add_rank(gpu[i]);
    t.add_cable(gpu[i], pci, LinkClass::pci, 12e9, 0);
  }
  t.add_cable(gpu[0], gpu[2], LinkClass::nvlink, 50e9, 0);
  t.add_cable(gpu[1], gpu[3], LinkClass::nvlink, 50e9, 0);
  ASSERT_TRUE(t.finish().ok());
  const RingOrders o = ring_orders(t);
  ASSERT_EQ(o.rings.size(), 1u);
  EXPECT_FALSE(o.disjoint);
  const auto& ring = o.rings[0];
  int joined = 0;
  for (size_t i = 0; i < 4; ++i) joined += (ring[i] + 2) % 4 == ring[(i + 1) % 4];
  EXPECT_EQ(joined, 2);
}

TEST(RingOrders, TwoGpusUseAllTheirLinks) {
  Topology t;
  const NodeId host = t.add_node(NodeKind::host, k_no_node, "host");
  const NodeId a = t.add_node(NodeKind::gpu, host), b = t.add_node(NodeKind::gpu, host);
  t.add_rank(a);
  t.add_rank(b);
  for (int i = 0; i < 4; ++i) t.add_cable(a, b, LinkClass::nvlink, 25e9, 0);
  ASSERT_TRUE(t.finish().ok());
  EXPECT_TRUE(ring_orders(t).disjoint);
}

// The most cycles that fit, by trying all sets of all Hamiltonian cycles.
uint32_t most_cycles(const std::vector<std::vector<uint32_t>>& capacity) {
  const auto n = static_cast<uint32_t>(capacity.size());
  std::vector<uint32_t> order(n - 1);
  for (uint32_t i = 1; i < n; ++i) order[i - 1] = i;
  std::vector<std::vector<uint32_t>> cycles;
  do {
    if (order.front() > order.back()) continue;
    cycles.push_back({0});
    cycles.back().insert(cycles.back().end(), order.begin(), order.end());
  } while (std::next_permutation(order.begin(), order.end()));
  std::function<uint32_t(size_t, std::vector<std::vector<uint32_t>>&)> best =
      [&](size_t from, std::vector<std::vector<uint32_t>>& left) -> uint32_t {
    uint32_t most = 0;
    for (size_t c = from; c < cycles.size(); ++c) {
      bool fits = true;
      for (uint32_t i = 0; i < n; ++i) fits &= left[cycles[c][i]][cycles[c][(i + 1) % n]] > 0;
      if (!fits) continue;
      auto change = [&](int by) {
        for (uint32_t i = 0; i < n; ++i) {
          const uint32_t a = cycles[c][i], b = cycles[c][(i + 1) % n];
          left[a][b] += static_cast<uint32_t>(by);
          left[b][a] += static_cast<uint32_t>(by);
        }
      };
      change(-1);
      most = std::max(most, 1 + best(c, left));
      change(1);
    }
    return most;
  };
  std::vector<std::vector<uint32_t>> left = capacity;
  return best(0, left);
}

TEST(DisjointCycles, AreAsManyAsExhaustiveSearchFinds) {
  std::mt19937 random(7);
  uint32_t found = 0;
  for (int i = 0; i < 300; ++i) {
    const uint32_t n = 3 + random() % 4;
    std::vector<std::vector<uint32_t>> capacity(n, std::vector<uint32_t>(n, 0));
    for (uint32_t a = 0; a < n; ++a)
      for (uint32_t b = 0; b < a; ++b) capacity[a][b] = capacity[b][a] = random() % 3;
    bool complete = false;
    const auto cycles = disjoint_cycles(capacity, 16, &complete);
    EXPECT_TRUE(complete);
    EXPECT_EQ(cycles.size(), most_cycles(capacity)) << "graph " << i;
    found += !cycles.empty();
    auto left = capacity;
    for (const auto& c : cycles) {
      ASSERT_EQ(std::set<uint32_t>(c.begin(), c.end()).size(), n);
      for (uint32_t v = 0; v < n; ++v) {
        const uint32_t a = c[v], b = c[(v + 1) % n];
        ASSERT_GT(left[a][b], 0u);
        --left[a][b];
        --left[b][a];
      }
    }
  }
  EXPECT_GT(found, 100u);
}

TEST(DisjointCycles, LargeGraphsEndInTime) {
  for (uint32_t n : {16u, 32u}) {
    bool complete = false;
    const auto cycles = disjoint_cycles(std::vector(n, std::vector<uint32_t>(n, 1)), 16, &complete);
    EXPECT_GE(cycles.size(), 4u) << n;  // complete graphs have (n - 1) / 2
  }
}

}  // namespace
}  // namespace tutti
