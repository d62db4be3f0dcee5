// nccl-tests' text table, see table.h.
#include "perf/table.h"

#include <fmt/format.h>

#include <ctime>

namespace tutti::perf {
namespace {

std::string half_columns(const Timing& timing, const TableOptions& options, double ceiling_us) {
  std::string line;
  if (!timing.measured) {
    line = fmt::format("  {:>7}  {:>6}  {:>6}  {:>6}", "N/A", "N/A", "N/A", "N/A");
  } else {
    line =
        fmt::format("  {:>7}  {:>6}  {:>6}  ", fit_number(timing.microseconds, 7),
                    fit_number(timing.algorithm_bandwidth, 6), fit_number(timing.bus_bandwidth, 6));
    line += options.checked ? fmt::format("{:>6g}", static_cast<double>(timing.wrong)) : "   N/A";
  }
  const Summary& s = timing.per_iteration;
  if (options.per_iteration)
    for (double value : {s.min, s.max, s.p99, s.cv_percent()})
      line += fmt::format("  {:>7}", fit_number(value, 7));
  if (options.percentiles)
    for (double value : {s.p50, s.p90, s.p95}) line += fmt::format("  {:>7}", fit_number(value, 7));
  if (options.ceilings)
    line += timing.measured && ceiling_us > 0
                ? fmt::format("  {:>6}", fit_number(100 * ceiling_us / timing.microseconds, 6))
                : fmt::format("  {:>6}", "N/A");
  return line;
}

std::string half_titles(const TableOptions& options, bool units) {
  std::string line =
      units ? fmt::format("  {:>7}  {:>6}  {:>6}  {:>6}", "(us)", "(GB/s)", "(GB/s)", "")
            : fmt::format("  {:>7}  {:>6}  {:>6}  {:>6}", "time", "algbw", "busbw", "#wrong");
  if (options.per_iteration)
    for (const char* title : {"i_min", "i_max", "i_p99", "i_cv%"})
      line += fmt::format("  {:>7}", !units ? title : title[2] == 'c' ? "(%)" : "(us)");
  if (options.percentiles)
    for (const char* title : {"i_p50", "i_p90", "i_p95"})
      line += fmt::format("  {:>7}", units ? "(us)" : title);
  if (options.ceilings) line += fmt::format("  {:>6}", units ? "(%)" : "%ceil");
  return line;
}

std::string trimmed(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

}  // namespace

std::string fit_number(double value, int width) {
  int digits = 0;
  for (double power = 1; value >= power && digits < 64; power *= 10) ++digits;
  if (digits < width - 2) return fmt::format("{:.2f}", value);
  if (digits < width - 1) return fmt::format("{:.1f}", value);
  if (digits < width + 1) return fmt::format("{:.0f}", value);
  return width >= 7 ? fmt::format("{:.1e}", value) : fmt::format("{:.0e}", value);
}

std::string type_label(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return "half";
    case DType::float32:
      return "float";
    case DType::float64:
      return "double";
    case DType::float8_e4m3:
      return "f8e4m3";
    case DType::float8_e5m2:
      return "f8e5m2";
    default:
      return std::string(name(dtype));
  }
}

std::string op_label(const Point& point, bool reduces) {
  if (!reduces) return "none";
  return point.op == ReduceOp::premul_sum ? "mulsum" : std::string(name(point.op));
}

std::string device_line(const RankInfo& info) {
  return fmt::format(
      "#  Rank {:2d} Group {:2d} Pid {:6d} on {:>10} device {:2d} [{:04x}:{:02x}:{:02x}] {}",
      info.rank, 0, info.pid, info.host, 0, 0, 0, 0, info.device);
}

std::vector<std::string> column_lines(const TableOptions& options) {
  const std::string names =
      fmt::format("#{:>11}  {:>12}  {:>8}  {:>6}  {:>6}", "size", "count", "type", "redop", "root");
  const std::string units =
      fmt::format("#{:>11}  {:>12}  {:>8}  {:>6}  {:>6}", "(B)", "(elements)", "", "", "");
  const size_t half = half_titles(options, false).size();
  std::string places = fmt::format("#{:>{}}{:^{}}{:^{}}", "", names.size() - 1, "out-of-place",
                                   half, "in-place", half);
  std::string tail = options.timestamps ? fmt::format("  {:>19}", "timestamp") : "";
  if (options.path) tail += "  path";
  return {trimmed(places),
          trimmed(names + half_titles(options, false) + half_titles(options, false) + tail),
          trimmed(units + half_titles(options, true) + half_titles(options, true))};
}

std::string point_line(const Point& point, const TableOptions& options, Collective collective,
                       double ceiling_us) {
  const int root = has_root(collective) ? static_cast<int>(point.root) : -1;
  std::string line =
      fmt::format("{:12}  {:12}  {:>8}  {:>6}  {:>6}", point.bytes, point.count,
                  type_label(point.dtype), op_label(point, has_reduction(collective)), root);
  line += half_columns(point.out_of_place, options, ceiling_us);
  line += half_columns(point.in_place, options, ceiling_us);
  if (options.timestamps) {
    const time_t now = time(nullptr);
    tm local{};
    localtime_r(&now, &local);
    char text[32];
    strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &local);
    line += fmt::format("  {}", text);
  }
  if (options.path) line += "  " + point.path;
  return line;
}

}  // namespace tutti::perf
