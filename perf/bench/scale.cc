// scale: hundreds and thousands of ranks as threads of one process, every algorithm, checked.
//
//   scale 1024 2048              prints a markdown table for each number of ranks
//
// Ranks outnumber CPUs by far, so a time here is work, not latency: all ranks' steps one after the
// other on the CPUs there are. "per rank-step" divides by the plan's steps of all ranks.
#include <fmt/format.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "src/algorithms/algorithms.h"
#include "tutti/communicator.h"

namespace tutti {
namespace {

using Seconds = std::chrono::duration<double>;
double since(std::chrono::steady_clock::time_point start) {
  return Seconds(std::chrono::steady_clock::now() - start).count();
}

double resident_mib() {
  std::ifstream file("/proc/self/statm");
  double total = 0, resident = 0;
  file >> total >> resident;
  return resident * 4096 / (1 << 20);
}

// One value per (rank, element) whose sums are exact in fp32 whatever the order.
float value(Rank rank, size_t element) { return static_cast<float>((rank + element) % 8); }
float sum_of(uint32_t ranks, size_t element) {
  float sum = 0;
  for (Rank r = 0; r < ranks; ++r) sum += value(r, element);
  return sum;
}

struct Outcome {
  std::vector<double> seconds;  // by size; negative: wrong or failed
  std::string problem;
  double init = 0, resident = 0;
};

Outcome run(const std::string& algorithm, uint32_t ranks, const std::vector<size_t>& sizes) {
  Outcome outcome;
  Config config;
  config.transports = {"local"};
  config.tune = "all_reduce:0-inf:" + algorithm;
  config.late_after = 600;
  config.init_timeout = 600;
  const double before = resident_mib();
  auto start = std::chrono::steady_clock::now();
  auto made = Communicator::create_local(ranks, config);
  outcome.init = since(start);
  if (!made) {
    outcome.problem = made.status().to_string();
    return outcome;
  }
  std::vector<std::unique_ptr<Communicator>>& world = *made;
  std::mutex mutex;
  std::vector<std::vector<double>> begin(sizes.size(), std::vector<double>(ranks)), end = begin;
  std::vector<std::vector<float>> expected;
  for (size_t bytes : sizes) {
    expected.emplace_back(bytes / 4);
    for (size_t i = 0; i < bytes / 4; ++i) expected.back()[i] = sum_of(ranks, i % 8);
  }
  std::barrier<> gate(ranks);
  std::vector<std::thread> threads;
  const auto origin = std::chrono::steady_clock::now();
  for (Rank r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      for (size_t s = 0; s < sizes.size(); ++s) {
        const size_t count = sizes[s] / 4;
        std::vector<float> in(count), out(count);
        for (size_t i = 0; i < count; ++i) in[i] = value(r, i % 8);
        for (int round = 0; round < 2; ++round) {  // the first one plans and connects
          gate.arrive_and_wait();
          begin[s][r] = since(origin);
          const Status status =
              world[r]->all_reduce(in.data(), out.data(), count, DType::float32, ReduceOp::sum);
          end[s][r] = since(origin);
          if (!status.ok() || out != expected[s]) {
            std::lock_guard lock(mutex);
            outcome.problem = status.ok() ? fmt::format("rank {}: wrong sums at {} B", r, sizes[s])
                                          : status.to_string();
          }
        }
      }
    });
  for (std::thread& t : threads) t.join();
  outcome.resident = resident_mib() - before;
  for (size_t s = 0; s < sizes.size(); ++s)
    outcome.seconds.push_back(*std::max_element(end[s].begin(), end[s].end()) -
                              *std::min_element(begin[s].begin(), begin[s].end()));
  return outcome;
}

uint64_t total_steps(const std::string& algorithm, uint32_t ranks) {
  Result<PlanPtr> plan = make_plan(algorithm, {Collective::all_reduce, ranks, 0, false, 0, {}});
  uint64_t total = 0;
  for (Rank r = 0; plan && r < ranks; ++r)
    for (Lane lane = 0; lane < (*plan)->shape().lanes; ++lane) total += (*plan)->steps(r, lane);
  return total;
}

int table(uint32_t ranks, const std::vector<std::string>& only) {
  const std::vector<size_t> small = {4, 4096}, all = {4, 4096, 65536, 1 << 20};
  int failures = 0;
  fmt::print(
      "| algorithm, {} ranks | init (s) | 4 B (s) | 4 KiB (s) | 64 KiB (s) | 1 MiB (s) | "
      "steps | us per rank-step at 4 B | MiB |\n|---|---|---|---|---|---|---|---|---|\n",
      ranks);
  for (const Algorithm& algorithm : algorithms()) {
    const std::string name(algorithm.name);
    if (!algorithm.supports({Collective::all_reduce, ranks, 0, false, 0, {}}).ok()) continue;
    if (!only.empty() && std::find(only.begin(), only.end(), name) == only.end()) continue;
    // Everyone's whole block to everyone: 1 MiB would be a terabyte.
    const Outcome o = run(name, ranks, name == "direct_one_shot" ? small : all);
    std::string row = fmt::format("| {} | {:.2f} ", name, o.init);
    for (size_t s = 0; s < all.size(); ++s)
      row += s < o.seconds.size() ? fmt::format("| {:.3f} ", o.seconds[s]) : "| - ";
    const uint64_t steps = total_steps(name, ranks);
    row += fmt::format("| {} | {:.2f} | {:.0f} |", steps,
                       o.seconds.empty() ? 0.0 : o.seconds[0] * 1e6 / static_cast<double>(steps),
                       o.resident);
    fmt::print("{}{}\n", row, o.problem.empty() ? "" : " WRONG: " + o.problem);
    std::fflush(stdout);
    failures += !o.problem.empty();
  }
  return failures;
}

}  // namespace
}  // namespace tutti

int main(int argc, char** argv) {
  std::vector<uint32_t> ranks;
  std::vector<std::string> only;
  for (int i = 1; i < argc; ++i) {
    const long n = std::atol(argv[i]);
    if (n > 0) {
      ranks.push_back(static_cast<uint32_t>(n));
    } else {
      only.emplace_back(argv[i]);
    }
  }
  if (ranks.empty()) ranks = {1024, 2048};
  int failures = 0;
  for (uint32_t n : ranks) failures += tutti::table(n, only);
  return failures == 0 ? 0 : 1;
}
