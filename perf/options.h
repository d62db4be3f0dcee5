// The command line of `tutti perf` and of the *_perf binaries: nccl-tests' flags, and ours.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "perf/measure.h"

namespace CLI {
class App;
}

namespace tutti::perf {

struct PerfOptions {
  SweepOptions sweep;
  // Ranks started by this program itself; 0: a launcher did, or this process is alone.
  uint32_t ranks = 0;
  std::vector<uint32_t> peer_ranks;  // --peers: rank counts to sweep
  bool threads_mode = false;         // those ranks are threads, not processes
  uint32_t threads = 1;              // ranks per process (-t times -g)
  uint32_t gpus = 1;                 // -g
  bool find_device = false;          // device buffers where every rank has a device
  bool null_stream = false;          // -y
  int cta_policy = -1;               // -x; -1: not given
  uint64_t run_cycles = 1;           // 0: for ever
  uint64_t repeat = 1;               // sweeps whose medians are reported
  uint32_t timeout_s = 0;
  bool report_timestamps = false;
  bool percentiles = false;
  bool ceilings = false;
  bool show_path = false;
  std::string json_file;
  std::string json_lines_file;
  bool peers = false;
  std::string transport;  // "", shm, tcp
  double budget_s = 0;    // --peers: wall clock for the whole table
  std::string markdown_file;
  std::string program;
  std::vector<std::string> arguments;
  std::vector<std::string> notes;  // flags accepted without effect, for `#` lines
};

// 4, 4K, 1.5M, 2G: bytes in binary multiples. Nothing for anything else.
std::optional<size_t> parse_size(const std::string& text);

// The flags that a sweep needs; shared with the peers' programs. Values are stored by the callbacks
// while the command line is parsed.
void add_sweep_flags(CLI::App& app, SweepOptions* sweep);

// Parses argv. Returns the exit code when the program should end now (help, a bad flag).
std::optional<int> parse_options(int argc, char** argv, std::optional<Collective> collective,
                                 PerfOptions* options);

}  // namespace tutti::perf
