// Building and checking a topology, and the groups that follow from it.
#include "topology/topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace tutti {
namespace {

constexpr std::string_view k_kind_names[k_node_kinds] = {
    "rank", "gpu", "cpu", "numa", "pci switch", "nic", "host", "network switch"};
constexpr std::string_view k_class_names[k_link_classes] = {"memory",       "nvlink", "pci",
                                                            "interconnect", "nic",    "network"};

Status invalid(std::string message) { return {Code::invalid_argument, std::move(message)}; }

// Groups renumbered in order of their first rank; the number of groups.
uint32_t number(std::vector<uint32_t>& groups) {
  std::map<uint32_t, uint32_t> numbers;
  for (uint32_t& g : groups)
    g = numbers.emplace(g, static_cast<uint32_t>(numbers.size())).first->second;
  return static_cast<uint32_t>(numbers.size());
}

}  // namespace

std::string_view name(NodeKind kind) { return k_kind_names[static_cast<int>(kind)]; }
std::string_view name(LinkClass c) { return k_class_names[static_cast<int>(c)]; }
bool parse_link_class(std::string_view text, LinkClass* c) {
  const auto* found = std::find(std::begin(k_class_names), std::end(k_class_names), text);
  if (found == std::end(k_class_names)) return false;
  *c = static_cast<LinkClass>(found - std::begin(k_class_names));
  return true;
}

NodeId Topology::add_node(NodeKind kind, NodeId parent, std::string name) {
  nodes_.push_back({kind, parent, std::move(name), true});
  return static_cast<NodeId>(nodes_.size() - 1);
}

void Topology::add_rank(NodeId node) { ranks_.push_back(node); }

void Topology::add_cable(NodeId from, NodeId to, LinkClass c, double bandwidth, double latency) {
  add_link({from, to, bandwidth, latency, c, true});
  add_link({to, from, bandwidth, latency, c, false});
}

LinkId Topology::add_link(const Link& link) {
  links_.push_back(link);
  return static_cast<LinkId>(links_.size() - 1);
}

std::string Topology::describe(NodeId node) const {
  const TopologyNode& n = nodes_[node];
  std::string text = n.name.empty() ? fmt::format("{} #{}", name(n.kind), node) : n.name;
  if (n.parent < nodes_.size() && n.kind != NodeKind::host &&
      nodes_[n.parent].kind != NodeKind::network_switch)
    text += fmt::format(" in {}", nodes_[n.parent].name.empty() ? fmt::format("#{}", n.parent)
                                                                : nodes_[n.parent].name);
  return text;
}

std::string Topology::describe_link(LinkId link) const {
  return fmt::format("{} -> {}", describe(links_[link].from), describe(links_[link].to));
}

Status Topology::check_nodes() const {
  if (ranks_.empty()) return invalid("topology: no ranks");
  for (size_t r = 0; r < ranks_.size(); ++r)
    if (ranks_[r] >= nodes_.size())
      return invalid(
          fmt::format("topology: rank {} is on node {} of {}", r, ranks_[r], nodes_.size()));
  for (size_t i = 0; i < nodes_.size(); ++i)
    if (nodes_[i].parent != k_no_node && nodes_[i].parent >= nodes_.size())
      return invalid(
          fmt::format("topology: node {} is in node {} of {}", i, nodes_[i].parent, nodes_.size()));
  // Containment: every chain of parents ends, and meets at most one host.
  std::vector<uint8_t> state(nodes_.size(), 0);  // 1: on the chain at hand, 2: fine
  std::vector<NodeId> chain;
  for (NodeId first = 0; first < nodes_.size(); ++first) {
    chain.clear();
    NodeId at = first;
    for (; at != k_no_node && state[at] == 0; at = nodes_[at].parent) {
      state[at] = 1;
      chain.push_back(at);
    }
    if (at != k_no_node && state[at] == 1)
      return invalid(fmt::format("topology: {} contains itself", describe(at)));
    for (NodeId n : chain) state[n] = 2;
  }
  for (NodeId i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].kind != NodeKind::host) continue;
    for (NodeId up = nodes_[i].parent; up != k_no_node; up = nodes_[up].parent)
      if (nodes_[up].kind == NodeKind::host)
        return invalid(
            fmt::format("topology: host {} is within host {}", describe(i), describe(up)));
  }
  return {};
}

Status Topology::check_links() const {
  for (size_t i = 0; i < links_.size(); ++i) {
    const Link& l = links_[i];
    for (NodeId end : {l.from, l.to})
      if (end >= nodes_.size())
        return invalid(
            fmt::format("topology: link {} ends at node {} of {}", i, end, nodes_.size()));
    const std::string what =
        fmt::format("topology: link {} ({})", i, describe_link(static_cast<LinkId>(i)));
    if (l.from == l.to) return invalid(what + " leads to where it comes from");
    if (!std::isfinite(l.bandwidth) || l.bandwidth < 1 || l.bandwidth > 1e15)
      return invalid(
          fmt::format("{}: a bandwidth of {:g} B/s; 1 to 1e15 make sense", what, l.bandwidth));
    if (!std::isfinite(l.latency) || l.latency < 0 || l.latency > 3600)
      return invalid(fmt::format("{}: a latency of {:g} s; 0 to 3600 make sense", what, l.latency));
  }
  return {};
}

void Topology::index_links() {
  auto index = [&](auto end_of, std::vector<uint32_t>& begin, std::vector<LinkId>& list) {
    begin.assign(nodes_.size() + 1, 0);
    for (const Link& l : links_) ++begin[end_of(l) + 1];
    for (size_t n = 0; n < nodes_.size(); ++n) begin[n + 1] += begin[n];
    std::vector<uint32_t> next(begin.begin(), begin.end() - 1);
    list.resize(links_.size());
    for (LinkId i = 0; i < links_.size(); ++i) list[next[end_of(links_[i])]++] = i;
  };
  index([](const Link& l) { return l.from; }, out_begin_, out_);
  index([](const Link& l) { return l.to; }, in_begin_, in_);
}

void Topology::find_hosts() {
  endpoint_.assign(nodes_.size(), false);
  for (NodeId n : ranks_) endpoint_[n] = true;
  for (NodeId n = 0; n < nodes_.size(); ++n)
    if (nodes_[n].kind == NodeKind::gpu) endpoint_[n] = true;  // forwards nothing, rank or not
  host_.assign(nodes_.size(), k_no_node);
  for (NodeId n = 0; n < nodes_.size(); ++n) {
    NodeId up = n;
    while (up != k_no_node && nodes_[up].kind != NodeKind::host) up = nodes_[up].parent;
    host_[n] = up != k_no_node ? up : endpoint_[n] ? n : k_no_node;
  }
  std::vector<std::pair<NodeId, NodeId>> found;  // (host, exit)
  for (const Link& l : links_)
    if (host_[l.from] != k_no_node && host_[l.from] != host_[l.to])
      found.emplace_back(host_[l.from], l.from);
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  exits_.clear();
  exit_begin_.clear();
  for (const auto& [host, exit] : found) {
    if (exit_begin_.empty() || exit_begin_.back().first != host)
      exit_begin_.push_back({host, {static_cast<uint32_t>(exits_.size()), 0}});
    ++exit_begin_.back().second.second;
    exits_.push_back(exit);
  }
}

std::vector<std::vector<uint32_t>> Topology::groups() const {
  // Every rank's containers, outermost first; the node itself where several ranks share it.
  std::vector<uint32_t> on_node(nodes_.size(), 0);
  for (NodeId n : ranks_) ++on_node[n];
  std::vector<std::vector<NodeId>> chains(ranks_.size());
  size_t depth = 0;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    NodeId n = ranks_[r];
    if (on_node[n] < 2) n = nodes_[n].parent;
    for (; n != k_no_node; n = nodes_[n].parent)
      if (nodes_[n].group) chains[r].push_back(n);
    std::reverse(chains[r].begin(), chains[r].end());
    depth = std::max(depth, chains[r].size());
  }
  std::vector<std::vector<uint32_t>> levels;  // outermost first
  for (size_t d = 0; d < depth; ++d) {
    std::vector<uint32_t> groups(ranks_.size());
    for (size_t r = 0; r < ranks_.size(); ++r) {
      // Ranks that lie directly in a container keep together where others go deeper.
      const auto& chain = chains[r];
      const bool deep = d < chain.size();
      const NodeId at = deep ? chain[d] : chain.empty() ? k_no_node : chain.back();
      groups[r] = at;
    }
    const uint32_t count = number(groups);
    if (count == 1 || count == ranks_.size()) continue;
    if (!levels.empty() && levels.back() == groups) continue;
    levels.push_back(std::move(groups));
  }
  std::reverse(levels.begin(), levels.end());
  return levels;
}

}  // namespace tutti
