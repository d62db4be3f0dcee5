// Machine: the parts list of one host, as discovery and the parsers find it. A Topology is built
// from one or more of them. What a source does not say stays 0 or empty here; build_topology() puts
// an assumption in its place and says so.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "topology/topology.h"
#include "tutti/status.h"

namespace tutti {

using PartId = uint32_t;
inline constexpr PartId k_no_part = ~uint32_t{0};

struct Part {
  NodeKind kind = NodeKind::pci_switch;  // numa, cpu (a core), pci_switch, gpu or nic
  PartId parent = k_no_part;             // a part of lower number; none: the host itself
  std::string name;                      // "gpu0", "mlx5_0", "0000:07:00.0"
  double bandwidth = 0;                  // bytes/s each way to the parent; 0: not found out

  // PCI: "0000:07:00.0", and the rest as in NCCL's XML.
  std::string busid, pci_class, vendor, device, subsystem_vendor, subsystem_device;

  // numa: its number, cores as a list ("0-15,32-47") and processor model.
  // gpu: its number. cpu: the core's number. -1: not found out.
  int index = -1;
  std::string cpus, arch, cpu_vendor;
  int family = -1, model = -1;

  // gpu: compute capability (80) or AMD's architecture ("gfx90a"), NCCL's rank, GPUDirect RDMA.
  int sm = -1;
  std::string gcn;
  int rank = -1;
  int gdr = -1;  // of gpu and nic

  // nic: each way on the cable and over it, the port, and the system's name of the interface.
  double port_bandwidth = 0;  // bytes/s
  double port_latency = 0;    // seconds
  int port = -1, max_connections = -1;
  std::string guid, interface;
  bool up = true;  // a port that is down carries nothing

  bool operator==(const Part&) const = default;
};

// Links that go past PCI: NVLink, xGMI, NVLink-C2C. One way; the way back is another.
struct FastLink {
  static constexpr PartId k_switch = ~uint32_t{0} - 1;  // NVSwitch, all of them as one

  PartId from = 0, to = k_switch;
  double bandwidth = 0;  // bytes/s of all `count` together
  uint32_t count = 1;
  std::string kind;  // nvlink, xgmi or c2c

  bool operator==(const FastLink&) const = default;
};

// Two NUMA nodes or sockets whose link is known.
struct SocketLink {
  PartId from = 0, to = 0;
  double bandwidth = 0;  // bytes/s each way

  bool operator==(const SocketLink&) const = default;
};

struct Machine {
  std::string name;
  std::vector<Part> parts;
  std::vector<FastLink> links;
  std::vector<SocketLink> sockets;
  std::vector<std::string> missing;  // what was not found out, and why; one sentence each
  std::string switches;              // above it, outermost first: "core.rack3"; empty: not known
  // What is inside as a spec (spec.h) instead of parts: of this host, or of a cluster of which this
  // is one. `parts` are then a host's NICs at most.
  std::string inside;
  uint32_t copies = 1;              // so many equal hosts
  bool switch_spans_hosts = false;  // one NVSwitch fabric for all hosts (NVL72)

  PartId add(Part part) {
    parts.push_back(std::move(part));
    return static_cast<PartId>(parts.size() - 1);
  }
  PartId find_busid(std::string_view busid) const;  // k_no_part: none
  // The GPU of that normal_bus_id(), however the machine's source writes it.
  PartId find_gpu(std::string_view busid) const;
  // Whether `inside` is of several hosts.
  bool describes_cluster() const;
  uint32_t count(NodeKind kind) const;
  bool operator==(const Machine&) const = default;
};

// Whether the text names switches as Machine::switches does: one to four names of up to 64
// characters without spaces, joined by dots.
bool names_switches(std::string_view text);

// "0000:07:00.0" for "0000:07:00.0", "07:00.0" and NVML's "00000000:07:00.0", in any case; empty
// for what is no PCI bus id.
std::string normal_bus_id(std::string_view text);

// Where a rank is: a host (of the list that build_topology() gets, copies not counted) and a part
// of it, or none: somewhere on the host. With Machine::inside: the number of a leaf of the spec.
struct RankPlace {
  uint32_t host = 0;
  PartId part = k_no_part;
};

enum class Endpoints : uint8_t { automatic, gpus, cores };

struct BuildOptions {
  // What the ranks are. automatic: the GPUs where there are any, else the cores, else one for each
  // NUMA node, else one.
  Endpoints endpoints = Endpoints::automatic;
  // Or where each rank is; several may share a place.
  std::vector<RankPlace> ranks;
  // Of every NIC's cable, where a NIC says none itself.
  double network_latency = 0;
  // Without: the topology is not finished. It has groups(), but no routes, and nothing is checked.
  bool routes = true;
  // Whose prices a profile shall charge for the NICs' cables, and for those between switches.
  LinkClass port_class = LinkClass::nic, uplink_class = LinkClass::network;
};

// The machine or cluster: hosts with their sockets, PCI switches, GPUs, NVLink and NICs; the NICs'
// cables lead to the innermost of the host's switches, or to one that joins all hosts, without
// oversubscription. Assumptions are appended to *assumed (may be
// null). GPUs are grouped by containers (PCI switch, NUMA node) whose members are nearer to each
// other than to the others, which with NVLink are few or none.
// Errors: invalid_argument naming the part: parents out of order, a bandwidth that makes no sense,
// no host, more hosts or ranks than fit; and those of make_cluster() and Topology::finish().
Result<Topology> build_topology(const std::vector<Machine>& hosts, const BuildOptions& options = {},
                                std::vector<std::string>* assumed = nullptr);

// Leaves out PCI bridges that join nothing: those with one or no part below. The link of what hung
// below becomes as narrow as theirs.
void simplify(Machine* machine);

// Bytes per second each way of a PCI link: 16 GT/s and 16 lanes give 31.5e9. 0 for speeds that PCI
// does not have.
double pci_bandwidth(double gigatransfers, int lanes);
// Each way, of one link of this NVLink (compute capability) or xGMI (gfx name) generation; 0 where
// it is not known.
double nvlink_bandwidth(int sm);
double xgmi_bandwidth(std::string_view gcn);
// "0-3,8" for {0,1,2,3,8}, and back; parse_cpu_list gives false for anything else.
std::string cpu_list(const std::vector<uint32_t>& cpus);
bool parse_cpu_list(std::string_view text, std::vector<uint32_t>* cpus);

}  // namespace tutti
