// `tutti tune [-o FILE]`, `tutti tune --check [--profile FILE]`
//
// Alone it starts ranks itself: kernels first, then messages through shared memory with ranks that
// have CPUs of their own and with ranks that do not, then sockets over loopback. Started by a
// launcher with ranks on several hosts it measures the network between them and adds that to the
// profile of rank 0's host.
#include "perf/tune_command.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "perf/launch.h"
#include "perf/options.h"
#include "perf/tune_fit.h"
#include "perf/tune_kernels.h"
#include "perf/tune_probes.h"
#include "src/communicator/environment.h"
#include "src/communicator/peers.h"
#include "src/cost/machine.h"
#include "src/planner/tuner.h"

namespace {

using namespace tutti;
using perf::Predicted;
using perf::Probe;
using perf::ProbeSet;

struct Options {
  std::string output, profile_file, transport = "all";
  std::vector<std::string> sizes = {"64", "4K", "64K", "1M"};
  uint32_t ranks = 0;
  uint32_t repetitions = 7;
  bool check = false;
};

int fail(const std::string& message) {
  fmt::print(stderr, "tutti tune: {}\n", message);
  return 1;
}

Result<Profile> read_profile(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return Status(Code::invalid_argument, "cannot read " + file);
  Result<Profile> profile = parse_profile(std::string(std::istreambuf_iterator<char>(in), {}));
  return profile ? std::move(profile) : Result<Profile>(profile.status().with_context(file));
}

Status write_profile(const Profile& profile, const std::string& file) {
  if (file == "-") {
    fmt::print("{}\n", to_json(profile));
    return {};
  }
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(file).parent_path(), error);
  const std::string draft = file + ".draft";
  std::ofstream out(draft, std::ios::binary);
  out << to_json(profile) << "\n";
  out.close();
  if (!out) return {Code::system_error, "cannot write " + draft};
  std::filesystem::rename(draft, file, error);
  return error ? Status(Code::system_error, "cannot write " + file) : Status();
}

// What a fit is made from: patterns of every kind, each at several sizes.
std::vector<Probe> fitting_probes(const std::vector<uint64_t>& sizes, bool windows) {
  std::vector<Probe> probes;
  const auto add = [&](Collective c, const char* algorithm) {
    for (uint64_t bytes : sizes) probes.push_back({c, algorithm, bytes});
  };
  if (windows) {
    add(Collective::all_reduce, "direct_two_shot");
    return probes;
  }
  add(Collective::all_reduce, "ring");
  add(Collective::all_reduce, "recursive_doubling");
  add(Collective::all_reduce, "halving_doubling");
  add(Collective::broadcast, "binomial");
  add(Collective::all_to_all, "pairwise");
  add(Collective::all_gather, "direct");
  add(Collective::all_reduce, "hierarchical_leader");
  return probes;
}

// Every algorithm of the collectives with a choice, and the planner's own.
std::vector<Probe> checking_probes(const std::vector<uint64_t>& sizes) {
  std::vector<Probe> probes;
  for (const Collective c :
       {Collective::all_reduce, Collective::reduce_scatter, Collective::all_gather,
        Collective::broadcast, Collective::reduce, Collective::all_to_all})
    for (uint64_t bytes : sizes) {
      for (const Algorithm& a : algorithms()) probes.push_back({c, std::string(a.name), bytes});
      probes.push_back({c, "", bytes});
    }
  return probes;
}

// Memory that the ranks' processes share with this one: the measured seconds, and whether they are.
class Board {
 public:
  static constexpr size_t k_most = 2048;  // probes
  Board()
      : cells_(static_cast<double*>(
            mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~Board() { munmap(cells_, bytes()); }
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  void write(const std::vector<Probe>& all, const std::vector<Probe>& measured) {
    for (size_t i = 0, m = 0; i < all.size() && m < measured.size(); ++i)
      if (same(all[i], measured[m])) {
        cells_[k_most + i] = measured[m].spread;
        cells_[i] = measured[m++].seconds;
      }
  }
  std::vector<Probe> read(const std::vector<Probe>& all) const {
    std::vector<Probe> measured;
    for (size_t i = 0; i < all.size(); ++i)
      if (cells_[i] > 0) {
        measured.push_back(all[i]);
        measured.back().seconds = cells_[i];
        measured.back().spread = cells_[k_most + i];
      }
    return measured;
  }

 private:
  static size_t bytes() { return 2 * k_most * sizeof(double); }
  static bool same(const Probe& a, const Probe& b) {
    return a.collective == b.collective && a.algorithm == b.algorithm && a.bytes == b.bytes;
  }
  double* cells_;
};

// The placement that ranks on this host have.
Placement local_placement(uint32_t ranks, bool tcp) {
  Placement p;
  p.ranks = ranks;
  p.host.assign(ranks, 0);
  p.cpu_pools = p.host;
  const Result<Config> config = Config::from_environment();
  p.cpus = PeerIdentity::of_this_process(config ? *config : Config()).cpus;
  p.hierarchy.level.push_back(p.host);
  p.sockets_inside = tcp;
  p.shared = !tcp && ranks > 1 && ranks <= 64;
  p.by_reference = !tcp;
  return p;
}

// Measures on `ranks` processes of this host.
Result<ProbeSet> measure_here(uint32_t ranks, bool tcp, const std::vector<Probe>& wanted,
                              const Options& o) {
  Board board;
  setenv("TUTTI_TRANSPORTS", tcp ? "tcp" : "shm", 1);
  const int code = perf::launch({ranks, false, 1}, [&](std::unique_ptr<Communicator> c) {
    std::vector<Probe> probes = wanted;
    const Result<Config> config = Config::from_environment();
    if (!config) return fail(config.status().message());
    if (const Status s = perf::measure_probes(*c, *config, {o.repetitions, 0.008}, probes); !s.ok())
      return fail(s.to_string());
    if (c->rank() == 0) board.write(wanted, probes);
    return 0;
  });
  unsetenv("TUTTI_TRANSPORTS");
  if (code != 0) return Status(Code::system_error, fmt::format("the ranks ended with {}", code));
  return ProbeSet{local_placement(ranks, tcp), board.read(wanted)};
}

std::vector<uint64_t> sizes_of(const Options& o) {
  std::vector<uint64_t> sizes;
  for (const std::string& text : o.sizes)
    if (const std::optional<size_t> size = perf::parse_size(text)) sizes.push_back(*size);
  return sizes;
}

// Half of the repetitions this much above the quickest quarter: figures are worth little.
constexpr double k_busy = 1.25;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// --- tuning

void report(const char* what, const Profile& before, const Profile& after,
            const std::vector<perf::Knob>& knobs, const std::vector<ProbeSet>& sets) {
  fmt::print(stderr, "{}: mean error {:.0f} % before, {:.0f} % after;", what,
             100 * std::expm1(perf::misfit(before, sets)),
             100 * std::expm1(perf::misfit(after, sets)));
  for (const perf::Knob& k : knobs) fmt::print(stderr, " {} {:.3g}", k.name, k.get(after));
  fmt::print(stderr, "\n");
  std::vector<double> spreads;
  for (const ProbeSet& set : sets)
    for (const Probe& p : set.probes) spreads.push_back(p.spread);
  if (median(spreads) > k_busy)
    fmt::print(stderr,
               "  this machine was busy (repetitions differ by {:.0f} %): better measure again\n",
               100 * (median(spreads) - 1));
}

Profile fitted(const char* what, const Profile& start, const std::vector<perf::Knob>& knobs,
               const std::vector<ProbeSet>& sets) {
  Profile profile = perf::fit(start, knobs, sets);
  report(what, start, profile, knobs, sets);
  return profile;
}

// Then with ends that cost another alpha and beta at other sizes, where that explains more.
Profile curved(Profile straight, bool network, const std::vector<ProbeSet>& sets) {
  Profile profile = perf::fit_curves(straight, network, sets);
  if (profile == straight) return straight;
  fmt::print(stderr, "  with prices by size: mean error {:.0f} %\n",
             100 * std::expm1(perf::misfit(profile, sets)));
  return profile;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[16] = {};
  std::strftime(text, sizeof(text), "%Y-%m-%d", std::gmtime(&now));
  return text;
}

int tune_here(const Options& o) {
  const std::vector<uint64_t> sizes = sizes_of(o);
  Profile profile = builtin_profile();
  profile.name = "tutti tune";
  profile.source = "tutti tune, " + today();
  profile.machine = describe_machine();
  perf::measure_kernels(profile);
  const uint32_t cpus = local_placement(2, false).cpus;
  const uint32_t crowd = o.ranks > 0 ? o.ranks : std::clamp(4 * cpus, 4u, 32u);
  if (o.transport == "all" || o.transport == "shm") {
    std::vector<ProbeSet> plans, windows;
    for (const uint32_t ranks : {2u, crowd}) {
      // Uncrowded CPUs tell what messages cost, crowded ones what handing over costs.
      Result<ProbeSet> plan = measure_here(ranks, false, fitting_probes(sizes, false), o);
      if (!plan) return fail(plan.status().message());
      Result<ProbeSet> window = measure_here(ranks, false, fitting_probes(sizes, true), o);
      if (!window) return fail(window.status().message());
      plans.push_back(std::move(*plan));
      windows.push_back(std::move(*window));
    }
    profile = fitted("messages through shared memory", profile, perf::memory_knobs(), plans);
    profile = curved(std::move(profile), false, plans);
    profile = fitted("shared windows", profile, perf::window_knobs(), windows);
  }
  if (o.transport == "all" || o.transport == "tcp") {
    std::vector<ProbeSet> sets;
    for (const uint32_t ranks : {2u, crowd}) {
      Result<ProbeSet> set = measure_here(ranks, true, fitting_probes(sizes, false), o);
      if (!set) return fail(set.status().message());
      sets.push_back(std::move(*set));
    }
    profile = fitted("sockets over loopback", profile, perf::loopback_knobs(), sets);
    profile = curved(std::move(profile), true, sets);
  }
  const std::string file = o.output.empty() ? default_profile_path() : o.output;
  if (file.empty()) return fail("no home to write to: name a file with -o");
  if (const Status s = write_profile(profile, file); !s.ok()) return fail(s.message());
  if (file != "-") fmt::print(stderr, "written: {}\n", file);
  return 0;
}

// --- checking

std::string microseconds(double seconds) {
  return seconds < 0 ? std::string("-") : fmt::format("{:.1f}", seconds * 1e6);
}

// One table for each world: what was predicted, what was measured, what the planner chose.
void print_check(const char* what, const ProbeSet& set, const Profile& profile) {
  fmt::print("\n## {}, {} ranks on {} host{}, profile \"{}\"\n\n", what, set.placement.ranks,
             set.placement.hosts, set.placement.hosts == 1 ? "" : "s", profile.name);
  fmt::print(
      "| collective | bytes | algorithm | measured us | simulated us | closed form us | error % |\n"
      "|---|---|---|---|---|---|---|\n");
  std::vector<double> errors, closed_errors;
  size_t cells = 0, good = 0;
  double worst_pick = 1;
  for (size_t i = 0; i < set.probes.size();) {
    size_t end = i;
    double best = 1e300, pick = -1;
    for (; end < set.probes.size() && set.probes[end].collective == set.probes[i].collective &&
           set.probes[end].bytes == set.probes[i].bytes;
         ++end) {
      const Probe& p = set.probes[end];
      best = std::min(best, p.seconds);
      if (p.algorithm.empty()) pick = p.seconds;
      const Predicted model = perf::predict_probe(set.placement, profile, p);
      std::string error = "-";
      if (model.simulated > 0) {
        errors.push_back(std::abs(model.simulated / p.seconds - 1));
        error = fmt::format("{:+.0f}", 100 * (model.simulated / p.seconds - 1));
      }
      if (model.closed > 0) closed_errors.push_back(std::abs(model.closed / p.seconds - 1));
      fmt::print("| {} | {} | {} | {} | {} | {} | {} |\n", name(p.collective), p.bytes,
                 p.algorithm.empty() ? "*planner's choice*" : p.algorithm, microseconds(p.seconds),
                 microseconds(model.simulated), microseconds(model.closed), error);
    }
    if (pick > 0) {
      ++cells;
      good += pick <= 1.15 * best;
      worst_pick = std::max(worst_pick, pick / best);
    }
    i = end;
  }
  fmt::print(
      "\nmedian error: simulated {:.0f} %, closed form {:.0f} %, of {} figures; the planner's "
      "choice is within 15 % of the best in {} of {} cells ({:.0f} %), at worst {:.2f} times "
      "it\n",
      100 * median(errors), 100 * median(closed_errors), errors.size(), good, cells,
      cells > 0 ? 100.0 * static_cast<double>(good) / static_cast<double>(cells) : 0, worst_pick);
}

int check_here(const Options& o, const Profile& profile) {
  const std::vector<Probe> probes = checking_probes(sizes_of(o));
  if (probes.size() > Board::k_most) return fail("too many --sizes");
  const uint32_t ranks = o.ranks > 0 ? o.ranks : 8;
  for (const bool tcp : {false, true}) {
    if (o.transport != "all" && o.transport != (tcp ? "tcp" : "shm")) continue;
    const Result<ProbeSet> set = measure_here(ranks, tcp, probes, o);
    if (!set) return fail(set.status().message());
    print_check(tcp ? "sockets over loopback" : "shared memory", *set, profile);
  }
  return 0;
}

// --- started by a launcher

int with_ranks(const Options& o, const Profile& start, Communicator& world) {
  const Result<Config> config = Config::from_environment();
  if (!config) return fail(config.status().message());
  std::vector<Probe> probes =
      o.check ? checking_probes(sizes_of(o)) : fitting_probes(sizes_of(o), false);
  const Result<Placement> placement = perf::placement_of(world, *config);
  if (!placement) return fail(placement.status().to_string());
  if (!o.check && placement->hosts < 2)
    return fail("all ranks are on one host: without a launcher, tutti tune starts ranks itself");
  if (const Status s = perf::measure_probes(world, *config, {o.repetitions, 0.008}, probes);
      !s.ok())
    return fail(s.to_string());
  if (world.rank() != 0) return 0;
  const ProbeSet set{*placement, probes};
  if (o.check) {
    print_check("between hosts", set, start);
    return 0;
  }
  // Straight knobs would have no effect beside curves of an earlier run.
  Profile profile = start;
  if (profile.network_ends) {
    profile.network_ends->send_curve = profile.network_ends->recv_curve = {};
    const std::optional<EndCost> usual = builtin_profile().network_ends;
    if (profile.network_ends->send == 0 && usual) profile.network_ends = usual;
  }
  profile = fitted("network", profile, perf::network_knobs(), {set});
  profile = curved(std::move(profile), true, {set});
  profile.source = fmt::format("tutti tune, {} ranks on {} hosts, {}", placement->ranks,
                               placement->hosts, today());
  profile.machine = describe_machine();
  const std::string file = o.output.empty() ? default_profile_path() : o.output;
  if (const Status s = write_profile(profile, file); !s.ok()) return fail(s.message());
  if (file != "-") fmt::print(stderr, "written: {}\n", file);
  return 0;
}

int run(const Options& o) {
  for (const std::string& size : o.sizes)
    if (!perf::parse_size(size) || *perf::parse_size(size) % 4 != 0)
      return fail(fmt::format("--sizes '{}': expected a size such as 64K, a multiple of 4", size));
  // The planner of the ranks that are started shall have the prices that are checked.
  if (!o.profile_file.empty()) setenv("TUTTI_PROFILE", o.profile_file.c_str(), 1);
  if (!o.check && o.profile_file.empty()) setenv("TUTTI_PROFILE", "none", 1);
  setenv("TUTTI_FEEDBACK", "0", 1);
  Profile profile = builtin_profile();
  const Result<Config> config = Config::from_environment();
  if (!config) return fail(config.status().message());
  if (!config->profile.empty()) {
    Result<Profile> read = read_profile(config->profile);
    if (!read) return fail(read.status().message());
    profile = std::move(*read);
  }
  if (!perf::launcher_name().empty())
    return perf::launch(
        {}, [&](std::unique_ptr<Communicator> world) { return with_ranks(o, profile, *world); });
  return o.check ? check_here(o, profile) : tune_here(o);
}

}  // namespace

int tune_command(int argc, char** argv) {
  CLI::App app("measures this machine and writes a profile of its prices", "tutti tune");
  Options o;
  app.add_option("-o,--output", o.output,
                 "the profile ('-': standard output); default: where the library looks for it");
  app.add_option("--profile", o.profile_file,
                 "with ranks on several hosts, or --check: start from it");
  app.add_flag("--check", o.check,
               "measure every algorithm and print it beside what the model predicts");
  app.add_option("--transport", o.transport, "all, shm or tcp: what to measure on this host")
      ->check(CLI::IsMember({"all", "shm", "tcp"}))
      ->capture_default_str();
  app.add_option("--sizes", o.sizes, "bytes of a block")->delimiter(',')->capture_default_str();
  app.add_option("-n,--ranks", o.ranks, "ranks to start (four for every CPU; --check: 8)")
      ->check(CLI::Range(2u, 256u));
  app.add_option("--repetitions", o.repetitions, "interleaved; lower quartiles count")
      ->check(CLI::Range(1u, 1000u))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return run(o);
}
