// Results as JSON: nccl-tests' version 3 document, and one self-contained object per point.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "perf/options.h"
#include "perf/table.h"

namespace tutti::perf {

// Only TUTTI_* and NCCL_* and nothing that sounds like a secret: nccl-tests dumps everything.
std::vector<std::string> whitelisted_environment(char** environment);

struct Outcome {
  std::vector<Point> points;
  uint64_t wrong = 0;
  double average_bus_bandwidth = 0;
  bool bandwidth_ok = true;  // NCCL_TESTS_MIN_BW
  std::vector<std::string> errors;
};

nlohmann::json json_document(const PerfOptions& options, const std::vector<RankInfo>& ranks,
                             const Outcome& outcome, const std::string& start_time,
                             char** environment);
// What --json-lines appends and the peers print: library, configuration, one point.
nlohmann::json json_line(const std::string& library, const std::string& configuration,
                         Collective collective, uint32_t ranks, const Point& point);

std::string local_time();
// Writes `document` to `path`, or to path.0, path.1 .. when it exists. The name used, or empty.
std::string write_new_file(const std::string& path, const std::string& document);

}  // namespace tutti::perf
