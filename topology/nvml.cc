#include "topology/nvml.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <map>

namespace tutti {
namespace {

constexpr unsigned k_most_links = 64;
constexpr unsigned k_to_gpu = 0, k_to_npu = 1, k_to_switch = 2;  // nvmlIntNvLinkDeviceType_t

// "00000000:07:00.0" with the domain of four digits that the kernel writes.
std::string bus_id(const NvmlPciInfo& info) {
  unsigned domain = info.domain, bus = info.bus, device = info.device, function = 0;
  std::string text(info.bus_id, strnlen(info.bus_id, sizeof(info.bus_id)));
  if (const size_t dot = text.rfind('.'); dot != std::string::npos && dot + 1 < text.size())
    function = static_cast<unsigned>(text[dot + 1] - '0') & 7;
  return fmt::format("{:04x}:{:02x}:{:02x}.{}", domain, bus, device, function);
}

class Asker {
 public:
  Asker(const NvmlDriver& driver, Machine* machine) : nvml_(driver), m_(machine) {}

  void ask() {
    if (const int error = nvml_.init(); error != 0)
      return m_->missing.push_back("GPUs: NVML does not start: " + text(error));
    unsigned count = 0;
    if (const int error = nvml_.device_count(&count); error != 0)
      m_->missing.push_back("GPUs: NVML does not count them: " + text(error));
    for (unsigned i = 0; i < count && i < 1024; ++i) gpu(i);
    for (const auto& [device, part] : devices_) links(device, part);
    nvml_.shutdown();
  }

 private:
  std::string text(int error) const {
    const char* said = nvml_.error_string ? nvml_.error_string(error) : nullptr;
    return said != nullptr ? said : fmt::format("error {}", error);
  }

  void gpu(unsigned index) {
    NvmlDevice device = nullptr;
    NvmlPciInfo info{};
    int error = nvml_.device_by_index(index, &device);
    if (error == 0) error = nvml_.pci_info(device, &info);
    if (error != 0)
      return m_->missing.push_back(fmt::format("gpu{}: NVML: {}", index, text(error)));
    const std::string id = bus_id(info);
    PartId part = m_->find_busid(id);
    if (part == k_no_part) {
      Part p;
      p.kind = NodeKind::gpu;
      p.busid = id;
      p.pci_class = "0x030200";
      part = m_->add(std::move(p));
      m_->missing.push_back(fmt::format("gpu{}: where {} hangs on PCI", index, id));
    }
    Part& p = m_->parts[part];
    p.kind = NodeKind::gpu;
    p.index = static_cast<int>(index);
    p.name = fmt::format("gpu{}", index);
    int major = 0, minor = 0;
    if (error = nvml_.compute_capability(device, &major, &minor); error == 0)
      p.sm = major * 10 + minor;
    else
      m_->missing.push_back(fmt::format("{}: compute capability: {}", p.name, text(error)));
    unsigned generation = 0, width = 0;
    if (p.bandwidth == 0 && nvml_.pcie_generation(device, &generation) == 0 &&
        nvml_.pcie_width(device, &width) == 0 && generation >= 1 && generation <= 6) {
      constexpr double k_rates[] = {2.5, 5, 8, 16, 32, 64};
      p.bandwidth = pci_bandwidth(k_rates[generation - 1], static_cast<int>(width));
    }
    devices_.emplace_back(device, part);
  }

  void links(NvmlDevice device, PartId from) {
    std::map<PartId, uint32_t> count;
    uint32_t lost = 0;
    for (unsigned l = 0; l < k_most_links; ++l) {
      unsigned active = 0;
      // Not supported, or past the last link.
      if (nvml_.nvlink_state(device, l, &active) != 0) break;
      if (active == 0) continue;
      unsigned type = k_to_gpu;
      const bool typed =
          nvml_.nvlink_remote_type && nvml_.nvlink_remote_type(device, l, &type) == 0;
      NvmlPciInfo remote{};
      const bool placed = nvml_.nvlink_remote(device, l, &remote) == 0;
      PartId to = k_no_part;
      if (typed && type == k_to_switch) {
        to = FastLink::k_switch;
      } else if (typed && type == k_to_npu) {
        to = m_->parts[from].parent;
        while (to != k_no_part && m_->parts[to].kind != NodeKind::numa) to = m_->parts[to].parent;
      } else if (placed) {
        to = m_->find_busid(bus_id(remote));
        // What is no GPU of this host is a switch; drivers in virtual machines hide its address.
        if (to == k_no_part && !typed) to = FastLink::k_switch;
      }
      if (to == k_no_part || to == from) {
        ++lost;
        continue;
      }
      ++count[to];
    }
    const Part& p = m_->parts[from];
    for (const auto& [to, links] : count)
      m_->links.push_back({from, to, nvlink_bandwidth(p.sm) * links, links, "nvlink"});
    if (lost > 0)
      m_->missing.push_back(fmt::format("{}: where {} of its NVLinks lead", p.name, lost));
  }

  const NvmlDriver& nvml_;
  Machine* m_;
  std::vector<std::pair<NvmlDevice, PartId>> devices_;
};

}  // namespace

Result<NvmlDriver> NvmlDriver::load() {
  void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    return Status(Code::unsupported, why != nullptr ? why : "libnvidia-ml.so.1 does not load");
  }
  NvmlDriver d;
  std::string lacking;
  auto find = [&](auto* function, const char* name, bool needed) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
    if (*function == nullptr && needed) lacking = name;
  };
  find(&d.init, "nvmlInit_v2", true);
  find(&d.shutdown, "nvmlShutdown", true);
  find(&d.error_string, "nvmlErrorString", false);
  find(&d.device_count, "nvmlDeviceGetCount_v2", true);
  find(&d.device_by_index, "nvmlDeviceGetHandleByIndex_v2", true);
  find(&d.pci_info, "nvmlDeviceGetPciInfo_v3", true);
  find(&d.compute_capability, "nvmlDeviceGetCudaComputeCapability", true);
  find(&d.nvlink_state, "nvmlDeviceGetNvLinkState", true);
  find(&d.nvlink_remote, "nvmlDeviceGetNvLinkRemotePciInfo_v2", true);
  find(&d.nvlink_remote_type, "nvmlDeviceGetNvLinkRemoteDeviceType", false);
  find(&d.pcie_generation, "nvmlDeviceGetMaxPcieLinkGeneration", true);
  find(&d.pcie_width, "nvmlDeviceGetMaxPcieLinkWidth", true);
  if (!lacking.empty())
    return Status(Code::unsupported, "libnvidia-ml.so.1 has no function " + lacking);
  return d;
}

void add_nvml(const NvmlDriver& driver, Machine* machine) { Asker(driver, machine).ask(); }

}  // namespace tutti
