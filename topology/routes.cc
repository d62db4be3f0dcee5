// Routes: the search inside a host, the tables of the switches, and which NIC a rank uses.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "topology/topology.h"

namespace tutti {
namespace {

// Ways inside a host are compared by what a message of this size would take, link after link: wide
// links win over narrow ones, few over many.
constexpr double k_reference_bytes = 64 * 1024;
double cost_of(const Link& l) { return l.latency + k_reference_bytes / l.bandwidth; }

bool equally_near(double a, double b) { return std::abs(a - b) <= 1e-9 * std::max(a, b); }

}  // namespace

Routes::Routes(const Topology& topology)
    : topology_(topology),
      reached_(topology.nodes().size()),
      outside_(topology.nodes().size(), ~uint32_t{0}) {
  for (NodeId n = 0; n < outside_.size(); ++n)
    if (topology.host_of(n) == k_no_node) {
      outside_[n] = static_cast<uint32_t>(outside_nodes_.size());
      outside_nodes_.push_back(n);
    }
}

void Routes::search(NodeId from, NodeId to) {
  ++stamp_;
  const NodeId host = topology_.host_of(from);
  const auto by_cost = std::greater<std::pair<double, NodeId>>();
  heap_.assign(1, {0, from});
  reached_[from] = {0, 0, stamp_, false};
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), by_cost);
    const NodeId at = heap_.back().second;
    heap_.pop_back();
    if (reached_[at].settled) continue;
    reached_[at].settled = true;
    if (at == to) return;
    if (at != from && topology_.endpoint_[at]) continue;
    for (LinkId i : topology_.out(at)) {
      const Link& l = topology_.links()[i];
      // Towards one node, other endpoints are not worth a look.
      if (topology_.host_of(l.to) != host ||
          (to != k_no_node && l.to != to && topology_.endpoint_[l.to]))
        continue;
      const double cost = reached_[at].cost + cost_of(l);
      Reached& next = reached_[l.to];
      if (next.stamp == stamp_ && next.cost <= cost) continue;
      next = {cost, i, stamp_, false};
      heap_.emplace_back(cost, l.to);
      std::push_heap(heap_.begin(), heap_.end(), by_cost);
    }
  }
}

// Appends the cheapest way inside a host.
bool Routes::inside(NodeId from, NodeId to, std::vector<LinkId>* links) {
  if (from == to) return true;
  search(from, to);
  if (!reached(to)) return false;
  const size_t begin = links->size();
  for (NodeId at = to; at != from; at = topology_.links()[reached_[at].by].from)
    links->push_back(reached_[at].by);
  std::reverse(links->begin() + static_cast<ptrdiff_t>(begin), links->end());
  return true;
}

// For the node `to` outside hosts: the link that every other such node takes, by fewest links, then
// least cost, then lowest number.
const std::vector<LinkId>& Routes::table(NodeId to) {
  const auto [found, fresh] = tables_.try_emplace(to);
  std::vector<LinkId>& next = found->second;
  if (!fresh) return next;
  constexpr LinkId k_none = ~LinkId{0};
  next.assign(outside_nodes_.size(), k_none);
  std::vector<double> cost(outside_nodes_.size(), 0);
  std::vector<uint32_t> hops(outside_nodes_.size(), ~uint32_t{0});
  hops[outside_[to]] = 0;
  std::vector<NodeId> ring = {to}, following;
  for (uint32_t distance = 1; !ring.empty(); ++distance, ring.swap(following)) {
    following.clear();
    for (NodeId at : ring)
      for (LinkId i : topology_.in(at)) {
        const Link& l = topology_.links()[i];
        const uint32_t o = outside_[l.from];
        if (o == ~uint32_t{0} || hops[o] < distance) continue;
        const double c = cost[outside_[at]] + cost_of(l);
        if (hops[o] == distance && cost[o] <= c) continue;
        if (hops[o] != distance) following.push_back(l.from);
        hops[o] = distance;
        cost[o] = c;
        next[o] = i;
      }
  }
  return next;
}

// From one exit to another, over nodes outside hosts only.
bool Routes::across(NodeId from, NodeId to, std::vector<LinkId>* links) {
  // The ways into the target: a cable between the two, or a switch that it hangs on.
  double best = 0;
  uint32_t best_hops = ~uint32_t{0};
  LinkId first = 0, last = 0;
  bool direct = false;
  for (LinkId out : topology_.out(from)) {
    const Link& l = topology_.links()[out];
    if (l.to == to) {
      if (direct && cost_of(l) >= best) continue;
      direct = true;
      best = cost_of(l);
      first = out;
      continue;
    }
    if (direct || topology_.host_of(l.to) != k_no_node) continue;
    for (LinkId in : topology_.in(to)) {
      const Link& e = topology_.links()[in];
      if (topology_.host_of(e.from) != k_no_node) continue;
      uint32_t hops = 0;
      double cost = cost_of(l) + cost_of(e);
      bool reachable = true;
      for (NodeId at = l.to; at != e.from; ++hops) {
        const LinkId next = table(e.from)[outside_[at]];
        if (next == ~LinkId{0}) {
          reachable = false;
          break;
        }
        cost += cost_of(topology_.links()[next]);
        at = topology_.links()[next].to;
      }
      if (!reachable || hops > best_hops || (hops == best_hops && cost >= best)) continue;
      best_hops = hops;
      best = cost;
      first = out;
      last = in;
    }
  }
  if (direct) {
    links->push_back(first);
    return true;
  }
  if (best_hops == ~uint32_t{0}) return false;
  links->push_back(first);
  const NodeId target = topology_.links()[last].from;
  for (NodeId at = topology_.links()[first].to; at != target;
       at = topology_.links()[links->back()].to)
    links->push_back(table(target)[outside_[at]]);
  links->push_back(last);
  return true;
}

bool Routes::by_exits(NodeId from, NodeId to, NodeId out, NodeId in, std::vector<LinkId>* links) {
  links->clear();
  return inside(from, out, links) && across(out, in, links) && inside(in, to, links);
}

std::vector<Routes::WayOut> Routes::ways_out(Rank rank) {
  std::vector<WayOut> ways;
  const NodeId node = topology_.node_of(rank), host = topology_.host_of(node);
  const std::span<const NodeId> candidates = topology_.exits(host);
  if (candidates.empty()) return ways;
  search(node, k_no_node);
  for (NodeId e : candidates) {
    if (!reached(e)) continue;
    double wire = -1;
    for (LinkId i : topology_.out(e))
      if (const Link& l = topology_.links()[i];
          topology_.host_of(l.to) != host && (wire < 0 || cost_of(l) < wire))
        wire = cost_of(l);
    uint32_t links = 0;
    for (NodeId at = e; at != node; at = topology_.links()[reached_[at].by].from) ++links;
    ways.push_back({e, reached_[e].cost + wire, links});
  }
  std::stable_sort(ways.begin(), ways.end(),
                   [](const WayOut& a, const WayOut& b) { return a.seconds < b.seconds; });
  return ways;
}

bool Routes::find(Rank a, Rank b, std::vector<LinkId>* links) {
  links->clear();
  const NodeId from = topology_.node_of(a), to = topology_.node_of(b);
  const NodeId here = topology_.host_of(from), there = topology_.host_of(to);
  if (here == there && inside(from, to, links)) return true;
  links->clear();
  if (topology_.exit_of(a) == k_no_node || topology_.exit_of(b) == k_no_node) return false;
  if (by_exits(from, to, topology_.exit_of(a), topology_.exit_of(b), links)) return true;
  // Rails that do not meet: the shortest of all other ways.
  std::vector<LinkId> best;
  for (NodeId out : topology_.exits(here))
    for (NodeId in : topology_.exits(there))
      if (by_exits(from, to, out, in, links) && (best.empty() || links->size() < best.size()))
        best = *links;
  *links = best;
  return !best.empty();
}

std::span<const NodeId> Topology::exits(NodeId host) const {
  const auto begin = std::lower_bound(exit_begin_.begin(), exit_begin_.end(), host,
                                      [](const auto& e, NodeId h) { return e.first < h; });
  if (begin == exit_begin_.end() || begin->first != host) return {};
  return std::span(exits_).subspan(begin->second.first, begin->second.second);
}

Status Topology::find_exits() {
  exit_.assign(ranks_.size(), k_no_node);
  Routes routes(*this);
  // Ranks that see the same exits as the nearest, in rank order.
  std::map<std::vector<NodeId>, std::vector<Rank>> tied;
  for (Rank r = 0; r < ranks_.size(); ++r) {
    std::vector<NodeId> nearest;
    const std::vector<Routes::WayOut> ways = routes.ways_out(r);
    for (const Routes::WayOut& way : ways)
      if (equally_near(way.seconds, ways[0].seconds)) nearest.push_back(way.exit);
    std::sort(nearest.begin(), nearest.end());
    if (!nearest.empty()) tied[nearest].push_back(r);
  }
  for (const auto& [nearest, ranks] : tied)
    for (size_t i = 0; i < ranks.size(); ++i)
      exit_[ranks[i]] = nearest[i * nearest.size() / ranks.size()];

  std::vector<LinkId> way;
  for (Rank r = 1; r < ranks_.size(); ++r)
    for (const auto& [a, b] : {std::pair<Rank, Rank>{0, r}, {r, 0}})
      if (!routes.find(a, b, &way))
        return {Code::invalid_argument,
                fmt::format("topology: no way from rank {} ({}) to rank {} ({})", a,
                            describe(ranks_[a]), b, describe(ranks_[b]))};
  return {};
}

Status Topology::finish() {
  TUTTI_RETURN_IF_ERROR(check_nodes());
  TUTTI_RETURN_IF_ERROR(check_links());
  index_links();
  find_hosts();
  return find_exits();
}

}  // namespace tutti
