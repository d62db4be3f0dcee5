#include "sim/draw.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <vector>

namespace tutti {
namespace {

constexpr size_t k_most_lanes = 64, k_most_messages = 5000;
constexpr double k_left = 110, k_right = 30, k_top = 56, k_row = 26, k_bar = 14, k_width = 1200;
constexpr const char* k_ink[] = {"#3b6fb6", "#c8643c", "#4d9a6a", "#8d5fb0",
                                 "#b8973a", "#3f9aa8", "#b0507a", "#6b7683"};

class Drawing {
 public:
  Drawing(const SimReport& report, const Plan& plan) : report_(report), plan_(plan) {
    for (const SimMessage& m : report.trace) {
      rows_.emplace(m.from, 0);
      rows_.emplace(m.to, 0);
    }
    size_t row = 0;
    for (auto& [lane, y] : rows_) y = k_top + k_row * static_cast<double>(row++) + k_row / 2;
    critical_.assign(report.trace.size(), false);
    for (uint32_t m : report.critical_path) critical_[m] = true;
  }
  size_t rows() const { return rows_.size(); }

  std::string svg() {
    const double bottom = k_top + k_row * static_cast<double>(rows_.size());
    put("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" "
        "viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" font-size=\"11\">\n"
        "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        "<text x=\"16\" y=\"24\" font-size=\"15\" fill=\"#222\">{2} {3}, {4} ranks: {5}</text>\n",
        k_left + k_width + k_right, bottom + 40, plan_.algorithm(), name(plan_.shape().collective),
        plan_.shape().ranks, time(report_.seconds));
    axis(bottom);
    for (const auto& [lane, y] : rows_) label(lane, y);
    for (bool strong : {false, true})  // the critical path on top
      for (size_t i = 0; i < report_.trace.size(); ++i)
        if (critical_[i] == strong) message(report_.trace[i], strong);
    return out_ + "</svg>\n";
  }

 private:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }
  double x(double seconds) const { return k_left + k_width * seconds / report_.seconds; }
  static std::string time(double s) {
    if (s < 1e-3) return fmt::format("{:.4g} us", s * 1e6);
    return s < 1 ? fmt::format("{:.4g} ms", s * 1e3) : fmt::format("{:.4g} s", s);
  }

  void axis(double bottom) {
    // 1, 2 or 5 times a power of ten, about ten of them.
    const double wish = report_.seconds / 10, power = std::pow(10, std::floor(std::log10(wish)));
    const double step = power * (wish / power < 2 ? 2 : wish / power < 5 ? 5 : 10);
    for (double t = 0; t <= report_.seconds * 1.0001; t += step)
      put("<line x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\" stroke=\"#e4e7ec\"/>\n"
          "<text x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\" fill=\"#667\">{4}</text>\n",
          x(t), k_top - 6, bottom, bottom + 18, t == 0 ? "0" : time(t));
  }
  void label(uint32_t lane, double y) {
    const uint32_t lanes = plan_.shape().lanes;
    const std::string text = lanes == 1
                                 ? fmt::format("rank {}", lane)
                                 : fmt::format("rank {}, lane {}", lane / lanes, lane % lanes);
    put("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\" fill=\"#334\">{}</text>\n"
        "<line x1=\"{}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\" stroke=\"#eef0f3\"/>\n",
        k_left - 8, y + 4, text, k_left, y, k_left + k_width, y);
  }
  void message(const SimMessage& m, bool strong) {
    const double from = rows_.at(m.from), to = rows_.at(m.to);
    const char* ink = k_ink[m.to / plan_.shape().lanes % std::size(k_ink)];
    const auto bar = [&](double begin, double end, double opacity) {
      put("<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{}\" fill=\"{}\" "
          "fill-opacity=\"{}\"{}>",
          x(begin), from - k_bar / 2, std::max(0.6, x(end) - x(begin)), k_bar, ink, opacity,
          strong ? " stroke=\"#111\"" : "");
      put("<title>rank {} to {}: {} B, step {}, {} to {}, arrives {}</title></rect>\n",
          m.from / plan_.shape().lanes, m.to / plan_.shape().lanes, m.bytes, m.step, time(begin),
          time(end), time(m.arrived));
    };
    if (m.started > m.posted) bar(m.posted, m.started, 0.25);
    bar(m.started, m.left, 0.85);
    put("<line x1=\"{:.2f}\" y1=\"{:.1f}\" x2=\"{:.2f}\" y2=\"{:.1f}\" stroke=\"{}\" "
        "stroke-width=\"{}\" stroke-opacity=\"{}\"/>\n",
        x(m.left), from, x(m.arrived), to, strong ? "#111" : ink, strong ? 1.8 : 0.8,
        strong ? 1.0 : 0.5);
  }

  const SimReport& report_;
  const Plan& plan_;
  std::map<uint32_t, double> rows_;  // by lane: the middle of its row
  std::vector<bool> critical_;
  std::string out_;
};

}  // namespace

Result<std::string> to_svg(const SimReport& report, const Plan& plan) {
  if (report.trace.empty() || report.seconds <= 0)
    return Status(Code::invalid_argument, "drawing: no messages were recorded");
  if (report.trace.size() > k_most_messages)
    return Status(Code::invalid_argument, fmt::format("drawing: {} messages; {} can be read",
                                                      report.trace.size(), k_most_messages));
  Drawing drawing(report, plan);
  if (drawing.rows() > k_most_lanes)
    return Status(Code::invalid_argument,
                  fmt::format("drawing: {} lanes; {} can be read", drawing.rows(), k_most_lanes));
  return drawing.svg();
}

}  // namespace tutti
