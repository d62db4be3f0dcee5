// Placement: where the ranks of a communicator are, as all of them know it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/cost/profile.h"
#include "src/plan/plan.h"
#include "topology/topology.h"

namespace tutti {

struct Placement {
  uint32_t ranks = 1;
  uint32_t hosts = 1;
  bool shared = false;  // one host, and every rank reaches every other through shared windows
  Hierarchy hierarchy;  // hosts as groups; empty when flat (one rank per host, or one host)

  // For prices; what is empty or 0 is not known and left out.
  std::vector<uint32_t> host;       // by rank; empty: all on one
  std::vector<uint32_t> cpu_pools;  // by rank: which ranks share CPUs; empty: those of a host
  uint32_t cpus = 0;                // of the smallest pool
  bool sockets_inside = false;      // ranks of a host talk through sockets
  // How calls are bound (src/plan/layout.h).
  uint64_t slot_bytes = 256 * 1024;
  bool by_reference = false;

  uint32_t host_of(Rank rank) const { return host.empty() ? 0 : host[rank]; }
  // Most ranks of a pool per CPU; 1 where each has one.
  double crowd(uint32_t profile_cpus) const;
};

// The placement as a topology for the simulator: ranks on their host's memory (or loopback), hosts
// on one switch. Its links are ideal: prices come from a profile.
Result<Topology> to_topology(const Placement& placement);

}  // namespace tutti
