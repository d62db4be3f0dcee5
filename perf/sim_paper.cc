// Published figures, simulated anew. A miss is shown, not tuned away: the inputs are the papers'
// own where they give them, and each row names the others.
#include "perf/sim_paper.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "sim/simulator.h"
#include "src/algorithms/algorithms.h"
#include "topology/spec.h"

namespace {

using namespace tutti;
using Json = nlohmann::ordered_json;

constexpr double k_none = std::numeric_limits<double>::quiet_NaN();

struct Row {
  std::string what;
  double published = k_none;  // NaN: no figure was published
  double simulated = 0;
  std::string unit, inputs, source;
};

struct Table {
  std::string title;
  std::vector<Row> rows;
  std::string error;  // the first; then the rows are worthless

  // Keeps what went wrong.
  double take(const Result<double>& value) {
    if (value) return *value;
    if (error.empty()) error = value.status().message();
    return k_none;
  }
};

struct Case {
  std::string algorithm;
  uint32_t ranks = 0;
  std::vector<uint32_t> groups;  // sizes, innermost first
  uint32_t chunks = 0;
};

Result<PlanPtr> plan_of(const Case& c) {
  PlanRequest request;
  request.ranks = c.ranks;
  request.chunks = c.chunks;
  if (!c.groups.empty()) request.hierarchy = Hierarchy::even(c.ranks, c.groups);
  return make_plan(c.algorithm, request);
}

// Seconds of an all_reduce of float16 sums.
Result<double> simulated(const Case& c, const std::string& cluster, const Profile& profile,
                         uint64_t bytes) {
  const Result<Topology> topology = make_cluster(cluster);
  if (!topology) return topology.status();
  const Result<PlanPtr> plan = plan_of(c);
  if (!plan) return plan.status();
  SimOptions options;
  options.segments = {{0, bytes}};
  options.dtype = DType::float16;
  const Result<SimReport> report = simulate(**plan, *topology, profile, options);
  if (!report) return report.status();
  return report->seconds;
}

// Messages on the plan's critical path: its time in milliseconds where a message takes one whatever
// it holds, and nothing else takes any.
Result<double> steps(const Case& c) {
  const Result<PlanPtr> plan = plan_of(c);
  if (!plan) return plan.status();
  Profile unit;
  unit.credits = 1u << 30;
  const Result<double> seconds =
      simulated(c, fmt::format("rank:{}{{bw=1000TB/s,lat=500us}}", c.ranks), unit,
                uint64_t{64} * (*plan)->shape().chunks);
  if (!seconds) return seconds;
  return std::round(*seconds * 1e3);
}

std::string size_list(const std::vector<uint32_t>& sizes) {
  return fmt::format("{}", fmt::join(sizes, ","));
}

// --- latency: ring, tree and groups, 16 to 2048 ranks

// P40 servers: 8 GPUs on PCIe, one 100 Gb/s NIC.
std::string p40_cluster(uint32_t ranks) {
  return fmt::format("node:{}{{nics=1x100Gb/s,lat=2.5us}} gpu:8{{bw=10GB/s,lat=1us}}", ranks / 8);
}
constexpr const char* k_p40 =
    "8 P40 a server, one 100 Gb/s NIC (the blog); PCIe 10 GB/s, "
    "2 us inside, 7 us between servers are assumed";
constexpr const char* k_jizhi =
    "arXiv 1807.11205 and its authors' blog: 2(p-1), and 4(k-1) + 2(p/k-1) for groups of k "
    "(recalled)";

double jizhi_steps(double p, double k) { return 4 * (k - 1) + 2 * (p / k - 1); }

void latency_rows(Table& t, uint32_t p) {
  const std::string cluster = p40_cluster(p);
  constexpr uint64_t bytes = 4096;
  const Profile ideal;
  const Case ring{"ring", p, {}, 0}, tree{"double_binary_tree", p, {}, 1};
  t.rows.push_back({fmt::format("{} ranks: steps of a ring", p), 2.0 * (p - 1), t.take(steps(ring)),
                    "messages", "counted from the plan", k_jizhi});
  uint32_t formula_k = 2;
  for (uint32_t k = 2; k <= p / 2; k *= 2)
    if (jizhi_steps(p, k) < jizhi_steps(p, formula_k)) formula_k = k;
  const Case grouped{"hierarchical_leader", p, {formula_k}, 0};
  t.rows.push_back({fmt::format("{} ranks: steps with leaders of groups of {}", p, formula_k),
                    jizhi_steps(p, formula_k), t.take(steps(grouped)), "messages",
                    "counted from the plan; inside a group members talk to their leader at once, "
                    "where the paper has a ring",
                    k_jizhi});
  double least = std::numeric_limits<double>::infinity();
  uint32_t best_k = 0;
  for (uint32_t k = 2; k <= p / 2; k *= 2) {
    const double seconds =
        t.take(simulated({"hierarchical_leader", p, {k}, 0}, cluster, ideal, bytes));
    if (!(seconds < least)) continue;
    least = seconds;
    best_k = k;
  }
  const std::string inputs = fmt::format("{} B, {}", bytes, k_p40);
  t.rows.push_back({fmt::format("{} ranks: best group size", p), static_cast<double>(formula_k),
                    static_cast<double>(best_k), "ranks",
                    inputs + "; powers of two, least time with leaders", k_jizhi});
  const double of_ring = t.take(simulated(ring, cluster, ideal, bytes));
  t.rows.push_back({fmt::format("{} ranks: ring over groups of {}", p, best_k),
                    2.0 * (p - 1) / jizhi_steps(p, formula_k), of_ring / least, "times",
                    inputs + "; published: by steps", k_jizhi});
  t.rows.push_back({fmt::format("{} ranks: ring", p), k_none, of_ring * 1e6, "us", inputs, ""});
  t.rows.push_back({fmt::format("{} ranks: double binary tree", p), k_none,
                    t.take(simulated(tree, cluster, ideal, bytes)) * 1e6, "us", inputs, ""});
  t.rows.push_back({fmt::format("{} ranks: leaders of groups of {}", p, best_k), k_none,
                    least * 1e6, "us", inputs, ""});
  t.rows.push_back(
      {fmt::format("{} ranks: leaders of servers, by halving and doubling", p), k_none,
       t.take(simulated({"hierarchical_leader_doubling", p, {8}, 0}, cluster, ideal, bytes)) * 1e6,
       "us", inputs, ""});
}

Table latency() {
  Table t{"Latency of flat ring, tree and groups with leaders (Tencent Jizhi, arXiv 1807.11205)",
          {},
          {}};
  for (uint32_t p = 16; p <= 2048; p *= 2) latency_rows(t, p);
  return t;
}

// --- torus: Sony's 2D torus at 1088 and 2176 ranks

constexpr uint64_t k_resnet50 = 51'100'000;  // gradients in float16

void torus_rows(Table& t, uint32_t x, uint32_t y) {
  const uint32_t p = x * y;
  const std::string cluster =
      fmt::format("node:{}{{nics=2x100Gb/s,lat=2.5us}} gpu:4{{bw=40GB/s,lat=1us}}", p / 4);
  const std::string inputs = fmt::format(
      "{} B of float16 (ResNet-50); 4 V100 and 2 EDR a node; 40 GB/s and 2 us inside, "
      "7 us between nodes are assumed",
      k_resnet50);
  const Case ring{"ring", p, {}, 0};
  const Case torus{"hierarchical_scatter", p, {x}, 0};
  const Case nodes{"hierarchical_scatter", p, {4}, 0};
  const Case leader{"hierarchical_leader", p, {4}, 0};
  const Case doubling{"hierarchical_scatter_doubling", p, {4}, 0};
  constexpr const char* k_sony =
      "arXiv 1811.05233; the grids are recalled, not read; no "
      "all-reduce times are published";
  t.rows.push_back({fmt::format("{} ranks: steps of a ring", p), 2.0 * (p - 1), t.take(steps(ring)),
                    "messages", "counted from the plan", k_sony});
  t.rows.push_back({fmt::format("{} ranks: steps of a {} x {} torus", p, x, y),
                    2.0 * (x - 1) + 2.0 * (y - 1),
                    t.take(steps({"hierarchical_scatter", p, {x}, 1})), "messages",
                    "counted from the plan: direct inside rows (2 steps instead of 2(x-1)), a ring "
                    "along columns",
                    k_sony});
  const auto time = [&](const char* what, const Case& c) {
    t.rows.push_back({fmt::format("{} ranks: {}{}", p, what,
                                  c.groups.empty() ? "" : " of " + size_list(c.groups)),
                      k_none, t.take(simulated(c, cluster, {}, k_resnet50)) * 1e3, "ms", inputs,
                      k_sony});
  };
  time("ring", ring);
  time("2D torus, rows", torus);
  time("scatter inside nodes, ring across, groups", nodes);
  time("scatter inside nodes, halving and doubling across, groups", doubling);
  time("leaders, groups", leader);
}

Table torus() {
  Table t{"2D torus (Sony, arXiv 1811.05233)", {}, {}};
  torus_rows(t, 32, 34);
  torus_rows(t, 32, 68);
  return t;
}

// --- nccl: the tuning constants of NCCL 2.30.7 as a profile

struct NcclProtocol {
  const char* name;
  double base_ring, intra_ring, inter_ring;  // microseconds
  double base_tree, intra_tree, inter_tree;
};
constexpr NcclProtocol k_ll{"LL", 6.6, 1.0, 2.7, 6.8, 1.0, 5.0};
constexpr NcclProtocol k_simple{"Simple", 8.4, 5.7, 14, 8.4, 4.0, 14};

// Hops inside a node cross two PCI links, hops between nodes two NIC links as well.
Profile nccl_profile(double base, double intra, double inter) {
  Profile p;
  p.name = "NCCL 2.30.7 tuning.cc";
  p.source = "NCCL 2.30.7, src/graph/tuning.cc: baseLatencies, hwLatencies (PCI, NET)";
  p.call_overhead = base * 1e-6;
  for (LinkCost& c : p.links[static_cast<int>(LinkClass::pci)]) c.alpha = intra / 2 * 1e-6;
  for (LinkCost& c : p.links[static_cast<int>(LinkClass::nic)])
    c.alpha = (inter - intra) / 2 * 1e-6;
  p.credits = 8;  // NCCL_STEPS
  return p;
}

void nccl_rows(Table& t, uint32_t p, const NcclProtocol& protocol) {
  const double nodes = p / 8.0;
  const std::string cluster =
      fmt::format("node:{}{{nics=8x100Gb/s}} gpu:8{{bw=12GB/s,class=pci}}", p / 8);
  const uint64_t bytes = uint64_t{64} * p;
  constexpr const char* k_source = "NCCL 2.30.7, src/graph/tuning.cc";
  const double ring = protocol.base_ring + (2.0 * (p - 1) - 2 * (nodes - 1)) * protocol.intra_ring +
                      2 * (nodes - 1) * protocol.inter_ring;
  const double tree =
      protocol.base_tree + 2 * (7 * protocol.intra_tree + std::log2(nodes) * protocol.inter_tree);
  const std::string inputs =
      fmt::format("8 GPUs a node on PCI, {} B (64 a rank): latency only", bytes);
  t.rows.push_back(
      {fmt::format("{} ranks: ring {}", p, protocol.name), ring,
       t.take(simulated({"ring", p, {}, 0}, cluster,
                        nccl_profile(protocol.base_ring, protocol.intra_ring, protocol.inter_ring),
                        bytes)) *
           1e6,
       "us", inputs, k_source});
  t.rows.push_back(
      {fmt::format("{} ranks: tree {}", p, protocol.name), tree,
       t.take(simulated({"double_binary_tree", p, {}, 1}, cluster,
                        nccl_profile(protocol.base_tree, protocol.intra_tree, protocol.inter_tree),
                        64)) *
           1e6,
       "us",
       "the same, 64 B; tutti's tree is binary over all ranks, NCCL's a chain inside each node and "
       "binary over nodes",
       k_source});
}

Table nccl() {
  Table t{"NCCL's tuning constants as a profile: latency of all_reduce", {}, {}};
  for (uint32_t p : {16u, 128u, 1024u, 2048u})
    for (const NcclProtocol& protocol : {k_ll, k_simple}) nccl_rows(t, p, protocol);
  return t;
}

// --- printing

void print_text(const Table& t) {
  fmt::print(
      "# {}\n\n| what | published | simulated | unit | simulated / published | inputs | source |\n"
      "|---|---|---|---|---|---|---|\n",
      t.title);
  for (const Row& r : t.rows) {
    const bool known = !std::isnan(r.published);
    fmt::print("| {} | {} | {:.4g} | {} | {} | {} | {} |\n", r.what,
               known ? fmt::format("{:.4g}", r.published) : std::string("not published"),
               r.simulated, r.unit,
               known ? fmt::format("{:.2f}", r.simulated / r.published) : std::string("-"),
               r.inputs, r.source.empty() ? "-" : r.source);
  }
}

void print_json(const Table& t) {
  Json j;
  j["title"] = t.title;
  for (const Row& r : t.rows) {
    Json row = {{"what", r.what}, {"simulated", r.simulated}, {"unit", r.unit}};
    if (!std::isnan(r.published)) {
      row["published"] = r.published;
      row["ratio"] = r.simulated / r.published;
    }
    row["inputs"] = r.inputs;
    row["source"] = r.source;
    j["rows"].push_back(row);
  }
  fmt::print("{}\n", j.dump(2));
}

struct Paper {
  const char* name;
  Table (*make)();
};
constexpr Paper k_papers[] = {{"latency", latency}, {"torus", torus}, {"nccl", nccl}};

}  // namespace

int print_paper(const std::string& name, bool json) {
  std::string known;
  for (const Paper& paper : k_papers) {
    known += (known.empty() ? "" : ", ") + std::string(paper.name);
    if (name != paper.name) continue;
    const Table table = paper.make();
    if (!table.error.empty()) {
      fmt::print(stderr, "tutti sim --paper {}: {}\n", name, table.error);
      return 1;
    }
    json ? print_json(table) : print_text(table);
    return 0;
  }
  fmt::print(stderr, "tutti sim: there is no paper '{}'; there are {}\n", name, known);
  return 1;
}
