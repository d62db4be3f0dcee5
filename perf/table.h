// nccl-tests' text table: header, one line per point, closing lines. Third-party scripts parse it,
// so the default columns are exactly those; `extra` appends ours.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "perf/measure.h"

namespace tutti::perf {

struct RankInfo {
  Rank rank = 0;
  int pid = 0;
  std::string host;
  std::string device;  // in the place of the GPU's name: the CPU model
};

struct TableOptions {
  bool per_iteration = false;
  bool percentiles = false;  // p50 p90 p95 p99 max besides nccl-tests' four
  bool timestamps = false;
  bool checked = true;
  bool ceilings = false;  // a % column after each half
  bool path = false;      // how tutti ran it, last column
};

// `value` in `width` characters by dropping decimals, then in exponent form.
std::string fit_number(double value, int width);
// What nccl-tests prints for a type and an operator: float, half, mulsum, none ...
std::string type_label(DType dtype);
std::string op_label(const Point& point, bool reduces);

std::string device_line(const RankInfo& info);
std::vector<std::string> column_lines(const TableOptions& options);
// `ceiling_us`: the least time the machine could need; 0 when not known.
std::string point_line(const Point& point, const TableOptions& options, Collective collective,
                       double ceiling_us);

}  // namespace tutti::perf
