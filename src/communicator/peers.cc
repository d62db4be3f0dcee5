#include "src/communicator/peers.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "src/base/cpus.h"
#include "src/communicator/host_report.h"
#include "topology/spec.h"

namespace tutti {
namespace {

// Of an encoded identity: what comes before the host's name, the list of CPUs and the GPU, with a
// zero byte between them.
constexpr size_t k_address_at = 52;
constexpr size_t k_fixed_bytes = k_address_at + sizeof(PackedAddress);
constexpr size_t k_max_name = 64, k_max_list = 256, k_max_bus_id = 16;
constexpr uint32_t k_library_version = 0x000100;  // 0.1.0

uint64_t hash(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325ULL;
  for (unsigned char c : text) h = (h ^ c) * 0x100000001b3ULL;
  h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdULL;
  return h ^ (h >> 33);
}

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

uint64_t inode_of(const char* path) {
  struct stat s {};
  return stat(path, &s) == 0 ? s.st_ino : 0;
}

// Field 22 of /proc/self/stat; the command in field 2 may hold spaces and parentheses.
std::string process_start() {
  const std::string line = first_line("/proc/self/stat");
  std::istringstream rest(line.substr(std::min(line.size(), line.rfind(')') + 2)));
  std::string field;
  for (int i = 3; i <= 22 && rest >> field; ++i) {
  }
  return field;
}

// The smallest socket or NUMA node that holds all the CPUs; none where that is the only one.
PartId binding(const Machine& m, const std::string& list) {
  std::vector<uint32_t> cpus;
  if (m.count(NodeKind::numa) < 2 || !parse_cpu_list(list, &cpus) || cpus.empty()) return k_no_part;
  PartId best = k_no_part;
  size_t least = SIZE_MAX;
  for (PartId i = 0; i < m.parts.size(); ++i) {
    std::vector<uint32_t> held;
    if (m.parts[i].kind != NodeKind::numa || !parse_cpu_list(m.parts[i].cpus, &held)) continue;
    std::sort(held.begin(), held.end());
    std::sort(cpus.begin(), cpus.end());
    if (held.size() >= least || !std::includes(held.begin(), held.end(), cpus.begin(), cpus.end()))
      continue;
    least = held.size();
    best = i;
  }
  return best;
}

// The host as its ranks' messages see it: where they have several NICs each, what a rank sends
// leaves by all of them at once.
Machine with_shared_nics(Machine host, uint32_t each) {
  for (Part& p : host.parts)
    if (p.kind == NodeKind::nic && each > 1) {
      p.port_bandwidth *= each;
      p.bandwidth = p.bandwidth > 0 ? p.bandwidth * each : p.port_bandwidth;
    }
  return host;
}

Result<Topology> build(const PeerTable& peers, bool routes) {
  if (peers.view.size() != peers.hosts())
    return Status(Code::invalid_usage, "the hosts have not been described");
  const Machine* cluster = peers.cluster();
  std::vector<Machine> hosts;
  if (cluster != nullptr) hosts.push_back(*cluster);
  for (uint32_t h = 0; h < peers.hosts() && cluster == nullptr; ++h) {
    hosts.push_back(with_shared_nics(peers.views[peers.view[h]], peers.interfaces_each(h)));
    hosts.back().name = peers.host_names[h];
  }
  BuildOptions options;
  options.routes = routes;
  options.port_class = LinkClass::network;  // what a profile charges between hosts, once
  options.uplink_class = LinkClass::interconnect;
  for (Rank r = 0; r < peers.host.size(); ++r)
    options.ranks.push_back({cluster != nullptr ? 0 : peers.host[r], peers.part[r]});
  return build_topology(hosts, options);
}

}  // namespace

PeerIdentity PeerIdentity::of_this_process(const Config& config) {
  PeerIdentity p;
  p.pid = static_cast<uint32_t>(getpid());
  p.version = k_library_version;
  char name[256] = "?";
  gethostname(name, sizeof(name) - 1);
  p.host_name = std::string(name).substr(0, k_max_name);
  const std::string boot_id = first_line("/proc/sys/kernel/random/boot_id");
  const std::string host =
      fmt::format("{}|{}|{}", boot_id, inode_of("/proc/self/ns/net"), config.host_id);
  p.machine = hash(boot_id);
  // Not the affinity mask: launchers bind ranks to CPUs of their own.
  const double online = static_cast<double>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  p.cpus = static_cast<uint32_t>(std::max(1.0, std::min(online, cgroup_cpus())));
  p.allowed = allowed_cpu_list();
  if (p.allowed.size() > k_max_list) p.allowed.clear();  // scattered all over: bound to nothing
  p.gpu = normal_bus_id(config.gpu);
  if (!config.socket_interface.empty())
    p.interfaces = std::clamp(static_cast<uint32_t>(usable_interfaces(config).size()), 1u,
                              k_most_host_interfaces);
  p.host = hash(host);
  p.process =
      hash(fmt::format("{}|{}|{}|{}", host, inode_of("/proc/self/ns/pid"), p.pid, process_start()));
  std::string transports;
  for (const std::string& t : config.transports) transports += t + ",";
  p.config = hash(fmt::format("{}|{}|{}|{}|{}|{}", transports, config.process_vm_bytes, config.tune,
                              config.deterministic, config.slot_bytes, config.socket_connections));
  return p;
}

std::string PeerIdentity::encode() const {
  std::string out(k_fixed_bytes, '\0');
  std::memcpy(out.data(), &host, 8);
  std::memcpy(out.data() + 8, &process, 8);
  std::memcpy(out.data() + 16, &config, 8);
  std::memcpy(out.data() + 24, &pid, 4);
  std::memcpy(out.data() + 28, &version, 4);
  std::memcpy(out.data() + 32, &machine, 8);
  std::memcpy(out.data() + 40, &cpus, 4);
  std::memcpy(out.data() + 44, &interfaces, 4);
  std::memcpy(out.data() + 48, &leaf, 4);
  std::memcpy(out.data() + k_address_at, council.data(), council.size());
  return out + host_name + '\0' + allowed + '\0' + gpu;
}

Result<PeerIdentity> PeerIdentity::decode(const std::string& text) {
  const auto bad = [&] {
    return Status(Code::remote_error, fmt::format("an identity of {} bytes", text.size()));
  };
  const size_t name_end = text.find('\0', std::min(text.size(), k_fixed_bytes));
  if (name_end == std::string::npos || name_end > k_fixed_bytes + k_max_name) return bad();
  const size_t list_end = text.find('\0', name_end + 1);
  if (list_end == std::string::npos || list_end > name_end + 1 + k_max_list ||
      text.size() > list_end + 1 + k_max_bus_id)
    return bad();
  PeerIdentity p;
  std::memcpy(&p.host, text.data(), 8);
  std::memcpy(&p.process, text.data() + 8, 8);
  std::memcpy(&p.config, text.data() + 16, 8);
  std::memcpy(&p.pid, text.data() + 24, 4);
  std::memcpy(&p.version, text.data() + 28, 4);
  std::memcpy(&p.machine, text.data() + 32, 8);
  std::memcpy(&p.cpus, text.data() + 40, 4);
  std::memcpy(&p.interfaces, text.data() + 44, 4);
  std::memcpy(&p.leaf, text.data() + 48, 4);
  std::memcpy(p.council.data(), text.data() + k_address_at, p.council.size());
  p.host_name = text.substr(k_fixed_bytes, name_end - k_fixed_bytes);
  p.allowed = text.substr(name_end + 1, list_end - name_end - 1);
  p.gpu = text.substr(list_end + 1);
  if (p.interfaces < 1 || p.interfaces > k_most_host_interfaces || normal_bus_id(p.gpu) != p.gpu)
    return bad();
  return p;
}

PeerTable::PeerTable(const std::vector<PeerIdentity>& peers) {
  std::map<uint64_t, uint32_t> index, machines;
  std::map<std::string_view, uint32_t> lists;
  for (const PeerIdentity& p : peers) {
    const auto [it, made] = index.try_emplace(p.host, host_names.size());
    if (made) {
      host_names.push_back(p.host_name);
      interfaces.push_back(p.interfaces);
      members.push_back(0);
    }
    host.push_back(it->second);
    ++members[it->second];
    interfaces[it->second] = std::min(interfaces[it->second], p.interfaces);
    gpu.push_back(p.gpu);
    leaf.push_back(p.leaf);
    pid.push_back(p.pid);
    machine.push_back(machines.try_emplace(p.machine, machines.size()).first->second);
    cpus = cpus == 0 ? p.cpus : std::min(cpus, p.cpus);
    const auto [list, fresh] = lists.try_emplace(p.allowed, cpu_lists.size());
    if (fresh) cpu_lists.push_back(p.allowed);
    cpu_list.push_back(list->second);
  }
}

std::vector<Rank> PeerTable::first_ranks() const {
  std::vector<Rank> first(hosts(), static_cast<Rank>(host.size()));
  for (Rank r = static_cast<Rank>(host.size()); r-- > 0;) first[host[r]] = r;
  return first;
}

uint32_t PeerTable::interfaces_each(uint32_t of_host) const {
  return hosts() < 2 ? 1 : std::max(1u, interfaces[of_host] / members[of_host]);
}

std::string PeerTable::describe(Rank rank) const {
  return fmt::format("rank {} (host {}, pid {})", rank, host_names[host[rank]], pid[rank]);
}

Status PeerTable::add_views(const std::vector<Machine>& of_hosts) {
  views.clear();
  view.clear();
  for (const Machine& m : of_hosts) {
    const auto known = std::find(views.begin(), views.end(), m);
    view.push_back(static_cast<uint32_t>(known - views.begin()));
    if (known == views.end()) views.push_back(m);
  }
  TUTTI_RETURN_IF_ERROR(check_specs());
  part.assign(host.size(), k_no_part);
  const bool whole = cluster() != nullptr;
  std::vector<PartId> next(hosts(), 0);  // leaves taken so far
  std::map<std::pair<uint32_t, std::string_view>, PartId> gpus;
  std::map<std::pair<uint32_t, uint32_t>, PartId> bindings;
  for (Rank r = 0; r < host.size(); ++r) {
    const uint32_t v = view[host[r]];
    if (!views[v].inside.empty()) {
      part[r] = leaf[r] != k_no_part ? leaf[r] : whole ? r : next[host[r]]++;
      continue;
    }
    const auto [on, first_on] = gpus.try_emplace({v, gpu[r]}, k_no_part);
    if (first_on) on->second = views[v].find_gpu(gpu[r]);
    part[r] = on->second;
    if (part[r] != k_no_part) continue;
    const auto [it, fresh] = bindings.try_emplace({v, cpu_list[r]}, k_no_part);
    if (fresh) it->second = binding(views[v], cpu_lists[cpu_list[r]]);
    part[r] = it->second;
  }
  return {};
}

// That ranks fit the specs, and that a spec of several hosts is everyone's.
Status PeerTable::check_specs() const {
  const auto bad = [](std::string why) { return Status(Code::invalid_usage, std::move(why)); };
  const std::vector<Rank> first = first_ranks();
  const auto said = [](const Machine& m) {
    return m.inside.empty() ? std::string("none") : "\"" + m.inside + "\"";
  };
  const auto fits = [&](Rank from, uint32_t ranks, uint32_t leaves, const std::string& where) {
    PartId most = 0;  // leaves that an earlier communicator gave out
    for (Rank r = from; r < host.size(); ++r)
      if (leaf[r] != k_no_part && (where.empty() || host[r] == host[from]))
        most = std::max(most, leaf[r] + 1);
    return std::max<uint32_t>(ranks, most) <= leaves
               ? Status()
               : bad(fmt::format("ranks do not fit the topology{}: {} ranks, {} leaves in {}",
                                 where, ranks, leaves, said(views[view[host[from]]])));
  };
  for (uint32_t h = 0; h < hosts(); ++h) {
    const Machine& m = views[view[h]];
    if (m.inside.empty()) continue;
    const Result<ClusterSpec> spec = parse_cluster(m.inside);
    if (!spec) return spec.status();
    const ClusterSize size = size_of(*spec);
    if (size.hosts > 1) {
      for (uint32_t other = 0; other < hosts(); ++other)
        if (views[view[other]].inside != m.inside)
          return bad(fmt::format(
              "ranks have different topologies: {} {}, {} {}; a spec of several "
              "hosts must be the same on all",
              describe(first[std::min(h, other)]), said(views[view[std::min(h, other)]]),
              describe(first[std::max(h, other)]), said(views[view[std::max(h, other)]])));
      return fits(0, static_cast<uint32_t>(host.size()), size.ranks, "");
    }
    TUTTI_RETURN_IF_ERROR(fits(first[h], members[h], size.ranks, " of host " + host_names[h]));
  }
  return {};
}

bool PeerTable::gpu_is_unknown(Rank rank) const {
  const Machine& m = views[view[host[rank]]];
  return !gpu[rank].empty() && m.inside.empty() && m.find_gpu(gpu[rank]) == k_no_part;
}

const Machine* PeerTable::cluster() const {
  return !views.empty() && views[0].describes_cluster() ? &views[0] : nullptr;
}

bool PeerTable::ranks_in_parts() const {
  return std::any_of(part.begin(), part.end(), [](PartId p) { return p != k_no_part; });
}

bool PeerTable::hosts_in_groups() const {
  return hosts() > 1 && std::any_of(views.begin(), views.end(),
                                    [](const Machine& m) { return !m.switches.empty(); });
}

bool PeerTable::rails() const {
  return hosts() > 1 && std::any_of(views.begin(), views.end(),
                                    [](const Machine& m) { return m.count(NodeKind::nic) > 1; });
}

Result<Topology> PeerTable::topology() const { return build(*this, true); }

Placement place(const PeerTable& peers) {
  Placement placement;
  placement.ranks = static_cast<uint32_t>(peers.host.size());
  placement.hosts = peers.hosts();
  placement.host = peers.host;
  placement.cpu_pools = peers.machine;
  placement.cpus = peers.cpus;
  auto& levels = placement.hierarchy.level;
  if (peers.hosts_in_groups() || peers.ranks_in_parts()) {
    const Result<Topology> topology = build(peers, false);
    if (topology) levels = topology->groups();
  }
  const bool one = placement.hosts == 1;  // which groups() leaves out
  if (placement.hosts < placement.ranks && (one || levels.empty())) levels.push_back(peers.host);
  return placement;
}

Status follow_links(const PeerTable& peers, Placement* placement) {
  // A topology of thousands of ranks would cost more to search than its prices are worth.
  constexpr uint32_t k_most_ranks = 1024;
  double slowest = 0;
  for (uint32_t h = 0; h < peers.hosts(); ++h) {
    double fastest = 0;
    for (const Part& p : peers.views[peers.view[h]].parts)
      if (p.kind == NodeKind::nic) fastest = std::max(fastest, p.port_bandwidth);
    fastest *= peers.interfaces_each(h);
    if (fastest > 0) slowest = slowest > 0 ? std::min(slowest, fastest) : fastest;
  }
  if (slowest > 0) placement->network_bandwidth = slowest;
  const bool more = peers.ranks_in_parts() || peers.hosts_in_groups() || peers.rails();
  const bool said = std::any_of(peers.views.begin(), peers.views.end(),
                                [](const Machine& m) { return !m.inside.empty(); });
  // Sockets between ranks of a host have prices of their own, whatever lies between the ranks,
  // unless somebody says what does.
  if (more && (said || !placement->sockets_inside) && placement->ranks <= k_most_ranks) {
    Result<Topology> topology = peers.topology();
    if (!topology) return topology.status();
    placement->topology = std::make_shared<const Topology>(std::move(*topology));
  }
  placement->orders = link_orders(*placement);
  return {};
}

}  // namespace tutti
