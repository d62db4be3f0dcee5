// Orders of ranks that follow the links, for rings and trees.
//
// A ring visits every container (switch, socket, host, rack ...) in one piece, so that it leaves
// each one once and enters it once. Where direct links join the GPUs of a host (NVLink or xGMI
// without a switch), its GPUs are visited along Hamiltonian cycles of that mesh, and several rings
// take cycles that share no link: as many as there are, found by search.
//
//   DGX-1 V100: three rings      0 3 2 1 5 6 7 4     (each cable with as many as it has links)
//
// Ranks that share a GPU follow one another.
//
// Where nothing tells GPUs apart (NVSwitch, PCI), there is one ring inside a host, and between
// hosts one for each NIC, each entering the hosts at another GPU.
#pragma once

#include <cstdint>
#include <vector>

#include "topology/topology.h"

namespace tutti {

struct RingOrders {
  // Each is all ranks once; the last is followed by the first. With more than two ranks on direct
  // links, a ring may also run backwards: it uses the other direction of the same cables.
  std::vector<std::vector<Rank>> rings;
  bool disjoint = false;  // they follow direct links, and no link is used by two of them
  bool complete = true;   // the search for more was not cut short
};

// At most `most` rings, at least one. Deterministic. The topology must be finished.
RingOrders ring_orders(const Topology& topology, uint32_t most = 16);

// All ranks once, containers in one piece, and in each host first the rank with the shortest way to
// its NIC: who leads its host in hierarchical trees.
std::vector<Rank> tree_order(const Topology& topology);

// How often the ring goes from the inside of the container to its outside: 1 but for the container
// of all ranks.
uint32_t exits(const Topology& topology, const std::vector<Rank>& ring, NodeId container);

// Edge-disjoint Hamiltonian cycles of a multigraph: capacity[a][b] edges between a and b,
// symmetric. A cycle begins with vertex 0. At least three vertices. *complete is false when the
// search gave up before it had shown that there are not more.
std::vector<std::vector<uint32_t>> disjoint_cycles(
    const std::vector<std::vector<uint32_t>>& capacity, uint32_t most, bool* complete);

}  // namespace tutti
