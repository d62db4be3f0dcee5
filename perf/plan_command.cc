// `tutti plan --collective all_reduce --algorithm ring --ranks 1024 [--text|--svg F|--verify]`
#include "perf/plan_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>

#include "perf/options.h"
#include "src/algorithms/algorithms.h"
#include "src/communicator/device_links.h"
#include "src/communicator/device_plan.h"
#include "src/communicator/peers.h"
#include "src/cuda/peer_world.h"
#include "src/plan/draw.h"
#include "src/plan/text.h"
#include "src/plan/verify.h"
#include "src/planner/planner.h"

namespace {

using namespace tutti;

// Of a launch, where no device says how many: those of an A100's multiprocessors.
constexpr uint32_t k_blocks = 108;

struct Options {
  std::string collective = "all_reduce";
  std::string algorithm = "ring";
  std::string from;  // a plan text instead of an algorithm
  PlanRequest request;
  std::vector<uint32_t> groups;
  bool list = false, text = false, verify = false, explain = false;
  // With --explain: the call and where the ranks are.
  std::string bytes = "1M", dtype = "float32", op = "sum", transport = "shm", profile_file, tune;
  uint32_t cpus = 0;
  bool deterministic = false;
  bool device = false;
  std::string machine;  // whose devices
  bool no_races = false;
  uint64_t race_budget = VerifyOptions{}.race_budget;
  std::string svg;
};

void add_flags(CLI::App& app, Options& o) {
  app.add_option("-c,--collective", o.collective, "all_reduce, broadcast, ...")
      ->capture_default_str();
  app.add_option("-a,--algorithm", o.algorithm, "see --list")->capture_default_str();
  app.add_option("-n,--ranks", o.request.ranks, "number of ranks")
      ->default_val(8)
      ->check(CLI::Range(1u, 1u << 20));
  app.add_option("--root", o.request.root, "root rank of rooted collectives")
      ->capture_default_str();
  app.add_flag("--in-place", o.request.in_place, "input and output share memory");
  app.add_option("--chunks", o.request.chunks,
                 "chunks of a block, where the algorithm has a choice");
  app.add_option("--groups", o.groups,
                 "sizes of nested groups, innermost first: 4,2 is groups of 4, racks of 2 groups")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--from", o.from, "read a plan text from this file ('-': standard input) instead");
  app.add_flag("--list", o.list, "list the algorithms, and whether they can serve this request");
  app.add_flag("--explain", o.explain,
               "what the tuner considers for a call, what each would take, and why one wins; "
               "--groups are hosts");
  app.add_option("-b,--bytes", o.bytes, "with --explain: of a block (100M, 4K)")
      ->capture_default_str();
  app.add_option("-d,--dtype", o.dtype, "with --explain: element type")->capture_default_str();
  app.add_option("-o,--op", o.op, "with --explain: reduction operator")->capture_default_str();
  app.add_option("--transport", o.transport, "with --explain: inside a host, shm or tcp")
      ->check(CLI::IsMember({"shm", "tcp"}))
      ->capture_default_str();
  app.add_option("--cpus", o.cpus, "with --explain: CPUs of a host (those of this one)");
  app.add_option("--profile", o.profile_file, "with --explain: instead of the one in use here");
  app.add_option("--tune", o.tune, "with --explain: rules, instead of TUTTI_TUNE");
  app.add_flag("--deterministic", o.deterministic,
               "with --explain: as under TUTTI_DETERMINISTIC=1");
  app.add_flag("--device", o.device,
               "with --explain: buffers on GPUs, rank r of a host on its GPU r; ranks beyond "
               "their number share them; --groups are hosts");
  app.add_option("--machine", o.machine,
                 "with --device: NCCL's or hwloc's XML or a recorded machine (tutti topo --list), "
                 "instead of TUTTI_TOPO or what is here");
  app.add_flag("--text", o.text, "print the plan as text");
  app.add_option("--svg", o.svg, "draw the plan into this file ('-': standard output)");
  app.add_flag("--verify", o.verify, "prove the plan right, or say what is wrong");
  app.add_flag("--no-races", o.no_races, "with --verify: leave out the race proofs");
  app.add_option("--race-budget", o.race_budget, "with --verify: most vector-clock words to join")
      ->capture_default_str();
}

int fail(const std::string& message) {
  fmt::print(stderr, "tutti plan: {}\n", message);
  return 1;
}

int list_algorithms(const PlanRequest& request) {
  for (const Algorithm& a : algorithms()) {
    const Status status = a.supports(request);
    fmt::print("{:<22} {}\n", a.name, a.summary);
    if (!status.ok()) fmt::print("{:<22}   (not here: {})\n", "", status.message());
  }
  return 0;
}

Result<PlanPtr> read_plan(const std::string& file) {
  std::string text;
  if (file == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    std::ifstream in(file, std::ios::binary);
    if (!in) return Status(Code::invalid_argument, "cannot read " + file);
    text.assign(std::istreambuf_iterator<char>(in), {});
  }
  Result<PlanPtr> plan = parse_text(text);
  return plan ? std::move(plan) : Result<PlanPtr>(plan.status().with_context(file));
}

void summarize(const Plan& plan, const Options& o) {
  const Shape& s = plan.shape();
  uint64_t steps = 0, messages = 0, most = 0;
  for (Rank r = 0; r < s.ranks; ++r)
    for (Lane l = 0; l < s.lanes; ++l) {
      const uint32_t n = plan.steps(r, l);
      steps += n;
      most = std::max<uint64_t>(most, n);
      for (uint32_t i = 0; i < n; ++i) messages += plan.step_at(r, l, i).op == Op::send;
    }
  fmt::print("{} {}: {} ranks, {} chunks, {} lanes, {} scratch chunks, {} credits{}\n",
             plan.algorithm(), name(s.collective), s.ranks, s.chunks, s.lanes, s.scratch, s.credits,
             s.in_place ? ", in place" : "");
  fmt::print("{} steps (at most {} in a lane), {} messages, plan id {:016x}\n", steps, most,
             messages, plan.id());
  const Algorithm* a = o.from.empty() ? find_algorithm(o.algorithm) : nullptr;
  if (a == nullptr) return;
  const Cost cost = a->cost(o.request);
  fmt::print("cost {:g} alpha + {:g} M beta + {:g} M gamma\n", cost.steps, cost.bytes,
             cost.reduced);
}

int print_verdicts(const Plan& plan, const Options& o) {
  const auto start = std::chrono::steady_clock::now();
  VerifyOptions options;
  options.races = !o.no_races;
  options.race_budget = o.race_budget;
  const VerifyReport r = verify(plan, options);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const std::pair<const char*, Verdict> rows[] = {
      {"structure", r.structure},         {"matching", r.matching},   {"progress", r.progress},
      {"postcondition", r.postcondition}, {"same_bits", r.same_bits}, {"pull_races", r.pull_races},
      {"push_races", r.push_races},
  };
  for (const auto& [proof, verdict] : rows) fmt::print("{:<14} {}\n", proof, name(verdict));
  if (!r.problem.empty()) fmt::print("{}\n", r.problem);
  fmt::print("{} steps in {:.3f} s\n", r.steps, took.count());
  for (const auto& [proof, verdict] : rows)
    if (verdict == Verdict::failed) return 1;
  return r.ok(!o.no_races) ? 0 : 2;
}

int draw(const Plan& plan, const std::string& file) {
  const Result<std::string> svg = to_svg(plan);
  if (!svg) return fail(svg.status().message());
  if (file == "-") {
    std::cout << *svg;
    return 0;
  }
  std::ofstream out(file, std::ios::binary);
  out << *svg;
  out.close();
  return out ? 0 : fail("cannot write " + file);
}

// What a communicator on such hosts would share.
Placement placement_of(const Options& o, uint32_t cpus) {
  Placement p;
  p.ranks = o.request.ranks;
  p.hierarchy = o.request.hierarchy;
  p.host.assign(p.ranks, 0);
  if (!p.hierarchy.level.empty()) p.host = p.hierarchy.level.back();
  for (uint32_t h : p.host) p.hosts = std::max(p.hosts, h + 1);
  p.cpu_pools = p.host;
  p.cpus = o.cpus > 0 ? o.cpus : cpus;
  p.sockets_inside = o.transport == "tcp";
  p.by_reference = p.hosts == 1 && !p.sockets_inside;
  p.shared = p.by_reference && p.ranks > 1 && p.ranks <= 64;
  return p;
}

Result<Profile> profile_of(const std::string& file) {
  if (file.empty()) return builtin_profile();
  std::ifstream in(file, std::ios::binary);
  if (!in) return Status(Code::invalid_argument, "cannot read " + file);
  Result<Profile> profile = parse_profile(std::string(std::istreambuf_iterator<char>(in), {}));
  return profile ? std::move(profile) : Result<Profile>(profile.status().with_context(file));
}

// Hosts of several are like the one that is described or found.
DeviceWorld devices_of(const Options& o, Config config) {
  if (!o.machine.empty()) config.topology = o.machine;
  Placement hosts = placement_of(o, 1);
  const std::string text = look_at_devices(config, hosts.hosts > 1);
  const std::vector<std::string> gpus = gpus_of(text);
  DeviceWorld world;
  world.ranks = o.request.ranks;
  world.window = cuda::PeerWorld::default_shape(world.ranks);
  world.blocks = config.gpu_blocks > 0 ? config.gpu_blocks : k_blocks;
  std::vector<std::string> ids;
  std::vector<uint32_t> here(hosts.hosts);  // so many ranks of each host so far
  for (Rank r = 0; r < world.ranks && !gpus.empty(); ++r) {
    const uint32_t index = here[hosts.host[r]]++;
    ids.push_back(gpus[index % gpus.size()]);
    world.turns = std::max(world.turns, static_cast<uint32_t>(index / gpus.size()) + 1);
  }
  if (hosts.hosts > 1 || world.turns > 1 || !config.gpu_shots)
    world.window = world.window.without_shots();
  hosts.topology = gpus.empty() ? nullptr : device_topology(text, ids, hosts.host);
  if (hosts.hosts > 1) {
    world.hosts = std::make_shared<const Placement>(std::move(hosts));
  } else {
    world.topology = hosts.topology;
  }
  return world;
}

int explain(const Options& o) {
  const Result<Config> config = Config::from_environment();
  if (!config) return fail(config.status().message());
  const std::optional<DType> dtype = parse_dtype(o.dtype);
  if (!dtype) return fail("unknown element type '" + o.dtype + "'");
  const std::optional<ReduceOp> op = parse_reduce_op(o.op);
  if (!op) return fail("unknown operator '" + o.op + "'");
  const std::optional<size_t> bytes = perf::parse_size(o.bytes);
  if (!bytes) return fail("--bytes '" + o.bytes + "': expected a size such as 100M");
  Result<Profile> profile = profile_of(o.profile_file.empty() ? config->profile : o.profile_file);
  if (!profile) return fail(profile.status().message());
  Result<std::vector<TuneRule>> rules = parse_tune(o.tune.empty() ? config->tune : o.tune);
  if (!rules) return fail(rules.status().message());
  const bool deterministic = o.deterministic || config->deterministic;
  if (o.device) {
    if (o.request.ranks > cuda::k_max_links)
      return fail(fmt::format("--device: at most {} ranks", cuda::k_max_links));
    DeviceWorld world = devices_of(o, *config);
    if (world.hosts != nullptr && world.turns > 1)
      return fail(
          "--device: ranks that share devices of several hosts are staged, no plan runs there");
    DevicePlanner devices(std::move(world), std::move(*profile), std::move(*rules), deterministic);
    const Result<std::string> text =
        devices.explain({o.request.collective, *bytes / size_of(*dtype), *dtype, *op,
                         o.request.root, o.request.in_place});
    if (!text) return fail(text.status().message());
    std::cout << *text;
    return 0;
  }
  Planner planner(placement_of(o, PeerIdentity::of_this_process(*config).cpus), std::move(*profile),
                  std::move(*rules), deterministic);
  const Result<std::string> text =
      planner.explain({o.request.collective, *bytes, o.request.root, *dtype, *op});
  if (!text) return fail(text.status().message());
  std::cout << *text;
  return 0;
}

int run(Options& o) {
  const std::optional<Collective> collective = parse_collective(o.collective);
  if (!collective) return fail("unknown collective '" + o.collective + "'");
  o.request.collective = *collective;
  if (!o.groups.empty()) o.request.hierarchy = Hierarchy::even(o.request.ranks, o.groups);
  if (o.list) return list_algorithms(o.request);
  if (o.explain) return explain(o);
  const Result<PlanPtr> plan =
      o.from.empty() ? make_plan(o.algorithm, o.request) : read_plan(o.from);
  if (!plan) return fail(plan.status().message());
  if (o.text) std::cout << to_text(**plan);
  if (!o.svg.empty()) {
    if (const int code = draw(**plan, o.svg); code != 0) return code;
  }
  if (o.verify) return print_verdicts(**plan, o);
  if (!o.text && o.svg.empty()) summarize(**plan, o);
  return 0;
}

}  // namespace

int plan_command(int argc, char** argv) {
  CLI::App app("prints, verifies or draws the plan of a collective", "tutti plan");
  Options options;
  add_flags(app, options);
  CLI11_PARSE(app, argc, argv);
  return run(options);
}
