// Placement: where the ranks of a communicator are, as all of them know it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "src/cost/profile.h"
#include "src/plan/plan.h"
#include "topology/topology.h"

namespace tutti {

// Bytes per second of a host's link to the network where nothing says better: 10 Gb/s.
inline constexpr double k_network_bandwidth = 1.25e9;

struct Placement {
  uint32_t ranks = 1;
  uint32_t hosts = 1;
  bool shared = false;  // one host, and every rank reaches every other through shared windows
  // Hosts as groups, what is inside and above them where that is known; empty when flat (one rank
  // per host). A host alone is a level that joins everything.
  Hierarchy hierarchy;

  // For prices; what is empty or 0 is not known and left out.
  std::vector<uint32_t> host;       // by rank; empty: all on one
  std::vector<uint32_t> cpu_pools;  // by rank: which ranks share CPUs; empty: those of a host
  uint32_t cpus = 0;                // of the smallest pool
  bool sockets_inside = false;      // ranks of a host talk through sockets
  // How calls are bound (src/plan/layout.h).
  uint64_t slot_bytes = 256 * 1024;
  bool by_reference = false;

  double network_bandwidth =
      k_network_bandwidth;  // of a host's link to the network, bytes per second

  // Where hosts and their ranks are known in more detail than that: what messages cross.
  std::shared_ptr<const Topology> topology;
  // Orders of the ranks that follow the links, one for each rail; none where the ranks' own does.
  std::vector<std::vector<Rank>> orders;

  uint32_t host_of(Rank rank) const { return host.empty() ? 0 : host[rank]; }
  // Most ranks of a pool per CPU; 1 where each has one.
  double crowd(uint32_t profile_cpus) const;
};

// A topology for the simulator where the placement has none: ranks on their host's memory (or
// loopback), hosts on one switch. Its links are ideal but for the network's: prices come from a
// profile.
Result<Topology> to_topology(const Placement& placement);

// The kind of world that Corrections are kept by: "memory" or "sockets" inside one host, else
// "network/" and the ranks of a host.
std::string world_of(const Placement& placement);

// Placement::orders: from its topology, or from its hosts.
std::vector<std::vector<Rank>> link_orders(const Placement& placement);

}  // namespace tutti
