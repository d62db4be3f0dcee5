#include "topology/draw.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "topology/xml.h"

namespace tutti {
namespace {

struct Ink {
  const char *soft, *line, *text;
};
// Hues of equal lightness; NICs take them in turn.
constexpr Ink k_inks[] = {{"#dbe8ff", "#6b95e0", "#27508f"}, {"#ffe3d3", "#d98552", "#8a4317"},
                          {"#d9f2dc", "#5fae6c", "#236b30"}, {"#f5dff5", "#b873bb", "#713174"},
                          {"#fdeebf", "#c19d33", "#725a0b"}, {"#d3f1f1", "#4aa8aa", "#13686a"},
                          {"#ffdfe4", "#d8788a", "#8b2f41"}, {"#e6e3fb", "#8a80d6", "#453a93"}};
constexpr Ink k_plain = {"#eef0f3", "#a9b2be", "#465161"};

struct Box {
  double x = 0, y = 0, w = 0, h = 0;
};

class Drawing {
 public:
  Drawing(const Topology& t, uint32_t most_hosts) : t_(t), children_(t.nodes().size()) {
    for (NodeId n = 0; n < t.nodes().size(); ++n) {
      const NodeId parent = t.nodes()[n].parent;
      (parent == k_no_node ? roots_ : children_[parent]).push_back(n);
      if (t.nodes()[n].kind != NodeKind::host) continue;
      ++hosts_;
      if (hosts_ > most_hosts) hidden_.insert(n);
    }
    for (Rank r = 0; r < t.ranks(); ++r) {
      ranks_[t.node_of(r)].push_back(r);
      const NodeId exit = t.exit_of(r);
      if (exit == k_no_node) continue;
      ink_.try_emplace(exit, &k_inks[ink_.size() % std::size(k_inks)]);
      ink_.try_emplace(t.node_of(r), ink_[exit]);
    }
    for (const Link& l : t.links()) {
      if (l.link_class == LinkClass::nvlink) fabric_.insert({l.from, l.to});
      if (l.link_class == LinkClass::nic && l.outward) cable_[l.from] = l.bandwidth;
      if (l.outward && t.nodes()[l.from].parent == l.to) up_[l.from] = &l;
    }
  }

  std::string svg(const std::string& title) {
    double width = 0, bottom = k_top;
    for (NodeId n : roots_) {
      const auto [w, h] = measure(n);
      place(n, 24, bottom);
      bottom += h + 16;
      width = std::max(width, w + 48);
    }
    if (!hidden_.empty()) {
      put("<text class=\"s\" x=\"24\" y=\"{:.0f}\">… and {} more hosts</text>\n", bottom + 10,
          hidden_.size());
      bottom += 24;
    }
    arcs();
    width = std::max(width, 640.0);
    return fmt::format(
               R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0:.0f}" height="{1:.0f}" viewBox="0 0 {0:.0f} {1:.0f}" font-family="Inter, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif">
<title>{2}</title>
<style>
  .t {{ font-size: 18px; font-weight: 600; fill: #17202e }}
  .s {{ font-size: 12px; fill: #5b6675 }}
  .h {{ font-size: 11px; font-weight: 600; fill: #2c3748 }}
  .k {{ font-size: 11px; font-weight: 600; text-anchor: middle }}
  .l {{ font-size: 9.5px; text-anchor: middle }}
</style>
<rect width="100%" height="100%" fill="#ffffff"/>
<text class="t" x="24" y="32">{2}</text>
<text class="s" x="24" y="52">{3}</text>
)",
               width, bottom + 24, xml_escape(title), subtitle()) +
           body_ + overlay_ + "</svg>\n";
  }

 private:
  static constexpr double k_top = 72, k_pad = 12, k_header = 20, k_chip_w = 84, k_chip_h = 38,
                          k_gap = 10;
  static constexpr double k_arc_room = 54, k_max_row = 1240;
  static constexpr size_t k_most_chips = 16;  // of cores, else they are counted

  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(body_), format, std::forward<Args>(args)...);
  }

  std::string subtitle() const {
    return fmt::format("{} ranks on {} host{}; a GPU has the colour of the NIC it uses", t_.ranks(),
                       hosts_, hosts_ == 1 ? "" : "s");
  }
  bool is_chip(NodeId n) const { return children_[n].empty(); }
  bool shown(NodeId n) const { return hidden_.count(n) == 0; }
  std::vector<NodeId> inside(NodeId n) const {
    std::vector<NodeId> result;
    size_t cores = 0;
    for (NodeId c : children_[n]) {
      if (!shown(c)) continue;
      cores += t_.nodes()[c].kind == NodeKind::cpu || t_.nodes()[c].kind == NodeKind::rank;
      if (cores <= 1 || children_[n].size() <= k_most_chips || t_.nodes()[c].kind == NodeKind::nic)
        result.push_back(c);
    }
    return result;
  }
  bool has_arcs(NodeId host) const {
    return std::any_of(fabric_.begin(), fabric_.end(), [&](const auto& l) {
      return t_.host_of(l.first) == host && !is_switch(l.first) && !is_switch(l.second);
    });
  }
  bool is_switch(NodeId n) const {
    return t_.nodes()[n].kind == NodeKind::pci_switch ||
           t_.nodes()[n].kind == NodeKind::network_switch;
  }

  // Children in rows as wide as the paper.
  std::pair<double, double> measure(NodeId n) {
    Box& b = box_[n];
    if (is_chip(n)) {
      b.w = k_chip_w;
      b.h = k_chip_h;
      return {b.w, b.h};
    }
    double x = 0, y = 0, row = 0, widest = 0;
    for (NodeId c : inside(n)) {
      const auto [w, h] = measure(c);
      if (x > 0 && x + w > k_max_row) {
        y += row + k_gap;
        x = row = 0;
      }
      box_[c].x = x;
      box_[c].y = y;
      x += w + k_gap;
      row = std::max(row, h);
      widest = std::max(widest, x - k_gap);
    }
    const bool arcs = t_.nodes()[n].kind == NodeKind::host && has_arcs(n);
    const double label = 7.0 * static_cast<double>(header(n).size());
    b.w = std::max(widest, label) + 2 * k_pad;
    b.h = k_header + y + row + k_pad + (arcs ? k_arc_room : 0);
    return {b.w, b.h};
  }

  std::string header(NodeId n) const {
    std::string text = t_.nodes()[n].name;
    const auto link = up_.find(n);
    if (link != up_.end())
      text += " · " + rate_text(link->second->bandwidth, link->second->link_class);
    return text;
  }

  void place(NodeId n, double left, double top) {
    Box& b = box_[n];
    b.x = left;
    b.y = top;
    if (is_chip(n)) return chip(n);
    const bool host = t_.nodes()[n].kind == NodeKind::host;
    put("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"8\" fill=\"{}\" "
        "stroke=\"{}\"/>\n",
        b.x, b.y, b.w, b.h, host ? "#fbfcfd" : "#f3f5f8", host ? "#8a94a3" : "#ced5de");
    put("<text class=\"h\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", b.x + k_pad, b.y + 14,
        xml_escape(header(n)));
    for (NodeId c : inside(n)) {
      const Box relative = box_[c];
      place(c, b.x + k_pad + relative.x, b.y + k_header + relative.y);
    }
  }

  void chip(NodeId n) {
    const Box& b = box_[n];
    const auto found = ink_.find(n);
    const Ink& ink = found == ink_.end() ? k_plain : *found->second;
    put("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"5\" fill=\"{}\" "
        "stroke=\"{}\"/>\n",
        b.x, b.y, b.w, b.h, ink.soft, ink.line);
    std::string first = t_.nodes()[n].name.substr(0, 14), second;
    const NodeId parent = t_.nodes()[n].parent;
    const NodeKind kind = t_.nodes()[n].kind;
    const size_t siblings = parent == k_no_node ? 0 : children_[parent].size();
    if ((kind == NodeKind::cpu || kind == NodeKind::rank) && siblings > k_most_chips) {
      first = fmt::format("{} ranks", siblings);
    } else if (const auto ranks = ranks_.find(n); ranks != ranks_.end()) {
      second = fmt::format("rank {}", ranks->second[0]);
      if (ranks->second.size() > 1) second += fmt::format(" + {}", ranks->second.size() - 1);
    } else if (const auto cable = cable_.find(n); cable != cable_.end()) {
      second = rate_text(cable->second, LinkClass::nic);
    }
    put("<text class=\"k\" x=\"{:.1f}\" y=\"{:.1f}\" fill=\"{}\">{}</text>\n", b.x + b.w / 2,
        b.y + (second.empty() ? 23 : 17), ink.text, xml_escape(first));
    if (!second.empty())
      put("<text class=\"l\" x=\"{:.1f}\" y=\"{:.1f}\" fill=\"{}\">{}</text>\n", b.x + b.w / 2,
          b.y + 30, ink.text, second);
  }

  // NVLink and the like, below the chips.
  void arcs() {
    double least = 0;
    std::map<std::pair<NodeId, NodeId>, double> width;
    for (const Link& l : t_.links()) {
      if (l.link_class != LinkClass::nvlink || box_.count(l.from) == 0 || box_.count(l.to) == 0)
        continue;
      width[std::minmax(l.from, l.to)] = l.bandwidth;
      least = least == 0 ? l.bandwidth : std::min(least, l.bandwidth);
    }
    for (const auto& [ends, bandwidth] : width) {
      const Box &a = box_[ends.first], &b = box_[ends.second];
      if (a.w == 0 || b.w == 0) continue;
      const double x1 = a.x + a.w / 2, y1 = a.y + a.h, x2 = b.x + b.w / 2, y2 = b.y + b.h;
      const double sag = std::max(y1, y2) + 14 + std::min(34.0, std::abs(x2 - x1) / 16);
      fmt::format_to(
          std::back_inserter(overlay_),
          "<path d=\"M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}\" fill=\"none\" "
          "stroke=\"#3d9b35\" stroke-opacity=\"0.65\" stroke-width=\"{:.1f}\"><title>{}: "
          "{}</title></path>\n",
          x1, y1, x1, sag, x2, sag, x2, y2, std::clamp(1.2 * bandwidth / least, 1.2, 5.0),
          xml_escape(t_.describe(ends.first) + " - " + t_.describe(ends.second)),
          rate_text(bandwidth, LinkClass::nvlink));
    }
  }

  const Topology& t_;
  std::vector<std::vector<NodeId>> children_;
  std::vector<NodeId> roots_;
  std::set<NodeId> hidden_;
  size_t hosts_ = 0;
  std::map<NodeId, std::vector<Rank>> ranks_;
  std::map<NodeId, const Ink*> ink_;
  std::map<NodeId, double> cable_;
  std::map<NodeId, const Link*> up_;
  std::set<std::pair<NodeId, NodeId>> fabric_;
  std::map<NodeId, Box> box_;
  std::string body_, overlay_;
};

}  // namespace

std::string rate_text(double bytes_per_second, LinkClass link_class) {
  if (link_class == LinkClass::nic || link_class == LinkClass::network) {
    const double bits = bytes_per_second * 8;
    return bits >= 1e9 ? fmt::format("{:.4g} Gb/s", bits / 1e9)
                       : fmt::format("{:.4g} Mb/s", bits / 1e6);
  }
  return bytes_per_second >= 1e9 ? fmt::format("{:.4g} GB/s", bytes_per_second / 1e9)
                                 : fmt::format("{:.4g} MB/s", bytes_per_second / 1e6);
}

std::string to_svg(const Topology& topology, const std::string& title, uint32_t most_hosts) {
  return Drawing(topology, most_hosts).svg(title);
}

}  // namespace tutti
