// `tutti tune [-o FILE]`, `tutti tune --check [--profile FILE]`, `tutti tune --validate`
//
// Alone it starts ranks itself: kernels first, then messages through shared memory with ranks that
// have CPUs of their own and with ranks that do not, then sockets over loopback. Started by a
// launcher with ranks on several hosts it measures the network between them and adds that to the
// profile of rank 0's host. Where the process has devices their prices come last, when no more
// ranks are started: a process that has opened them must not fork. Prices are fitted to a few
// patterns; what they leave of every algorithm becomes the profile's corrections.
//
// --check holds a profile to reality. --validate makes one and holds it to reality at other sizes,
// measured in turns: what it prints is the model's error, not the machine's moods between two runs.
#include "perf/tune_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include "perf/launch.h"
#include "perf/options.h"
#include "perf/statistics.h"
#include "perf/tune_check.h"
#include "perf/tune_devices.h"
#include "perf/tune_fit.h"
#include "perf/tune_kernels.h"
#include "perf/tune_probes.h"
#include "perf/tune_world.h"
#include "src/communicator/environment.h"
#include "src/cost/machine.h"
#include "src/cuda/runtime.h"
#include "src/planner/device_choice.h"

namespace {

using namespace tutti;
using perf::Predicted;
using perf::Probe;
using perf::ProbeSet;

struct Options {
  std::string output, profile_file, transport = "all", devices = "yes";
  std::vector<std::string> sizes;  // none: those of what is done
  uint32_t ranks = 0;
  uint32_t repetitions = 3;
  bool check = false, validate = false;

  // Ranks that share CPUs change their order at the scheduler's ticks, every 4 ms or so: a
  // repetition has to see that. With CPUs of their own there is nothing to wait for.
  perf::ProbeOptions probes(bool crowded = true) const {
    return {repetitions, crowded ? 0.008 : 0.002};
  }
  perf::ProbeOptions contest() const { return {3 * repetitions, 0.008}; }  // few, close together
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

// Patterns of every kind: what prices are fitted to.
constexpr std::pair<Collective, std::string_view> k_patterns[] = {
    {Collective::all_reduce, "ring"},
    {Collective::all_reduce, "recursive_doubling"},
    {Collective::all_reduce, "halving_doubling"},
    {Collective::all_reduce, "hierarchical_leader"},
    {Collective::broadcast, "binomial"},
    {Collective::all_to_all, "pairwise"},
    {Collective::all_gather, "direct"}};
constexpr std::pair<Collective, std::string_view> k_window_patterns[] = {
    {Collective::all_reduce, "direct_two_shot"}};

template <class Keep>
ProbeSet only(const ProbeSet& set, const Keep& keep) {
  ProbeSet some{set.placement, {}};
  for (const Probe& p : set.probes)
    if (keep(p)) some.probes.push_back(p);
  return some;
}
template <size_t n>
std::vector<ProbeSet> patterns(const std::vector<ProbeSet>& sets,
                               const std::pair<Collective, std::string_view> (&wanted)[n]) {
  std::vector<ProbeSet> some;
  for (const ProbeSet& set : sets)
    some.push_back(only(set, [&](const Probe& p) {
      return std::find(std::begin(wanted), std::end(wanted),
                       std::pair{p.collective, std::string_view(p.algorithm)}) != std::end(wanted);
    }));
  return some;
}

// Sizes to fit at, on both sides of where messages of a block, or of an eighth of it, begin to be
// pulled (src/executor/router.h); and others, between them, to check at.
const std::vector<std::string> k_fit_sizes = {"64", "512", "4K", "32K", "64K", "96K", "512K", "2M"};
const std::vector<std::string> k_check_sizes = {"256", "2K", "16K", "128K", "1M"};
std::vector<uint64_t> sizes_of(const std::vector<std::string>& texts) {
  std::vector<uint64_t> sizes;
  for (const std::string& text : texts)
    if (const std::optional<size_t> size = perf::parse_size(text)) sizes.push_back(*size);
  return sizes;
}

// Half of the repetitions this much above the quickest quarter: figures are worth little.
constexpr double k_busy = 1.25;

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
  if (perf::median(spreads) > k_busy)
    fmt::print(stderr,
               "  this machine was busy (repetitions differ by {:.0f} %): better measure again\n",
               100 * (perf::median(spreads) - 1));
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

Profile tuned_in_memory(Profile profile, const std::vector<ProbeSet>& sets) {
  const std::vector<ProbeSet> plans = patterns(sets, k_patterns);
  profile = fitted("messages through shared memory", profile, perf::memory_knobs(), plans);
  profile = curved(std::move(profile), false, plans);
  return fitted("shared windows", profile, perf::window_knobs(), patterns(sets, k_window_patterns));
}
Profile tuned_over_sockets(Profile profile, const std::vector<ProbeSet>& sets) {
  const std::vector<ProbeSet> plans = patterns(sets, k_patterns);
  profile = fitted("sockets over loopback", profile, perf::loopback_knobs(), plans);
  return curved(std::move(profile), true, plans);
}
Profile tuned_over_network(Profile profile, const std::vector<ProbeSet>& sets) {
  // Straight knobs would have no effect beside curves of an earlier run.
  if (profile.network_ends) {
    profile.network_ends->send_curve = profile.network_ends->recv_curve = {};
    const std::optional<EndCost> usual = builtin_profile().network_ends;
    if (profile.network_ends->send == 0 && usual) profile.network_ends = usual;
  }
  const std::vector<ProbeSet> plans = patterns(sets, k_patterns);
  profile = fitted("network", profile, perf::network_knobs(), plans);
  return curved(std::move(profile), true, plans);
}
using Tuner = Profile (*)(Profile, const std::vector<ProbeSet>&);
Profile tuned(Tuner tuner, Profile profile, const std::vector<ProbeSet>& sets) {
  profile = tuner(std::move(profile), sets);
  for (const ProbeSet& set : sets) profile = perf::corrected(profile, set);
  return profile;
}

// What ranks on this host talk through.
struct Inside {
  const char* name;
  bool tcp;
  Tuner tuner;
};
constexpr Inside k_inside[] = {{"shared memory", false, tuned_in_memory},
                               {"sockets over loopback", true, tuned_over_sockets}};
bool wanted(const Options& o, const Inside& inside) {
  return o.transport == "all" || o.transport == (inside.tcp ? "tcp" : "shm");
}

// The built-in profile with this machine's kernels, to fit from.
Profile start_here() {
  Profile profile = builtin_profile();
  profile.name = "tutti tune";
  profile.source = "tutti tune, " + today();
  profile.machine = describe_machine();
  perf::measure_kernels(profile);
  return profile;
}

// The prices of devices, as far as they can be had; says what is left out.
DeviceCost devices_here(const Options& o) {
  perf::DeviceProbe probe;
  probe.repetitions = 2 * o.repetitions + 1;
  perf::DeviceFindings found;
  if (const auto runtime = cuda::Runtime::of_process(); runtime) {
    found = perf::measure_devices(**runtime, probe);
    perf::measure_proxy(probe, found);
  } else {
    found.left_out.push_back("prices of devices: " + runtime.status().message());
  }
  for (const std::string& what : found.left_out) fmt::print(stderr, "not measured: {}\n", what);
  if (found.cost.measured())
    fmt::print(stderr, "devices ({}):\n{}", found.cost.name, to_text(DevicePrices(found.cost)));
  return found.cost;
}

int write_out(const Profile& profile, const Options& o) {
  const std::string file = o.output.empty() ? default_profile_path() : o.output;
  if (file.empty()) return fail("no home to write to: name a file with -o");
  if (const Status s = write_profile(profile, file); !s.ok()) return fail(s.message());
  if (file != "-") fmt::print(stderr, "written: {}\n", file);
  return 0;
}

int tune_here(const Options& o) {
  const std::vector<uint64_t> sizes = sizes_of(o.sizes.empty() ? k_fit_sizes : o.sizes);
  Profile profile = start_here();
  const uint32_t cpus = perf::local_placement(2, false).cpus;
  const uint32_t crowd = o.ranks > 0 ? o.ranks : std::clamp(4 * cpus, 4u, 32u);
  for (const Inside& inside : k_inside) {
    if (!wanted(o, inside)) continue;
    std::vector<ProbeSet> sets;
    // Uncrowded CPUs tell what messages cost, crowded ones what handing over costs.
    for (const uint32_t ranks : {2u, crowd}) {
      Result<ProbeSet> set = perf::measure_here(
          ranks, inside.tcp, perf::every_algorithm(sizes, ranks), o.probes(ranks > cpus));
      if (!set) return fail(set.status().message());
      sets.push_back(std::move(*set));
    }
    profile = tuned(inside.tuner, std::move(profile), sets);
  }
  if (o.devices != "no") profile.device = devices_here(o);
  return write_out(profile, o);
}

// Other prices stay as they are.
int tune_devices(const Options& o, Profile profile) {
  profile.device = devices_here(o);
  if (!profile.device.measured())
    return fail("no price of a device was measured: nothing is written");
  if (profile.machine.empty()) profile.machine = describe_machine();
  return write_out(profile, o);
}

// --- checking

// A profile that is a file only while ranks read it.
class TemporaryProfile {
 public:
  explicit TemporaryProfile(const Profile& profile)
      : path_((std::filesystem::temp_directory_path() / fmt::format("tutti-tune-{}.json", getpid()))
                  .string()),
        status_(write_profile(profile, path_)) {}
  ~TemporaryProfile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TemporaryProfile(const TemporaryProfile&) = delete;
  TemporaryProfile& operator=(const TemporaryProfile&) = delete;
  const std::string& path() const { return path_; }
  const Status& status() const { return status_; }

 private:
  std::string path_;
  Status status_;
};

// The planner's choices by that profile beside the fastest of `measured`, in a run of its own.
int contest_here(const Options& o, const Inside& inside, const ProbeSet& measured,
                 const Profile& profile) {
  const TemporaryProfile file(profile);
  if (!file.status().ok()) return fail(file.status().message());
  const char* usual = getenv("TUTTI_PROFILE");
  const std::string before = usual == nullptr ? "none" : usual;
  setenv("TUTTI_PROFILE", file.path().c_str(), 1);
  const Result<ProbeSet> contested = perf::measure_here(
      measured.placement.ranks, inside.tcp, perf::contests(measured.probes), o.contest());
  setenv("TUTTI_PROFILE", before.c_str(), 1);
  if (!contested) return fail(contested.status().message());
  perf::print_choices(*contested, profile);
  return 0;
}

bool is_one_of(const std::vector<uint64_t>& sizes, const Probe& p) {
  return std::find(sizes.begin(), sizes.end(), p.bytes) != sizes.end();
}

// Holds `start` to what is measured at the sizes to check at; with --validate a profile made from
// what was measured in turns with them at other sizes.
int check_here(const Options& o, const Profile& start) {
  const std::vector<uint64_t> checks = sizes_of(o.sizes.empty() ? k_check_sizes : o.sizes);
  const std::vector<uint64_t> fits = o.validate ? sizes_of(k_fit_sizes) : std::vector<uint64_t>();
  std::vector<uint64_t> sizes = fits;
  sizes.insert(sizes.end(), checks.begin(), checks.end());
  const uint32_t ranks = o.ranks > 0 ? o.ranks : 8;
  Profile profile = o.validate ? start_here() : start;
  for (const Inside& inside : k_inside) {
    if (!wanted(o, inside)) continue;
    const Result<ProbeSet> set =
        perf::measure_here(ranks, inside.tcp, perf::every_algorithm(sizes, ranks), o.probes());
    if (!set) return fail(set.status().message());
    if (o.validate)
      profile = tuned(inside.tuner, std::move(profile),
                      {only(*set, [&](const Probe& p) { return !is_one_of(checks, p); })});
    const ProbeSet checked = only(*set, [&](const Probe& p) { return is_one_of(checks, p); });
    perf::print_predictions(inside.name, checked, profile);
    if (const int code = contest_here(o, inside, checked, profile); code != 0) return code;
  }
  return 0;
}

// --- started by a launcher

// As check_here(), by ranks that stand already. All of them know what was measured; rank 0 has the
// profile.
int check_with_ranks(const Options& o, const Config& config, const ProbeSet& checked,
                     const Profile& profile, Communicator& world) {
  Config own = config;
  own.profile.clear();
  std::optional<TemporaryProfile> file;
  if (world.rank() == 0) {
    file.emplace(profile);
    if (!file->status().ok()) return fail(file->status().message());
    own.profile = file->path();
  }
  ProbeSet contested{checked.placement, perf::contests(checked.probes)};
  if (const Status s = perf::measure_probes(world, own, o.contest(), contested.probes); !s.ok())
    return fail(s.to_string());
  if (world.rank() != 0) return 0;
  perf::print_predictions("between hosts", checked, profile);
  perf::print_choices(contested, profile);
  return 0;
}

int with_ranks(const Options& o, const Profile& start, Communicator& world) {
  const Result<Config> config = Config::from_environment();
  if (!config) return fail(config.status().message());
  const Result<Placement> placement = perf::placement_of(world, *config);
  if (!placement) return fail(placement.status().to_string());
  if (!o.check && placement->hosts < 2)
    return fail("all ranks are on one host: without a launcher, tutti tune starts ranks itself");
  const bool checking = o.check || o.validate;
  const auto or_else = [&](const std::vector<std::string>& sizes) {
    return sizes_of(o.sizes.empty() ? sizes : o.sizes);
  };
  const std::vector<uint64_t> checks = checking ? or_else(k_check_sizes) : std::vector<uint64_t>();
  std::vector<uint64_t> sizes = checks;
  if (!o.check) {
    const std::vector<uint64_t> fits = o.validate ? sizes_of(k_fit_sizes) : or_else(k_fit_sizes);
    sizes.insert(sizes.begin(), fits.begin(), fits.end());
  }
  ProbeSet set{*placement, perf::every_algorithm(sizes, placement->ranks)};
  if (const Status s = perf::measure_probes(world, *config, o.probes(), set.probes); !s.ok())
    return fail(s.to_string());
  Profile profile = start;
  if (!o.check && world.rank() == 0) {
    profile = tuned(tuned_over_network, std::move(profile),
                    {only(set, [&](const Probe& p) { return !is_one_of(checks, p); })});
    profile.source = fmt::format("tutti tune, {} ranks on {} hosts, {}", placement->ranks,
                                 placement->hosts, today());
    profile.machine = describe_machine();
  }
  if (checking)
    return check_with_ranks(o, *config,
                            only(set, [&](const Probe& p) { return is_one_of(checks, p); }),
                            profile, world);
  return world.rank() == 0 ? write_out(profile, o) : 0;
}

int run(const Options& o) {
  for (const std::string& size : o.sizes)
    if (!perf::parse_size(size) || *perf::parse_size(size) % 4 != 0)
      return fail(fmt::format("--sizes '{}': expected a size such as 64K, a multiple of 4", size));
  // The planner of the ranks that are started shall have the prices that are checked.
  if (!o.profile_file.empty()) setenv("TUTTI_PROFILE", o.profile_file.c_str(), 1);
  if (!o.check && o.profile_file.empty() && o.devices != "only") setenv("TUTTI_PROFILE", "none", 1);
  if (o.check && o.validate)
    return fail("--check holds a profile to reality, --validate makes one: which?");
  if (o.devices == "only" && (o.check || o.validate))
    return fail("--devices only measures; --check and --validate hold prices of CPUs to reality");
  setenv("TUTTI_FEEDBACK", "0", 1);
  Profile profile = builtin_profile();
  const Result<Config> config = Config::from_environment();
  if (!config) return fail(config.status().message());
  if (!config->profile.empty()) {
    Result<Profile> read = read_profile(config->profile);
    if (!read) return fail(read.status().message());
    profile = std::move(*read);
  }
  if (o.devices == "only") return tune_devices(o, std::move(profile));
  if (!perf::launcher_name().empty())
    return perf::launch(
        {}, [&](std::unique_ptr<Communicator> world) { return with_ranks(o, profile, *world); });
  return o.check || o.validate ? check_here(o, profile) : tune_here(o);
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
  app.add_flag(
      "--validate", o.validate,
      "make a profile, hold it to sizes it was not made from, measured in turns; keep none");
  app.add_option("--transport", o.transport, "all, shm or tcp: what to measure on this host")
      ->check(CLI::IsMember({"all", "shm", "tcp"}))
      ->capture_default_str();
  app.add_option("--devices", o.devices,
                 "yes: those of this process as well; no; only: in the profile that is in use")
      ->check(CLI::IsMember({"yes", "no", "only"}))
      ->capture_default_str();
  app.add_option("--sizes", o.sizes,
                 fmt::format("bytes of a block ({}; to check at: {})", fmt::join(k_fit_sizes, ","),
                             fmt::join(k_check_sizes, ",")))
      ->delimiter(',');
  app.add_option("-n,--ranks", o.ranks, "ranks to start (four for every CPU; --check: 8)")
      ->check(CLI::Range(2u, 256u));
  app.add_option("--repetitions", o.repetitions, "interleaved; lower quartiles count")
      ->check(CLI::Range(1u, 1000u))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return run(o);
}
