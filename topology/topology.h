// Topology: what a machine or a cluster looks like, as a graph. One type, however it came about:
// discovered, parsed, synthesised from a spec (spec.h) or recorded.
//
// Nodes are places: the endpoints where ranks live, what lies between them, and what contains them.
// Every node may name a parent; parents are containment (gpu in numa in host in rack), from which
// the hierarchy of groups follows. Links are directed; a cable is two of them. Times are seconds,
// sizes bytes, rates bytes per second.
//
// Routes. Inside a host a message takes the fastest way, never through another endpoint. Between
// hosts it leaves through the exit (a NIC, or the host itself) nearest to its rank, crosses the
// switches by the fewest, and enters through the exit nearest to the receiver. Ranks that are
// equally near to several NICs are dealt to them in order: these are the rails. There is no table
// of all pairs: a route (class Routes) costs a search in two hosts and a walk along the switches.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tutti/status.h"
#include "tutti/types.h"

namespace tutti {

using NodeId = uint32_t;
using LinkId = uint32_t;
inline constexpr NodeId k_no_node = ~uint32_t{0};

enum class NodeKind : uint8_t {
  rank,        // an endpoint that is nothing in particular
  gpu,         // an endpoint
  cpu,         // an endpoint: a core, a socket
  numa,        // a NUMA node or socket that contains endpoints
  pci_switch,  // inside a host; also NVSwitch and the like
  nic,
  host,
  network_switch,
};
inline constexpr int k_node_kinds = 8;
std::string_view name(NodeKind kind);

enum class LinkClass : uint8_t { memory, nvlink, pci, interconnect, nic, network };
inline constexpr int k_link_classes = 6;
std::string_view name(LinkClass c);
// Inverse of name().
bool parse_link_class(std::string_view text, LinkClass* c);

struct TopologyNode {
  NodeKind kind = NodeKind::rank;
  NodeId parent = k_no_node;  // what contains it
  std::string name;           // may be empty: "gpu 3" is made up for messages
  // What it contains is nearer to each other than to the rest. A PCI switch under GPUs that NVLink
  // joins is a container, but no group.
  bool group = true;
};

struct Link {
  NodeId from = 0, to = 0;
  double bandwidth = 0;  // bytes per second
  double latency = 0;    // seconds for one crossing
  LinkClass link_class = LinkClass::network;
  bool outward = false;  // away from the ranks; its twin goes inward
};

class Topology {
 public:
  // Building. Indexes are checked by finish().
  NodeId add_node(NodeKind kind, NodeId parent = k_no_node, std::string name = {});
  // The node contains, but makes no level of groups().
  void set_no_group(NodeId node) { nodes_[node].group = false; }
  // Makes the node the place of the next rank (0, 1, ...); a node may hold several ranks.
  void add_rank(NodeId node);
  // Both directions of a cable, `from` being the end nearer to the ranks.
  void add_cable(NodeId from, NodeId to, LinkClass c, double bandwidth, double latency);
  LinkId add_link(const Link& link);
  // Checks everything and prepares routes; nothing may be added later. Errors: invalid_argument
  // naming the node or link: a parent or an end that does not exist, containment in a circle, a
  // bandwidth that is not positive and finite, a latency that is negative or not finite, a host
  // within a host, no ranks, two ranks without a way from one to the other.
  Status finish();

  uint32_t ranks() const { return static_cast<uint32_t>(ranks_.size()); }
  NodeId node_of(Rank rank) const { return ranks_[rank]; }
  const std::vector<TopologyNode>& nodes() const { return nodes_; }
  const std::vector<Link>& links() const { return links_; }
  // The host that contains the node. An endpoint without one is its own; other nodes have none.
  NodeId host_of(NodeId node) const { return host_[node]; }
  // "gpu 3 (host 0)": for messages.
  std::string describe(NodeId node) const;
  std::string describe_link(LinkId link) const;

  // The exit of the rank's host that the rank uses by default; k_no_node where its host has none.
  NodeId exit_of(Rank rank) const { return exit_[rank]; }

  // Which ranks are near each other, innermost level first: groups()[level][rank] is the group of
  // the rank (Hierarchy::level). Levels that join nothing or everything are left out; containers
  // with no ranks are none. Ranks that lie at different depths are grouped by the containers that
  // they have, from the outermost in.
  std::vector<std::vector<uint32_t>> groups() const;

 private:
  friend class Routes;

  Status check_nodes() const;
  Status check_links() const;
  void index_links();
  void find_hosts();
  Status find_exits();
  std::span<const LinkId> out(NodeId node) const {
    return std::span(out_).subspan(out_begin_[node], out_begin_[node + 1] - out_begin_[node]);
  }
  std::span<const LinkId> in(NodeId node) const {
    return std::span(in_).subspan(in_begin_[node], in_begin_[node + 1] - in_begin_[node]);
  }
  std::span<const NodeId> exits(NodeId host) const;

  std::vector<TopologyNode> nodes_;
  std::vector<Link> links_;
  std::vector<NodeId> ranks_;
  // Made by finish().
  std::vector<uint32_t> out_begin_, in_begin_;  // by node, into out_ and in_
  std::vector<LinkId> out_, in_;
  std::vector<NodeId> host_;
  std::vector<bool> endpoint_;
  std::vector<NodeId> exit_;                                                  // by rank
  std::vector<NodeId> exits_;                                                 // host after host
  std::vector<std::pair<NodeId, std::pair<uint32_t, uint32_t>>> exit_begin_;  // host: first, count
};

// Finds routes in a finished topology, and remembers what it learnt about the switches. Cheap to
// make; for one thread at a time.
class Routes {
 public:
  explicit Routes(const Topology& topology);

  // The ways from a rank out of its host: to each exit that it reaches, the best first. Empty where
  // the host has none.
  struct WayOut {
    NodeId exit = k_no_node;
    double seconds = 0;  // of 64 KiB to the exit, link after link, and over its fastest cable
    uint32_t links = 0;  // to the exit
  };
  std::vector<WayOut> ways_out(Rank rank);

  // The links from a to b in order, put into *links (cleared first): none where both ranks share a
  // node. False: there is no way. a and b must be below topology.ranks().
  bool find(Rank a, Rank b, std::vector<LinkId>* links);

 private:
  friend class Topology;
  struct Reached {
    double cost = 0;
    LinkId by = 0;       // the link that led here
    uint32_t stamp = 0;  // of the search
    bool settled = false;
  };

  // Cheapest ways inside the host of `from`, until `to` is reached (k_no_node: everything).
  void search(NodeId from, NodeId to);
  bool reached(NodeId node) const { return reached_[node].stamp == stamp_; }
  bool inside(NodeId from, NodeId to, std::vector<LinkId>* links);
  bool across(NodeId from, NodeId to, std::vector<LinkId>* links);
  bool by_exits(NodeId from, NodeId to, NodeId out, NodeId in, std::vector<LinkId>* links);
  const std::vector<LinkId>& table(NodeId to);

  const Topology& topology_;
  std::vector<Reached> reached_;
  uint32_t stamp_ = 0;
  std::vector<std::pair<double, NodeId>> heap_;
  std::map<NodeId, std::vector<LinkId>> tables_;  // by destination: the next link of every node
  std::vector<uint32_t> outside_;                 // by node: its index among those outside hosts
  std::vector<NodeId> outside_nodes_;
};

}  // namespace tutti
