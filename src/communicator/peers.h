// Who the peers are: host, process, name. Exchanged once at init.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/address.h"
#include "src/planner/planner.h"
#include "tutti/config.h"
#include "tutti/status.h"

namespace tutti {

// What a rank tells the others about itself before any transport is made.
struct PeerIdentity {
  uint64_t host = 0;     // hash of boot id, network namespace and Config::host_id
  uint64_t process = 0;  // hash of host, pid and start time of the process
  uint64_t config = 0;   // hash of the settings that must agree
  uint32_t pid = 0;
  uint32_t version = 0;  // of the library
  uint64_t machine = 0;  // hash of the boot id: which ranks share CPUs
  uint32_t cpus = 0;     // of that machine, as far as this rank's control group may use them
  PackedAddress council{};  // where this rank's council is reached; nothing among threads
  std::string host_name;

  static PeerIdentity of_this_process(const Config& config);
  std::string encode() const;
  static Result<PeerIdentity> decode(const std::string& text);
};

// The part that is kept: names for messages, shared by the ranks of a host.
struct PeerTable {
  std::vector<uint32_t> pid;   // by rank
  std::vector<uint32_t> host;  // by rank: index into host_names
  std::vector<std::string> host_names;
  std::vector<uint32_t> machine;  // by rank: numbered in order of appearance
  uint32_t cpus = 0;              // the fewest of any machine

  explicit PeerTable(const std::vector<PeerIdentity>& peers = {});
  uint32_t hosts() const { return static_cast<uint32_t>(host_names.size()); }
};

// Hosts as groups of a one-level hierarchy; flat where that says nothing (one rank on each host).
Placement place(const PeerTable& peers);

}  // namespace tutti
