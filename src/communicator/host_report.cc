#include "src/communicator/host_report.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <fstream>

#include "src/base/address.h"
#include "topology/discover.h"
#include "topology/load.h"
#include "topology/nccl_xml.h"

namespace tutti {
namespace {

// The machine with the parts that `keep` names. What was below another goes to the next one above.
template <class Keep>
Machine only(Machine m, Keep&& keep) {
  std::vector<PartId> number(m.parts.size(), k_no_part);
  std::vector<Part> kept;
  for (PartId i = 0; i < m.parts.size(); ++i) {
    Part& p = m.parts[i];
    if (!keep(p)) continue;
    while (p.parent != k_no_part && number[p.parent] == k_no_part)
      p.parent = m.parts[p.parent].parent;
    if (p.parent != k_no_part) p.parent = number[p.parent];
    number[i] = static_cast<PartId>(kept.size());
    kept.push_back(std::move(p));
  }
  m.parts = std::move(kept);
  for (SocketLink& l : m.sockets) {
    l.from = number[l.from];
    l.to = number[l.to];
  }
  const auto lost = [&](PartId end) { return end < number.size() && number[end] == k_no_part; };
  std::erase_if(m.links, [&](const FastLink& l) { return lost(l.from) || lost(l.to); });
  for (FastLink& l : m.links) {
    l.from = number[l.from];
    if (l.to != FastLink::k_switch) l.to = number[l.to];
  }
  return m;
}

// Leaves out what the exchange need not carry.
Machine essentials(Machine m, bool gpus) {
  m = only(std::move(m), [&](const Part& p) {
    return (gpus || p.kind != NodeKind::gpu) && p.kind != NodeKind::cpu && p.up;
  });
  for (Part& p : m.parts) {
    p.rank = p.gdr = p.max_connections = -1;
    p.guid.clear();
    p.vendor = p.device = p.subsystem_vendor = p.subsystem_device = "";
  }
  m.missing.clear();
  m.name.clear();
  m.copies = 1;
  m.switch_spans_hosts = false;
  simplify(&m);
  if (m.count(NodeKind::numa) == 0) {
    Part all;
    all.kind = NodeKind::numa;
    all.name = "cpu";
    m.add(std::move(all));
  }
  return m;
}

// Megabits per second as the kernel says; 0 where it does not.
double port_speed(const std::string& interface) {
  std::ifstream file("/sys/class/net/" + interface + "/speed");
  double speed = 0;
  return file >> speed && speed > 0 ? speed : 0;
}

// Of all ports those of the interfaces: files name ports by them or by their devices. Those that
// are no card's (a bond, a bridge), or that a file does not know, are somewhere on the host.
Machine with_ports_of(Machine m, const std::vector<std::string>& interfaces) {
  const auto among = [&](const Part& p) {
    return std::find(interfaces.begin(), interfaces.end(), p.interface) != interfaces.end();
  };
  for (Part& p : m.parts)
    if (p.kind == NodeKind::nic && p.interface.empty()) p.interface = p.name;
  m = only(std::move(m), [&](const Part& p) { return p.kind != NodeKind::nic || among(p); });
  for (const std::string& name : interfaces) {
    if (std::any_of(m.parts.begin(), m.parts.end(),
                    [&](const Part& p) { return p.interface == name; }))
      continue;
    Part port;
    port.kind = NodeKind::nic;
    port.name = port.interface = name;
    port.port_bandwidth = port_speed(name) * 1e6 / 8;
    m.add(std::move(port));
  }
  return m;
}

}  // namespace

Result<Machine> look_at_host(const Config& config, Sights sights) {
  if (!config.switches.empty() && !names_switches(config.switches))
    return Status(Code::invalid_argument,
                  fmt::format("TUTTI_SWITCHES=\"{}\": expected up to four names of switches, "
                              "outermost first, joined by dots",
                              config.switches));
  Machine machine;
  if (config.topology.empty()) {
    DiscoverOptions options;
    options.cpuinfo.clear();
    options.cores = false;
    options.gpus = sights.gpus;
    options.nics = sights.nics;
    const Result<NvmlDriver> nvml =
        sights.gpus ? NvmlDriver::load() : Result<NvmlDriver>(Status(Code::unsupported, ""));
    options.nvml = nvml ? &*nvml : nullptr;
    machine = discover(options);
  } else {
    Result<Machine> described = load_machine(config.topology);
    if (!described) return described.status().with_context("TUTTI_TOPO");
    machine = std::move(*described);
  }
  const bool alone = !machine.describes_cluster();  // else it says all there is
  if (sights.nics && alone) machine = with_ports_of(std::move(machine), usable_interfaces(config));
  if (!config.switches.empty() && alone) machine.switches = config.switches;
  return essentials(std::move(machine), sights.gpus);
}

Result<Machine> own_spec(const Config& config) {
  if (!names_spec(config.topology)) return Machine();
  Result<Machine> machine = load_machine(config.topology);
  if (!machine) return machine.status().with_context("TUTTI_TOPO");
  return essentials(std::move(*machine), false);
}

std::string encode_report(const Result<Machine>& report, size_t room) {
  if (report) {
    std::string text = "M" + to_nccl_xml({*report});
    if (text.size() <= room) return text;
    // Hundreds of virtual functions.
    text =
        "M" + to_nccl_xml({only(*report, [](const Part& p) { return p.kind == NodeKind::numa; })});
    if (text.size() <= room) return text;
    return encode_report(Status(Code::unsupported, "this host has too many NUMA nodes to describe"),
                         room);
  }
  return fmt::format("E{}{}", static_cast<char>('A' + static_cast<int>(report.status().code())),
                     report.status().message().substr(0, room - 2));
}

Result<Machine> decode_report(const std::string& text) {
  if (text.size() > 1 && text[0] == 'E') {
    const int code = text[1] - 'A';
    if (code > 0 && code <= static_cast<int>(Code::internal_error))
      return Status(static_cast<Code>(code), text.substr(2));
  }
  if (text.empty() || text[0] != 'M')
    return Status(Code::remote_error, fmt::format("a report of {} bytes on its host", text.size()));
  Result<std::vector<Machine>> machines = parse_nccl_xml(std::string_view(text).substr(1));
  if (!machines || machines->size() != 1)
    return Status(Code::remote_error,
                  "a report on its host that cannot be read: " + machines.status().message());
  return std::move(machines->front());
}

std::vector<std::string> usable_interfaces(const Config& config) {
  const Result<std::vector<Interface>> found =
      select_interfaces(config.socket_interface, config.socket_family);
  std::vector<std::string> names;
  for (size_t i = 0; found && i < found->size(); ++i)
    if (const std::string& name = (*found)[i].name;
        std::find(names.begin(), names.end(), name) == names.end())
      names.push_back(name);
  const std::string& list = config.socket_interface;
  const bool several = !list.empty() && list.find('^') == std::string::npos;
  if (!several && names.size() > 1) names.resize(1);
  return names;
}

std::vector<std::string> nearest_interfaces(const Machine& host,
                                            const std::vector<PeerIdentity>& here, uint32_t index,
                                            uint32_t each) {
  PeerTable ranks(here);
  if (!host.inside.empty() || !ranks.add_views({host}).ok()) return {};
  const Result<Topology> topology = ranks.topology();
  if (!topology) return {};
  // Each rank in turn takes the nearest that nobody has; where they do not go round, those that the
  // topology deals to it.
  std::vector<NodeId> mine, taken;
  if (each == 1) mine.push_back(topology->exit_of(index));
  Routes routes(*topology);
  for (uint32_t round = 0; each > 1 && round < each; ++round)
    for (Rank r = 0; r < here.size(); ++r)
      for (const Routes::WayOut& way : routes.ways_out(r)) {
        if (std::find(taken.begin(), taken.end(), way.exit) != taken.end()) continue;
        taken.push_back(way.exit);
        if (r == index) mine.push_back(way.exit);
        break;
      }
  std::vector<std::string> names;
  for (const NodeId exit : mine)
    for (const Part& p : host.parts)
      if (exit != k_no_node && p.kind == NodeKind::nic && !p.interface.empty() &&
          p.name == topology->nodes()[exit].name)
        names.push_back(p.interface);
  return names.size() == each ? names : std::vector<std::string>();
}

std::string allowed_cpu_list() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return {};
  std::vector<uint32_t> cpus;
  for (uint32_t c = 0; c < CPU_SETSIZE; ++c)
    if (CPU_ISSET(c, &set)) cpus.push_back(c);
  return cpu_list(cpus);
}

}  // namespace tutti
