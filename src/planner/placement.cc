#include "src/planner/placement.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "topology/orders.h"

namespace tutti {
namespace {

// Where a profile says nothing about a class of links.
constexpr double k_ideal_bandwidth = 1e12;

}  // namespace

double Placement::crowd(uint32_t profile_cpus) const {
  const uint32_t each = cpus > 0 ? cpus : profile_cpus;
  if (each == 0) return 1;
  const std::vector<uint32_t>& pool = cpu_pools.empty() ? host : cpu_pools;
  if (pool.empty()) return std::max(1.0, static_cast<double>(ranks) / each);
  std::map<uint32_t, uint32_t> members;
  uint32_t most = 0;
  for (uint32_t p : pool) most = std::max(most, ++members[p]);
  return std::max(1.0, static_cast<double>(most) / each);
}

std::string world_of(const Placement& placement) {
  if (placement.hosts > 1)
    return "network/" + std::to_string((placement.ranks + placement.hosts - 1) / placement.hosts);
  return placement.sockets_inside ? "sockets" : "memory";
}

std::vector<std::vector<Rank>> link_orders(const Placement& placement) {
  constexpr uint32_t k_most_rails = 4, k_most_ranks = 1024;
  if (placement.ranks > k_most_ranks) return {};  // planning on orders looks at every step
  std::vector<Rank> own(placement.ranks);
  std::iota(own.begin(), own.end(), Rank{0});
  std::vector<std::vector<Rank>> orders;
  if (placement.topology != nullptr) {
    orders = ring_orders(*placement.topology, k_most_rails).rings;
  } else {
    // Hosts in the order of their first ranks.
    std::vector<Rank> by_host = own;
    std::stable_sort(by_host.begin(), by_host.end(),
                     [&](Rank a, Rank b) { return placement.host_of(a) < placement.host_of(b); });
    orders.push_back(std::move(by_host));
  }
  if (orders.size() == 1 && orders[0] == own) orders.clear();
  return orders;
}

Result<Topology> to_topology(const Placement& placement) {
  Topology topology;
  const LinkClass inside = placement.sockets_inside ? LinkClass::nic : LinkClass::memory;
  const NodeId network =
      placement.hosts > 1 ? topology.add_node(NodeKind::network_switch) : k_no_node;
  std::vector<NodeId> hosts;
  for (uint32_t h = 0; h < placement.hosts; ++h) {
    hosts.push_back(topology.add_node(NodeKind::host));
    if (network != k_no_node)
      topology.add_cable(hosts[h], network, LinkClass::network, placement.network_bandwidth, 0);
  }
  for (Rank r = 0; r < placement.ranks; ++r) {
    const NodeId host = hosts[placement.host_of(r)];
    const NodeId rank = topology.add_node(NodeKind::cpu, host);
    topology.add_rank(rank);
    topology.add_cable(rank, host, inside, k_ideal_bandwidth, 0);
  }
  TUTTI_RETURN_IF_ERROR(topology.finish());
  return topology;
}

}  // namespace tutti
