// tuner_grid: the tuner's choice against the exhaustive best, both priced by the simulator.
//
//   tuner_grid            placements x collectives x sizes, as a markdown table
//   tuner_grid --small    the part that ctest runs; fails below 95 % within 5 %
//
// Exhaustive: every algorithm that serves the call, with every mapping of the hierarchy and every
// depth of pipeline, simulated whatever it takes.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "src/planner/planner.h"

namespace tutti {
namespace {

constexpr uint32_t k_chunks[] = {0, 1, 2, 4, 8, 16, 32, 64, 128};
constexpr double k_close = 1.05, k_share = 0.95;

struct Case {
  std::string name;
  Placement placement;
};

Case make_case(uint32_t hosts, uint32_t each, uint32_t cpus, bool tcp) {
  Case c;
  c.name = fmt::format("{} x {} ranks, {} CPUs, {}", hosts, each, cpus, tcp ? "tcp" : "shm");
  Placement& p = c.placement;
  p.ranks = hosts * each;
  p.hosts = hosts;
  p.cpus = cpus;
  p.sockets_inside = tcp;
  for (Rank r = 0; r < p.ranks; ++r) p.host.push_back(r / each);
  p.cpu_pools = p.host;
  if (hosts < p.ranks) p.hierarchy.level.push_back(p.host);
  p.by_reference = hosts == 1 && !tcp;
  p.shared = p.by_reference && p.ranks > 1 && p.ranks <= 64;
  return c;
}

std::vector<Case> cases(bool small) {
  std::vector<Case> all = {make_case(1, 2, 2, false), make_case(1, 8, 2, false),
                           make_case(1, 6, 8, false), make_case(1, 8, 2, true),
                           make_case(4, 2, 8, false), make_case(8, 1, 8, false),
                           make_case(3, 4, 4, false)};
  if (small) return all;
  for (const auto& [hosts, each] : {std::pair{12u, 1u},
                                    {2u, 8u},
                                    {8u, 4u},
                                    {16u, 1u},
                                    {5u, 3u},
                                    {16u, 4u},
                                    {8u, 8u},
                                    {64u, 1u}})
    all.push_back(make_case(hosts, each, 8, false));
  all.push_back(make_case(1, 32, 16, false));
  all.push_back(make_case(1, 16, 16, true));
  return all;
}

// The least price of anything.
double exhaustive(const Placement& placement, const Profile& profile, PlanRequest request,
                  uint64_t bytes, std::string* which) {
  double best = std::numeric_limits<double>::infinity();
  for (const Algorithm& a : algorithms()) {
    const bool hierarchical = a.name.starts_with("hierarchical");
    if (hierarchical && placement.hosts < 2) continue;
    request.hierarchy = hierarchical ? placement.hierarchy : Hierarchy();
    if (hierarchical && request.hierarchy.level.empty()) continue;
    std::vector<uint64_t> seen;
    for (uint32_t chunks : k_chunks) {
      request.chunks = chunks;
      PlanRequest in_place = request;
      in_place.in_place = request.collective != Collective::barrier;
      if (!a.supports(request).ok() || !a.supports(in_place).ok()) break;
      const uint64_t id = a.make(request)->id();
      if (std::count(seen.begin(), seen.end(), id) > 0) continue;
      seen.push_back(id);
      const Result<double> seconds =
          price_exactly(placement, profile, a, request, bytes, DType::float32, ReduceOp::sum);
      if (!seconds || *seconds >= best) continue;
      best = *seconds;
      *which = fmt::format("{}{}", a.name, chunks > 0 ? fmt::format("@{}", chunks) : "");
    }
  }
  return best;
}

int run(bool small) {
  const std::vector<uint64_t> sizes =
      small ? std::vector<uint64_t>{64, 16384, 1 << 20}
            : std::vector<uint64_t>{64, 1024, 16384, 131072, 1 << 20, 16 << 20};
  Profile profile = builtin_profile();
  profile.name = "grid";  // as if measured: the tuner's choices, not the table's
  size_t cells = 0, close = 0;
  double worst = 1;
  fmt::print(
      "| placement | collective | bytes | tuner | us | best | us | ratio |\n"
      "|---|---|---|---|---|---|---|---|\n");
  for (const Case& c : cases(small)) {
    Planner planner(c.placement, profile, {}, false);
    for (const Collective collective :
         {Collective::all_reduce, Collective::reduce_scatter, Collective::all_gather,
          Collective::broadcast, Collective::reduce, Collective::all_to_all, Collective::gather,
          Collective::scatter})
      for (const uint64_t bytes : sizes) {
        if (uint64_t{c.placement.ranks} * bytes > (256u << 20)) continue;
        const Result<Choice> choice =
            planner.choose({collective, bytes, 0, DType::float32, ReduceOp::sum});
        if (!choice) {
          fmt::print(stderr, "tuner_grid: {}\n", choice.status().message());
          return 2;
        }
        PlanRequest request;
        request.collective = collective;
        request.ranks = c.placement.ranks;
        request.chunks = choice->chunks;
        request.hierarchy = c.placement.hierarchy;
        const Result<double> chosen =
            price_exactly(c.placement, profile, *find_algorithm(choice->algorithm), request, bytes,
                          DType::float32, ReduceOp::sum);
        if (!chosen) {
          fmt::print(stderr, "tuner_grid: {}\n", chosen.status().message());
          return 2;
        }
        std::string which;
        const double best = exhaustive(c.placement, profile, request, bytes, &which);
        const double ratio = *chosen / best;
        ++cells;
        close += ratio <= k_close;
        worst = std::max(worst, ratio);
        if (small && ratio <= k_close) continue;
        fmt::print("| {} | {} | {} | {}{} | {:.1f} | {} | {:.1f} | {:.2f} |\n", c.name,
                   name(collective), bytes, choice->algorithm,
                   choice->chunks > 0 ? fmt::format("@{}", choice->chunks) : "", *chosen * 1e6,
                   which, best * 1e6, ratio);
      }
  }
  const double share = static_cast<double>(close) / static_cast<double>(cells);
  fmt::print(
      "\nwithin {:.0f} % of the exhaustive best: {} of {} cells ({:.1f} %), at worst {:.2f} "
      "times it\n",
      100 * (k_close - 1), close, cells, 100 * share, worst);
  return share >= k_share ? 0 : 1;
}

}  // namespace
}  // namespace tutti

int main(int argc, char** argv) {
  return tutti::run(argc > 1 && std::strcmp(argv[1], "--small") == 0);
}
