#include "topology/nccl_xml.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>

#include "topology/spec.h"

namespace tutti {
namespace {

constexpr std::string_view k_bridge = "0x060400", k_nvswitch = "0x068000";

bool is_gpu_class(std::string_view c) {
  return c.starts_with("0x03") || c.starts_with("0x1200") || c.starts_with("0x0b40");
}
bool is_nic_class(std::string_view c) { return c.starts_with("0x02"); }

// Values of attributes; the first that makes no sense is kept as the error.
class Values {
 public:
  const Status& status() const { return status_; }

  template <class T>
  T whole(const XmlElement& e, std::string_view attribute, T least, T most, T otherwise) {
    const XmlAttribute* a = e.find(attribute);
    if (a == nullptr || a->value.empty()) return otherwise;
    T value{};
    const bool hex = a->value.starts_with("0x");
    const char* end = a->value.data() + a->value.size();
    const auto [stop, error] =
        std::from_chars(a->value.data() + (hex ? 2 : 0), end, value, hex ? 16 : 10);
    if (error == std::errc() && stop == end && value >= least && value <= most) return value;
    complain(*a, fmt::format("a whole number from {} to {}", least, most));
    return otherwise;
  }
  double number(const XmlElement& e, std::string_view attribute, double least, double most,
                double otherwise) {
    const XmlAttribute* a = e.find(attribute);
    if (a == nullptr || a->value.empty()) return otherwise;
    double value = 0;
    const char* end = a->value.data() + a->value.size();
    const auto [stop, error] = std::from_chars(a->value.data(), end, value);
    if (error == std::errc() && stop == end && std::isfinite(value) && value >= least &&
        value <= most)
      return value;
    complain(*a, fmt::format("a number from {:g} to {:g}", least, most));
    return otherwise;
  }
  // Bytes per second of link_speed="16.0 GT/s PCIe" and link_width="16"; 0: not said.
  double pci_link(const XmlElement& e) {
    const XmlAttribute* speed = e.find("link_speed");
    int width = whole(e, "link_width", 0, 32, 0);
    if (speed == nullptr || speed->value.empty() || speed->value.starts_with("Unknown")) return 0;
    double gigatransfers = 0;
    const char* end = speed->value.data() + speed->value.size();
    const auto [stop, error] = std::from_chars(speed->value.data(), end, gigatransfers);
    const std::string_view unit(stop, static_cast<size_t>(end - stop));
    if (width == 0) width = 16;  // as NCCL does
    const double bandwidth = error == std::errc() ? pci_bandwidth(gigatransfers, width) : 0;
    if (bandwidth == 0 || (!unit.empty() && unit != " GT/s" && unit != " GT/s PCIe"))
      complain(*speed, "a PCI speed such as \"16.0 GT/s PCIe\"");
    return bandwidth;
  }
  std::string_view required(const XmlElement& e, std::string_view attribute) {
    const XmlAttribute* a = e.find(attribute);
    if (a != nullptr && !a->value.empty()) return a->value;
    if (status_.ok())
      status_ = xml_error(e.place, fmt::format("attribute {} of <{}>", attribute, e.name),
                          a == nullptr ? "none" : "nothing in it");
    return {};
  }
  void complain(const XmlAttribute& a, std::string_view expected) {
    if (status_.ok())
      status_ = xml_error(a.place, fmt::format("{} for {}", expected, a.name),
                          fmt::format("'{}'", a.value.substr(0, 40)));
  }
  void complain(const XmlElement& e, std::string_view expected, std::string_view found) {
    if (status_.ok()) status_ = xml_error(e.place, expected, found);
  }

 private:
  Status status_;
};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

// "0000ffff,0000ffff": 32 bits each, the highest first.
bool parse_affinity(std::string_view mask, std::vector<uint32_t>* cpus) {
  cpus->clear();
  uint32_t base = 0;
  while (!mask.empty()) {
    const size_t comma = mask.rfind(',');
    const std::string_view word = comma == std::string_view::npos ? mask : mask.substr(comma + 1);
    uint32_t bits = 0;
    const std::string_view digits = word.starts_with("0x") ? word.substr(2) : word;
    const auto [stop, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), bits, 16);
    if (error != std::errc() || stop != digits.data() + digits.size() || base > 1u << 16)
      return false;
    for (uint32_t b = 0; b < 32; ++b)
      if (bits >> b & 1) cpus->push_back(base + b);
    base += 32;
    mask = comma == std::string_view::npos ? std::string_view() : mask.substr(0, comma);
  }
  return true;
}

std::string affinity(const std::vector<uint32_t>& cpus) {
  std::vector<uint32_t> words(cpus.empty() ? 1 : cpus.back() / 32 + 1);
  for (uint32_t c : cpus) words[c / 32] |= 1u << (c % 32);
  std::string text;
  for (size_t w = words.size(); w-- > 0;)
    text += fmt::format("{}{:08x}", text.empty() ? "" : ",", words[w]);
  return text;
}

class NcclReader {
 public:
  Result<std::vector<Machine>> read(const XmlElement& system) {
    if (system.name != "system") {
      values_.complain(system, "<system>", "<" + system.name + ">");
      return values_.status();
    }
    values_.required(system, "version");
    values_.whole(system, "version", 1, 2, 1);  // 2: RCCL's
    const XmlAttribute* nvswitch = system.find("tutti_nvswitch");
    about(system, &all_);
    if (nvswitch != nullptr && nvswitch->value != "shared")
      values_.complain(*nvswitch, "\"shared\"");
    for (const XmlElement& e : system.children)
      if (e.name == "cpu" && values_.status().ok()) cpu(e);
    if (hosts_.empty()) values_.complain(system, "a <cpu> in <system>", "none");
    for (const XmlElement& e : system.children)
      if (e.name == "link" && values_.status().ok()) socket_link(e);
    if (!values_.status().ok()) return values_.status();
    resolve();
    if (!values_.status().ok()) return values_.status();
    std::vector<Machine> result;
    for (Host& h : hosts_) {
      h.machine.switch_spans_hosts = nvswitch != nullptr;
      result.push_back(std::move(h.machine));
    }
    return result;
  }

 private:
  struct Target {
    const XmlElement* element;
    PartId gpu;
  };
  struct Host {
    Machine machine;
    std::vector<Target> targets;  // links whose other end may come later
    std::map<std::string, PartId> by_busid;
    std::map<int, PartId> numa;  // by numaid
    std::map<std::string, PartId> packages;
    int gpus = 0;
  };

  Host& host_of(const XmlElement& e) {
    const auto [found, fresh] =
        host_index_.try_emplace(std::string(e.get("host_hash")), hosts_.size());
    if (fresh) hosts_.emplace_back().machine = all_;
    return hosts_[found->second];
  }

  // What is tutti's own: of all hosts in <system>, of one in a <cpu> of it.
  void about(const XmlElement& e, Machine* m) {
    if (const XmlAttribute* name = e.find("tutti_name")) m->name = name->value;
    if (e.find("tutti_hosts") != nullptr)
      m->copies = values_.whole<uint32_t>(e, "tutti_hosts", 1, 1u << 17, 1);
    if (const XmlAttribute* inside = e.find("tutti_inside")) {
      if (const Status sound = parse_cluster(inside->value).status(); !sound.ok())
        values_.complain(*inside, fmt::format("a spec ({})", sound.message()));
      m->inside = inside->value;
    }
    const XmlAttribute* switches = e.find("tutti_switches");
    if (switches == nullptr) return;
    if (!names_switches(switches->value))
      values_.complain(*switches, "up to four names of switches joined by dots");
    m->switches = switches->value;
  }

  void cpu(const XmlElement& e) {
    Host& h = host_of(e);
    about(e, &h.machine);
    Part p;
    p.kind = NodeKind::numa;
    values_.required(e, "numaid");
    p.index = values_.whole(e, "numaid", -1, 65535, -1);
    p.arch = e.get("arch");
    p.cpu_vendor = e.get("vendor");
    p.family = values_.whole(e, "familyid", -1, 1 << 20, -1);
    p.model = values_.whole(e, "modelid", -1, 1 << 20, -1);
    if (const XmlAttribute* a = e.find("affinity")) {
      std::vector<uint32_t> cpus;
      if (!parse_affinity(a->value, &cpus))
        values_.complain(*a, "a mask such as \"0000ffff,0000ffff\"");
      p.cpus = cpu_list(cpus);
    }
    p.name = p.index >= 0 ? fmt::format("numa{}", p.index) : "cpu";
    if (const XmlAttribute* a = e.find("tutti_package")) p.parent = package(h, a->value, p);
    const int number = p.index;
    const PartId id = h.machine.add(std::move(p));
    if (number >= 0 && !h.numa.emplace(number, id).second)
      values_.complain(e, "each numaid of a host once", fmt::format("a second {}", number));
    for (const XmlElement& child : e.children) {
      if (child.name == "pci") pci(h, child, id);
      if (child.name == "nic") loose_nic(h, child, id);
    }
  }

  // The socket of that name, which contains several NUMA nodes.
  PartId package(Host& h, const std::string& name, const Part& node) {
    const auto [found, fresh] = h.packages.try_emplace(name, k_no_part);
    if (fresh) {
      Part p = node;
      p.index = -1;
      p.cpus.clear();
      p.name = name;
      found->second = h.machine.add(std::move(p));
    }
    return found->second;
  }

  void pci(Host& h, const XmlElement& e, PartId parent) {
    if (!values_.status().ok()) return;
    Part p;
    p.parent = parent;
    p.busid = lower(values_.required(e, "busid"));
    p.pci_class = e.get("class");
    p.vendor = e.get("vendor");
    p.device = e.get("device");
    p.subsystem_vendor = e.get("subsystem_vendor");
    p.subsystem_device = e.get("subsystem_device");
    p.bandwidth = values_.pci_link(e);
    p.name = p.busid;
    auto child = [&](std::string_view name) {
      return std::find_if(e.children.begin(), e.children.end(),
                          [&](const XmlElement& c) { return c.name == name; });
    };
    const auto gpu_element = child("gpu"), nic_element = child("nic");
    if (gpu_element != e.children.end() ||
        (is_gpu_class(p.pci_class) && child("pci") == e.children.end())) {
      gpu(h, e, gpu_element == e.children.end() ? nullptr : &*gpu_element, std::move(p));
      return;
    }
    if (nic_element != e.children.end() || is_nic_class(p.pci_class)) {
      nic(h, e, parent, &p);
      return;
    }
    const PartId id = add(h, e, std::move(p));
    for (const XmlElement& c : e.children) {
      if (c.name == "pci") pci(h, c, id);
      if (c.name == "nic") loose_nic(h, c, id);
    }
  }

  PartId add(Host& h, const XmlElement& e, Part p) {
    const std::string busid = p.busid;
    const PartId id = h.machine.add(std::move(p));
    if (!busid.empty() && !h.by_busid.emplace(busid, id).second)
      values_.complain(e, "each busid of a host once", "a second " + busid);
    return id;
  }

  void gpu(Host& h, const XmlElement& pci_element, const XmlElement* e, Part p) {
    p.kind = NodeKind::gpu;
    const int position = h.gpus++;
    p.index = position;
    if (e != nullptr) {
      p.index = values_.whole(*e, "dev", -1, 65535, -1);
      p.sm = values_.whole(*e, "sm", -1, 1000, -1);
      p.rank = values_.whole(*e, "rank", -1, 1 << 20, -1);
      p.gdr = values_.whole(*e, "gdr", -1, 1, -1);
      p.gcn = e->get("gcn");
    }
    p.name = fmt::format("gpu{}", p.index >= 0 ? p.index : position);
    const PartId id = add(h, pci_element, std::move(p));
    if (e == nullptr) return;
    for (const XmlElement& link : e->children)
      if (link.name == "nvlink" || link.name == "xgmi" || link.name == "c2c")
        h.targets.push_back({&link, id});
  }

  // A card with one port is a NIC; with several, a switch with NICs.
  void nic(Host& h, const XmlElement& pci_element, PartId parent, const Part* card) {
    std::vector<const XmlElement*> nets;
    for (const XmlElement& c : pci_element.children)
      for (const XmlElement& net : c.children)
        if (c.name == "nic" && net.name == "net") nets.push_back(&net);
    if (nets.size() == 1) return port(h, *nets[0], parent, card, card->bandwidth);
    Part p = *card;
    p.kind = nets.empty() ? NodeKind::nic : NodeKind::pci_switch;
    const PartId id = add(h, pci_element, std::move(p));
    for (const XmlElement* net : nets) port(h, *net, id, nullptr, card->bandwidth);
  }

  // Without a place on PCI.
  void loose_nic(Host& h, const XmlElement& e, PartId parent) {
    for (const XmlElement& net : e.children)
      if (net.name == "net") port(h, net, parent, nullptr, 0);
  }

  void port(Host& h, const XmlElement& e, PartId parent, const Part* card, double bandwidth) {
    Part p;
    if (card != nullptr) p = *card;
    p.kind = NodeKind::nic;
    p.parent = parent;
    p.bandwidth = bandwidth;
    p.name = e.get("name");
    p.index = values_.whole(e, "dev", -1, 65535, -1);
    if (p.name.empty()) p.name = fmt::format("net{}", p.index);
    // Mb/s; NCCL writes -1 or 0 where it does not know.
    p.port_bandwidth = std::max(0.0, values_.number(e, "speed", -1, 1e9, 0)) * 1e6 / 8;
    p.port_latency = std::max(0.0, values_.number(e, "latency", -1, 1e9, 0)) * 1e-6;
    p.port = values_.whole(e, "port", -1, 65535, -1);
    p.max_connections = values_.whole(e, "maxconn", -1, INT32_MAX, -1);
    p.gdr = values_.whole(e, "gdr", -1, 1, -1);
    p.guid = e.get("guid");
    add(h, e, std::move(p));
  }

  void socket_link(const XmlElement& e) {
    const XmlAttribute* hash = e.find("host_hash");
    if (hash != nullptr && host_index_.count(hash->value) == 0)
      return values_.complain(*hash, "the host_hash of a <cpu>");
    for (Host& h : hosts_) {
      if (hash != nullptr && &h != &hosts_[host_index_[hash->value]]) continue;
      const int from = values_.whole(e, "from", 0, 65535, -1);
      const int to = values_.whole(e, "to", 0, 65535, -1);
      const double speed = values_.number(e, "speed", 1, 1e9, 0);
      values_.required(e, "speed");
      const auto a = h.numa.find(from), b = h.numa.find(to);
      if (a == h.numa.end() || b == h.numa.end() || a == b)
        return values_.complain(e, "a link between two numaids of the host",
                                fmt::format("{} and {}", from, to));
      h.machine.sockets.push_back({a->second, b->second, speed * 1e6 / 8});
    }
  }

  // The far ends of the GPUs' links, once everything has been read.
  void resolve() {
    for (Host& h : hosts_)
      for (const Target& t : h.targets) link(h, *t.element, t.gpu);
  }

  void link(Host& h, const XmlElement& e, PartId gpu) {
    Machine& m = h.machine;
    FastLink l;
    l.from = gpu;
    l.kind = e.name;
    l.count = values_.whole<uint32_t>(e, "count", 1, 1024, 1);
    const Part& own = m.parts[gpu];
    PartId numa = gpu;
    while (m.parts[numa].kind != NodeKind::numa) numa = m.parts[numa].parent;
    if (e.name == "c2c") {
      l.to = numa;
      l.bandwidth = values_.number(e, "bw", 0, 1e9, 0) * 1e6 * l.count;  // bw: MB/s of each
      m.links.push_back(l);
      return;
    }
    const double each = values_.number(e, "speed", 0, 1e9, 0) * 1e6 / 8;
    l.bandwidth = l.count * (each > 0           ? each
                             : e.name == "xgmi" ? xgmi_bandwidth(own.gcn)
                                                : nvlink_bandwidth(own.sm));
    const std::string target = lower(values_.required(e, "target"));
    const std::string_view tclass = e.get("tclass");
    if (tclass.starts_with("0x068001")) {  // NVLink to the processor (POWER)
      l.to = numa;
    } else if (tclass.starts_with("0x0680")) {
      l.to = FastLink::k_switch;
    } else {
      const auto found = h.by_busid.find(target);
      if (found == h.by_busid.end() || m.parts[found->second].kind != NodeKind::gpu) {
        // A job that sees some of the GPUs only; NCCL leaves such links out as well.
        m.missing.push_back(fmt::format("{}: an {} leads to {}, which the file does not describe",
                                        own.name, e.name, target));
        return;
      }
      l.to = found->second;
      if (l.to == gpu) return values_.complain(e, "another GPU than itself as target", target);
    }
    m.links.push_back(l);
  }

  Values values_;
  std::vector<Host> hosts_;
  std::map<std::string, size_t> host_index_;  // by host_hash
  Machine all_;                               // what <system> says of every host
};

class Writer {
 public:
  std::string text(const std::vector<Machine>& hosts) {
    const Machine& first = hosts.front();
    const bool one = hosts.size() == 1;
    put("<system version=\"1\"");
    if (one) about(first);
    if (first.switch_spans_hosts) put(" tutti_nvswitch=\"shared\"");
    put(">\n");
    for (size_t i = 0; i < hosts.size(); ++i)
      machine(hosts[i], one ? "" : fmt::format("{:#x}", i + 1));
    return out_ + "</system>\n";
  }

 private:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }
  void indent(int depth) { out_.append(static_cast<size_t>(2 * depth), ' '); }
  void attribute(std::string_view name, std::string_view value) {
    if (!value.empty()) put(" {}=\"{}\"", name, xml_escape(value));
  }
  void attribute(std::string_view name, int value) {
    if (value >= 0) put(" {}=\"{}\"", name, value);
  }
  // The shortest decimal that reads back the same.
  void attribute(std::string_view name, double value) {
    if (value > 0) put(" {}=\"{}\"", name, value);
  }

  void about(const Machine& m) {
    attribute("tutti_name", m.name);
    if (m.copies > 1) put(" tutti_hosts=\"{}\"", m.copies);
    attribute("tutti_switches", m.switches);
    attribute("tutti_inside", m.inside);
  }
  // Of several hosts the first processor of each says what <system> says of one.
  void host(const std::string& hash) {
    attribute("host_hash", hash);
    if (!hash.empty() && !said_) about(*m_);
    said_ = true;
  }

  void machine(const Machine& m, const std::string& hash) {
    m_ = &m;
    said_ = false;
    // NCCL has one level of processors: the innermost. What hangs on a socket of several NUMA nodes
    // goes to the first of them.
    std::vector<PartId> first_inside(m.parts.size(), k_no_part);
    for (PartId i = static_cast<PartId>(m.parts.size()); i-- > 0;)
      if (const Part& p = m.parts[i]; p.kind == NodeKind::numa && p.parent != k_no_part)
        first_inside[p.parent] = first_inside[i] != k_no_part ? first_inside[i] : i;
    bool loose = false;
    for (PartId i = 0; i < m.parts.size(); ++i) {
      const Part& p = m.parts[i];
      if (p.kind != NodeKind::numa)
        loose |= p.parent == k_no_part && p.kind != NodeKind::cpu;
      else if (first_inside[i] == k_no_part)
        cpu(i, hash, first_inside);
    }
    if (loose) {  // parts whose NUMA node is not known
      put("  <cpu numaid=\"-1\"");
      host(hash);
      put(">\n");
      for (PartId i = 0; i < m.parts.size(); ++i)
        if (m.parts[i].parent == k_no_part && m.parts[i].kind != NodeKind::numa) part(i, 2);
      put("  </cpu>\n");
    }
    for (const SocketLink& l : m.sockets) {
      put("  <link from=\"{}\" to=\"{}\"", m.parts[l.from].index, m.parts[l.to].index);
      attribute("speed", l.bandwidth * 8 / 1e6);
      attribute("host_hash", hash);
      put("/>\n");
    }
  }

  void cpu(PartId id, const std::string& hash, const std::vector<PartId>& first_inside) {
    const Part& p = m_->parts[id];
    std::vector<uint32_t> cpus;
    parse_cpu_list(p.cpus, &cpus);
    put("  <cpu numaid=\"{}\" affinity=\"{}\"", p.index, affinity(cpus));
    attribute("arch", p.arch);
    attribute("vendor", p.cpu_vendor);
    attribute("familyid", p.family);
    attribute("modelid", p.model);
    host(hash);
    if (p.parent != k_no_part) attribute("tutti_package", m_->parts[p.parent].name);
    put(">\n");
    children(id, 2);
    for (PartId up = p.parent; up != k_no_part && first_inside[up] == id; up = m_->parts[up].parent)
      children(up, 2);
    put("  </cpu>\n");
  }

  void children(PartId id, int depth) {
    for (PartId i = id + 1; i < m_->parts.size(); ++i)
      if (m_->parts[i].parent == id) part(i, depth);
  }

  void part(PartId id, int depth) {
    const Part& p = m_->parts[id];
    if (p.kind == NodeKind::numa || p.kind == NodeKind::cpu) return;
    const bool port_only = p.busid.empty() && p.kind == NodeKind::nic;
    if (!port_only) {
      indent(depth);
      put("<pci busid=\"{}\"", xml_escape(p.busid));
      attribute("class", p.pci_class.empty() ? p.kind == NodeKind::gpu   ? "0x030200"
                                               : p.kind == NodeKind::nic ? "0x020000"
                                                                         : k_bridge
                                             : std::string_view(p.pci_class));
      attribute("vendor", p.vendor);
      attribute("device", p.device);
      attribute("subsystem_vendor", p.subsystem_vendor);
      attribute("subsystem_device", p.subsystem_device);
      pci_link(p.bandwidth);
      put(">\n");
      ++depth;
    }
    if (p.kind == NodeKind::gpu) gpu(id, depth);
    if (p.kind == NodeKind::nic) net(p, depth);
    children(id, depth);
    if (port_only) return;
    indent(depth - 1);
    put("</pci>\n");
  }

  // The generation and width whose rate is nearest, wide ones first.
  void pci_link(double bandwidth) {
    if (bandwidth <= 0) return;
    double best = INFINITY;
    double speed = 0;
    int width = 0;
    for (int lanes : {16, 8, 4, 2, 1, 32, 12})
      for (double s : {8.0, 16.0, 32.0, 2.5, 5.0, 64.0, 128.0})
        if (const double off = std::abs(std::log(pci_bandwidth(s, lanes) / bandwidth));
            off < best - 1e-9) {
          best = off;
          speed = s;
          width = lanes;
        }
    put(" link_speed=\"{:.1f} GT/s PCIe\" link_width=\"{}\"", speed, width);
  }

  void gpu(PartId id, int depth) {
    const Part& p = m_->parts[id];
    indent(depth);
    put("<gpu dev=\"{}\"", p.index);
    attribute("sm", p.sm);
    attribute("gcn", p.gcn);
    attribute("rank", p.rank);
    attribute("gdr", p.gdr);
    put(">\n");
    for (const FastLink& l : m_->links) {
      if (l.from != id) continue;
      indent(depth + 1);
      if (l.kind == "c2c") {
        put("<c2c bw=\"{}\" count=\"{}\"/>\n", l.bandwidth / l.count / 1e6, l.count);
        continue;
      }
      const bool to_switch = l.to == FastLink::k_switch;
      const bool to_cpu = !to_switch && m_->parts[l.to].kind == NodeKind::numa;
      const double known = l.kind == "xgmi" ? xgmi_bandwidth(p.gcn) : nvlink_bandwidth(p.sm);
      put("<{} target=\"{}\" count=\"{}\"", l.kind,
          to_switch ? "fffffff:ffff:ff"
          : to_cpu  ? "ffff:ff:ff.0"
                    : m_->parts[l.to].busid,
          l.count);
      if (known * l.count != l.bandwidth) attribute("speed", l.bandwidth / l.count * 8 / 1e6);
      put(" tclass=\"{}\"/>\n", to_switch ? k_nvswitch : to_cpu ? "0x068001" : "0x030200");
    }
    indent(depth);
    put("</gpu>\n");
  }

  void net(const Part& p, int depth) {
    indent(depth);
    put("<nic>\n");
    indent(depth + 1);
    put("<net name=\"{}\"", xml_escape(p.name));
    attribute("dev", p.index);
    attribute("speed", p.port_bandwidth * 8 / 1e6);
    attribute("port", p.port);
    attribute("latency", p.port_latency * 1e6);
    attribute("guid", p.guid);
    attribute("maxconn", p.max_connections);
    attribute("gdr", p.gdr);
    put("/>\n");
    indent(depth);
    put("</nic>\n");
  }

  std::string out_;
  const Machine* m_ = nullptr;
  bool said_ = false;  // what about() writes
};

}  // namespace

Result<std::vector<Machine>> read_nccl_xml(const XmlElement& system) {
  return NcclReader().read(system);
}

Result<std::vector<Machine>> parse_nccl_xml(std::string_view text) {
  const Result<XmlElement> document = parse_xml(text);
  if (!document) return document.status();
  return read_nccl_xml(*document);
}

std::string to_nccl_xml(const std::vector<Machine>& hosts) {
  return hosts.empty() ? "<system version=\"1\"/>\n" : Writer().text(hosts);
}

}  // namespace tutti
