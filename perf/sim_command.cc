// `tutti sim --cluster SPEC --collective all_reduce --bytes 100M --algorithm NAME|auto [--json]`
#include "perf/sim_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "perf/options.h"
#include "perf/sim_paper.h"
#include "sim/draw.h"
#include "sim/simulator.h"
#include "src/algorithms/on_orders.h"
#include "src/planner/predict.h"
#include "topology/load.h"
#include "topology/orders.h"

namespace {

using namespace tutti;
using Json = nlohmann::ordered_json;

struct Options {
  std::string cluster, paper, profile_file, trace_file, svg_file;
  std::string collective = "all_reduce", bytes = "1M", algorithm = "auto";
  std::string dtype = "float32", op = "sum", max_chunk = "0";
  std::vector<std::string> segments, stragglers;
  std::vector<uint32_t> groups;
  PlanRequest request;
  SimOptions sim;
  uint32_t best = 3, links = 5;
  uint64_t max_steps = 200'000'000;
  bool json = false, path = false, flat = false, along_links = false;
};

void add_flags(CLI::App& app, Options& o) {
  app.add_option("--cluster", o.cluster,
                 "a spec, outermost level first: 'node:4{nics=8x100Gb/s,lat=5us} "
                 "gpu:8{bw=48GB/s,lat=1us}'; a recorded machine (tutti topo --list) or N of them "
                 "(dgx-a100*16), with its profile; a file that tutti topo reads");
  app.add_option("--paper", o.paper,
                 "instead: published figures beside simulated ones; latency, torus or nccl");
  app.add_option("--profile", o.profile_file,
                 "measured prices (JSON) instead of the cluster's own");
  app.add_option("-c,--collective", o.collective, "all_reduce, broadcast, ...")
      ->capture_default_str();
  app.add_option("-b,--bytes", o.bytes, "of a block: what count means in the call (100M, 4K)")
      ->capture_default_str();
  app.add_option("-a,--algorithm", o.algorithm, "a name (tutti plan --list) or auto")
      ->capture_default_str();
  app.add_option("-n,--ranks", o.request.ranks, "the first so many ranks of the cluster (all)");
  app.add_option("--root", o.request.root, "root rank of rooted collectives");
  app.add_flag("--in-place", o.request.in_place, "input and output share memory");
  app.add_option("--chunks", o.request.chunks, "chunks of a block, where there is a choice");
  app.add_option("--groups", o.groups,
                 "sizes of nested groups, innermost first, instead of the cluster's")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_flag("--flat", o.flat, "no groups");
  app.add_flag(
      "--along-links", o.along_links,
      "flat algorithms on orders that follow the links: a lane for each ring and direction "
      "(tutti topo shows them)");
  app.add_option("-d,--dtype", o.dtype, "element type")->capture_default_str();
  app.add_option("-o,--op", o.op, "reduction operator")->capture_default_str();
  app.add_option("--max-chunk", o.max_chunk, "most bytes of a chunk in a round (all in one round)");
  app.add_option("--credits", o.sim.credits, "messages in flight per connection")
      ->check(CLI::Range(1u, 1u << 20));
  app.add_option("--segment", o.segments,
                 "SECONDS:BYTES, repeated: parts that get ready one after the other, instead of "
                 "--bytes");
  app.add_option("--jitter", o.sim.jitter, "mean of the random share added to each latency");
  app.add_option("--skew", o.sim.skew, "ranks start up to so many seconds late");
  app.add_option("--straggler", o.stragglers, "RANK:FACTOR, repeated: a slow rank");
  app.add_option("--seed", o.sim.seed, "of jitter and skew")->capture_default_str();
  app.add_option("--best", o.best, "with auto: simulate so many of the best predictions")
      ->check(CLI::Range(1u, 64u))
      ->capture_default_str();
  app.add_option("--max-steps", o.max_steps, "leave out plans of more steps")
      ->capture_default_str();
  app.add_option("--links", o.links, "show so many of the busiest links")->capture_default_str();
  app.add_flag("--path", o.path, "show the critical path");
  app.add_option("--trace", o.trace_file, "write the best run for chrome://tracing or Perfetto");
  app.add_option("--svg", o.svg_file,
                 "draw the best run: lanes over time, its critical path strong");
  app.add_flag("--json", o.json, "print JSON");
}

int fail(const std::string& message) {
  fmt::print(stderr, "tutti sim: {}\n", message);
  return 1;
}

// "0.013:25M"
bool split(const std::string& text, double* number, std::string* rest) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos || colon == 0) return false;
  char* end = nullptr;
  *number = std::strtod(text.c_str(), &end);
  *rest = text.substr(colon + 1);
  return end == text.c_str() + colon;
}

Status bad(const std::string& flag, const std::string& value, const std::string& expected) {
  return {Code::invalid_argument, fmt::format("{} '{}': expected {}", flag, value, expected)};
}

// The texts of the flags into o.request and o.sim.
Status understand(Options& o) {
  const std::optional<Collective> collective = parse_collective(o.collective);
  if (!collective) return bad("--collective", o.collective, "all_reduce, broadcast ...");
  o.request.collective = *collective;
  const std::optional<DType> dtype = parse_dtype(o.dtype);
  if (!dtype) return bad("--dtype", o.dtype, "float32, float16 ...");
  o.sim.dtype = *dtype;
  const std::optional<ReduceOp> op = parse_reduce_op(o.op);
  if (!op) return bad("--op", o.op, "sum, max ...");
  o.sim.op = *op;
  const std::optional<size_t> bytes = perf::parse_size(o.bytes);
  if (!bytes) return bad("--bytes", o.bytes, "a size such as 100M");
  const std::optional<size_t> max_chunk = perf::parse_size(o.max_chunk);
  if (!max_chunk) return bad("--max-chunk", o.max_chunk, "a size such as 1M");
  o.sim.max_chunk_bytes = *max_chunk;
  for (const std::string& text : o.segments) {
    SimSegment segment;
    std::string size;
    const bool ok = split(text, &segment.ready, &size);
    const std::optional<size_t> part = ok ? perf::parse_size(size) : std::nullopt;
    if (!part) return bad("--segment", text, "SECONDS:BYTES such as 0.013:25M");
    segment.bytes = *part;
    o.sim.segments.push_back(segment);
  }
  if (o.segments.empty()) o.sim.segments = {{0, *bytes}};
  for (const std::string& text : o.stragglers) {
    double rank = 0, factor = 0;
    std::string rest;
    const bool ok =
        split(text, &rank, &rest) && rank >= 0 && rank < 1e9 && split(rest + ":", &factor, &rest);
    if (!ok) return bad("--straggler", text, "RANK:FACTOR such as 3:1.5");
    o.sim.stragglers.push_back({static_cast<Rank>(rank), factor});
  }
  return {};
}

Result<Profile> read_profile(const std::string& file) {
  if (file.empty()) return Profile();
  std::ifstream in(file, std::ios::binary);
  if (!in) return Status(Code::invalid_argument, "cannot read " + file);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  Result<Profile> profile = parse_profile(text);
  return profile ? std::move(profile) : Result<Profile>(profile.status().with_context(file));
}

// The cluster's groups, of the ranks that take part.
Hierarchy hierarchy_of(const Topology& topology, const Options& o) {
  if (o.flat) return {};
  if (!o.groups.empty()) return Hierarchy::even(o.request.ranks, o.groups);
  Hierarchy h{topology.groups()};
  for (auto& level : h.level) level.resize(o.request.ranks);
  return h;
}

uint64_t count_steps(const Plan& plan) {
  uint64_t steps = 0;
  for (Rank r = 0; r < plan.shape().ranks; ++r)
    for (Lane l = 0; l < plan.shape().lanes; ++l) steps += plan.steps(r, l);
  return steps;
}

// "8,128" for groups of 8 in groups of 128.
std::string group_sizes(const Hierarchy& h) {
  std::string text;
  for (const auto& level : h.level) {
    const auto most = std::max_element(level.begin(), level.end());
    const size_t groups = most == level.end() ? 1 : *most + size_t{1};
    text += fmt::format("{}{:g}", text.empty() ? "" : ",",
                        static_cast<double>(level.size()) / static_cast<double>(groups));
  }
  return text;
}

struct Run {
  Candidate candidate;
  PlanPtr plan;
  uint64_t steps = 0;
  bool simulated = false;
  SimReport report;
  double wall = 0;
};

Status simulate_run(const Topology& topology, const Profile& profile, const Options& o, Run& run) {
  const auto start = std::chrono::steady_clock::now();
  run.plan = run.candidate.algorithm->make(run.candidate.request);
  if (o.along_links && run.candidate.request.hierarchy.level.empty() &&
      run.plan->shape().ranks == topology.ranks()) {
    const Result<PlanPtr> along = make_on_orders(*run.candidate.algorithm, run.candidate.request,
                                                 both_ways(ring_orders(topology).rings));
    // Algorithms that another order would tear apart stay as they are, but when asked for by name.
    if (!along && o.algorithm != "auto") return along.status();
    if (along) run.plan = *along;
  }
  run.steps = count_steps(*run.plan);
  if (run.steps > o.max_steps) return {};
  Result<SimReport> report = simulate(*run.plan, topology, profile, o.sim);
  if (!report) return report.status();
  run.report = std::move(*report);
  run.simulated = true;
  run.wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return {};
}

std::vector<SimLinkUse> busiest(const SimReport& report, size_t most) {
  std::vector<SimLinkUse> links = report.links;
  std::stable_sort(links.begin(), links.end(), [](const SimLinkUse& a, const SimLinkUse& b) {
    return a.utilisation > b.utilisation;
  });
  if (links.size() > most) links.resize(most);
  return links;
}

std::string time_text(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.3f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.4f} ms", seconds * 1e3);
  return fmt::format("{:.4f} s", seconds);
}

Json run_json(const Run& run, const Topology& topology, const Options& o) {
  Json j;
  j["algorithm"] = run.candidate.algorithm->name;
  j["groups"] = group_sizes(run.candidate.request.hierarchy);
  j["predicted_s"] = run.candidate.prediction.seconds;
  if (!run.simulated) return j;
  const SimReport& r = run.report;
  j["simulated_s"] = r.seconds;
  j["steps"] = run.steps;
  j["messages"] = r.messages;
  j["events"] = r.events;
  j["wall_s"] = run.wall;
  j["segment_s"] = r.segment_seconds;
  const auto [first, last] = std::minmax_element(r.rank_seconds.begin(), r.rank_seconds.end());
  j["first_rank_s"] = *first;
  j["last_rank_s"] = *last;
  for (const SimLinkUse& l : busiest(r, o.links))
    j["links"].push_back({{"link", topology.describe_link(l.link)},
                          {"bytes", l.bytes},
                          {"utilisation", l.utilisation}});
  if (o.path) {
    j["critical_path"] = {{"messages", r.critical_path.size()},
                          {"queue_s", r.path_queue},
                          {"transfer_s", r.path_transfer},
                          {"latency_s", r.path_latency}};
  }
  return j;
}

void print_path(const Run& run) {
  const SimReport& r = run.report;
  const uint32_t lanes = run.plan->shape().lanes;
  fmt::print("\ncritical path: {} messages; queueing {}, transfer {}, latency {}, the rest {}\n",
             r.critical_path.size(), time_text(r.path_queue), time_text(r.path_transfer),
             time_text(r.path_latency),
             time_text(r.seconds - r.path_queue - r.path_transfer - r.path_latency));
  constexpr size_t k_shown = 40;
  for (size_t i = 0; i < r.critical_path.size(); ++i) {
    if (r.critical_path.size() > k_shown && i == k_shown / 2) {
      fmt::print("  ...\n");
      i = r.critical_path.size() - k_shown / 2;
    }
    const SimMessage& m = r.trace[r.critical_path[i]];
    fmt::print("  {:>14}  rank {} -> {}, lane {}, {:.0f} B, arrives {}\n", time_text(m.posted),
               m.from / lanes, m.to / lanes, m.from % lanes, m.bytes, time_text(m.arrived));
  }
}

void print_table(const std::vector<Run>& runs, const Run& best, const Topology& topology,
                 const Options& o) {
  uint64_t bytes = 0;
  for (const SimSegment& s : o.sim.segments) bytes += s.bytes;
  fmt::print("{} of {} B, {} ranks\n\n", o.collective, bytes, o.request.ranks);
  fmt::print("{:<30} {:<12} {:>14} {:>14} {:>12}\n", "algorithm", "groups", "predicted",
             "simulated", "messages");
  for (const Run& run : runs) {
    fmt::print("{:<30} {:<12} {:>14} {:>14} {:>12}\n", run.candidate.algorithm->name,
               group_sizes(run.candidate.request.hierarchy),
               time_text(run.candidate.prediction.seconds),
               run.simulated ? time_text(run.report.seconds) : "-",
               run.simulated ? fmt::format("{}", run.report.messages) : "-");
  }
  const SimReport& r = best.report;
  fmt::print("\n{}: {}; {} events in {:.2f} s\n", best.candidate.algorithm->name,
             time_text(r.seconds), r.events, best.wall);
  if (r.segment_seconds.size() > 1)
    for (size_t i = 0; i < r.segment_seconds.size(); ++i)
      fmt::print("  segment {} ready {}, done {}\n", i, time_text(o.sim.segments[i].ready),
                 time_text(r.segment_seconds[i]));
  for (const SimLinkUse& l : busiest(r, o.links))
    fmt::print("  {:>5.1f} %  {}\n", 100 * l.utilisation, topology.describe_link(l.link));
  if (o.path) print_path(best);
}

Result<std::vector<Candidate>> candidates(Predictor& predictor, const Options& o, uint64_t bytes) {
  if (o.algorithm == "auto")
    return rank_candidates(predictor, o.request, bytes, o.sim.dtype, o.sim.op);
  const Algorithm* algorithm = find_algorithm(o.algorithm);
  if (algorithm == nullptr) return make_plan(o.algorithm, o.request).status();
  Candidate c{algorithm, o.request, 0, {}};
  if (!algorithm->name.starts_with("hierarchical")) c.request.hierarchy = {};
  const Result<Prediction> p =
      predictor.predict(*algorithm, c.request, bytes, o.sim.dtype, o.sim.op);
  if (!p) return p.status();
  c.prediction = *p;
  return std::vector<Candidate>{c};
}

bool write(const std::string& file, const std::string& text) {
  std::ofstream out(file, std::ios::binary);
  out << text;
  out.close();
  return !out.fail();
}

int run(Options& o) {
  if (!o.paper.empty()) return print_paper(o.paper, o.json);
  if (o.cluster.empty()) return fail("--cluster is required (or --paper)");
  if (const Status s = understand(o); !s.ok()) return fail(s.message());
  const Result<Cluster> cluster = load_cluster(o.cluster);
  if (!cluster) return fail(cluster.status().message());
  const Topology* topology = &cluster->topology;
  // A recorded machine comes with its prices.
  const Result<Profile> profile = cluster->recorded && o.profile_file.empty()
                                      ? parse_profile(cluster->recorded->profile)
                                      : read_profile(o.profile_file);
  if (!profile) return fail(profile.status().message());
  if (o.request.ranks == 0) o.request.ranks = topology->ranks();
  if (o.request.ranks > topology->ranks())
    return fail(fmt::format("--ranks {}: the cluster has {}", o.request.ranks, topology->ranks()));
  o.request.hierarchy = hierarchy_of(*topology, o);
  o.sim.record = o.path || !o.trace_file.empty() || !o.svg_file.empty();

  uint64_t bytes = 0;
  for (const SimSegment& s : o.sim.segments) bytes += s.bytes;
  Predictor predictor(*topology, *profile);
  const Result<std::vector<Candidate>> found = candidates(predictor, o, bytes);
  if (!found) return fail(found.status().message());

  std::vector<Run> runs;
  uint32_t simulated = 0;
  for (const Candidate& c : *found) {
    Run& run = runs.emplace_back();
    run.candidate = c;
    if (simulated == o.best) continue;
    if (const Status s = simulate_run(*topology, *profile, o, run); !s.ok())
      return fail(s.message());
    simulated += run.simulated;
  }
  if (simulated == 0)
    return fail(fmt::format("{} steps are more than --max-steps {}", runs[0].steps, o.max_steps));
  const Run* best = nullptr;
  for (const Run& run : runs)
    if (run.simulated && (best == nullptr || run.report.seconds < best->report.seconds))
      best = &run;

  if (!o.trace_file.empty() && !write(o.trace_file, to_chrome_trace(best->report, *best->plan)))
    return fail("cannot write " + o.trace_file);
  if (!o.svg_file.empty()) {
    const Result<std::string> svg = to_svg(best->report, *best->plan);
    if (!svg) return fail(svg.status().message());
    if (!write(o.svg_file, *svg)) return fail("cannot write " + o.svg_file);
  }
  if (!o.json) {
    print_table(runs, *best, *topology, o);
    return 0;
  }
  Json j;
  j["cluster"] = o.cluster;
  j["profile"] = profile->name;
  j["collective"] = name(o.request.collective);
  j["bytes"] = bytes;
  j["ranks"] = o.request.ranks;
  j["best"] = best->candidate.algorithm->name;
  j["seconds"] = best->report.seconds;
  for (const Run& run : runs) j["candidates"].push_back(run_json(run, *topology, o));
  fmt::print("{}\n", j.dump(2));
  return 0;
}

}  // namespace

int sim_command(int argc, char** argv) {
  CLI::App app("simulates a collective on a cluster that need not exist", "tutti sim");
  Options options;
  options.request.ranks = 0;
  add_flags(app, options);
  CLI11_PARSE(app, argc, argv);
  return run(options);
}
