#include "topology/hwloc.h"

#include <dlfcn.h>

#include <string>

#include "topology/hwloc_xml.h"

namespace tutti {
namespace {
constexpr int k_keep_important = 3;  // HWLOC_TYPE_FILTER_KEEP_IMPORTANT
}  // namespace

Result<HwlocDriver> HwlocDriver::load_library() {
  void* library = dlopen("libhwloc.so.15", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    return Status(Code::unsupported, why != nullptr ? why : "libhwloc.so.15 does not load");
  }
  HwlocDriver d;
  std::string lacking;
  auto find = [&](auto* function, const char* name) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
    if (*function == nullptr) lacking = name;
  };
  find(&d.init, "hwloc_topology_init");
  find(&d.set_io_filter, "hwloc_topology_set_io_types_filter");
  find(&d.load, "hwloc_topology_load");
  find(&d.export_xml, "hwloc_topology_export_xmlbuffer");
  find(&d.free_xml, "hwloc_free_xmlbuffer");
  find(&d.destroy, "hwloc_topology_destroy");
  if (!lacking.empty())
    return Status(Code::unsupported, "libhwloc.so.15 has no function " + lacking);
  return d;
}

Result<Machine> ask_hwloc(const HwlocDriver& driver) {
  void* topology = nullptr;
  if (driver.init(&topology) != 0) return Status(Code::unsupported, "hwloc does not start");
  char* text = nullptr;
  int length = 0;
  const bool fine = driver.set_io_filter(topology, k_keep_important) == 0 &&
                    driver.load(topology) == 0 &&
                    driver.export_xml(topology, &text, &length, 0) == 0;
  std::string xml;
  if (fine && text != nullptr) {
    xml.assign(text, static_cast<size_t>(length));
    while (!xml.empty() && xml.back() == '\0') xml.pop_back();
    driver.free_xml(topology, text);
  }
  driver.destroy(topology);
  if (!fine) return Status(Code::unsupported, "hwloc does not see the machine");
  Result<Machine> machine = parse_hwloc_xml(xml);
  return machine ? std::move(machine) : Result<Machine>(machine.status().with_context("hwloc"));
}

}  // namespace tutti
