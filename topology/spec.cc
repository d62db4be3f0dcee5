// Reading, writing and building cluster specs.
#include "topology/spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace tutti {
namespace {

constexpr size_t k_max_levels = 8;
constexpr uint32_t k_max_ranks = 1u << 20;
constexpr uint32_t k_max_nics = 64;

struct Unit {
  std::string_view name;
  double factor;
};
// In the order of preference for writing.
constexpr Unit k_rates[] = {
    {"Tb/s", 1e12 / 8}, {"Gb/s", 1e9 / 8},    {"Mb/s", 1e6 / 8},       {"kb/s", 1e3 / 8},
    {"Kb/s", 1e3 / 8},  {"b/s", 1.0 / 8},     {"TB/s", 1e12},          {"GB/s", 1e9},
    {"MB/s", 1e6},      {"kB/s", 1e3},        {"KB/s", 1e3},           {"B/s", 1},
    {"KiB/s", 1024.0},  {"MiB/s", 1048576.0}, {"GiB/s", 1073741824.0}, {"TiB/s", 1099511627776.0},
};
constexpr Unit k_times[] = {{"s", 1}, {"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}, {"ps", 1e-12}};

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<ClusterSpec> spec() {
    ClusterSpec result;
    space();
    while (at_ < text_.size()) {
      if (result.levels.size() == k_max_levels)
        return fail(fmt::format("the end: {} levels are the most", k_max_levels));
      ClusterLevel level;
      if (Status s = read_level(result, &level); !s.ok()) return s;
      result.levels.push_back(std::move(level));
      const size_t before = at_;
      space();
      if (at_ < text_.size() && at_ == before) return fail("a space before the next level");
    }
    if (result.levels.empty()) return fail("a level such as gpu:8{bw=48GB/s}");
    return result;
  }

 private:
  Status fail(std::string_view expected, size_t at) const {
    const std::string_view rest = text_.substr(std::min(at, text_.size()), 16);
    std::string shown;
    for (char c : rest) {
      if (c == ' ' && !shown.empty()) break;
      shown += c >= ' ' && c <= '~' ? c : '?';
    }
    return {Code::invalid_argument,
            fmt::format("cluster spec, column {}: expected {}, found {}", at + 1, expected,
                        shown.empty() ? "the end" : "'" + shown + "'")};
  }
  Status fail(std::string_view expected) const { return fail(expected, at_); }

  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n'))
      ++at_;
  }
  bool eat(char c) {
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  static bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
  std::string_view word() {
    const size_t begin = at_;
    auto part = [](char c) { return letter(c) || c == '_' || c == '-' || (c >= '0' && c <= '9'); };
    if (at_ < text_.size() && letter(text_[at_]))
      while (at_ < text_.size() && part(text_[at_])) ++at_;
    return text_.substr(begin, at_ - begin);
  }

  Status count(uint32_t most, std::string_view what, uint32_t* value) {
    const size_t begin = at_;
    const char* first = text_.data() + at_;
    const auto [end, error] = std::from_chars(first, text_.data() + text_.size(), *value);
    if (error != std::errc() || *value == 0 || *value > most)
      return fail(fmt::format("{}, 1 to {}", what, most), begin);
    at_ += static_cast<size_t>(end - first);
    return {};
  }
  Status number(std::string_view what, double* value) {
    const char* first = text_.data() + at_;
    const auto [end, error] = std::from_chars(first, text_.data() + text_.size(), *value);
    if (error != std::errc() || !std::isfinite(*value)) return fail(what);
    at_ += static_cast<size_t>(end - first);
    return {};
  }
  template <size_t N>
  Status quantity(const Unit (&units)[N], std::string_view what, double* value) {
    const size_t begin = at_;
    TUTTI_RETURN_IF_ERROR(number(what, value));
    size_t length = 0;
    while (at_ + length < text_.size() &&
           (letter(text_[at_ + length]) || text_[at_ + length] == '/'))
      ++length;
    const std::string_view unit = text_.substr(at_, length);
    const Unit* found = std::find_if(std::begin(units), std::end(units),
                                     [&](const Unit& u) { return u.name == unit; });
    if (found == std::end(units)) return fail(what);
    *value *= found->factor;
    at_ += length;
    number_begin_ = begin;
    return {};
  }
  Status rate(double* value) {
    TUTTI_RETURN_IF_ERROR(quantity(k_rates, "a rate such as 100Gb/s or 48GB/s", value));
    if (*value < 1 || *value > 1e15) return fail("a rate of 1B/s to 1000TB/s", number_begin_);
    return {};
  }
  Status time(double* value) {
    TUTTI_RETURN_IF_ERROR(quantity(k_times, "a time such as 5us or 250ns", value));
    if (*value < 0 || *value > 3600) return fail("a time of 0s to 3600s", number_begin_);
    return {};
  }

  Status read_level(const ClusterSpec& above, ClusterLevel* level) {
    const size_t begin = at_;
    level->name = word();
    if (level->name.empty()) return fail("the name of a level");
    for (const ClusterLevel& l : above.levels)
      if (l.name == level->name) return fail("a name that no other level has", begin);
    if (!eat(':')) return fail("':' and a count");
    if (eat('[')) {
      do {
        level->counts.emplace_back();
        TUTTI_RETURN_IF_ERROR(count(k_max_ranks, "a count", &level->counts.back()));
      } while (eat(','));
      if (!eat(']')) return fail("',' or ']'");
    } else {
      level->counts.emplace_back();
      TUTTI_RETURN_IF_ERROR(count(k_max_ranks, "a count", &level->counts.back()));
    }
    if (!eat('{')) return fail("'{' and the links: bw=, nics= or over=");
    seen_.clear();
    do {
      TUTTI_RETURN_IF_ERROR(attribute(above, level));
    } while (eat(','));
    const size_t end = at_;
    if (!eat('}')) return fail("',' or '}'");
    if (level->bandwidth == 0 && level->over == 0)
      return fail("bw=, nics= or over= among the attributes of " + level->name, end);
    return {};
  }

  Status attribute(const ClusterSpec& above, ClusterLevel* level) {
    const size_t begin = at_;
    const std::string key(word());
    if (std::count(seen_.begin(), seen_.end(), key)) return fail("each attribute once", begin);
    if (key != "bw" && key != "in" && key != "lat" && key != "nics" && key != "over" &&
        key != "class")
      return fail("bw, in, lat, nics, over or class", begin);
    seen_.push_back(key);
    if ((key == "bw" || key == "nics" || key == "over") &&
        (level->bandwidth > 0 || level->over > 0))
      return fail("one of bw, nics and over", begin);
    if (!eat('=')) return fail("'='");
    if (key == "bw") return rate(&level->bandwidth);
    if (key == "in") return rate(&level->bandwidth_in);
    if (key == "lat") return time(&level->latency);
    if (key == "nics") {
      for (const ClusterLevel& l : above.levels)
        if (l.nics > 0) return fail("nics on one level only", begin);
      TUTTI_RETURN_IF_ERROR(count(k_max_nics, "a number of NICs", &level->nics));
      if (!eat('x')) return fail("'x' and the rate of each NIC");
      return rate(&level->bandwidth);
    }
    if (key == "over") {
      const size_t at = at_;
      TUTTI_RETURN_IF_ERROR(number("a factor", &level->over));
      if (level->over < 1e-3 || level->over > 1e6) return fail("a factor of 0.001 to 1000000", at);
      return {};
    }
    const size_t at = at_;
    LinkClass c;
    if (!parse_link_class(word(), &c))
      return fail("memory, nvlink, pci, interconnect, nic or network", at);
    level->link_class = c;
    return {};
  }

  std::string_view text_;
  size_t at_ = 0;
  size_t number_begin_ = 0;
  std::vector<std::string> seen_;
};

// The shortest way of writing the value that reads back exactly; 100Gb/s rather than 0.1Tb/s.
template <size_t N>
std::string write(const Unit (&units)[N], double value) {
  std::string best;
  size_t least = 0;
  for (const Unit& u : units) {
    const std::string digits = fmt::format("{}", value / u.factor);
    double back = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), back);
    if (error != std::errc() || back * u.factor != value) continue;
    std::string text = digits + std::string(u.name);
    const size_t length = text.size() + (value > 0 && value < u.factor ? 8 : 0);
    if (!best.empty() && length >= least) continue;
    best = std::move(text);
    least = length;
  }
  return best;
}

bool is_host_name(std::string_view name) {
  return name == "node" || name == "host" || name == "server" || name == "machine";
}
bool is_cpu_name(std::string_view name) { return name == "cpu" || name == "core"; }

// What the names mean.
struct Roles {
  size_t host;  // level of the hosts; levels.size(): none; k_root: the root is the host
  static constexpr size_t k_root = ~size_t{0};

  explicit Roles(const ClusterSpec& spec) : host(spec.levels.size()) {
    const auto& levels = spec.levels;
    const size_t inner = levels.size() - 1;
    for (size_t l = 0; l < inner; ++l)
      if (levels[l].nics > 0) host = l;
    for (size_t l = 0; l < inner && host == levels.size(); ++l)
      if (is_host_name(levels[l].name)) host = l;
    if (levels.size() == 1 && (levels[0].name == "gpu" || is_cpu_name(levels[0].name)))
      host = k_root;
  }
  bool in_host(size_t level) const { return host == k_root || level > host; }
  bool has_hosts(const ClusterSpec& spec) const { return host != spec.levels.size(); }

  NodeKind kind(const ClusterSpec& spec, size_t level) const {
    const std::string& name = spec.levels[level].name;
    if (level + 1 == spec.levels.size())
      return name == "gpu" ? NodeKind::gpu : is_cpu_name(name) ? NodeKind::cpu : NodeKind::rank;
    if (level == host) return NodeKind::host;
    if (!has_hosts(spec) || !in_host(level)) return NodeKind::network_switch;
    return name == "numa" || name == "socket" ? NodeKind::numa : NodeKind::pci_switch;
  }
  LinkClass link_class(const ClusterSpec& spec, size_t level) const {
    const ClusterLevel& l = spec.levels[level];
    if (l.link_class) return *l.link_class;
    if (level == host) return LinkClass::nic;
    if (!has_hosts(spec) || !in_host(level)) return LinkClass::network;
    switch (kind(spec, level)) {
      case NodeKind::gpu:
        return LinkClass::nvlink;
      case NodeKind::numa:
        return LinkClass::interconnect;
      case NodeKind::pci_switch:
        return LinkClass::pci;
      default:
        return LinkClass::memory;
    }
  }
};

}  // namespace

Result<ClusterSpec> parse_cluster(std::string_view text) { return Parser(text).spec(); }

std::string to_text(const ClusterSpec& spec) {
  std::string text;
  for (const ClusterLevel& l : spec.levels) {
    if (!text.empty()) text += ' ';
    text += l.name + ":";
    if (l.counts.size() == 1) {
      text += fmt::format("{}", l.counts[0]);
    } else {
      for (size_t i = 0; i < l.counts.size(); ++i)
        text += fmt::format("{}{}", i == 0 ? '[' : ',', l.counts[i]);
      text += ']';
    }
    if (l.nics > 0) {
      text += fmt::format("{{nics={}x{}", l.nics, write(k_rates, l.bandwidth));
    } else if (l.over > 0) {
      text += fmt::format("{{over={}", l.over);
    } else {
      text += fmt::format("{{bw={}", write(k_rates, l.bandwidth));
    }
    if (l.bandwidth_in > 0) text += ",in=" + write(k_rates, l.bandwidth_in);
    if (l.latency > 0) text += ",lat=" + write(k_times, l.latency);
    if (l.link_class) text += fmt::format(",class={}", name(*l.link_class));
    text += '}';
  }
  return text;
}

ClusterSize size_of(const ClusterSpec& spec) {
  if (spec.levels.empty()) return {};
  const Roles roles(spec);
  ClusterSize size{1, 0};
  uint64_t parents = 1;
  for (size_t l = 0; l < spec.levels.size(); ++l) {
    const std::vector<uint32_t>& counts = spec.levels[l].counts;
    if (counts.size() != 1 && counts.size() != parents) return {};
    uint64_t children = 0;
    for (const uint32_t c : counts) children += c;
    parents = counts.size() == 1 ? parents * children : children;
    if (parents > k_max_ranks) return {};
    if (l == roles.host) size.hosts = static_cast<uint32_t>(parents);
  }
  size.ranks = static_cast<uint32_t>(parents);
  if (!roles.has_hosts(spec)) size.hosts = size.ranks;
  return size;
}

Result<Topology> build_cluster(const ClusterSpec& spec) {
  if (spec.levels.empty()) return Status(Code::invalid_argument, "cluster spec: no levels");
  auto invalid = [](std::string message) {
    return Status(Code::invalid_argument, "cluster spec: " + message);
  };
  if (spec.levels.back().nics > 0)
    return invalid("nics on the innermost level, " + spec.levels.back().name +
                   ": they belong to what contains the ranks");
  if (spec.levels.back().over > 0)
    return invalid("over on the innermost level, " + spec.levels.back().name +
                   ": there is nothing below it; give bw");
  const Roles roles(spec);

  Topology topology;
  const bool root_is_host = roles.host == Roles::k_root;
  std::vector<NodeId> level = {
      topology.add_node(root_is_host ? NodeKind::host : NodeKind::network_switch, k_no_node,
                        root_is_host ? "host" : "core")};
  std::vector<std::vector<NodeId>> nodes;  // by level, outermost first
  for (size_t l = 0; l < spec.levels.size(); ++l) {
    const ClusterLevel& cl = spec.levels[l];
    if (cl.counts.size() != 1 && cl.counts.size() != level.size())
      return invalid(
          fmt::format("{} has {} counts for {} parents", cl.name, cl.counts.size(), level.size()));
    const bool leaves = l + 1 == spec.levels.size();
    std::vector<NodeId> children;
    for (size_t p = 0; p < level.size(); ++p) {
      const uint32_t count = cl.counts[cl.counts.size() == 1 ? 0 : p];
      if (children.size() + count > k_max_ranks)
        return invalid(fmt::format("more than {} of {}", k_max_ranks, cl.name));
      for (uint32_t i = 0; i < count; ++i) {
        children.push_back(topology.add_node(roles.kind(spec, l), level[p],
                                             fmt::format("{}{}", cl.name, children.size())));
        if (leaves) topology.add_rank(children.back());
      }
    }
    nodes.push_back(level = std::move(children));
  }

  // Links from the innermost level out: oversubscription needs to know what is below.
  std::vector<double> below(topology.nodes().size(), 0);  // bandwidth of the children's links
  for (size_t l = spec.levels.size(); l-- > 0;) {
    const ClusterLevel& cl = spec.levels[l];
    const LinkClass c = roles.link_class(spec, l);
    for (NodeId child : nodes[l]) {
      const NodeId parent = topology.nodes()[child].parent;
      const double out = cl.over > 0 ? below[child] / cl.over : cl.bandwidth;
      const double in = cl.bandwidth_in > 0 ? cl.bandwidth_in : out;
      below[parent] += out * std::max(1u, cl.nics);
      if (cl.nics == 0) {
        topology.add_link({child, parent, out, cl.latency, c, true});
        topology.add_link({parent, child, in, cl.latency, c, false});
        continue;
      }
      for (uint32_t i = 0; i < cl.nics; ++i) {
        const NodeId nic = topology.add_node(NodeKind::nic, child, fmt::format("nic{}", i));
        // The bus is no narrower than its card.
        topology.add_link({child, nic, out, 0, LinkClass::pci, true});
        topology.add_link({nic, child, in, 0, LinkClass::pci, false});
        topology.add_link({nic, parent, out, cl.latency, c, true});
        topology.add_link({parent, nic, in, cl.latency, c, false});
      }
    }
  }
  TUTTI_RETURN_IF_ERROR(topology.finish());
  return topology;
}

Result<Topology> make_cluster(std::string_view text) {
  const Result<ClusterSpec> spec = parse_cluster(text);
  if (!spec) return spec.status();
  return build_cluster(*spec);
}

}  // namespace tutti
