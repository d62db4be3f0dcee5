// Who the peers are: host, process, name. Exchanged once at init.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/address.h"
#include "src/planner/planner.h"
#include "topology/machine.h"
#include "tutti/config.h"
#include "tutti/status.h"

namespace tutti {

inline constexpr uint32_t k_most_host_interfaces = 64;

// What a rank tells the others about itself before any transport is made.
struct PeerIdentity {
  uint64_t host = 0;     // hash of boot id, network namespace and Config::host_id
  uint64_t process = 0;  // hash of host, pid and start time of the process
  uint64_t config = 0;   // hash of the settings that must agree
  uint32_t pid = 0;
  uint32_t version = 0;     // of the library
  uint64_t machine = 0;     // hash of the boot id: which ranks share CPUs
  uint32_t cpus = 0;        // of that machine, as far as this rank's control group may use them
  uint32_t interfaces = 1;  // of the host that its ranks' tcp may use side by side
  PartId leaf = k_no_part;  // where a topology spec has the rank, if its number does not say
  PackedAddress council{};  // where this rank's council is reached; nothing among threads
  std::string host_name;
  std::string allowed;  // CPUs that the rank may run on, "0-3,8"; empty where that is not known
  std::string gpu;      // normal_bus_id() of the GPU that it works on; empty: none that is known

  static PeerIdentity of_this_process(const Config& config);
  std::string encode() const;
  static Result<PeerIdentity> decode(const std::string& text);
};

// The part that is kept: names for messages, and where every rank is.
struct PeerTable {
  std::vector<uint32_t> pid;   // by rank
  std::vector<uint32_t> host;  // by rank: index into host_names
  std::vector<std::string> host_names;
  std::vector<uint32_t> machine;  // by rank: numbered in order of appearance
  uint32_t cpus = 0;              // the fewest of any machine

  // CPUs that ranks may run on: cpu_lists[cpu_list[rank]].
  std::vector<std::string> cpu_lists;
  std::vector<uint32_t> cpu_list;
  std::vector<std::string> gpu;      // by rank: as PeerIdentity::gpu
  std::vector<PartId> leaf;          // by rank: as PeerIdentity::leaf
  std::vector<uint32_t> members;     // by host: its ranks
  std::vector<uint32_t> interfaces;  // by host: the fewest that one of its ranks may use
  // What the hosts look like, once add_views() has been called: views[view[host]] is a host's,
  // part[rank] where on it the rank is: its GPU, else what it is bound to (k_no_part: it may run
  // anywhere); where the host's inside is a spec, the number of a leaf.
  std::vector<Machine> views;  // those that differ
  std::vector<uint32_t> view;
  std::vector<PartId> part;

  explicit PeerTable(const std::vector<PeerIdentity>& peers = {});
  uint32_t hosts() const { return static_cast<uint32_t>(host_names.size()); }
  // The lowest rank of each host.
  std::vector<Rank> first_ranks() const;
  // How many interfaces each rank's tcp uses at once on that host: what its ranks have to spare.
  uint32_t interfaces_each(uint32_t host) const;
  // One for each host. Finds the GPU of each rank, or the NUMA node or socket that holds all its
  // CPUs. Errors: invalid_usage: ranks that do not fit a spec, naming both counts; hosts of which
  // one has a spec of several hosts and another does not have the same.
  Status add_views(const std::vector<Machine>& of_hosts);
  // Whether the rank works on a GPU that its host's view does not know.
  bool gpu_is_unknown(Rank rank) const;
  // The view that describes all hosts with a spec; null: each host has its own.
  const Machine* cluster() const;
  // "rank 3 (host b, pid 4711)"
  std::string describe(Rank rank) const;
  // Whether some rank is on a GPU, socket or NUMA node; whether hosts have switches above them.
  bool ranks_in_parts() const;
  bool hosts_in_groups() const;
  // Whether some host has several NICs.
  bool rails() const;
  // Hosts, sockets, NUMA nodes, GPUs and NICs with the ranks where they are, and the switches
  // between hosts. The NIC that a rank should use is Topology::exit_of(); one whose tcp uses
  // several has one of their sum. Built anew at each call, in time that grows with the ranks: ask
  // once. Errors: those of build_topology().
  Result<Topology> topology() const;

 private:
  Status check_specs() const;
};

// The hierarchy: hosts as groups (flat with one rank on each host); inside of them sockets, NUMA
// nodes and what else makes ranks neighbours, where ranks are on GPUs or bound to CPUs; above them
// switches, where hosts know theirs. What a spec describes has the spec's levels.
Placement place(const PeerTable& peers);
// Adds what prices and orders need beyond hosts: the topology, where it says more than which ranks
// share a host, and the orders of ranks along the links. Errors: those of topology().
Status follow_links(const PeerTable& peers, Placement* placement);

}  // namespace tutti
