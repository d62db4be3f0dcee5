#include "src/communicator/device_links.h"

#include <algorithm>

#include "topology/discover.h"
#include "topology/load.h"
#include "topology/nccl_xml.h"

namespace tutti {
namespace {

Machine discover_devices() {
  DiscoverOptions options;
  options.cpuinfo.clear();
  options.cores = options.nics = false;
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

std::string look_at_devices(const Config& config) {
  Result<Machine> machine =
      config.topology.empty() ? Result<Machine>(discover_devices()) : described(config.topology);
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
                                                const std::vector<std::string>& bus_ids) {
  if (text.empty()) return nullptr;
  Result<std::vector<Machine>> machines = parse_nccl_xml(text);
  if (!machines || machines->size() != 1) return nullptr;
  BuildOptions options;
  for (const std::string& id : bus_ids) {
    const PartId part = machines->front().find_busid(id);
    if (id.empty() || part == k_no_part) return nullptr;
    options.ranks.push_back({0, part});
  }
  Result<Topology> topology = build_topology(*machines, options);
  if (!topology) return nullptr;
  return std::make_shared<const Topology>(std::move(*topology));
}

}  // namespace tutti
