#include "src/plan/draw.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numbers>

#include "src/plan/plan_index.h"
#include "src/plan/text.h"
#include "src/plan/timeline.h"

namespace tutti {
namespace {

// OKLCH to sRGB: hues of equal lightness, so that no chunk looks more important than another.
std::string oklch(double lightness, double chroma, double hue) {
  const double a = chroma * std::cos(hue), b = chroma * std::sin(hue);
  auto cube = [](double x) { return x * x * x; };
  const double l = cube(lightness + 0.3963377774 * a + 0.2158037573 * b);
  const double m = cube(lightness - 0.1055613458 * a - 0.0638541728 * b);
  const double s = cube(lightness - 0.0894841775 * a - 1.2914855480 * b);
  auto byte = [](double linear) {
    const double x = std::clamp(linear, 0.0, 1.0);
    const double v = x <= 0.0031308 ? 12.92 * x : 1.055 * std::pow(x, 1 / 2.4) - 0.055;
    return static_cast<int>(std::lround(v * 255));
  };
  return fmt::format("#{:02x}{:02x}{:02x}",
                     byte(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
                     byte(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
                     byte(-0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s));
}

struct Ink {
  std::string solid, soft, text;
};

class Drawing {
 public:
  Drawing(const Plan& plan, const Timeline& timeline)
      : plan_(plan), shape_(plan.shape()), timeline_(timeline) {
    for (uint32_t k = 0; k < timeline.kinds; ++k) {
      // Neighbouring chunks get neighbouring hues; two lightnesses help when there are many.
      const double hue = 2 * std::numbers::pi * (k + 0.35) / std::max<uint32_t>(timeline.kinds, 6);
      const double lift = timeline.kinds > 8 && k % 2 == 1 ? 0.10 : 0;
      inks_.push_back(
          {oklch(0.66 + lift, 0.14, hue), oklch(0.93, 0.045, hue), oklch(0.42, 0.11, hue)});
    }
    unit_ = std::clamp(1480 / std::max(timeline.end, 1.0), 15.0, 54.0);
    box_height_ = unit_ >= 30 ? 22 : 18;
    row_ = box_height_ + 12;
    place_rows();
  }

  std::string svg() {
    body_.reserve(timeline_.boxes.size() * 300);
    frame();
    for (const Timeline::Arrow& a : timeline_.arrows) arrow(a);
    for (const Timeline::Box& b : timeline_.boxes) box(b);
    const double legend_top = bottom_ + 44;
    const double height = legend(legend_top) + 24;
    return head(height) + body_ + "</svg>\n";
  }

 private:
  static constexpr double k_left = 96, k_top = 74, k_rank_gap = 10, k_right = 28;
  static constexpr const char* k_grey = "#8a94a3";

  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(body_), format, std::forward<Args>(args)...);
  }

  void place_rows() {
    double y = k_top;
    for (Rank r = 0; r < shape_.ranks; ++r) {
      for (Lane l = 0; l < shape_.lanes; ++l) {
        row_y_.push_back(y + row_ / 2);
        y += row_;
      }
      y += k_rank_gap;
    }
    bottom_ = y;
    width_ = std::max(x(timeline_.end) + k_right, 720.0);
  }
  double x(double time) const { return k_left + 8 + time * unit_; }

  std::string head(double height) const {
    std::string out = fmt::format(
        R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0:.0f}" height="{1:.0f}" viewBox="0 0 {0:.0f} {1:.0f}" font-family="Inter, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif">
<title>{2}</title>
<style>
  .t {{ font-size: 18px; font-weight: 600; fill: #17202e }}
  .s {{ font-size: 12px; fill: #5b6675 }}
  .r {{ font-size: 12px; font-weight: 600; fill: #2c3748; text-anchor: end }}
  .l {{ font-size: 10px; fill: #8a94a3; text-anchor: end }}
  .k {{ font-size: 10.5px; font-weight: 600; text-anchor: middle }}
  .x {{ font-size: 10px; fill: #8a94a3; text-anchor: middle }}
  g.b:hover {{ filter: brightness(0.88) }}
</style>
<rect width="100%" height="100%" fill="#ffffff"/>
)",
        width_, height, title());
    return out;
  }

  std::string title() const {
    auto plural = [](uint64_t n, const char* what) {
      return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
    };
    std::string text = fmt::format("{} · {}", plan_.algorithm(), name(shape_.collective));
    text += fmt::format(" · {} · {}", plural(shape_.ranks, "rank"), plural(shape_.chunks, "chunk"));
    if (shape_.lanes > 1) text += fmt::format(" · {} lanes", shape_.lanes);
    if (shape_.in_place) text += " · in place";
    return escape(text);
  }
  static std::string escape(const std::string& text) {
    std::string out;
    for (char c : text) {
      if (c == '<')
        out += "&lt;";
      else if (c == '>')
        out += "&gt;";
      else if (c == '&')
        out += "&amp;";
      else
        out += c;
    }
    return out;
  }

  void frame() {
    const uint64_t messages = timeline_.arrows.size();
    put("<text class=\"t\" x=\"24\" y=\"32\">{}</text>\n", title());
    put("<text class=\"s\" x=\"24\" y=\"52\">{} steps in all, {} messages, {:.0f} time units "
        "(a step and a message's way are one unit each)</text>\n",
        timeline_.boxes.size(), messages, timeline_.end);
    const double right = width_ - k_right + 10;
    for (Rank r = 0; r < shape_.ranks; ++r) {
      const double top = row_y_[r * shape_.lanes] - row_ / 2;
      put("<rect x=\"{}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"6\" fill=\"{}\"/>\n",
          k_left, top, right - k_left, row_ * shape_.lanes, "#f6f7f9");
      const double middle = top + row_ * shape_.lanes / 2;
      put("<text class=\"r\" x=\"{}\" y=\"{:.1f}\">rank {}</text>\n",
          k_left - (shape_.lanes > 1 ? 40 : 10), middle + 4, r);
      for (Lane l = 0; l < shape_.lanes; ++l) {
        const double y = row_y_[r * shape_.lanes + l];
        if (shape_.lanes > 1)
          put("<text class=\"l\" x=\"{}\" y=\"{:.1f}\">lane {}</text>\n", k_left - 6, y + 3.5, l);
        put("<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"#dde1e7\"/>\n", k_left + 6, y, right - 6);
      }
    }
    axis();
  }

  void axis() {
    const double wanted = 60 / unit_;
    double every = 1;
    for (double step : {1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0}) {
      every = step;
      if (step >= wanted) break;
    }
    for (double t = 0; t <= timeline_.end + 1e-9; t += every) {
      put("<path d=\"M{0:.1f} {1:.1f}v4\" stroke=\"#b8c0cb\"/><text class=\"x\" x=\"{0:.1f}\" "
          "y=\"{2:.1f}\">{3:.0f}</text>\n",
          x(t), bottom_ - 4, bottom_ + 12, t);
    }
    put("<text class=\"x\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">time</text>\n",
        k_left - 14, bottom_ + 12);
  }

  // Fill of a box: its chunk's colour, or stripes when it carries several.
  std::string fill(const Timeline::Box& box, bool soft) {
    auto colour = [&](uint32_t data) -> const std::string& {
      const Ink& i = data < inks_.size() ? inks_[data] : plain_;
      return soft ? i.soft : i.solid;
    };
    const size_t stripes = std::min<size_t>(box.data.size(), 8);
    if (stripes < 2) return soft ? ink(box).soft : ink(box).solid;
    std::string stops;
    for (size_t i = 0; i < stripes; ++i) {
      const std::string& c = colour(box.data[i * box.data.size() / stripes]);
      fmt::format_to(std::back_inserter(stops),
                     "<stop offset=\"{0:.3f}\" stop-color=\"{2}\"/><stop offset=\"{1:.3f}\" "
                     "stop-color=\"{2}\"/>",
                     double(i) / double(stripes), double(i + 1) / double(stripes), c);
    }
    const auto [at, fresh] = gradients_.try_emplace(stops, gradients_.size());
    if (fresh) put("<linearGradient id=\"g{}\">{}</linearGradient>\n", at->second, stops);
    return fmt::format("url(#g{})", at->second);
  }

  const Ink& ink(const Timeline::Box& box) const {
    if (box.data.empty() || box.data.front() >= inks_.size()) return plain_;
    return inks_[box.data.front()];
  }

  void arrow(const Timeline::Arrow& a) {
    const Timeline::Box &from = timeline_.boxes[a.from], &to = timeline_.boxes[a.to];
    const double x0 = x(from.end) - 2, y0 = row_y_[from.lane_id];
    const double x1 = x(to.start) + 1, y1 = row_y_[to.lane_id];
    // Long waits leave and arrive steeply, so that little of the arrow hides behind other boxes.
    const double bend = std::clamp((x1 - x0) * 0.5, 10.0, unit_);
    const std::string& colour = a.token ? plain_.solid : ink(from).solid;
    put("<path d=\"M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}\" fill=\"none\" "
        "stroke=\"{}\" stroke-width=\"1.5\" stroke-opacity=\"0.75\"{}/>",
        x0, y0, x0 + bend, y0, x1 - bend - 4, y1, x1 - 4, y1, colour,
        a.token ? " stroke-dasharray=\"3 3\"" : "");
    put("<path d=\"M{:.1f} {:.1f}l-6 -3.2v6.4z\" fill=\"{}\"/>\n", x1, y1, colour);
  }

  std::string label(const Timeline::Box& box) const {
    if (box.step.op == Op::signal || box.step.op == Op::wait || box.step.count == 0) return "";
    const double room = unit_ - 6;
    std::string text;
    const auto [low, high] = std::minmax_element(box.data.begin(), box.data.end());
    if (*low == Timeline::k_unknown || *high == Timeline::k_unknown) return "?";
    text = box.data.size() == 1 ? fmt::format("{}", *low) : fmt::format("{}–{}", *low, *high);
    const bool reduces = box.step.op == Op::recv_reduce || box.step.op == Op::reduce;
    if (reduces) text = "+" + text;
    auto fits = [&](const std::string& t) {
      const double characters = static_cast<double>(t.size()) - (box.data.size() > 1 ? 2 : 0);
      return characters * 6.3 <= room;
    };
    const std::string pass = fmt::format("{}\u00d7{}", text, box.operands);
    if (box.operands > 2 && fits(pass)) return pass;
    return fits(text) ? text : "";
  }

  // Sends point to the right, receives have a soft fill, reductions are solid, final values have a
  // dark rim, copies are dashed, tokens and signals are grey dots.
  void box(const Timeline::Box& b) {
    const double width = unit_ - 4, left = x(b.start) + 2, y = row_y_[b.lane_id];
    put("<g class=\"b\"><title>{}</title>", escape(tooltip(b)));
    if (b.step.count == 0) {
      put("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\" fill=\"{}\" stroke=\"{}\"/></g>\n",
          left + width / 2, y, std::min(width / 2, 5.0),
          b.step.op == Op::send || b.step.op == Op::signal ? k_grey : "#ffffff", k_grey);
      return;
    }
    shape(b, left, y - box_height_ / 2, width);
    const std::string text = label(b);
    const bool dark = b.step.op == Op::recv || b.step.op == Op::copy;
    if (!text.empty())
      put("<text class=\"k\" x=\"{:.1f}\" y=\"{:.1f}\" fill=\"{}\">{}</text>",
          left + width / 2 - (b.step.op == Op::send ? 2 : 0), y + 3.8,
          dark ? ink(b).text : "#ffffff", text);
    body_ += "</g>\n";
  }

  void shape(const Timeline::Box& b, double left, double top, double width) {
    const Ink& colours = ink(b);
    const bool soft = b.step.op == Op::recv || b.step.op == Op::copy;
    const std::string paint = fill(b, soft);
    if (b.step.op == Op::send) {
      const double nose = std::min(7.0, width / 3);
      put("<path d=\"M{:.1f} {:.1f}h{:.1f}l{:.1f} {:.1f}l{:.1f} {:.1f}h{:.1f}z\" fill=\"{}\" "
          "stroke=\"{}\" stroke-linejoin=\"round\" stroke-width=\"2\"/>",
          left + 1, top + 1, width - nose - 2, nose, box_height_ / 2 - 1, -nose,
          box_height_ / 2 - 1, -(width - nose - 2), paint, paint);
      return;
    }
    const char* rim = b.step.last ? "#17202e" : colours.solid.c_str();
    put("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"5\" fill=\"{}\" "
        "stroke=\"{}\" stroke-width=\"{}\"{}/>",
        left + 0.75, top + 0.75, width - 1.5, box_height_ - 1.5, paint, rim, b.step.last ? 2 : 1.5,
        b.step.op == Op::copy ? " stroke-dasharray=\"4 2.5\"" : "");
  }

  std::string tooltip(const Timeline::Box& b) const {
    std::string text =
        describe_step(plan_, b.lane_id / shape_.lanes, b.lane_id % shape_.lanes, b.index);
    if (b.operands > 2) text += fmt::format(", a pass of {} operands", b.operands);
    return text;
  }

  // Draws the legend below `top`, and returns where it ends.
  double legend(double top) {
    double at = 24;
    auto sample = [&](Op op, bool last, uint32_t count, const char* text) {
      Timeline::Box b;
      b.step.op = op;
      b.step.last = last;
      b.step.count = count;
      b.data = {timeline_.kinds > 0 ? 0 : Timeline::k_unknown};
      const double width = 30;
      if (count == 0) {
        put("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\" fill=\"{}\" stroke=\"{}\"/>", at + 15, top,
            k_grey, k_grey);
      } else {
        shape(b, at, top - box_height_ / 2, width);
      }
      put("<text class=\"s\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", at + width + 8, top + 4, text);
      at += width + 26 + 6.4 * static_cast<double>(std::char_traits<char>::length(text));
    };
    sample(Op::send, false, 1, "send");
    sample(Op::recv, false, 1, "recv");
    sample(Op::recv_reduce, false, 1, "reduce");
    sample(Op::recv_reduce, true, 1, "reduce, final value");
    sample(Op::copy, false, 1, "copy");
    sample(Op::signal, false, 0, "token, signal");
    return colours(top + 34);
  }

  double colours(double top) {
    if (timeline_.kinds == 0) return top - 20;
    const char* what = shape_.collective == Collective::all_to_all ? "data of rank" : "chunk";
    put("<text class=\"s\" x=\"24\" y=\"{:.1f}\">{}</text>\n", top + 4, what);
    double at = 24 + 14 + 6.4 * static_cast<double>(std::char_traits<char>::length(what));
    const double width = timeline_.kinds <= 40 ? 26 : std::max(1.0, 1000.0 / timeline_.kinds);
    for (uint32_t k = 0; k < timeline_.kinds; ++k) {
      if (at + width > width_ - k_right) {
        at = 24;
        top += 24;
      }
      put("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"18\" rx=\"{}\" fill=\"{}\"/>",
          at, top - 9, width < 10 ? width : width - 3, width < 10 ? 0 : 4, inks_[k].solid);
      if (width >= 20)
        put("<text class=\"k\" x=\"{:.1f}\" y=\"{:.1f}\" fill=\"#ffffff\">{}</text>",
            at + (width - 3) / 2, top + 3.8, k);
      at += width;
    }
    body_ += '\n';
    return top + 10;
  }

  const Plan& plan_;
  const Shape& shape_;
  const Timeline& timeline_;
  std::vector<Ink> inks_;
  const Ink plain_{k_grey, "#eceff3", "#4a5565"};
  std::map<std::string, size_t> gradients_;  // by their stops
  std::vector<double> row_y_;
  double unit_ = 0, row_ = 0, box_height_ = 0, bottom_ = 0, width_ = 0;
  std::string body_;
};

}  // namespace

Result<std::string> to_svg(const Plan& plan, const DrawOptions& options) {
  const Shape& shape = plan.shape();
  if (shape.ranks > options.max_ranks)
    return Status(Code::invalid_argument,
                  fmt::format("a drawing of {} ranks cannot be read; at most {}", shape.ranks,
                              options.max_ranks));
  uint64_t steps = 0;
  for (Rank r = 0; r < shape.ranks; ++r)
    for (Lane l = 0; l < shape.lanes; ++l) steps += plan.steps(r, l);
  if (steps > options.max_steps)
    return Status(Code::invalid_argument,
                  fmt::format("a drawing of {} steps cannot be read; at most {} (fewer chunks?)",
                              steps, options.max_steps));
  Result<Timeline> timeline = make_timeline(plan);
  if (!timeline) return timeline.status();
  return Drawing(plan, *timeline).svg();
}

}  // namespace tutti
