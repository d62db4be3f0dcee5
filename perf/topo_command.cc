// `tutti topo [NAME|FILE|SPEC] [--json] [--svg F] [--xml F]`
#include "perf/topo_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "topology/discover.h"
#include "topology/draw.h"
#include "topology/load.h"
#include "topology/nccl_xml.h"
#include "topology/orders.h"

namespace {

using namespace tutti;
using Json = nlohmann::ordered_json;

struct Options {
  std::string what, svg, xml;
  bool list = false, json = false, cores = false;
  uint32_t hosts = 2;
};

int fail(const std::string& message) {
  fmt::print(stderr, "tutti topo: {}\n", message);
  return 1;
}

Status write(const std::string& file, const std::string& text) {
  if (file == "-") {
    fmt::print("{}", text);
    return {};
  }
  std::ofstream out(file, std::ios::binary);
  out << text;
  out.close();
  return out ? Status() : Status(Code::system_error, "cannot write " + file);
}

Result<Cluster> find(const Options& o) {
  if (!o.what.empty()) {
    if (!o.cores) return load_cluster(o.what);
    Result<Cluster> cluster = load_cluster(o.what);
    if (!cluster || cluster->machines.empty()) return cluster;
    Result<Topology> topology = build_topology(cluster->machines, {Endpoints::cores, {}, 0, true});
    if (!topology) return topology.status();
    cluster->topology = std::move(*topology);
    return cluster;
  }
  Cluster here;
  here.source = "this machine";
  here.machines = {discover_all()};
  here.missing = here.machines[0].missing;
  BuildOptions options;
  if (o.cores) options.endpoints = Endpoints::cores;
  Result<Topology> topology = build_topology(here.machines, options, &here.missing);
  if (!topology) return topology.status();
  here.topology = std::move(*topology);
  return here;
}

// "0-7,12"
std::string ranges(const std::vector<Rank>& ranks) {
  return cpu_list({ranks.begin(), ranks.end()});
}

// Everything that is read off a topology, once.
class View {
 public:
  explicit View(const Topology& t)
      : t_(t), routes_(t), children_(t.nodes().size()), rings_(ring_orders(t)) {
    for (NodeId n = 0; n < t.nodes().size(); ++n) {
      const NodeId parent = t.nodes()[n].parent;
      (parent == k_no_node ? roots_ : children_[parent]).push_back(n);
      hosts_ += t.nodes()[n].kind == NodeKind::host;
    }
    for (Rank r = 0; r < t.ranks(); ++r) ranks_[t.node_of(r)].push_back(r);
    for (const Link& l : t.links()) {
      if (l.outward && t.nodes()[l.from].parent == l.to) up_[l.from] = &l;
      if (l.link_class == LinkClass::nic && l.outward) cable_[l.from] = &l;
    }
  }

  const Topology& topology() const { return t_; }
  const RingOrders& rings() const { return rings_; }
  size_t hosts() const { return hosts_; }

  std::string label(NodeId n) const {
    const TopologyNode& node = t_.nodes()[n];
    std::string text = node.name.empty() ? fmt::format("{} #{}", name(node.kind), n) : node.name;
    if (node.kind == NodeKind::pci_switch || node.kind == NodeKind::host ||
        node.kind == NodeKind::network_switch || node.kind == NodeKind::nic)
      text = fmt::format(
          "{} {}",
          node.kind == NodeKind::pci_switch && node.name != "nvswitch" ? "switch" : name(node.kind),
          text);
    if (node.name == "nvswitch") text = "NVSwitch";
    if (const auto ranks = ranks_.find(n); ranks != ranks_.end())
      text += fmt::format("  rank {}", ranges(ranks->second));
    if (const auto up = up_.find(n); up != up_.end())
      text += fmt::format(
          "  {} {}",
          up->second->link_class == LinkClass::pci ? "PCI" : name(up->second->link_class),
          rate_text(up->second->bandwidth, up->second->link_class));
    if (const auto cable = cable_.find(n); cable != cable_.end() && node.kind == NodeKind::nic)
      text += fmt::format("  cable {}", rate_text(cable->second->bandwidth, LinkClass::nic));
    if (node.kind == NodeKind::gpu) text += fast_links(n);
    return text;
  }

  // "  NVLink 300 GB/s to NVSwitch", "  NVLink gpu1 25, gpu3 50 GB/s".
  std::string fast_links(NodeId n) const {
    std::map<std::string, double> to;
    for (const Link& l : t_.links())
      if (l.from == n && l.link_class == LinkClass::nvlink)
        to[t_.nodes()[l.to].name] += l.bandwidth;
    std::string text;
    for (const auto& [name, bandwidth] : to)
      text += fmt::format("{}{} {:.4g}", text.empty() ? "  links: " : ", ", name, bandwidth / 1e9);
    return text.empty() ? "" : text + " GB/s";
  }

  void print_tree(uint32_t most_hosts) const {
    size_t hosts = 0;
    for (NodeId n : roots_) print(n, "", "", most_hosts, &hosts);
    if (hosts > most_hosts) fmt::print("... and {} more hosts\n", hosts - most_hosts);
  }

  // Which NIC, and why.
  Json nic_choice(Rank r) {
    Json j;
    j["rank"] = r;
    j["place"] = t_.nodes()[t_.node_of(r)].name;
    const std::vector<Routes::WayOut> ways = routes_.ways_out(r);
    const NodeId chosen = t_.exit_of(r);
    if (chosen == k_no_node) {
      j["nic"] = nullptr;
      j["why"] = "its host has none";
      return j;
    }
    j["nic"] = t_.nodes()[chosen].name;
    const auto mine =
        std::find_if(ways.begin(), ways.end(), [&](const auto& w) { return w.exit == chosen; });
    std::vector<std::string> as_near, next;
    for (const Routes::WayOut& w : ways)
      if (w.exit != chosen && w.seconds <= mine->seconds * (1 + 1e-9))
        as_near.push_back(t_.nodes()[w.exit].name);
      else if (w.exit != chosen && next.empty())
        next = {t_.nodes()[w.exit].name, fmt::format("{:.3g}", w.seconds / mine->seconds)};
    std::string why = t_.nodes()[chosen].kind == NodeKind::nic
                          ? fmt::format("{} link{} away", mine->links, mine->links == 1 ? "" : "s")
                          : "it is on the network itself";
    std::string others;
    for (const std::string& name : as_near) others += (others.empty() ? "" : ", ") + name;
    if (!as_near.empty())
      why += fmt::format("; {} {} as near: dealt out in turn", others,
                         as_near.size() == 1 ? "is" : "are");
    if (as_near.empty() && !next.empty())
      why += fmt::format("; {} takes {} times as long", next[0], next[1]);
    if (ways.size() == 1) why += "; the only one";
    j["why"] = why;
    return j;
  }

  std::string ring_text(const std::vector<Rank>& ring) const {
    std::string text;
    for (size_t i = 0; i < ring.size() && i < 32; ++i) text += fmt::format("{} ", ring[i]);
    return ring.size() > 32 ? text + fmt::format("... ({} ranks)", ring.size()) : text;
  }

 private:
  void print(NodeId n, const std::string& first, const std::string& rest, uint32_t most_hosts,
             size_t* hosts) const {
    if (t_.nodes()[n].kind == NodeKind::host && (*hosts)++ >= most_hosts) return;
    fmt::print("{}{}\n", first, label(n));
    std::vector<NodeId> shown;
    std::vector<Rank> many;  // cores are counted, not listed
    for (NodeId c : children_[n]) {
      const NodeKind kind = t_.nodes()[c].kind;
      const auto ranks = ranks_.find(c);
      if (children_[n].size() > 16 && children_[c].empty() && ranks != ranks_.end() &&
          (kind == NodeKind::cpu || kind == NodeKind::rank))
        many.insert(many.end(), ranks->second.begin(), ranks->second.end());
      else
        shown.push_back(c);
    }
    for (size_t i = 0; i < shown.size(); ++i) {
      const bool last = i + 1 == shown.size() && many.empty();
      print(shown[i], rest + (last ? "└─ " : "├─ "), rest + (last ? "   " : "│  "), most_hosts,
            hosts);
    }
    if (!many.empty()) fmt::print("{}└─ ranks {}\n", rest, ranges(many));
  }

  const Topology& t_;
  Routes routes_;
  std::vector<std::vector<NodeId>> children_;
  std::vector<NodeId> roots_;
  std::map<NodeId, std::vector<Rank>> ranks_;
  std::map<NodeId, const Link*> up_, cable_;
  RingOrders rings_;
  size_t hosts_ = 0;
};

std::string level_text(const std::vector<uint32_t>& level) {
  std::map<uint32_t, std::vector<Rank>> groups;
  for (Rank r = 0; r < level.size(); ++r) groups[level[r]].push_back(r);
  std::string text = fmt::format("{} groups:", groups.size());
  size_t shown = 0;
  for (const auto& [id, ranks] : groups) {
    if (shown++ == 8) return text + " ...";
    text += fmt::format(" {{{}}}", ranges(ranks));
  }
  return text;
}

void print_all(const Cluster& cluster, View& view, const Options& o) {
  const Topology& t = view.topology();
  fmt::print("{}: {} ranks on {} host{}\n", cluster.source, t.ranks(), view.hosts(),
             view.hosts() == 1 ? "" : "s");
  if (cluster.recorded) fmt::print("{}\n", title_of(*cluster.recorded));
  fmt::print("\n");
  view.print_tree(o.hosts);

  fmt::print("\nNICs\n");
  constexpr Rank k_most = 64;
  for (Rank r = 0; r < std::min(t.ranks(), k_most); ++r) {
    const Json j = view.nic_choice(r);
    fmt::print("  rank {:<4} {:<8} {:<10} {}\n", r, j["place"].get<std::string>(),
               j["nic"].is_null() ? "none" : j["nic"].get<std::string>(),
               j["why"].get<std::string>());
  }
  if (t.ranks() > k_most)
    fmt::print("  ... and {} more ranks (--json has them all)\n", t.ranks() - k_most);

  fmt::print("\nGroups, innermost first\n");
  const auto groups = t.groups();
  if (groups.empty()) fmt::print("  none: all ranks are equally near\n");
  for (const auto& level : groups) fmt::print("  {}\n", level_text(level));

  const RingOrders& rings = view.rings();
  fmt::print("\nRings{}\n", rings.disjoint ? ", which share no link; each may run both ways" : "");
  for (const auto& ring : rings.rings) fmt::print("  {}\n", view.ring_text(ring));
  if (!rings.complete) fmt::print("  (there may be more: the search was cut short)\n");
  fmt::print("Tree order\n  {}\n", view.ring_text(tree_order(t)));

  fmt::print("\nNot found out\n");
  if (cluster.missing.empty()) fmt::print("  nothing\n");
  for (const std::string& m : cluster.missing) fmt::print("  {}\n", m);
}

Json to_json(const Cluster& cluster, View& view) {
  const Topology& t = view.topology();
  Json j;
  j["source"] = cluster.source;
  j["ranks"] = t.ranks();
  j["hosts"] = view.hosts();
  for (NodeId n = 0; n < t.nodes().size(); ++n) {
    const TopologyNode& node = t.nodes()[n];
    Json one = {{"id", n}, {"kind", name(node.kind)}, {"name", node.name}};
    if (node.parent != k_no_node) one["in"] = node.parent;
    j["nodes"].push_back(std::move(one));
  }
  for (const Link& l : t.links())
    j["links"].push_back({{"from", l.from},
                          {"to", l.to},
                          {"class", name(l.link_class)},
                          {"bytes_per_s", l.bandwidth},
                          {"latency_s", l.latency}});
  for (Rank r = 0; r < t.ranks(); ++r) {
    Json one = view.nic_choice(r);
    one["node"] = t.node_of(r);
    j["rank_places"].push_back(std::move(one));
  }
  j["groups"] = t.groups();
  j["rings"] = view.rings().rings;
  j["rings_share_no_link"] = view.rings().disjoint;
  j["tree_order"] = tree_order(t);
  j["not_found_out"] = cluster.missing;
  return j;
}

int run(const Options& o) {
  if (o.list) {
    for (const RecordedMachine& m : recorded_machines())
      fmt::print("{:<16} {}{}\n", m.name, title_of(m),
                 m.profile.empty() ? "" : "  (with a profile)");
    return 0;
  }
  const Result<Cluster> cluster = find(o);
  if (!cluster) return fail(cluster.status().message());
  if (!o.xml.empty()) {
    if (cluster->machines.empty())
      return fail("--xml: a spec says nothing of PCI; NCCL's XML is for machines");
    if (const Status s = write(o.xml, to_nccl_xml(cluster->machines)); !s.ok())
      return fail(s.message());
  }
  if (!o.svg.empty())
    if (const Status s = write(o.svg, to_svg(cluster->topology, cluster->source)); !s.ok())
      return fail(s.message());
  if (o.xml == "-" || o.svg == "-") return 0;
  View view(cluster->topology);
  if (o.json)
    fmt::print("{}\n", to_json(*cluster, view).dump(1, ' ', false, Json::error_handler_t::replace));
  else
    print_all(*cluster, view, o);
  return 0;
}

}  // namespace

int topo_command(int argc, char** argv) {
  CLI::App app(
      "shows a machine or cluster: what hangs where, which NIC each rank should use, rings along "
      "the links",
      "tutti topo");
  Options options;
  app.add_option("what", options.what,
                 "a recorded machine (--list), N of them (dgx-a100*16), a file (NCCL's or hwloc's "
                 "XML, a spec) or a "
                 "spec; this machine where it is left out");
  app.add_flag("--list", options.list, "list the recorded machines");
  app.add_flag("--json", options.json, "print JSON: nodes, links, NICs, groups, rings");
  app.add_option("--svg", options.svg, "draw it into this file ('-': standard output)");
  app.add_option("--xml", options.xml,
                 "write it as NCCL's XML into this file ('-': standard output)");
  app.add_flag("--cores", options.cores, "ranks are cores, also where there are GPUs");
  app.add_option("--hosts", options.hosts, "show so many hosts of a cluster")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return run(options);
}
