// `tutti perf` and the nccl-tests-style binaries, see perf_command.h.
#include "perf/perf_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>

#include "perf/ceilings.h"
#include "perf/json_report.h"
#include "perf/launch.h"
#include "perf/options.h"
#include "perf/peers/table_command.h"
#include "perf/table.h"
#include "perf/tutti_harness.h"

extern char** environ;

namespace tutti::perf {
namespace {

constexpr size_t k_name_length = 64;

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "CPU";
}

size_t available_memory() {
  std::ifstream info("/proc/meminfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("MemAvailable:"))
      return std::strtoull(line.c_str() + sizeof("MemAvailable:"), nullptr, 10) * 1024;
  return SIZE_MAX;
}

// Strings travel through the harness' only exchange, one character per number.
void append_text(std::vector<double>* values, const std::string& text) {
  for (size_t i = 0; i < k_name_length; ++i)
    values->push_back(i < text.size() ? static_cast<unsigned char>(text[i]) : 0);
}

std::string read_text(const double* values) {
  std::string text;
  for (size_t i = 0; i < k_name_length && values[i] != 0; ++i)
    text.push_back(static_cast<char>(values[i]));
  return text;
}

std::vector<RankInfo> gather_rank_info(TuttiHarness& harness) {
  char host[k_name_length] = {};
  gethostname(host, sizeof(host) - 1);
  std::vector<double> mine{static_cast<double>(getpid())};
  append_text(&mine, host);
  append_text(
      &mine, harness.device() == nullptr
                 ? cpu_model()
                 : fmt::format("GPU {} {}", harness.device()->ordinal(), harness.device()->name()));
  const std::vector<double> all = harness.all_gather(mine);
  std::vector<RankInfo> infos;
  for (size_t at = 0; at + mine.size() <= all.size(); at += mine.size())
    infos.push_back({static_cast<Rank>(infos.size()), static_cast<int>(all[at]),
                     read_text(&all[at + 1]), read_text(&all[at + 1 + k_name_length])});
  return infos;
}

// What one rank does; rank 0 also prints.
class RankRun {
 public:
  RankRun(const PerfOptions& options, const Ceilings& ceilings,
          std::unique_ptr<Communicator> communicator)
      : options_(options),
        ceilings_(ceilings),
        harness_(std::move(communicator)),
        printing_(harness_.rank() == 0) {
    table_.per_iteration = options.sweep.per_iteration;
    table_.percentiles = options.percentiles && options.sweep.per_iteration;
    table_.timestamps = options.report_timestamps;
    table_.checked = options.sweep.checks > 0;
    table_.ceilings = options.ceilings;
    table_.path = options.show_path;
  }

  int run() {
    start_time_ = local_time();
    if (options_.sweep.roots.empty())
      for (Rank r = 0; r < harness_.ranks(); ++r) options_.sweep.roots.push_back(r);
    if (const std::string error = choose_buffers(); !error.empty()) return fail(error);
    infos_ = gather_rank_info(harness_);
    if (infos_.empty()) return fail(harness_.error());
    clamp_sizes();
    if (printing_) print_header();
    for (uint64_t cycle = 0; options_.run_cycles == 0 || cycle < options_.run_cycles; ++cycle) {
      const std::string error = run_cycle();
      if (!error.empty()) return fail(error);
    }
    finish();
    const Status bye = harness_.communicator().finalize();
    if (!bye.ok()) return fail(bye.to_string());
    return outcome_.wrong == 0 && outcome_.bandwidth_ok ? 0 : 1;
  }

 private:
  int fail(const std::string& error) {
    std::fprintf(stderr, "# error: rank %u: %s\n", harness_.rank(), error.c_str());
    outcome_.errors.push_back(error);
    if (printing_) finish();
    return 3;
  }

  // Device buffers when they are asked for, or where every rank has a device: rank r of a host its
  // r-th one. Several ranks on one need the variable that allows it.
  std::string choose_buffers() {
    if (!options_.find_device && options_.sweep.buffer != BufferKind::device)
      return drop_device_flags();
    char host[k_name_length] = {};
    gethostname(host, sizeof(host) - 1);
    const int devices = DeviceSide::devices();
    std::vector<double> mine{static_cast<double>(devices)};
    append_text(&mine, host);
    const std::vector<double> all = harness_.all_gather(mine);
    if (all.empty()) return harness_.error();
    bool everywhere = true;
    std::map<std::string, int> ranks;  // of each host, so far
    int own = 0;
    for (Rank r = 0; r < harness_.ranks(); ++r) {
      const double* of_rank = &all[r * mine.size()];
      const int index = ranks[read_text(of_rank + 1)]++;
      if (r == harness_.rank()) own = index;
      const bool room = index < static_cast<int>(of_rank[0]);
      everywhere = everywhere && of_rank[0] > 0 && (room || several_ranks_per_device());
    }
    if (!everywhere && options_.find_device) return drop_device_flags();
    if (devices == 0) return "no device here for --buffer device";
    auto opened = DeviceSide::open(own % devices, options_.null_stream);
    if (!opened) return opened.status().to_string();
    harness_.use_device(std::move(*opened));
    options_.sweep.buffer = BufferKind::device;
    options_.ceilings = table_.ceilings = false;  // they are the host's
    return "";
  }
  std::string drop_device_flags() {
    if (options_.sweep.graph_launches > 0)
      options_.notes.push_back("-G: no effect, there are no CUDA graphs on host memory");
    options_.sweep.graph_launches = 0;
    return "";
  }
  static bool several_ranks_per_device() {
    const Result<Config> config = Config::from_environment();
    return config && config->multi_rank_gpu;
  }

  // Two buffers a rank and as much again for the library must fit this host.
  void clamp_sizes() {
    size_t local = 0;
    for (const RankInfo& info : infos_) local += info.host == infos_[harness_.rank()].host;
    const double mine = static_cast<double>(available_memory()) / static_cast<double>(local) / 3;
    const std::vector<double> all = harness_.all_gather({mine});
    for (double limit : all)
      options_.sweep.max_bytes = std::min(options_.sweep.max_bytes, static_cast<size_t>(limit));
  }

  void print_header() const {
    const SweepOptions& s = options_.sweep;
    const std::string step = s.step_factor > 1 ? fmt::format("{}(factor)", s.step_factor)
                                               : fmt::format("{}(bytes)", s.step_bytes);
    const size_t slash = options_.program.rfind('/');
    fmt::print("# tutti version {}, columns of nccl-tests\n", version());
    fmt::print("# Collective test starting: {}\n",
               slash == std::string::npos ? options_.program : options_.program.substr(slash + 1));
    fmt::print(
        "# nThread {} nGpus {} minBytes {} maxBytes {} step: {} warmup iters: {} iters: {} agg "
        "iters: "
        "{} validation: {} graph: {}\n#\n",
        options_.threads / options_.gpus, options_.gpus, s.min_bytes, s.max_bytes, step, s.warmup,
        s.iterations, s.operations, s.checks, s.graph_launches);
    fmt::print("# Using devices\n");
    for (const RankInfo& info : infos_) fmt::print("{}\n", device_line(info));
    print_notes();
    fmt::print("#\n");
    for (const std::string& line : column_lines(table_)) fmt::print("{}\n", line);
    std::fflush(stdout);
  }

  void print_notes() const {
    const SweepOptions& s = options_.sweep;
    static constexpr const char* k_across[] = {"of rank 0", "average over ranks",
                                               "minimum over ranks", "maximum over ranks"};
    fmt::print("#\n# {} ranks, buffers: {}; time: mean over iterations, {}{}\n", harness_.ranks(),
               s.buffer == BufferKind::mem_alloc ? "mem_alloc (shared by the ranks of a host)"
               : s.buffer == BufferKind::device  ? "device"
                                                 : "private",
               k_across[static_cast<size_t>(s.across)],
               options_.repeat > 1 ? fmt::format(", median of {} sweeps", options_.repeat) : "");
    for (const std::string& note : options_.notes) fmt::print("# {}\n", note);
    if (options_.ceilings)
      for (const std::string& line : ceilings_.lines()) fmt::print("{}\n", line);
  }

  std::string run_cycle() {
    std::vector<std::vector<Point>> sweeps(options_.repeat);
    for (std::vector<Point>& sweep : sweeps) {
      const std::string error = run_sweep(harness_, options_.sweep, [&](const Point& point) {
        sweep.push_back(point);
        if (options_.repeat == 1) report(point);
      });
      if (!error.empty()) return error;
    }
    if (options_.repeat > 1)
      for (const Point& point : median_points(sweeps)) report(point);
    return "";
  }

  void report(const Point& point) {
    outcome_.wrong += point.out_of_place.wrong + point.in_place.wrong;
    outcome_.points.push_back(point);
    if (!printing_) return;
    const Collective collective = options_.sweep.collective;
    // "shm+tcp" names what was allowed: only a path without memory is bound by connections.
    const auto names = [&point](const char* word) {
      return point.path.find(word) != std::string::npos;
    };
    const bool tcp = names("tcp") && !names("shm") && !names("local");
    const double least =
        options_.ceilings ? ceilings_.least_us(collective, point.bytes, harness_.ranks(), tcp) : 0;
    fmt::print("{}\n", point_line(point, table_, collective, least));
    std::fflush(stdout);
    if (options_.json_lines_file.empty()) return;
    nlohmann::json line =
        json_line("tutti", options_.transport, collective, harness_.ranks(), point);
    if (least > 0) line["ceiling_us"] = least;
    std::ofstream(options_.json_lines_file, std::ios::app) << line.dump() << "\n";
  }

  void finish() {
    double sum = 0;
    size_t figures = 0;
    for (const Point& point : outcome_.points)
      for (const Timing* timing : {&point.out_of_place, &point.in_place})
        if (timing->measured) {
          sum += timing->bus_bandwidth;
          ++figures;
        }
    outcome_.average_bus_bandwidth = figures > 0 ? sum / static_cast<double>(figures) : 0;
    if (const char* least = std::getenv("NCCL_TESTS_MIN_BW"))
      outcome_.bandwidth_ok = outcome_.average_bus_bandwidth >= 0.9 * std::strtod(least, nullptr);
    if (!printing_) return;
    print_paths();
    fmt::print("# Out of bounds values : {} {}\n", outcome_.wrong,
               outcome_.wrong == 0 && outcome_.errors.empty() ? "OK" : "FAILED");
    fmt::print("# Avg bus bandwidth    : {:g} {}\n#\n", outcome_.average_bus_bandwidth,
               outcome_.bandwidth_ok ? "" : "FAILED");
    if (!options_.json_file.empty()) write_json();
    std::fflush(stdout);
  }

  // Which way the calls took, as ranges of sizes; after the table, so that its columns stay.
  void print_paths() const {
    if (table_.path) return;
    std::string last;
    for (const Point& point : outcome_.points) {
      // "all_reduce 4096 B: way" -> "way"
      const size_t colon = point.path.find(": ");
      const std::string way =
          colon == std::string::npos ? point.path : point.path.substr(colon + 2);
      if (!way.empty() && way != last) fmt::print("# Path from {} B: {}\n", point.bytes, way);
      last = way;
    }
  }

  void write_json() const {
    const nlohmann::json document = json_document(options_, infos_, outcome_, start_time_, environ);
    const std::string used = write_new_file(options_.json_file, document.dump(1) + "\n");
    if (used.empty())
      fmt::print("# skipping json output; {} not accessible\n", options_.json_file);
    else
      fmt::print("# Wrote JSON output to {}\n", used);
  }

  PerfOptions options_;
  const Ceilings& ceilings_;
  TuttiHarness harness_;
  bool printing_;
  TableOptions table_;
  std::vector<RankInfo> infos_;
  Outcome outcome_;
  std::string start_time_;
};

// The library reads its settings from the environment; flags of ours become variables.
void export_flags(const PerfOptions& options) {
  if (!options.transport.empty()) setenv("TUTTI_TRANSPORTS", options.transport.c_str(), 1);
  if (options.cta_policy >= 0)
    setenv("NCCL_CTA_POLICY", std::to_string(options.cta_policy).c_str(), 1);
  if (options.timeout_s > 0) setenv("TUTTI_TIMEOUT", std::to_string(options.timeout_s).c_str(), 1);
}

void take_median(std::vector<Timing*> timings) {
  std::vector<double> us;
  std::vector<double> algorithm;
  std::vector<double> bus;
  for (const Timing* timing : timings) {
    us.push_back(timing->microseconds);
    algorithm.push_back(timing->algorithm_bandwidth);
    bus.push_back(timing->bus_bandwidth);
  }
  Timing& kept = *timings[0];
  kept.microseconds = median(us);
  kept.algorithm_bandwidth = median(algorithm);
  kept.bus_bandwidth = median(bus);
  for (size_t i = 1; i < timings.size(); ++i) {
    kept.wrong += timings[i]->wrong;
    kept.times_us.insert(kept.times_us.end(), timings[i]->times_us.begin(),
                         timings[i]->times_us.end());
  }
  kept.per_iteration = summarise(kept.times_us);
}

}  // namespace

std::vector<Point> median_points(const std::vector<std::vector<Point>>& sweeps) {
  std::vector<std::vector<Point>> all = sweeps;
  std::vector<Point> points = all.at(0);
  for (size_t i = 0; i < points.size(); ++i) {
    std::vector<Timing*> out{&points[i].out_of_place};
    std::vector<Timing*> in{&points[i].in_place};
    for (size_t s = 1; s < all.size(); ++s) {
      out.push_back(&all[s].at(i).out_of_place);
      in.push_back(&all[s].at(i).in_place);
    }
    take_median(std::move(out));
    take_median(std::move(in));
  }
  return points;
}

int perf_main(int argc, char** argv, std::optional<Collective> fixed) {
  PerfOptions options;
  if (const std::optional<int> code = parse_options(argc, argv, fixed, &options))
    return *code == 0 ? 0 : 2;
  if (options.peers) return peers_main(options);
  export_flags(options);
  Ceilings ceilings;
  if (options.ceilings && !launched_as_other_rank())
    ceilings = measure_ceilings(sizes_of(options.sweep));
  const LaunchOptions start{options.ranks, options.threads_mode, options.threads};
  return launch(start, [&](std::unique_ptr<Communicator> communicator) {
    return RankRun(options, ceilings, std::move(communicator)).run();
  });
}

}  // namespace tutti::perf

int perf_command(int argc, char** argv) { return tutti::perf::perf_main(argc, argv, std::nullopt); }
