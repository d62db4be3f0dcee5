#include "perf/tune_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "perf/statistics.h"
#include "src/planner/planner.h"

namespace tutti::perf {
namespace {

constexpr double k_good = 1.15;  // a choice that takes so many times the fastest is a good one
constexpr size_t k_contenders = 3;

std::string microseconds(double seconds) {
  return seconds < 0 ? std::string("-") : fmt::format("{:.1f}", seconds * 1e6);
}

bool same_cell(const Probe& a, const Probe& b) {
  return a.collective == b.collective && a.bytes == b.bytes;
}

// Calls `see` with each run of probes of one cell, as [first, last).
template <class See>
void for_each_cell(const std::vector<Probe>& probes, const See& see) {
  for (size_t first = 0, last = 0; first < probes.size(); first = last) {
    while (last < probes.size() && same_cell(probes[first], probes[last])) ++last;
    see(first, last);
  }
}

}  // namespace

std::vector<Probe> every_algorithm(const std::vector<uint64_t>& sizes, uint32_t ranks) {
  std::vector<Probe> probes;
  for (const Collective c :
       {Collective::all_reduce, Collective::reduce_scatter, Collective::all_gather,
        Collective::broadcast, Collective::reduce, Collective::all_to_all}) {
    const bool from_all = c == Collective::reduce_scatter || c == Collective::all_gather ||
                          c == Collective::all_to_all;
    for (const uint64_t bytes : sizes)
      if (!from_all || bytes * ranks <= k_most_together)
        for (const Algorithm& a : algorithms()) probes.push_back({c, std::string(a.name), bytes});
  }
  return probes;
}

void print_predictions(const std::string& what, const ProbeSet& set, const Profile& profile) {
  fmt::print("\n## {}, {} ranks on {} host{}, profile \"{}\"\n\n", what, set.placement.ranks,
             set.placement.hosts, set.placement.hosts == 1 ? "" : "s", profile.name);
  fmt::print(
      "| collective | bytes | algorithm | measured us | simulated us | closed form us | error % |\n"
      "|---|---|---|---|---|---|---|\n");
  std::vector<double> errors, closed_errors;
  for (const Probe& p : set.probes) {
    const Predicted model = predict_probe(set.placement, profile, p);
    std::string error = "-";
    if (model.simulated > 0) {
      errors.push_back(std::abs(model.simulated / p.seconds - 1));
      error = fmt::format("{:+.0f}", 100 * (model.simulated / p.seconds - 1));
    }
    if (model.closed > 0) closed_errors.push_back(std::abs(model.closed / p.seconds - 1));
    fmt::print("| {} | {} | {} | {} | {} | {} | {} |\n", name(p.collective), p.bytes, p.algorithm,
               microseconds(p.seconds), microseconds(model.simulated), microseconds(model.closed),
               error);
  }
  fmt::print("\nmedian error: simulated {:.0f} %, closed form {:.0f} %, of {} figures\n",
             100 * median(errors), 100 * median(closed_errors), errors.size());
}

std::vector<Probe> contests(const std::vector<Probe>& measured) {
  std::vector<Probe> all;
  for_each_cell(measured, [&](size_t first, size_t last) {
    if (last - first < 2) return;
    std::vector<Probe> cell(measured.begin() + static_cast<ptrdiff_t>(first),
                            measured.begin() + static_cast<ptrdiff_t>(last));
    std::stable_sort(cell.begin(), cell.end(),
                     [](const Probe& a, const Probe& b) { return a.seconds < b.seconds; });
    if (cell.size() > k_contenders) cell.resize(k_contenders);
    cell.push_back({cell[0].collective, "", cell[0].bytes});
    all.insert(all.end(), cell.begin(), cell.end());
  });
  return all;
}

void print_choices(const ProbeSet& contested, const Profile& profile) {
  fmt::print(
      "\n| collective | bytes | planner's choice | us | fastest | us | choice / fastest |\n"
      "|---|---|---|---|---|---|---|\n");
  Planner planner(contested.placement, profile, {}, false);
  size_t cells = 0, good = 0;
  double worst = 1;
  for_each_cell(contested.probes, [&](size_t first, size_t last) {
    const Probe& chosen = contested.probes[last - 1];
    if (!chosen.algorithm.empty()) return;
    const Result<Choice> choice =
        planner.choose({chosen.collective, chosen.bytes, 0, DType::float32, ReduceOp::sum});
    double seconds = chosen.seconds;
    const Probe* other = nullptr;
    for (size_t i = first; i + 1 < last; ++i) {
      const Probe& p = contested.probes[i];
      if (choice.ok() && *choice == Choice{p.algorithm, 0, 0}) {
        seconds = (p.seconds + chosen.seconds) / 2;
      } else if (other == nullptr || p.seconds < other->seconds) {
        other = &p;
      }
    }
    const bool fastest = other == nullptr || seconds <= other->seconds;
    const double ratio = fastest ? 1 : seconds / other->seconds;
    ++cells;
    good += ratio <= k_good;
    worst = std::max(worst, ratio);
    std::string label = choice.ok() ? choice->algorithm : choice.status().message();
    if (choice.ok() && choice->chunks > 0) label += fmt::format("@{}", choice->chunks);
    fmt::print("| {} | {} | {} | {} | {} | {} | {:.2f} |\n", name(chosen.collective), chosen.bytes,
               label, microseconds(seconds), fastest ? std::string("the choice") : other->algorithm,
               microseconds(fastest ? seconds : other->seconds), ratio);
  });
  fmt::print(
      "\nthe planner's choice is within {:.0f} % of the fastest in {} of {} cells ({:.0f} %), at "
      "worst {:.2f} times it\n",
      100 * (k_good - 1), good, cells,
      cells > 0 ? 100.0 * static_cast<double>(good) / static_cast<double>(cells) : 0, worst);
}

}  // namespace tutti::perf
