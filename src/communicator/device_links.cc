#include "src/communicator/device_links.h"

#include <algorithm>

#include "topology/discover.h"
#include "topology/load.h"
#include "topology/nccl_xml.h"

namespace tutti {
namespace {

Machine discover_devices(bool nics) {
  DiscoverOptions options;
  options.cpuinfo.clear();
  options.cores = false;
  options.nics = nics;
  const Result<NvmlDriver> nvml = NvmlDriver::load();
  if (nvml) options.nvml = &*nvml;
  return discover(options);
}

// Whether the file is one was settled when the communicator was made.
Result<Machine> described(const std::string& setting) {
  std::string text;
  if (const RecordedMachine* recorded = find_recorded_machine(setting)) {
    text = recorded->text;
  } else {
    Result<std::string> read = read_topology_file(setting);
    if (!read) return read.status();
    text = std::move(*read);
  }
  Result<std::vector<Machine>> machines = parse_machines(text);
  if (!machines) return machines.status();
  if (machines->size() != 1) return Status(Code::invalid_argument, "several hosts");
  return std::move(machines->front());
}

}  // namespace

std::string look_at_devices(const Config& config, bool nics) {
  Result<Machine> machine = config.topology.empty() ? Result<Machine>(discover_devices(nics))
                                                    : described(config.topology);
  if (!machine || machine->count(NodeKind::gpu) == 0) return {};
  machine->copies = 1;
  return to_nccl_xml({*machine});
}

std::vector<std::string> gpus_of(const std::string& text) {
  std::vector<std::pair<int, std::string>> found;
  const Result<std::vector<Machine>> machines = parse_nccl_xml(text);
  if (!machines || machines->empty()) return {};
  for (const Part& p : machines->front().parts)
    if (p.kind == NodeKind::gpu) found.emplace_back(p.index, p.busid);
  std::stable_sort(found.begin(), found.end());
  std::vector<std::string> ids;
  for (auto& [index, id] : found) ids.push_back(std::move(id));
  return ids;
}

std::shared_ptr<const Topology> device_topology(const std::string& text,
                                                const std::vector<std::string>& bus_ids,
                                                const std::vector<uint32_t>& hosts) {
  if (text.empty()) return nullptr;
  Result<std::vector<Machine>> machines = parse_nccl_xml(text);
  if (!machines || machines->size() != 1) return nullptr;
  BuildOptions options;
  for (Rank r = 0; r < bus_ids.size(); ++r) {
    const PartId part = machines->front().find_busid(bus_ids[r]);
    if (part == k_no_part) return nullptr;
    options.ranks.push_back({hosts.empty() ? 0 : hosts[r], part});
  }
  if (!hosts.empty())
    machines->resize(*std::max_element(hosts.begin(), hosts.end()) + 1, machines->front());
  Result<Topology> topology = build_topology(*machines, options);
  if (!topology) return nullptr;
  return std::make_shared<const Topology>(std::move(*topology));
}

}  // namespace tutti
