// JSON of results, see json_report.h.
#include "perf/json_report.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <ctime>

namespace tutti::perf {
namespace {

using nlohmann::json;

// nccl-tests writes booleans as strings.
const char* text(bool value) { return value ? "true" : "false"; }

json half(const Timing& timing, bool cpu_time) {
  if (!timing.measured) return nullptr;
  return {{cpu_time ? "cpu_time" : "time", timing.microseconds},
          {"alg_bw", timing.algorithm_bandwidth},
          {"bus_bw", timing.bus_bandwidth},
          {"nwrong", static_cast<double>(timing.wrong)}};
}

json per_iteration(const Timing& timing, const SweepOptions& sweep) {
  const Summary& s = timing.per_iteration;
  return {{"skipped_iterations", sweep.per_iteration_skip},
          {"min_us", s.min},
          {"max_us", s.max},
          {"avg_us", s.mean},
          {"p50_us", s.p50},
          {"p90_us", s.p90},
          {"p95_us", s.p95},
          {"p99_us", s.p99},
          {"stdev_us", s.stdev},
          {"cv_pct", s.cv_percent()},
          {"times_us", timing.times_us}};
}

json result(const Point& point, const PerfOptions& options) {
  const SweepOptions& sweep = options.sweep;
  json r = {
      {"size", point.bytes},
      {"count", point.count},
      {"type", type_label(point.dtype)},
      {"redop", op_label(point, has_reduction(sweep.collective))},
      {"root", std::to_string(has_root(sweep.collective) ? static_cast<int>(point.root) : -1)},
      {"out_of_place", half(point.out_of_place, sweep.cpu_time)},
      {"in_place", half(point.in_place, sweep.cpu_time)},
      {"actual_iterations", std::max(point.out_of_place.iterations, point.in_place.iterations)},
      {"experiment_name", options.program},
      {"path", point.path}};
  if (sweep.per_iteration && point.out_of_place.measured)
    r["out_of_place_per_iter"] = per_iteration(point.out_of_place, sweep);
  if (sweep.per_iteration && point.in_place.measured)
    r["in_place_per_iter"] = per_iteration(point.in_place, sweep);
  return r;
}

json config(const PerfOptions& options, const std::vector<RankInfo>& ranks) {
  const SweepOptions& sweep = options.sweep;
  json devices = json::array();
  for (const RankInfo& info : ranks)
    devices.push_back({{"rank", info.rank},
                       {"group", 0},
                       {"pid", info.pid},
                       {"hostname", info.host},
                       {"device", 0},
                       {"device_hex", "0000:00:00"},
                       {"device_info", info.device}});
  json c = {{"nthreads", options.threads},
            {"ngpus", 1},
            {"minimum_bytes", sweep.min_bytes},
            {"maximum_bytes", sweep.max_bytes},
            {"warmup_iters", sweep.warmup},
            {"iterations", sweep.iterations},
            {"aggregated_iterations", sweep.operations},
            {"validation", sweep.checks},
            {"graph", 0},
            {"blocking_collectives", text(sweep.barrier_each)},
            {"per_iter_timing", text(sweep.per_iteration)},
            {"per_iter_skip", sweep.per_iteration_skip},
            {"parallel_init", text(false)},
            {"buffer", sweep.buffer == BufferKind::mem_alloc ? "mem_alloc" : "private"},
            {"devices", devices}};
  if (sweep.step_factor > 1)
    c["step_factor"] = sweep.step_factor;
  else
    c["step_bytes"] = sweep.step_bytes;
  return c;
}

bool sounds_secret(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  for (const char* word :
       {"SECRET", "TOKEN", "PASSWORD", "CREDENTIAL", "_KEY", "COMM_ID", "UNIQUE_ID"})
    if (name.find(word) != std::string::npos) return true;
  return false;
}

}  // namespace

std::vector<std::string> whitelisted_environment(char** environment) {
  std::vector<std::string> kept;
  for (char** entry = environment; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string variable(*entry);
    const std::string variable_name = variable.substr(0, variable.find('='));
    if (!variable_name.starts_with("TUTTI_") && !variable_name.starts_with("NCCL_")) continue;
    if (!sounds_secret(variable_name)) kept.push_back(variable);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

json json_document(const PerfOptions& options, const std::vector<RankInfo>& ranks,
                   const Outcome& outcome, const std::string& start_time, char** environment) {
  json results = json::array();
  for (const Point& point : outcome.points) results.push_back(result(point, options));
  return {{"version", 3},
          {"start_time", start_time},
          {"args", options.arguments},
          {"env", whitelisted_environment(environment)},
          {"nccl_version", 0},
          {"config", config(options, ranks)},
          {"results", results},
          {"out_of_bounds", {{"count", outcome.wrong}, {"okay", text(outcome.wrong == 0)}}},
          {"average_bus_bandwidth",
           {{"bandwidth", outcome.average_bus_bandwidth}, {"okay", text(outcome.bandwidth_ok)}}},
          {"errors", outcome.errors},
          {"end_time", local_time()}};
}

json json_line(const std::string& library, const std::string& configuration, Collective collective,
               uint32_t ranks, const Point& point) {
  json line = {{"library", library},
               {"configuration", configuration},
               {"collective", name(collective)},
               {"ranks", ranks},
               {"bytes", point.bytes},
               {"dtype", name(point.dtype)},
               {"op", op_label(point, has_reduction(collective))},
               {"path", point.path}};
  const auto add = [&line](const char* place, const Timing& timing) {
    if (!timing.measured) return;
    line[place] = {{"us", timing.microseconds},
                   {"busbw", timing.bus_bandwidth},
                   {"wrong", timing.wrong},
                   {"iterations", timing.iterations}};
    if (!timing.times_us.empty())
      line[place].update({{"p50_us", timing.per_iteration.p50},
                          {"p90_us", timing.per_iteration.p90},
                          {"p95_us", timing.per_iteration.p95},
                          {"p99_us", timing.per_iteration.p99},
                          {"max_us", timing.per_iteration.max}});
  };
  add("out_of_place", point.out_of_place);
  add("in_place", point.in_place);
  return line;
}

std::string local_time() {
  const time_t now = time(nullptr);
  tm local{};
  localtime_r(&now, &local);
  char buffer[32];
  strftime(buffer, sizeof(buffer), "%Y-%m-%d %H:%M:%S", &local);
  return buffer;
}

std::string write_new_file(const std::string& path, const std::string& document) {
  std::string candidate = path;
  FILE* file = fopen(candidate.c_str(), "wx");
  for (int i = 0; file == nullptr && errno == EEXIST && i < 10000; ++i) {
    candidate = path + "." + std::to_string(i);
    file = fopen(candidate.c_str(), "wx");
  }
  if (file == nullptr) return "";
  const bool written = fwrite(document.data(), 1, document.size(), file) == document.size();
  return fclose(file) == 0 && written ? candidate : "";
}

}  // namespace tutti::perf
