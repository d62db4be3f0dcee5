// From parts lists to the graph, and the figures that a parts list leaves to the standards.
#include "topology/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "topology/spec.h"

namespace tutti {
namespace {

constexpr uint32_t k_max_hosts = 1u << 17;
constexpr uint32_t k_max_ranks = 1u << 20;
constexpr size_t k_max_grouped_gpus = 64;  // beyond, containers are groups whatever the links say

constexpr double k_assumed_pci = 16 * 8e9 * 128 / 130 / 8;  // generation 3, 16 lanes: as NCCL does
constexpr double k_assumed_network = 10e9 / 8;              // as NCCL does
constexpr double k_assumed_memory = 10e9;                   // one core's copy
constexpr double k_assumed_nvlink = 25e9;

Status invalid(std::string message) { return {Code::invalid_argument, std::move(message)}; }

// What NCCL takes for the link between two processors of a kind (its LOC_BW constants).
double socket_bandwidth(const Part& cpu) {
  if (cpu.arch == "arm64") return 6e9;
  if (cpu.arch == "ppc64") return 32e9;
  if (cpu.cpu_vendor == "AuthenticAMD") return 16e9;
  if (cpu.cpu_vendor == "GenuineIntel" && cpu.family == 6) {
    if (cpu.model >= 0xad) return 40e9;
    if (cpu.model == 0xcf || cpu.model == 0x8f) return 22e9;
    if (cpu.model >= 0x55) return 10e9;
    return 6e9;
  }
  return 10e9;
}

std::string label(const Part& p, PartId id) {
  if (!p.name.empty()) return p.name;
  return p.index >= 0 ? fmt::format("{}{}", name(p.kind), p.index)
                      : fmt::format("{} #{}", name(p.kind), id);
}

// Which containers of a host are groups: those whose ranks are nearer to each other than to the
// other ranks of the next container out that is one.
class Grouping {
 public:
  // `t` is finished and holds one host.
  explicit Grouping(const Topology& t) : t_(t), ranks_(t.ranks()), cost_(size_t{ranks_} * ranks_) {
    Routes routes(t);
    std::vector<LinkId> way;
    for (Rank a = 0; a < ranks_; ++a)
      for (Rank b = 0; b < ranks_; ++b) {
        if (a == b || !routes.find(a, b, &way)) continue;
        double narrowest = 1e15;
        for (LinkId l : way) narrowest = std::min(narrowest, t.links()[l].bandwidth);
        // Width first; among equal widths, the number of links.
        cost_[size_t{a} * ranks_ + b] =
            1e12 / narrowest * (1 + 1e-3 * static_cast<double>(way.size()));
      }
  }

  std::set<NodeId> groups() const {
    std::set<NodeId> result;
    std::vector<Rank> all(ranks_);
    std::iota(all.begin(), all.end(), Rank{0});
    descend(all, k_no_node, &result);
    return result;
  }

 private:
  // Splits `members`, the ranks of the group `outer`, by the containers below it: from the outside
  // in, by the first level that means something.
  void descend(const std::vector<Rank>& members, NodeId outer, std::set<NodeId>* result) const {
    for (size_t depth = 0; depth < k_max_depth; ++depth) {
      std::map<NodeId, std::vector<Rank>> parts;
      for (Rank r : members)
        if (const NodeId c = container(r, outer, depth); c != k_no_node) parts[c].push_back(r);
      if (parts.empty()) return;
      bool nearer = parts.size() > 1 && parts.size() < members.size();
      for (const auto& [c, inside] : parts) nearer = nearer && inside_is_nearer(inside, members);
      if (!nearer) continue;
      for (const auto& [c, inside] : parts) {
        result->insert(c);
        descend(inside, c, result);
      }
      return;
    }
  }

  // The container of the rank so many steps inwards from `outer`.
  NodeId container(Rank r, NodeId outer, size_t depth) const {
    std::vector<NodeId> chain;
    for (NodeId n = t_.nodes()[t_.node_of(r)].parent;
         n != k_no_node && n != outer && t_.nodes()[n].kind != NodeKind::host;
         n = t_.nodes()[n].parent)
      chain.push_back(n);
    return depth < chain.size() ? chain[chain.size() - 1 - depth] : k_no_node;
  }

  bool inside_is_nearer(const std::vector<Rank>& inside, const std::vector<Rank>& members) const {
    double in = 0, out = 0;
    size_t in_count = 0, out_count = 0;
    for (Rank a : inside)
      for (Rank b : members) {
        if (a == b) continue;
        const bool both = std::find(inside.begin(), inside.end(), b) != inside.end();
        (both ? in : out) += cost_[size_t{a} * ranks_ + b];
        ++(both ? in_count : out_count);
      }
    if (in_count == 0 || out_count == 0) return true;
    return in / static_cast<double>(in_count) < 0.9999 * out / static_cast<double>(out_count);
  }

  static constexpr size_t k_max_depth = 8;
  const Topology& t_;
  uint32_t ranks_;
  std::vector<double> cost_;
};

// Builds one host after the other into the same graph.
class Builder {
 public:
  Builder(const BuildOptions& options, std::vector<std::string>* assumed)
      : options_(options), assumed_(assumed) {}

  Status build(const std::vector<Machine>& hosts) {
    uint64_t count = 0;
    for (const Machine& m : hosts) {
      TUTTI_RETURN_IF_ERROR(check(m));
      count += m.copies;
    }
    if (count == 0) return invalid("machine: no host");
    if (count > k_max_hosts) return invalid(fmt::format("machine: {} hosts", count));
    bool network = false;
    for (const Machine& m : hosts) {
      network |= !m.switches.empty();
      for (const Part& p : m.parts) network |= p.kind == NodeKind::nic && p.up;
    }
    if ((network || count > 1) && !grouping_)
      network_ = topology.add_node(NodeKind::network_switch, k_no_node, "network");
    endpoints_ = choose(hosts);
    for (const RankPlace& place : options_.ranks)
      if (place.host < hosts.size() && place.part < hosts[place.host].parts.size() &&
          hosts[place.host].parts[place.part].kind == NodeKind::gpu)
        gpu_hosts_.insert(place.host);
    for (const Machine& m : hosts)
      for (uint32_t copy = 0; copy < m.copies; ++copy) TUTTI_RETURN_IF_ERROR(host(m));
    cable_switches();
    return place_ranks(hosts);
  }

  Topology topology;

 private:
  struct Built {
    NodeId host = k_no_node;
    std::vector<NodeId> node;  // by part
    bool leaves = false;       // by leaf of Machine::inside instead
  };

  void assume(const Machine& m, std::string what) {
    if (assumed_ != nullptr && &m != last_)  // once for all copies
      assumed_->push_back(m.name.empty() ? std::move(what) : m.name + ": " + what);
  }

  static Status check(const Machine& m) {
    auto bad = [&](PartId id, std::string what) {
      return invalid(fmt::format("machine {}: {}: {}", m.name, label(m.parts[id], id), what));
    };
    auto sane = [](double b) { return std::isfinite(b) && b >= 0 && b <= 1e15; };
    for (PartId i = 0; i < m.parts.size(); ++i) {
      const Part& p = m.parts[i];
      if (p.parent != k_no_part && p.parent >= i) return bad(i, "its parent comes after it");
      if (p.kind != NodeKind::numa && p.kind != NodeKind::cpu && p.kind != NodeKind::pci_switch &&
          p.kind != NodeKind::gpu && p.kind != NodeKind::nic)
        return bad(i, fmt::format("a {} is no part of a host", name(p.kind)));
      if (!sane(p.bandwidth) || !sane(p.port_bandwidth))
        return bad(i, fmt::format("a bandwidth of {:g} B/s",
                                  sane(p.bandwidth) ? p.port_bandwidth : p.bandwidth));
      if (!std::isfinite(p.port_latency) || p.port_latency < 0 || p.port_latency > 3600)
        return bad(i, fmt::format("a latency of {:g} s", p.port_latency));
    }
    if (!m.switches.empty() && !names_switches(m.switches))
      return invalid(
          fmt::format("machine {}: '{}' above it; expected names of switches, outermost "
                      "first, joined by dots",
                      m.name, m.switches));
    for (const FastLink& l : m.links)
      if (l.from >= m.parts.size() || (l.to >= m.parts.size() && l.to != FastLink::k_switch) ||
          l.from == l.to || !sane(l.bandwidth) || l.count == 0)
        return invalid(fmt::format("machine {}: a link from part {} to {}", m.name, l.from, l.to));
    for (const SocketLink& l : m.sockets)
      if (l.from >= m.parts.size() || l.to >= m.parts.size() || l.from == l.to ||
          !sane(l.bandwidth) || l.bandwidth < 1)
        return invalid(
            fmt::format("machine {}: a socket link from part {} to {}", m.name, l.from, l.to));
    return {};
  }

  Endpoints choose(const std::vector<Machine>& hosts) const {
    if (options_.endpoints != Endpoints::automatic) return options_.endpoints;
    for (const Machine& m : hosts)
      if (m.count(NodeKind::gpu) > 0) return Endpoints::gpus;
    return Endpoints::cores;
  }

  std::string name_of(const Machine& m) const {
    const std::string base = m.name.empty() ? "host" : m.name;
    return m.copies > 1 || !nodes_.empty() ? fmt::format("{}.{}", base, nodes_.size()) : base;
  }

  Status host(const Machine& m) {
    edge_ = switch_above(m.switches);
    if (!m.inside.empty()) return graft(m);
    Built built;
    NodeId outside = edge_;
    if (m.switch_spans_hosts && !m.links.empty()) {
      if (shared_switch_ == k_no_node || &m != last_)
        shared_switch_ = topology.add_node(NodeKind::network_switch, edge_, "nvswitch");
      outside = shared_switch_;
    }
    built.host = topology.add_node(NodeKind::host, outside, name_of(m));
    const bool with_cores = endpoints_ == Endpoints::cores && options_.ranks.empty();
    built.node.assign(m.parts.size(), k_no_node);
    bool nics = false;
    for (PartId i = 0; i < m.parts.size(); ++i) {
      const Part& p = m.parts[i];
      if (p.kind == NodeKind::cpu && !with_cores) continue;
      const NodeId parent = p.parent == k_no_part ? built.host : built.node[p.parent];
      if (parent == k_no_node) return invalid(label(p, i) + " hangs on a core");
      built.node[i] = topology.add_node(p.kind, parent, label(p, i));
      cable(m, i, built, parent);
      if (p.kind != NodeKind::nic || !p.up) continue;
      nics = true;
      port(m, i, built.node[i]);
    }
    if (!nics && network_ != k_no_node && outside == edge_) assume_nic(m, built.host);
    sockets(m, built, !nics);
    fast_links(m, built);
    if (ranks_on_gpus()) TUTTI_RETURN_IF_ERROR(drop_groups(m, built));
    nodes_.push_back(std::move(built));
    last_ = &m;
    return {};
  }

  void assume_nic(const Machine& m, NodeId host) {
    assume(m,
           fmt::format("no NIC was found; one of {:.0f} Gb/s assumed", k_assumed_network * 8e-9));
    topology.add_cable(host, edge_, options_.port_class, k_assumed_network,
                       options_.network_latency);
    below_[edge_] += k_assumed_network;
  }

  // What a spec describes, as it is. Its core is the switch above; a host that a spec leaves
  // without a way out has the NICs among its parts.
  Status graft(const Machine& m) {
    const Result<Topology> given = make_cluster(m.inside);
    if (!given) return given.status().with_context("machine " + m.name);
    const std::vector<TopologyNode>& nodes = given->nodes();
    const bool one_host = std::count_if(nodes.begin(), nodes.end(), [](const TopologyNode& n) {
                            return n.kind == NodeKind::host;
                          }) == 1;
    Built built;
    built.leaves = true;
    std::vector<NodeId> number(nodes.size());
    for (NodeId n = 0; n < nodes.size(); ++n) {
      const TopologyNode& node = nodes[n];
      const bool root = node.parent == k_no_node, host = node.kind == NodeKind::host;
      number[n] = root && !host && edge_ != k_no_node
                      ? edge_
                      : topology.add_node(node.kind, root ? edge_ : number[node.parent],
                                          host && one_host ? name_of(m) : node.name);
      if (host && one_host) built.host = number[n];
    }
    for (Link link : given->links()) {
      const NodeId here = given->host_of(link.from), there = given->host_of(link.to);
      const bool port = here != there, network = port || here == k_no_node;
      if (network && (link.link_class == LinkClass::nic || link.link_class == LinkClass::network))
        link.link_class = port ? options_.port_class : options_.uplink_class;
      link.from = number[link.from];
      link.to = number[link.to];
      if (link.to == edge_ && link.outward) below_[edge_] += link.bandwidth;
      topology.add_link(link);
    }
    for (Rank r = 0; r < given->ranks(); ++r) built.node.push_back(number[given->node_of(r)]);
    if (nodes[0].kind == NodeKind::host && network_ != k_no_node) plug_in(m, built.host);
    nodes_.push_back(std::move(built));
    last_ = &m;
    return {};
  }

  // The NICs of a host whose inside is a spec.
  void plug_in(const Machine& m, NodeId host) {
    bool nics = false;
    for (PartId i = 0; i < m.parts.size(); ++i) {
      const Part& p = m.parts[i];
      if (p.kind != NodeKind::nic || !p.up) continue;
      nics = true;
      const NodeId nic = topology.add_node(NodeKind::nic, host, label(p, i));
      topology.add_cable(nic, host, LinkClass::pci, p.bandwidth > 0 ? p.bandwidth : k_assumed_pci,
                         0);
      port(m, i, nic);
    }
    if (!nics) assume_nic(m, host);
  }

  // Whether ranks of the host at hand are on GPUs of it.
  bool ranks_on_gpus() const {
    return options_.ranks.empty() ? endpoints_ == Endpoints::gpus
                                  : gpu_hosts_.count(static_cast<uint32_t>(nodes_.size())) > 0;
  }

  // Marks what contains GPUs without making them neighbours.
  Status drop_groups(const Machine& m, const Built& built) {
    if (grouping_ || m.links.empty() || m.count(NodeKind::gpu) > k_max_grouped_gpus) return {};
    if (grouped_ == nullptr || m.parts != grouped_->parts || m.links != grouped_->links) {
      Machine alone = m;
      alone.copies = 1;
      alone.switch_spans_hosts = false;
      alone.links.clear();
      for (const FastLink& l : m.links)
        if (m.parts[l.from].kind == NodeKind::gpu) alone.links.push_back(l);
      for (Part& p : alone.parts) p.up = false;
      const BuildOptions options{Endpoints::gpus, {}, 0, false};
      Builder builder(options, nullptr);
      builder.grouping_ = true;
      TUTTI_RETURN_IF_ERROR(builder.build({alone}));
      TUTTI_RETURN_IF_ERROR(builder.topology.finish());
      groups_.assign(m.parts.size(), false);
      const std::set<NodeId> groups = Grouping(builder.topology).groups();
      for (PartId i = 0; i < m.parts.size(); ++i)
        groups_[i] = groups.count(builder.nodes_[0].node[i]) > 0;
      grouped_ = &m;
    }
    for (PartId i = 0; i < m.parts.size(); ++i)
      if (!groups_[i] && built.node[i] != k_no_node && m.parts[i].kind != NodeKind::gpu)
        topology.set_no_group(built.node[i]);  // a GPU contains but the ranks that share it
    if (m.switch_spans_hosts) topology.set_no_group(built.host);
    return {};
  }

  // The part's link to what it hangs on.
  void cable(const Machine& m, PartId i, const Built& built, NodeId parent) {
    const Part& p = m.parts[i];
    const bool on_host = parent == built.host;
    if (p.kind == NodeKind::numa && on_host) return;  // sockets() joins them
    LinkClass c = LinkClass::pci;
    double assumed = k_assumed_pci;
    if (p.kind == NodeKind::numa) {
      c = LinkClass::interconnect;
      assumed = socket_bandwidth(p);
    } else if (p.kind == NodeKind::cpu) {
      c = LinkClass::memory;
      assumed = k_assumed_memory;
    }
    if (p.bandwidth == 0 && p.kind != NodeKind::cpu)
      assume(m, fmt::format("{}: the bandwidth of its link was not found out; {:.4g} GB/s assumed",
                            label(p, i), assumed / 1e9));
    topology.add_cable(built.node[i], parent, c, p.bandwidth > 0 ? p.bandwidth : assumed, 0);
  }

  void port(const Machine& m, PartId i, NodeId node) {
    const Part& p = m.parts[i];
    if (!p.up) return;
    if (p.port_bandwidth == 0)
      assume(m, fmt::format("{}: its speed was not found out; {:.0f} Gb/s assumed", label(p, i),
                            k_assumed_network * 8e-9));
    const double bandwidth = p.port_bandwidth > 0 ? p.port_bandwidth : k_assumed_network;
    topology.add_cable(node, edge_, options_.port_class, bandwidth,
                       p.port_latency > 0 ? p.port_latency : options_.network_latency);
    below_[edge_] += bandwidth;
  }

  // The innermost of the switches, made with those above it where they are not there yet.
  NodeId switch_above(const std::string& switches) {
    NodeId at = network_;
    for (size_t end = 0; end < switches.size(); ++end) {
      end = std::min(switches.find('.', end), switches.size());
      const auto [known, fresh] = switches_.try_emplace(switches.substr(0, end), k_no_node);
      if (fresh) {
        const size_t dot = switches.rfind('.', end - 1);
        const size_t begin = dot == std::string::npos ? 0 : dot + 1;
        known->second =
            topology.add_node(NodeKind::network_switch, at, switches.substr(begin, end - begin));
      }
      at = known->second;
    }
    return at;
  }

  // Each switch to the one above it, as wide as everything below: inner switches come after outer
  // ones.
  void cable_switches() {
    for (NodeId n = static_cast<NodeId>(topology.nodes().size()); n-- > 0;) {
      const TopologyNode& node = topology.nodes()[n];
      const auto below = below_.find(n);
      if (n == network_ || below == below_.end()) continue;
      const NodeId up = node.parent;
      topology.add_cable(n, up, options_.uplink_class, below->second, options_.network_latency);
      below_[up] += below->second;
    }
  }

  // Sockets and NUMA nodes directly in the host: the links that are known, else each with each.
  void sockets(const Machine& m, const Built& built, bool host_is_used) {
    std::vector<PartId> tops;
    for (PartId i = 0; i < m.parts.size(); ++i)
      if (m.parts[i].kind == NodeKind::numa && m.parts[i].parent == k_no_part) tops.push_back(i);
    for (const SocketLink& l : m.sockets)
      topology.add_cable(built.node[l.from], built.node[l.to], LinkClass::interconnect, l.bandwidth,
                         0);
    // Whatever hangs on the host itself reaches the sockets through the host.
    const bool loose =
        host_is_used || std::any_of(m.parts.begin(), m.parts.end(), [](const Part& p) {
          return p.parent == k_no_part && p.kind != NodeKind::numa;
        });
    for (size_t a = 0; a < tops.size(); ++a) {
      const double bandwidth = socket_bandwidth(m.parts[tops[a]]);
      if (loose || options_.ranks.size() > 0)
        topology.add_cable(built.node[tops[a]], built.host, LinkClass::interconnect, bandwidth, 0);
      if (!m.sockets.empty()) continue;
      for (size_t b = a + 1; b < tops.size(); ++b)
        topology.add_cable(built.node[tops[a]], built.node[tops[b]], LinkClass::interconnect,
                           bandwidth, 0);
    }
    if (tops.size() > 1 && m.sockets.empty())
      assume(m, fmt::format("the links between its {} NUMA nodes: not found out; {:.4g} GB/s each "
                            "way between any two assumed (NCCL's figure for this processor)",
                            tops.size(), socket_bandwidth(m.parts[tops[0]]) / 1e9));
  }

  void fast_links(const Machine& m, Built& built) {
    std::map<std::pair<PartId, PartId>, double> total;
    for (const FastLink& l : m.links) {
      if (l.bandwidth == 0)
        assume(m, fmt::format("{}: the bandwidth of its {} was not found out; {:.0f} GB/s a link "
                              "assumed",
                              label(m.parts[l.from], l.from), l.kind, k_assumed_nvlink / 1e9));
      total[{l.from, l.to}] += l.bandwidth > 0 ? l.bandwidth : k_assumed_nvlink * l.count;
    }
    NodeId fabric = k_no_node;
    for (const auto& [ends, bandwidth] : total) {
      const auto [from, to] = ends;
      const NodeId a = built.node[from];
      if (a == k_no_node) continue;
      if (to == FastLink::k_switch) {
        if (fabric == k_no_node)
          fabric = m.switch_spans_hosts
                       ? shared_switch_
                       : topology.add_node(NodeKind::pci_switch, built.host, "nvswitch");
        topology.add_cable(a, fabric, LinkClass::nvlink, bandwidth, 0);
        continue;
      }
      const NodeId b = built.node[to];
      if (b == k_no_node) continue;
      const auto back = total.find({to, from});
      // A link that only one end lists goes both ways all the same.
      if (back == total.end()) {
        topology.add_cable(a, b, LinkClass::nvlink, bandwidth, 0);
      } else {
        topology.add_link({a, b, bandwidth, 0, LinkClass::nvlink, from < to});
      }
    }
  }

  Status place_ranks(const std::vector<Machine>& hosts) {
    if (!options_.ranks.empty()) return place_given();
    size_t built = 0;
    struct Found {
      int rank;
      NodeId node;
    };
    std::vector<Found> found;
    bool numbered = true;
    for (const Machine& m : hosts)
      for (uint32_t copy = 0; copy < m.copies; ++copy, ++built) {
        const Built& b = nodes_[built];
        if (b.leaves) {
          numbered = false;
          for (const NodeId leaf : b.node) found.push_back({-1, leaf});
          continue;
        }
        std::vector<std::pair<int, PartId>> here;  // (number, part)
        for (NodeKind kind :
             {endpoints_ == Endpoints::gpus ? NodeKind::gpu : NodeKind::cpu, NodeKind::numa}) {
          for (PartId i = 0; i < m.parts.size(); ++i)
            if (m.parts[i].kind == kind && b.node[i] != k_no_node)
              here.emplace_back(m.parts[i].index < 0 ? INT32_MAX : m.parts[i].index, i);
          if (!here.empty() || endpoints_ == Endpoints::gpus) break;
        }
        std::stable_sort(here.begin(), here.end(),
                         [](const auto& x, const auto& y) { return x.first < y.first; });
        for (const auto& [number, part] : here) {
          const Part& p = m.parts[part];
          numbered &= p.rank >= 0 && m.copies == 1;
          // A NUMA node forwards; its rank is a place of its own.
          const NodeId node =
              p.kind == NodeKind::numa ? attach(b.node[part], label(p, part)) : b.node[part];
          found.push_back({p.rank, node});
        }
        if (here.empty() && endpoints_ == Endpoints::cores)
          found.push_back({-1, attach(b.host, "cpu")});
      }
    if (found.size() > k_max_ranks) return invalid(fmt::format("machine: {} ranks", found.size()));
    if (found.empty()) return invalid("machine: no GPU to be a rank");
    if (numbered)
      std::stable_sort(found.begin(), found.end(),
                       [](const Found& x, const Found& y) { return x.rank < y.rank; });
    for (const Found& f : found) topology.add_rank(f.node);
    return {};
  }

  NodeId attach(NodeId parent, std::string name) {
    const NodeId node = topology.add_node(NodeKind::cpu, parent, std::move(name));
    topology.add_cable(node, parent, LinkClass::memory, k_assumed_memory, 0);
    return node;
  }

  Status place_given() {
    for (size_t r = 0; r < options_.ranks.size(); ++r) {
      const RankPlace& place = options_.ranks[r];
      if (place.host >= nodes_.size())
        return invalid(fmt::format("rank {}: host {} of {}", r, place.host, nodes_.size()));
      const Built& b = nodes_[place.host];
      if (place.part != k_no_part &&
          (place.part >= b.node.size() || b.node[place.part] == k_no_node))
        return invalid(fmt::format("rank {}: part {} of {}", r, place.part, b.node.size()));
      const NodeId at = place.part == k_no_part ? b.host : b.node[place.part];
      if (at == k_no_node) return invalid(fmt::format("rank {}: on no leaf of a cluster", r));
      const bool endpoint =
          topology.nodes()[at].kind == NodeKind::gpu || (b.leaves && place.part != k_no_part);
      topology.add_rank(endpoint ? at : attach(at, fmt::format("rank{}", r)));
    }
    return {};
  }

  const BuildOptions& options_;
  std::vector<std::string>* assumed_;
  Endpoints endpoints_ = Endpoints::automatic;
  NodeId network_ = k_no_node;
  NodeId edge_ = k_no_node;                 // the switch of the host at hand
  std::map<std::string, NodeId> switches_;  // by their names from the outermost on
  std::map<NodeId, double> below_;          // bandwidth of the hosts below a switch
  NodeId shared_switch_ = k_no_node;
  std::vector<Built> nodes_;      // by host
  std::set<uint32_t> gpu_hosts_;  // with ranks on GPUs, where BuildOptions::ranks says
  std::vector<bool> groups_;      // by part of *grouped_
  const Machine* grouped_ = nullptr;
  const Machine* last_ = nullptr;
  bool grouping_ = false;  // builds a host only to see who is near whom
};

}  // namespace

bool names_switches(std::string_view text) {
  constexpr size_t k_most = 4, k_longest = 64;
  size_t names = 0, length = 0;
  for (const char c : text) {
    if (c == '.') {
      if (length == 0) return false;
      length = 0;
    } else if (static_cast<unsigned char>(c) <= ' ' || c == '\x7f' || ++length > k_longest) {
      return false;
    } else if (length == 1) {
      ++names;
    }
  }
  return length > 0 && names <= k_most;
}

std::string normal_bus_id(std::string_view text) {
  constexpr size_t k_short = sizeof("07:00.0") - 1, k_most_domain = 8;
  auto hex = [](std::string_view digits, unsigned* value) {
    const char* end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, *value, 16);
    return error == std::errc() && stop == end;
  };
  unsigned domain = 0, bus = 0, device = 0, function = 0;
  if (text.size() > k_short) {
    const size_t colon = text.size() - k_short - 1;
    if (colon > k_most_domain || text[colon] != ':' || !hex(text.substr(0, colon), &domain))
      return {};
    text.remove_prefix(colon + 1);
  }
  if (text.size() != k_short || text[2] != ':' || text[5] != '.' || !hex(text.substr(0, 2), &bus) ||
      !hex(text.substr(3, 2), &device) || !hex(text.substr(6), &function))
    return {};
  return fmt::format("{:04x}:{:02x}:{:02x}.{:x}", domain, bus, device, function);
}

PartId Machine::find_gpu(std::string_view busid) const {
  for (PartId i = 0; i < parts.size(); ++i)
    if (parts[i].kind == NodeKind::gpu && !busid.empty() && normal_bus_id(parts[i].busid) == busid)
      return i;
  return k_no_part;
}

bool Machine::describes_cluster() const {
  const Result<ClusterSpec> spec = parse_cluster(inside);
  return spec && size_of(*spec).hosts > 1;
}

PartId Machine::find_busid(std::string_view busid) const {
  for (PartId i = 0; i < parts.size(); ++i)
    if (!busid.empty() && parts[i].busid == busid) return i;
  return k_no_part;
}

uint32_t Machine::count(NodeKind kind) const {
  return static_cast<uint32_t>(
      std::count_if(parts.begin(), parts.end(), [&](const Part& p) { return p.kind == kind; }));
}

void simplify(Machine* machine) {
  std::vector<Part>& parts = machine->parts;
  std::vector<uint32_t> children(parts.size(), 0);
  std::vector<bool> gone(parts.size(), false);
  // From the leaves up: an empty bridge makes the one above it emptier.
  for (const Part& p : parts)
    if (p.parent != k_no_part) ++children[p.parent];
  for (PartId i = static_cast<PartId>(parts.size()); i-- > 0;)
    if (parts[i].kind == NodeKind::pci_switch && children[i] == 0) {
      gone[i] = true;
      if (parts[i].parent != k_no_part) --children[parts[i].parent];
    }
  for (PartId i = 0; i < parts.size(); ++i) {
    if (gone[i]) continue;
    for (PartId up = parts[i].parent;
         up != k_no_part && parts[up].kind == NodeKind::pci_switch && children[up] == 1;
         up = parts[up].parent) {
      gone[up] = true;
      if (parts[up].bandwidth > 0 &&
          (parts[i].bandwidth == 0 || parts[up].bandwidth < parts[i].bandwidth))
        parts[i].bandwidth = parts[up].bandwidth;
      parts[i].parent = parts[up].parent;
    }
  }
  std::vector<PartId> number(parts.size(), k_no_part);
  std::vector<Part> kept;
  for (PartId i = 0; i < parts.size(); ++i) {
    if (gone[i]) continue;
    number[i] = static_cast<PartId>(kept.size());
    kept.push_back(std::move(parts[i]));
  }
  auto renumber = [&](PartId& id) {
    if (id < number.size()) id = number[id];
  };
  for (Part& p : kept) renumber(p.parent);
  for (FastLink& l : machine->links) {
    renumber(l.from);
    renumber(l.to);
  }
  for (SocketLink& l : machine->sockets) {
    renumber(l.from);
    renumber(l.to);
  }
  parts = std::move(kept);
}

Result<Topology> build_topology(const std::vector<Machine>& hosts, const BuildOptions& options,
                                std::vector<std::string>* assumed) {
  Builder builder(options, assumed);
  TUTTI_RETURN_IF_ERROR(builder.build(hosts));
  if (options.routes) TUTTI_RETURN_IF_ERROR(builder.topology.finish());
  return std::move(builder.topology);
}

double pci_bandwidth(double gigatransfers, int lanes) {
  double lane = 0;  // bytes per second
  if (gigatransfers >= 2 && gigatransfers <= 5.5) lane = gigatransfers * 1e9 * 8 / 10 / 8;
  if (gigatransfers > 5.5 && gigatransfers <= 33) lane = gigatransfers * 1e9 * 128 / 130 / 8;
  if (gigatransfers > 33 && gigatransfers <= 130) lane = gigatransfers * 1e9 * 242 / 256 / 8;
  return lanes > 0 && lanes <= 32 ? lane * lanes : 0;
}

double nvlink_bandwidth(int sm) {
  if (sm < 60) return 0;
  if (sm < 70) return 20e9;  // NVLink 1: P100
  if (sm == 86 || sm == 89) return 14.0625e9;
  if (sm < 100) return 25e9;  // NVLink 2 to 4: V100, A100, H100
  return 50e9;                // NVLink 5: B200
}

double xgmi_bandwidth(std::string_view gcn) {
  if (gcn == "gfx906" || gcn == "906" || gcn == "gfx908" || gcn == "908") return 46e9;
  if (gcn == "gfx90a" || gcn == "910") return 50e9;
  if (gcn.starts_with("gfx94") || gcn.starts_with("94")) return 64e9;
  if (gcn.starts_with("gfx95") || gcn.starts_with("95")) return 76.8e9;
  return 0;
}

std::string cpu_list(const std::vector<uint32_t>& cpus) {
  std::string text;
  for (size_t i = 0; i < cpus.size();) {
    size_t end = i + 1;
    while (end < cpus.size() && cpus[end] == cpus[end - 1] + 1) ++end;
    if (!text.empty()) text += ',';
    text += fmt::format("{}", cpus[i]);
    if (end - i > 1) text += fmt::format("-{}", cpus[end - 1]);
    i = end;
  }
  return text;
}

bool parse_cpu_list(std::string_view text, std::vector<uint32_t>* cpus) {
  cpus->clear();
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  const char* at = text.data();
  const char* end = at + text.size();
  while (at != end) {
    uint32_t first = 0;
    auto [stop, error] = std::from_chars(at, end, first);
    if (error != std::errc()) return false;
    uint32_t last = first;
    if (stop != end && *stop == '-') {
      const auto range = std::from_chars(stop + 1, end, last);
      if (range.ec != std::errc()) return false;
      stop = range.ptr;
    }
    if (last < first || last > 1u << 16 || cpus->size() > 1u << 16) return false;
    for (uint32_t c = first; c <= last; ++c) cpus->push_back(c);
    if (stop != end && *stop != ',') return false;
    at = stop == end ? stop : stop + 1;
  }
  return true;
}

}  // namespace tutti
