#include "topology/hwloc_xml.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <utility>

namespace tutti {
namespace {

std::string_view type_of(const XmlElement& e) {
  return e.name == "object" ? e.get("type") : std::string_view();
}
bool is_package(const XmlElement& e) {
  return type_of(e) == "Package" || type_of(e) == "Socket";  // before 1.11
}
bool is_numa(const XmlElement& e) { return type_of(e) == "NUMANode"; }

template <class Test>
uint32_t count_inside(const XmlElement& e, Test test) {
  uint32_t count = 0;
  for (const XmlElement& c : e.children) count += test(c) + count_inside(c, test);
  return count;
}

std::string_view info(const XmlElement& e, std::string_view name) {
  for (const XmlElement& c : e.children)
    if (c.name == "info" && c.get("name") == name) return c.get("value");
  return {};
}

int to_int(std::string_view text, int otherwise) {
  int value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && stop == text.data() + text.size() && value >= 0 ? value
                                                                                 : otherwise;
}

class HwlocReader {
 public:
  Result<Machine> read(const XmlElement& root) {
    if (root.name != "topology") return xml_error(root.place, "<topology>", "<" + root.name + ">");
    const std::string_view version = root.get("version");
    if (!version.empty() && !version.starts_with("1.") && !version.starts_with("2."))
      return xml_error(root.find("version")->place, "version 1 or 2 of hwloc's XML",
                       fmt::format("'{}'", version.substr(0, 20)));
    const XmlElement* top = nullptr;
    for (const XmlElement& c : root.children)
      if (type_of(c) == "Machine" || type_of(c) == "System") top = &c;
    if (top == nullptr) return xml_error(root.place, "an object of type Machine in it", "none");
    machine_.name = std::string(info(*top, "HostName"));
    arch_ = std::string(info(*top, "Architecture"));
    if (arch_ == "aarch64") arch_ = "arm64";
    if (arch_ == "ppc64le") arch_ = "ppc64";
    object(*top, k_no_part);
    for (const XmlElement& c : root.children)
      if (c.name == "distances2" || c.name == "distances2hetero") distances(c);
    if (!status_.ok()) return status_;
    if (machine_.count(NodeKind::gpu) > 1 && machine_.links.empty())
      machine_.missing.emplace_back("links between GPUs: not in this XML of hwloc");
    return std::move(machine_);
  }

 private:
  // `inside`: the part that contains the object.
  void object(const XmlElement& e, PartId inside) {
    if (!status_.ok()) return;
    const std::string_view type = type_of(e);
    if (is_package(e)) {
      const uint32_t nodes = count_inside(e, is_numa);
      if (nodes != 1 && !(nodes == 0 && alone_in_numa_)) inside = add_socket(e, inside, "package");
      package_ = &e;
    } else if (is_numa(e)) {
      alone_in_numa_ = count_inside(e, is_package) == 1;
      inside = add_socket(e, inside, "numa");
    } else if (type == "Core" || type == "PU") {  // a PU without a core around it
      core(e, inside);
      return;
    } else if (type == "Bridge") {
      inside = bridge(e, inside);
    } else if (type == "PCIDev") {
      device(e, inside);
      return;
    }
    // Since version 2 a NUMA node is a leaf beside what it is the memory of.
    const XmlElement* memory = nullptr;
    if (!is_numa(e))
      for (const XmlElement& c : e.children)
        if (is_numa(c) && count_inside(c, is_anything) == 0 && has_cpus(c) && memory == nullptr)
          memory = &c;
    if (memory != nullptr) {
      alone_in_numa_ = count_inside(e, is_package) == 1;
      inside = add_socket(*memory, inside, "numa");
    }
    for (const XmlElement& c : e.children) {
      const bool leaf_memory = is_numa(c) && count_inside(c, is_anything) == 0 && !is_numa(e);
      if (c.name == "object" && !leaf_memory) object(c, inside);
    }
  }

  static bool is_anything(const XmlElement& e) { return e.name == "object"; }
  bool has_cpus(const XmlElement& e) { return !cpus_of(e).empty(); }

  std::vector<uint32_t> cpus_of(const XmlElement& e) {
    std::vector<uint32_t> cpus;
    const XmlAttribute* a = e.find("cpuset");
    if (a == nullptr) return cpus;
    // "0x0000ffff,0x00000001": 32 bits each, the highest first; an empty word is 0.
    uint32_t base = 0;
    std::string_view mask = a->value;
    for (;;) {
      const size_t comma = mask.rfind(',');
      std::string_view word = comma == std::string_view::npos ? mask : mask.substr(comma + 1);
      if (word.starts_with("0x")) word.remove_prefix(2);
      uint32_t bits = 0;
      const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), bits, 16);
      const bool fine = word.empty() || (error == std::errc() && stop == word.data() + word.size());
      if (!fine || base > 1u << 16) {
        if (status_.ok())
          status_ = xml_error(a->place, "a set such as \"0x0000ffff,0x00000001\" for cpuset",
                              fmt::format("'{}'", a->value.substr(0, 40)));
        return {};
      }
      for (uint32_t b = 0; b < 32; ++b)
        if (bits >> b & 1) cpus.push_back(base + b);
      base += 32;
      if (comma == std::string_view::npos) return cpus;
      mask = mask.substr(0, comma);
    }
  }

  PartId add_socket(const XmlElement& e, PartId inside, std::string_view what) {
    Part p;
    p.kind = NodeKind::numa;
    p.parent = inside;
    p.index = what == "numa" ? to_int(e.get("os_index"), -1) : -1;
    p.name = fmt::format("{}{}", what, e.get("os_index"));
    p.cpus = cpu_list(cpus_of(e));
    p.arch = arch_;
    const XmlElement* package = is_package(e) ? &e : package_;
    if (package == nullptr)  // version 1: the socket is inside of the node
      for (const XmlElement& c : e.children)
        if (is_package(c)) package = &c;
    if (package != nullptr) {
      p.cpu_vendor = info(*package, "CPUVendor");
      p.family = to_int(info(*package, "CPUFamilyNumber"), -1);
      p.model = to_int(info(*package, "CPUModelNumber"), -1);
    }
    return machine_.add(std::move(p));
  }

  void core(const XmlElement& e, PartId inside) {
    Part p;
    p.kind = NodeKind::cpu;
    p.parent = inside;
    const std::vector<uint32_t> cpus = cpus_of(e);
    if (!cpus.empty()) p.index = static_cast<int>(cpus.front());
    p.cpus = cpu_list(cpus);
    p.name = fmt::format("core{}", p.index);
    machine_.add(std::move(p));
  }

  // Bytes per second of pci_link_speed="15.753846" (GB/s); 0: not known.
  double link_speed(const XmlElement& e) {
    const XmlAttribute* a = e.find("pci_link_speed");
    if (a == nullptr) return 0;
    double value = 0;
    const char* end = a->value.data() + a->value.size();
    const auto [stop, error] = std::from_chars(a->value.data(), end, value);
    if (error == std::errc() && stop == end && std::isfinite(value) && value >= 0 && value <= 1e4)
      return value * 1e9;
    if (status_.ok())
      status_ = xml_error(a->place, "GB/s from 0 to 10000 for pci_link_speed",
                          fmt::format("'{}'", a->value.substr(0, 40)));
    return 0;
  }

  PartId bridge(const XmlElement& e, PartId inside) {
    remember(e, {End::processor, k_no_part});  // a port of POWER's, if a matrix has it
    if (!e.get("bridge_type").starts_with("1-")) return inside;  // from the processor to PCI
    Part p;
    p.parent = inside;
    p.busid = e.get("pci_busid");
    p.name = p.busid;
    p.pci_class = "0x060400";
    p.bandwidth = link_speed(e);
    return machine_.add(std::move(p));
  }

  void device(const XmlElement& e, PartId inside) {
    // "0302 [10de:20b0] [10de:144e] a1"
    const std::string_view type = e.get("pci_type");
    const std::string_view cls = type.substr(0, 4);
    const std::string_view vendor = type.size() > 10 && type[5] == '[' ? type.substr(6, 4) : "";
    const bool maker = vendor == "10de" || vendor == "1002";  // others: a console's picture
    const bool gpu = cls == "0302" || cls == "1200" || cls == "0b40" ||
                     ((cls == "0300" || cls == "0380") && maker) ||
                     (cls == "0380" && vendor == "8086");
    const bool nic = cls.starts_with("02");
    if (cls == "0680" && vendor == "10de") remember(e, {End::nvswitch, k_no_part});
    if (!gpu && !nic) return;
    Part p;
    p.kind = gpu ? NodeKind::gpu : NodeKind::nic;
    p.parent = inside;
    p.busid = e.get("pci_busid");
    p.pci_class = fmt::format("0x{}00", cls);
    if (!vendor.empty()) p.vendor = fmt::format("0x{}", vendor);
    if (type.size() > 15 && type[10] == ':') p.device = fmt::format("0x{}", type.substr(11, 4));
    p.bandwidth = link_speed(e);
    if (gpu) p.index = gpus_++;
    for (const XmlElement& c : e.children) {
      if (type_of(c) != "OSDev") continue;
      const std::string_view kind = c.get("osdev_type"), name = c.get("name");
      if (nic && kind == "2") p.interface = name;
      if (nic && kind == "3") p.name = name;
    }
    if (p.name.empty())
      p.name = gpu ? fmt::format("gpu{}", p.index) : p.interface.empty() ? p.busid : p.interface;
    const PartId id = machine_.add(std::move(p));
    if (!gpu) return;
    remember(e, {End::gpu, id});
    for (const XmlElement& c : e.children)
      if (type_of(c) == "OSDev") remember(c, {End::gpu, id});
  }

  // --- links between GPUs: matrices of MB/s, from the row's object to the column's

  // What a row of a matrix is; objects that a Machine has no part for lead nowhere.
  enum class End : uint8_t { nothing, gpu, nvswitch, processor };
  struct MatrixEnd {
    End end = End::nothing;
    PartId part = k_no_part;
  };

  void distances(const XmlElement& e) {
    const std::string_view name = e.get("name");
    const std::string_view kind = name == "NVLinkBandwidth" ? "nvlink"
                                  : name == "XGMIBandwidth" ? "xgmi"
                                                            : "";
    if (kind.empty() || !status_.ok()) return;
    const std::vector<std::string_view> objects = words(e, "indexes"),
                                        values = words(e, "u64values");
    if (values.size() != objects.size() * objects.size()) {
      status_ = xml_error(e.place, fmt::format("{0} x {0} u64values of {1}", objects.size(), name),
                          fmt::format("{}", values.size()));
      return;
    }
    std::vector<MatrixEnd> ends;
    for (std::string_view o : objects) {
      const size_t colon = o.find(':');  // "OSDev:20" where types differ
      const auto found = ends_.find(colon == std::string_view::npos ? o : o.substr(colon + 1));
      ends.push_back(found == ends_.end() ? MatrixEnd() : found->second);
    }
    for (size_t from = 0; from < ends.size() && status_.ok(); ++from)
      for (size_t to = 0; to < ends.size(); ++to)
        if (from != to && ends[from].end == End::gpu)
          link(e, kind, ends[from].part, ends[to], values[from * ends.size() + to]);
  }

  void link(const XmlElement& e, std::string_view kind, PartId gpu, const MatrixEnd& to,
            std::string_view value) {
    uint64_t megabytes = 0;
    const char* end = value.data() + value.size();
    const auto [stop, error] = std::from_chars(value.data(), end, megabytes);
    if (error != std::errc() || stop != end || megabytes > 1'000'000'000) {
      if (status_.ok())
        status_ = xml_error(e.place, "MB/s from 0 to 1000000000 as u64values",
                            fmt::format("'{}'", value.substr(0, 40)));
      return;
    }
    FastLink l{gpu, to.part, static_cast<double>(megabytes) * 1e6, 1, std::string(kind)};
    if (to.end == End::nvswitch) l.to = FastLink::k_switch;
    if (to.end == End::processor)
      for (l.to = gpu; l.to != k_no_part && machine_.parts[l.to].kind != NodeKind::numa;)
        l.to = machine_.parts[l.to].parent;
    if (megabytes > 0 && l.to != k_no_part) machine_.links.push_back(std::move(l));
  }

  // Of all children of that name: long lists are cut.
  static std::vector<std::string_view> words(const XmlElement& e, std::string_view name) {
    std::vector<std::string_view> all;
    for (const XmlElement& c : e.children) {
      if (c.name != name) continue;
      const std::string_view text = c.text;
      for (size_t at = 0; (at = text.find_first_not_of(" \t\r\n", at)) != std::string_view::npos;) {
        const size_t stop = std::min(text.find_first_of(" \t\r\n", at), text.size());
        all.push_back(text.substr(at, stop - at));
        at = stop;
      }
    }
    return all;
  }

  // Objects as matrices name them.
  void remember(const XmlElement& e, MatrixEnd end) {
    if (const std::string_view index = e.get("gp_index"); !index.empty()) ends_[index] = end;
  }

  Machine machine_;
  Status status_;
  std::string arch_;
  std::map<std::string_view, MatrixEnd> ends_;  // by gp_index, in the document
  const XmlElement* package_ = nullptr;         // the last one entered
  bool alone_in_numa_ = false;                  // the package is all there is in its NUMA node
  int gpus_ = 0;
};

}  // namespace

Result<Machine> read_hwloc_xml(const XmlElement& topology) { return HwlocReader().read(topology); }

Result<Machine> parse_hwloc_xml(std::string_view text) {
  const Result<XmlElement> document = parse_xml(text);
  if (!document) return document.status();
  return read_hwloc_xml(*document);
}

}  // namespace tutti
