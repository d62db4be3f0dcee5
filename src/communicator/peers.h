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

// What a rank tells the others about itself before any transport is made.
struct PeerIdentity {
  uint64_t host = 0;     // hash of boot id, network namespace and Config::host_id
  uint64_t process = 0;  // hash of host, pid and start time of the process
  uint64_t config = 0;   // hash of the settings that must agree
  uint32_t pid = 0;
  uint32_t version = 0;     // of the library
  uint64_t machine = 0;     // hash of the boot id: which ranks share CPUs
  uint32_t cpus = 0;        // of that machine, as far as this rank's control group may use them
  PackedAddress council{};  // where this rank's council is reached; nothing among threads
  std::string host_name;
  std::string allowed;  // CPUs that the rank may run on, "0-3,8"; empty where that is not known

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
  // What the hosts look like, once add_views() has been called: views[view[host]] is a host's,
  // part[rank] where on it the rank is bound (k_no_part: it may run anywhere).
  std::vector<Machine> views;  // those that differ
  std::vector<uint32_t> view;
  std::vector<PartId> part;

  explicit PeerTable(const std::vector<PeerIdentity>& peers = {});
  uint32_t hosts() const { return static_cast<uint32_t>(host_names.size()); }
  // The lowest rank of each host.
  std::vector<Rank> first_ranks() const;
  // One for each host. Finds the NUMA node or socket that holds all CPUs of a rank.
  void add_views(const std::vector<Machine>& of_hosts);
  // Whether some rank is bound to a socket or NUMA node; whether hosts have switches above them.
  bool ranks_in_parts() const;
  bool hosts_in_groups() const;
  // Whether some host has several NICs.
  bool rails() const;
  // Hosts, sockets, NUMA nodes and NICs with the ranks where they are, and the switches between
  // hosts. The NIC that a rank should use is Topology::exit_of(). Built anew at each call, in time
  // that grows with the ranks: ask once. Errors: those of build_topology().
  Result<Topology> topology() const;
};

// The hierarchy: hosts as groups (flat with one rank on each host); inside of them sockets and NUMA
// nodes, where ranks are bound to them; above them switches, where hosts know theirs.
Placement place(const PeerTable& peers);
// Adds what prices and orders need beyond hosts: the topology, where it says more than which ranks
// share a host, and the orders of ranks along the links. Errors: those of topology().
Status follow_links(const PeerTable& peers, Placement* placement);

}  // namespace tutti
