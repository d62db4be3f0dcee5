#include "topology/discover.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <charconv>
#include <fstream>

#include "topology/sysfs.h"

namespace tutti {
namespace {

int to_int(const std::string& text) {
  int value = -1;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// Vendor, family and model as /proc/cpuinfo has them, from the instruction that it has them from.
void ask_processor([[maybe_unused]] Part* p) {
#if defined(__x86_64__)
  unsigned eax = 0, words[3] = {}, other = 0;
  if (__get_cpuid(0, &eax, &words[0], &words[2], &words[1]) == 0) return;
  p->cpu_vendor.assign(reinterpret_cast<const char*>(words), sizeof(words));
  if (__get_cpuid(1, &eax, &other, &other, &other) == 0) return;
  const unsigned family = eax >> 8 & 15, model = eax >> 4 & 15;
  p->family = static_cast<int>(family == 15 ? family + (eax >> 20 & 255) : family);
  p->model = static_cast<int>(family == 6 || family == 15 ? model + (eax >> 16 & 15) * 16 : model);
#endif
}

// Architecture and model, as NCCL's XML names them.
Part processor(const std::string& cpuinfo) {
  Part p;
  utsname names{};
  if (uname(&names) == 0) p.arch = names.machine;
  if (p.arch == "aarch64") p.arch = "arm64";
  if (p.arch == "ppc64le") p.arch = "ppc64";
  if (cpuinfo.empty()) {
    ask_processor(&p);
    return p;
  }
  std::ifstream file(cpuinfo);
  for (std::string line; std::getline(file, line) && !line.empty();) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const std::string key = line.substr(0, line.find_first_of("\t:")),
                      value = line.substr(colon + 2);
    if (key == "vendor_id") p.cpu_vendor = value;
    if (key == "cpu family") p.family = to_int(value);
    if (key == "model") p.model = to_int(value);
  }
  return p;
}

}  // namespace

Machine discover(const DiscoverOptions& options) {
  Machine m;
  bool seen = false;
  if (options.hwloc != nullptr) {
    Result<Machine> found = ask_hwloc(*options.hwloc);
    seen = found.ok();
    if (found)
      m = std::move(*found);
    else
      m.missing.push_back("what hwloc sees (" + found.status().message() +
                          "); sysfs was read instead");
  }
  Sysfs sysfs(options.sysfs, &m);
  if (!seen) sysfs.add_processors(processor(options.cpuinfo), options.cores);
  if (options.gpus) sysfs.add_gpus();
  if (options.nics) sysfs.add_nics();
  if (options.nvml != nullptr) add_nvml(*options.nvml, &m);
  simplify(&m);
  m.name = options.name;
  if (m.name.empty()) {
    char name[256] = "";
    gethostname(name, sizeof(name) - 1);
    m.name = name;
  }
  return m;
}

Machine discover_all() {
  const Result<HwlocDriver> hwloc = HwlocDriver::load_library();
  const Result<NvmlDriver> nvml = NvmlDriver::load();
  DiscoverOptions options;
  if (hwloc) options.hwloc = &*hwloc;
  if (nvml) options.nvml = &*nvml;
  Machine m = discover(options);
  if (!hwloc)
    m.missing.push_back("what hwloc sees (" + hwloc.status().message() +
                        "); sysfs was read instead");
  if (!nvml && m.count(NodeKind::gpu) > 0)
    m.missing.push_back("the GPUs' NVLinks (" + nvml.status().message() + ")");
  return m;
}

}  // namespace tutti
