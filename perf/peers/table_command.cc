// `tutti perf --peers`, see table_command.h.
#include "perf/peers/table_command.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "perf/json_report.h"
#include "perf/peers/configurations.h"
#include "perf/peers/ratio_table.h"

namespace tutti::perf {
namespace {

using Clock = std::chrono::steady_clock;
using Words = std::vector<std::string>;

constexpr double k_default_budget_s = 300;
constexpr double k_start_s = 1.2;        // a launcher's start, first touch and the data check
constexpr double k_longest_run_s = 180;  // then it hangs

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Runs a command in a process group of its own, its output to `log`; -1 when it had to be ended.
int run_command_line(const Words& words, const std::string& log) {
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    setpgid(0, 0);
    const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int in = open("/dev/null", O_RDONLY);
    if (out >= 0 && in >= 0) {
      dup2(in, 0);
      dup2(out, 1);
      dup2(out, 2);
      execvp(argv[0], argv.data());
    }
    _exit(127);
  }
  if (child < 0) return -1;
  const auto start = Clock::now();
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    usleep(5000);
    if (seconds_since(start) < k_longest_run_s) continue;
    kill(-child, SIGKILL);
    waitpid(child, &status, 0);
    return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string last_line(const std::string& file) {
  std::ifstream in(file);
  std::string last;
  for (std::string line; std::getline(in, line);)
    if (!line.empty()) last = line;
  return last;
}

class PeerTable {
 public:
  explicit PeerTable(PerfOptions options) : options_(std::move(options)) {
    SweepOptions& s = options_.sweep;
    if (s.min_bytes == s.max_bytes && s.min_bytes == SweepOptions().min_bytes) {
      s.min_bytes = 4;
      s.max_bytes = size_t{64} << 20;
      s.step_factor = 4;
    }
    if (s.in_place && s.out_of_place) s.out_of_place = false;  // the tables are in place
    if (options_.peer_ranks.empty()) options_.peer_ranks = {2, 4, 8};
    if (options_.budget_s <= 0) options_.budget_s = k_default_budget_s;
    repeats_ = options_.repeat > 1 ? options_.repeat : 3;
  }

  int run() {
    std::string folder = (std::filesystem::temp_directory_path() / "tutti-peers-XXXXXX").string();
    if (mkdtemp(folder.data()) == nullptr) {
      std::fprintf(stderr, "# error: no temporary folder %s\n", folder.c_str());
      return 3;
    }
    folder_ = folder;
    list_configurations();
    measure();
    const int code = report();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
    return code;
  }

 private:
  struct Run {
    uint32_t ranks;
    Configuration configuration;
  };

  void list_configurations() {
    std::vector<std::string> missing;
    for (uint32_t ranks : options_.peer_ranks)
      for (Configuration& c :
           available_configurations(options_.transport, ranks, options_.sweep.collective, &missing))
        runs_.push_back({ranks, std::move(c)});
    std::sort(missing.begin(), missing.end());
    missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
    for (const std::string& peer : missing) fmt::print("# not here: {}\n", peer);
    const auto points = static_cast<double>(sizes_of(options_.sweep).size());
    const double each =
        options_.budget_s / static_cast<double>(runs_.size() * repeats_) - k_start_s;
    options_.sweep.time_per_size = std::clamp(each / points / 1.6, 0.01, 0.5);
    fmt::print("# {} configurations, {} interleaved repeats, {:.0f} ms a size, about {:.0f} s\n",
               runs_.size(), repeats_, options_.sweep.time_per_size * 1e3, options_.budget_s);
    std::fflush(stdout);
  }

  Words sweep_flags(const std::string& results, const std::string& label) const {
    const SweepOptions& s = options_.sweep;
    Words words = {"--collective",
                   std::string(name(s.collective)),
                   "-b",
                   std::to_string(s.min_bytes),
                   "-e",
                   std::to_string(s.max_bytes),
                   "-f",
                   std::to_string(s.step_factor),
                   "-i",
                   std::to_string(s.step_bytes),
                   "-n",
                   std::to_string(s.iterations),
                   "-w",
                   std::to_string(s.warmup),
                   "--time-per-size",
                   fmt::format("{:.4f}", s.time_per_size),
                   "-c",
                   std::to_string(s.checks),
                   "-d",
                   std::string(name(s.dtypes[0])),
                   "-o",
                   std::string(name(s.ops[0])),
                   "--json-lines",
                   results};
    words.insert(words.end(), {"--place", s.in_place ? "in" : "out"});
    if (label != "private" && label != "mem_alloc")
      words.insert(words.end(), {"--configuration", label});
    return words;
  }

  void measure() {
    const auto start = Clock::now();
    for (uint64_t repeat = 0; repeat < repeats_; ++repeat) {
      const auto begun = Clock::now();
      for (const Run& run : runs_) measure_one(run);
      fmt::print("# repeat {} of {}: {:.0f} s\n", repeat + 1, repeats_, seconds_since(begun));
      std::fflush(stdout);
      // A slower machine than planned for: keep the budget, lose repeats.
      if (seconds_since(start) + seconds_since(begun) > 1.3 * options_.budget_s) break;
    }
  }

  void measure_one(const Run& run) {
    const Configuration& c = run.configuration;
    const std::string results = folder_ + "/results";
    const std::string log = folder_ + "/log";
    std::filesystem::remove(results);
    Words words = c.command;
    const Words flags = sweep_flags(results, c.label);
    words.insert(words.end(), flags.begin(), flags.end());
    const int code = run_command_line(words, log);
    if (code != 0)
      fmt::print("# {} {} at {} ranks ended with {}: {}\n", c.library, c.label, run.ranks, code,
                 last_line(log));
    std::ifstream in(results);
    for (std::string text; std::getline(in, text);) {
      nlohmann::json line = nlohmann::json::parse(text, nullptr, false);
      if (line.is_discarded()) continue;
      line["configuration"] = c.label;
      table_.add(line);
    }
  }

  int report() {
    const SweepOptions& s = options_.sweep;
    const std::string title =
        fmt::format("{}, {} {}, {} place, {}", name(s.collective), name(s.dtypes[0]),
                    has_reduction(s.collective) ? name(s.ops[0]) : "", s.in_place ? "in" : "out of",
                    options_.transport.empty() ? "default transport" : options_.transport);
    std::string markdown;
    for (uint32_t ranks : table_.rank_counts()) markdown += table_.markdown(ranks, title) + "\n";
    fmt::print("{}", markdown);
    for (const char* library : {"tutti", "openmpi", "mpich", "gloo"})
      if (table_.wrong(library) > 0)
        fmt::print("# {} gave {} wrong values; those runs do not count\n", library,
                   table_.wrong(library));
    if (!options_.markdown_file.empty()) std::ofstream(options_.markdown_file) << markdown;
    if (!options_.json_file.empty()) {
      const std::string used = write_new_file(options_.json_file, table_.to_json().dump(1) + "\n");
      fmt::print("# JSON: {}\n", used.empty() ? "could not be written" : used);
    }
    if (table_.rank_counts().empty()) return 3;
    return table_.wrong("tutti") > 0 ? 1 : 0;
  }

  PerfOptions options_;
  uint64_t repeats_ = 3;
  std::string folder_;
  std::vector<Run> runs_;
  RatioTable table_;
};

}  // namespace

int peers_main(const PerfOptions& options) { return PeerTable(options).run(); }

}  // namespace tutti::perf
