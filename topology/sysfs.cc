#include "topology/sysfs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

namespace tutti {
namespace {

namespace fs = std::filesystem;

// Names in a folder, sorted; none where it cannot be read.
std::vector<std::string> list(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    names.push_back(at->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// The folder that a link leads to; empty where it leads nowhere.
std::string target(const std::string& link) {
  std::error_code error;
  const fs::path path = fs::canonical(link, error);
  return error ? std::string() : path.string();
}

// "node12" with "node": 12; -1 where the name is another.
int number_of(const std::string& name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return -1;
  int number = -1;
  const char* begin = name.data() + prefix.size();
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(begin, end, number);
  return error == std::errc() && stop == end ? number : -1;
}

// "0000:07:00.0"
bool is_busid(const std::string& name) {
  const size_t n = name.size();
  if (n < 12 || n > 16 || name[n - 2] != '.' || name[n - 5] != ':' || name[n - 8] != ':')
    return false;
  for (size_t i = 0; i < n; ++i)
    if (i != n - 2 && i != n - 5 && i != n - 8 &&
        !std::isxdigit(static_cast<unsigned char>(name[i])))
      return false;
  return true;
}

double leading_number(const std::string& text) {
  double value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() ? value : 0;
}

int to_int(const std::string& text, int otherwise) {
  int value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && stop == text.data() + text.size() ? value : otherwise;
}

}  // namespace

bool Sysfs::read(const std::string& path, std::string* text, std::string* why) const {
  text->clear();
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  char buffer[4096];
  const ssize_t got = fd < 0 ? -1 : ::read(fd, buffer, sizeof(buffer));
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (got < 0) {
    if (why != nullptr) *why = std::strerror(error);
    return false;
  }
  text->assign(buffer, static_cast<size_t>(got));
  while (!text->empty() && (text->back() == '\n' || text->back() == ' ')) text->pop_back();
  return true;
}

void Sysfs::add_processors(const Part& processor, bool cores) {
  const std::string nodes = root_ + "/devices/system/node", cpus = root_ + "/devices/system/cpu";
  struct Node {
    int number;
    std::string cpus;
    int package;
  };
  std::vector<Node> found;
  std::string text;
  auto package_of = [&](const std::string& list_text) {
    std::vector<uint32_t> members;
    if (!parse_cpu_list(list_text, &members) || members.empty()) return -1;
    std::string id;
    read(fmt::format("{}/cpu{}/topology/physical_package_id", cpus, members[0]), &id);
    return to_int(id, -1);
  };
  for (const std::string& name : list(nodes)) {
    const int number = number_of(name, "node");
    if (number < 0 || !read(fmt::format("{}/{}/cpulist", nodes, name), &text)) continue;
    found.push_back({number, text, package_of(text)});
  }
  if (found.empty()) {
    m_->missing.emplace_back("NUMA nodes: the kernel shows none; one assumed");
    read(cpus + "/online", &text);
    found.push_back({0, text, package_of(text)});
  }
  std::sort(found.begin(), found.end(),
            [](const Node& a, const Node& b) { return a.number < b.number; });
  std::map<int, uint32_t> nodes_in;
  for (const Node& n : found) nodes_in[n.package] += n.package >= 0;
  std::map<int, PartId> packages;
  for (const Node& n : found) {
    PartId parent = k_no_part;
    if (nodes_in[n.package] > 1 && nodes_in.size() > 1) {
      auto [at, fresh] = packages.try_emplace(n.package, k_no_part);
      if (fresh) {
        Part p = processor;
        p.kind = NodeKind::numa;
        p.name = fmt::format("package{}", n.package);
        at->second = m_->add(std::move(p));
      }
      parent = at->second;
    }
    Part p = processor;
    p.kind = NodeKind::numa;
    p.parent = parent;
    p.index = n.number;
    p.name = fmt::format("numa{}", n.number);
    p.cpus = n.cpus;
    const PartId id = m_->add(std::move(p));
    std::vector<uint32_t> members;
    if (!cores || !parse_cpu_list(n.cpus, &members)) continue;
    std::set<uint32_t> seen;
    for (uint32_t cpu : members) {
      if (seen.count(cpu) > 0) continue;
      std::string siblings;
      std::vector<uint32_t> threads;
      if (!read(fmt::format("{}/cpu{}/topology/thread_siblings_list", cpus, cpu), &siblings) ||
          !parse_cpu_list(siblings, &threads) || threads.empty())
        threads = {cpu};
      seen.insert(threads.begin(), threads.end());
      Part core;
      core.kind = NodeKind::cpu;
      core.parent = id;
      core.index = static_cast<int>(cpu);
      core.name = fmt::format("core{}", cpu);
      core.cpus = cpu_list(threads);
      m_->add(std::move(core));
    }
  }
}

// The NUMA node of a device, by its number in the machine.
PartId Sysfs::numa_part(const std::string& device_path, const std::string& what) {
  std::string text, why;
  int number = -1;
  if (read(device_path + "/numa_node", &text, &why)) number = to_int(text, -1);
  PartId only = k_no_part;
  uint32_t count = 0;
  for (PartId i = 0; i < m_->parts.size(); ++i) {
    if (m_->parts[i].kind != NodeKind::numa || m_->parts[i].index < 0) continue;
    if (m_->parts[i].index == number) return i;
    only = i;
    ++count;
  }
  if (count == 1) return only;  // there is no other
  if (count > 1)
    m_->missing.push_back(fmt::format("{}: its NUMA node ({})", what,
                                      why.empty() ? "the kernel says -1" : "numa_node: " + why));
  return k_no_part;
}

// Of the link above a device: what both ends can do. GPUs that idle slow their links down, so the
// current speed says little.
double Sysfs::pci_link(const std::string& folder, const std::string& above) const {
  auto most = [&](const std::string& end) {
    std::string speed, width;
    if (!read(end + "/max_link_speed", &speed) || !read(end + "/max_link_width", &width))
      return 0.0;
    return pci_bandwidth(leading_number(speed), to_int(width, 0));
  };
  const double own = most(folder), other = above.empty() ? 0 : most(above);
  return own > 0 && other > 0 ? std::min(own, other) : std::max(own, other);
}

// The part of a PCI device, made with the bridges above it where it is not there yet.
PartId Sysfs::pci_part(const std::string& device_path, NodeKind kind, const std::string& what) {
  std::vector<std::pair<std::string, std::string>> chain;  // (bus id, folder), outermost first
  std::string folder;
  for (const fs::path& component : fs::path(device_path)) {
    folder = folder.empty() || folder == "/" ? folder + component.string()
                                             : folder + "/" + component.string();
    if (is_busid(component.string())) chain.emplace_back(component.string(), folder);
  }
  if (chain.empty()) return k_no_part;
  PartId parent = m_->find_busid(chain.back().first);
  if (parent != k_no_part) return parent;
  std::string above;
  for (size_t i = 0; i < chain.size(); ++i) {
    const auto& [busid, path] = chain[i];
    const PartId known = m_->find_busid(busid);
    if (known != k_no_part) {
      parent = known;
      above = path;
      continue;
    }
    Part p;
    p.kind = i + 1 == chain.size() ? kind : NodeKind::pci_switch;
    p.parent = i == 0 ? numa_part(chain.back().second, what) : parent;
    p.busid = p.name = busid;
    read(path + "/class", &p.pci_class);
    read(path + "/vendor", &p.vendor);
    read(path + "/device", &p.device);
    read(path + "/subsystem_vendor", &p.subsystem_vendor);
    read(path + "/subsystem_device", &p.subsystem_device);
    p.bandwidth = pci_link(path, above);
    parent = m_->add(std::move(p));
    above = path;
  }
  return parent;
}

void Sysfs::add_gpus() {
  int index = static_cast<int>(m_->count(NodeKind::gpu));
  for (const std::string& busid : list(root_ + "/bus/pci/devices")) {
    const std::string link = root_ + "/bus/pci/devices/" + busid;
    std::string cls, vendor;
    if (!read(link + "/class", &cls) || !read(link + "/vendor", &vendor)) continue;
    // Display controllers of other makers show a console.
    const bool maker = vendor == "0x10de" || vendor == "0x1002";
    const bool gpu = cls.starts_with("0x0302") || cls.starts_with("0x1200") ||
                     cls.starts_with("0x0b40") || (cls.starts_with("0x03") && maker) ||
                     (cls.starts_with("0x0380") && vendor == "0x8086");
    const std::string path = target(link);
    if (!gpu || path.empty() || m_->find_busid(busid) != k_no_part) continue;
    const PartId part = pci_part(path, NodeKind::gpu, "GPU " + busid);
    if (part == k_no_part) continue;
    m_->parts[part].index = index;
    m_->parts[part].name = fmt::format("gpu{}", index++);
  }
}

void Sysfs::add_card(const std::string& device_path, const std::string& what,
                     std::vector<Port> ports) {
  PartId card = pci_part(device_path, NodeKind::nic, what);
  for (size_t i = 0; i < ports.size(); ++i) {
    PartId part = card;
    if (card == k_no_part || ports.size() > 1) {
      Part p;
      p.kind = NodeKind::nic;
      p.parent = card != k_no_part ? card : numa_part(device_path, what);
      if (card != k_no_part) {
        m_->parts[card].kind = NodeKind::pci_switch;
        p.bandwidth = m_->parts[card].bandwidth;
      }
      part = m_->add(std::move(p));
    }
    Part& p = m_->parts[part];
    p.kind = NodeKind::nic;
    p.name = ports[i].name;
    p.interface = ports[i].interface;
    p.guid = ports[i].guid;
    p.port = ports[i].number;
    p.port_bandwidth = ports[i].bandwidth;
    p.up = ports[i].up;
  }
}

void Sysfs::add_nics() {
  std::string text, why;
  // Interfaces by the PCI device (or other folder) behind them.
  struct Interface {
    std::string name, device;
    double bandwidth;
    bool up;
  };
  std::vector<Interface> physical, virtual_ones;
  for (const std::string& name : list(root_ + "/class/net")) {
    const std::string folder = root_ + "/class/net/" + name;
    read(folder + "/type", &text);
    if (text != "1" && text != "32") continue;  // Ethernet, InfiniBand
    Interface found{name, target(folder + "/device"), 0, true};
    read(folder + "/operstate", &text);
    found.up = text != "down" && text != "lowerlayerdown" && text != "notpresent";
    if (read(folder + "/speed", &text, &why) && to_int(text, -1) > 0)
      found.bandwidth = to_int(text, 0) * 1e6 / 8;
    else if (found.up && !found.device.empty())
      m_->missing.push_back(fmt::format(
          "{}: its speed ({})", name, text.empty() ? "speed: " + why : "the kernel says " + text));
    std::error_code error;
    if (!found.device.empty())
      physical.push_back(found);
    else if (found.up && !fs::exists(folder + "/bridge", error))
      virtual_ones.push_back(found);
  }
  std::set<std::string> served;  // devices whose InfiniBand or RoCE ports are known
  bool any_up = false;
  for (const std::string& name : list(root_ + "/class/infiniband")) {
    const std::string folder = root_ + "/class/infiniband/" + name;
    const std::string device = target(folder + "/device");
    std::vector<Port> ports;
    const std::vector<std::string> numbers = list(folder + "/ports");
    for (const std::string& number : numbers) {
      const std::string at = folder + "/ports/" + number;
      Port p;
      p.name = numbers.size() > 1 ? name + ":" + number : name;
      p.number = to_int(number, -1);
      read(folder + "/node_guid", &p.guid);
      if (read(at + "/rate", &text, &why) && leading_number(text) > 0)
        p.bandwidth = leading_number(text) * 1e9 / 8;
      else
        m_->missing.push_back(
            fmt::format("{}: its speed (rate: {})", p.name, text.empty() ? why : text));
      read(at + "/state", &text);
      p.up = text.find("ACTIVE") != std::string::npos;
      any_up |= p.up;
      for (const Interface& i : physical)
        if (i.device == device) p.interface = i.name;
      if (!p.up)
        m_->missing.push_back(fmt::format("{}: carries nothing (state: {})", p.name, text));
      ports.push_back(std::move(p));
    }
    if (device.empty() || ports.empty()) {
      m_->missing.push_back(name + ": its device or its ports");
      continue;
    }
    served.insert(device);
    add_card(device, name, std::move(ports));
  }
  for (const Interface& i : physical) {
    if (served.count(i.device) > 0) continue;
    any_up |= i.up;
    if (!i.up) m_->missing.push_back(i.name + ": carries nothing (its state is down)");
    add_card(i.device, i.name, {{i.name, i.name, "", -1, i.bandwidth, i.up}});
  }
  if (any_up) return;
  for (const Interface& i : virtual_ones) {
    Part p;
    p.kind = NodeKind::nic;
    p.name = p.interface = i.name;
    p.port_bandwidth = i.bandwidth;
    m_->add(std::move(p));
    m_->missing.push_back(i.name + ": the card behind it (a virtual interface)");
  }
}

}  // namespace tutti
