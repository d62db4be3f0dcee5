// Cluster specs: topologies written in one line, outermost level first.
//
//   rack:8{bw=400Gb/s,lat=3us} node:16{nics=8x100Gb/s,lat=5us} gpu:8{bw=48GB/s,lat=1us}
//
// is 8 racks on a core switch, 16 nodes in each rack, 8 GPUs in each node. The innermost level are
// the ranks. A level's attributes are those of the links of one child to its parent:
//
//   bw=RATE       of each direction: 400Gb/s (bits), 48GB/s, 10GiB/s
//   in=RATE       of the direction towards the ranks, where it differs
//   lat=TIME      of one crossing of the link (3us, 250ns; default 0). A message from a GPU to
//                 another one of its node crosses two links.
//   nics=NxRATE   instead of bw: N cards, each with a link of its own; ranks are dealt to them in
//                 order. One level at most; it is the host.
//   over=FACTOR   instead of bw: what is below has FACTOR times this bandwidth (oversubscription)
//   class=CLASS   memory nvlink pci interconnect nic network; default from the names
//
// Counts may be uneven: node:2 gpu:[8,4] is one node of 8 and one of 4 GPUs.
//
// Names are free. `node`, `host`, `server` and `machine` make a level the hosts, else `nics` does,
// else there are none, but for a single level of gpu, cpu or core, which is one host. Levels
// outside the hosts are network switches, inside: numa or socket, else switches (NVSwitch, PCI).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "topology/topology.h"

namespace tutti {

struct ClusterLevel {
  std::string name;
  std::vector<uint32_t> counts;  // children of each parent in turn; one: of all
  double bandwidth = 0;          // bytes per second; 0: from `over`
  double bandwidth_in = 0;       // 0: as bandwidth
  double latency = 0;            // seconds
  double over = 0;               // oversubscription; 0: none
  uint32_t nics = 0;             // 0: an ordinary link
  std::optional<LinkClass> link_class;

  bool operator==(const ClusterLevel&) const = default;
};

struct ClusterSpec {
  std::vector<ClusterLevel> levels;  // outermost first

  bool operator==(const ClusterSpec&) const = default;
};

// Errors: invalid_argument naming the column (from 1), what was found and what was expected.
Result<ClusterSpec> parse_cluster(std::string_view text);
// The spec as text that parses to the same.
std::string to_text(const ClusterSpec& spec);
// How many hosts and ranks it describes; 0 where counts do not fit the level above or are too many.
// Where nothing is a host, every rank is one of its own.
struct ClusterSize {
  uint32_t hosts = 0, ranks = 0;
};
ClusterSize size_of(const ClusterSpec& spec);
// Errors: invalid_argument for counts that do not fit the level above, too many ranks (1048576) ...
Result<Topology> build_cluster(const ClusterSpec& spec);
// Both.
Result<Topology> make_cluster(std::string_view text);

}  // namespace tutti
