#include "perf/tune_probes.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>
#include <memory>
#include <set>

#include "src/communicator/host_report.h"
#include "src/communicator/peers.h"
#include "src/planner/tuner.h"

namespace tutti::perf {
namespace {

constexpr double k_slow = 0.005;  // seconds: such calls need no warming up, and one tells enough
constexpr double k_fewest = 4;    // calls that make a repetition otherwise

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Status call(Communicator& c, Collective collective, const std::byte* in, std::byte* out,
            size_t count) {
  switch (collective) {
    case Collective::all_reduce:
      return c.all_reduce(in, out, count, DType::float32, ReduceOp::sum);
    case Collective::reduce_scatter:
      return c.reduce_scatter(in, out, count, DType::float32, ReduceOp::sum);
    case Collective::all_gather:
      return c.all_gather(in, out, count, DType::float32);
    case Collective::broadcast:
      return c.broadcast(in, out, count, DType::float32, 0);
    case Collective::reduce:
      return c.reduce(in, out, count, DType::float32, ReduceOp::sum, 0);
    case Collective::all_to_all:
      return c.all_to_all(in, out, count, DType::float32);
    case Collective::gather:
      return c.gather(in, out, count, DType::float32, 0);
    case Collective::scatter:
      return c.scatter(in, out, count, DType::float32, 0);
    default:
      return c.barrier();
  }
}

// The largest of all ranks' values, on every rank.
Result<double> worst(Communicator& c, double mine) {
  double all = 0;
  TUTTI_RETURN_IF_ERROR(c.all_reduce(&mine, &all, 1, DType::float64, ReduceOp::max));
  return all;
}

// A text of every rank, on every rank.
Result<std::vector<std::string>> gather(Communicator& c, const std::string& mine) {
  const uint64_t size = mine.size();
  std::vector<uint64_t> sizes(c.ranks());
  TUTTI_RETURN_IF_ERROR(c.all_gather(&size, sizes.data(), 1, DType::uint64));
  const size_t most = *std::max_element(sizes.begin(), sizes.end());
  std::string padded = mine, all(most * c.ranks(), '\0');
  padded.resize(most);
  if (most > 0) TUTTI_RETURN_IF_ERROR(c.all_gather(padded.data(), all.data(), most, DType::uint8));
  std::vector<std::string> texts;
  for (Rank r = 0; r < c.ranks(); ++r) texts.push_back(all.substr(r * most, sizes[r]));
  return texts;
}

PlanRequest request_of(const Placement& placement, const Probe& probe) {
  PlanRequest request;
  request.collective = probe.collective;
  request.ranks = placement.ranks;
  request.hierarchy = placement.hierarchy;
  return request;
}

bool served(const Placement& placement, const Probe& probe) {
  if (probe.algorithm.empty()) return true;
  const Algorithm* algorithm = find_algorithm(probe.algorithm);
  PlanRequest request = request_of(placement, probe);
  if (algorithm == nullptr || !algorithm->supports(request).ok()) return false;
  request.in_place = true;  // the planner asks for both
  return algorithm->supports(request).ok();
}

}  // namespace

Result<Placement> placement_of(Communicator& communicator, const Config& config) {
  Result<std::vector<std::string>> texts =
      gather(communicator, PeerIdentity::of_this_process(config).encode());
  if (!texts) return texts.status();
  std::vector<PeerIdentity> peers;
  for (const std::string& text : *texts) {
    const Result<PeerIdentity> p = PeerIdentity::decode(text);
    if (!p) return p.status();
    peers.push_back(*p);
  }
  PeerTable table(peers);
  const std::vector<Rank> first = table.first_ranks();
  const Rank rank = communicator.rank();
  texts =
      gather(communicator, first[table.host[rank]] == rank
                               ? encode_report(look_at_host(config, {.nics = table.hosts() > 1}))
                               : std::string());
  if (!texts) return texts.status();
  std::vector<Machine> hosts;
  for (Rank r : first) {
    Result<Machine> host = decode_report((*texts)[r]);
    if (!host) return host.status();
    hosts.push_back(std::move(*host));
  }
  TUTTI_RETURN_IF_ERROR(table.add_views(hosts));
  Placement placement = place(table);
  placement.sockets_inside = config.transports == std::vector<std::string>{"tcp"};
  placement.slot_bytes = config.slot_bytes;
  const bool memory = placement.hosts == 1 && !placement.sockets_inside;
  placement.shared = memory && communicator.ranks() > 1 && communicator.ranks() <= 64;
  placement.by_reference = memory && config.process_vm;
  TUTTI_RETURN_IF_ERROR(follow_links(table, &placement));
  return placement;
}

std::string rules_for(const std::string& algorithm, const std::vector<Probe>& probes) {
  std::set<Collective> collectives;
  for (const Probe& p : probes)
    if (p.algorithm == algorithm && !algorithm.empty()) collectives.insert(p.collective);
  std::string rules;
  for (const Collective c : collectives)
    rules += fmt::format("{}{}:0-inf:{}", rules.empty() ? "" : ";", name(c), algorithm);
  return rules;
}

Status measure_probes(Communicator& communicator, const Config& config, const ProbeOptions& options,
                      std::vector<Probe>& probes) {
  const Result<Placement> placement = placement_of(communicator, config);
  if (!placement) return placement.status();
  std::erase_if(probes, [&](const Probe& p) { return !served(*placement, p); });

  // A communicator for each algorithm: rules are settings.
  std::map<std::string, std::unique_ptr<Communicator>> worlds;
  uint64_t most = 0;
  for (const Probe& p : probes) {
    most = std::max(most, p.bytes);
    std::unique_ptr<Communicator>& world = worlds[p.algorithm];
    if (world != nullptr) continue;
    Config own = config;
    own.feedback = "off";
    own.tune = rules_for(p.algorithm, probes);
    Result<std::unique_ptr<Communicator>> made =
        communicator.split(0, static_cast<int>(communicator.rank()), &own);
    if (!made) return made.status();
    world = std::move(*made);
  }

  const size_t room = most * communicator.ranks() + 64;
  std::vector<std::byte> in(room), out(room);
  // The slowest rank's seconds of a call, over `calls` of them after `warm_up` others.
  const auto measure = [&](const Probe& p, uint32_t warm_up, uint32_t calls) -> Result<double> {
    Communicator& world = *worlds[p.algorithm];
    for (uint32_t k = 0; k < warm_up; ++k)
      TUTTI_RETURN_IF_ERROR(call(world, p.collective, in.data(), out.data(), p.bytes / 4));
    // Calls with a root would follow one another like a pipeline: a barrier before each, as in
    // the OSU benchmarks, and only the calls count.
    const bool rooted = p.collective == Collective::broadcast || p.collective == Collective::reduce;
    TUTTI_RETURN_IF_ERROR(communicator.barrier());
    double mine = 0;
    Clock::time_point start = Clock::now();
    for (uint32_t k = 0; k < calls; ++k) {
      if (rooted) {
        TUTTI_RETURN_IF_ERROR(world.barrier());
        start = Clock::now();
      }
      TUTTI_RETURN_IF_ERROR(call(world, p.collective, in.data(), out.data(), p.bytes / 4));
      if (rooted) mine += since(start);
    }
    if (!rooted) mine = since(start);
    return worst(communicator, mine / calls);
  };

  // What a call takes decides how many make a repetition: from the quickest so far, as one slow
  // start must not leave a probe with a single cold call.
  std::vector<double> quickest(probes.size(), std::numeric_limits<double>::infinity());
  std::vector<std::vector<double>> times(probes.size());
  for (uint32_t repetition = 0; repetition < options.repetitions; ++repetition)
    for (size_t i = 0; i < probes.size(); ++i) {
      if (repetition == 0) {
        const Result<double> first = measure(probes[i], 1, 1);
        if (!first) return first.status();
        quickest[i] = *first;
      }
      const bool slow = quickest[i] > k_slow;
      const double calls = std::clamp(options.seconds_each / std::max(quickest[i], 1e-9),
                                      slow ? 1.0 : k_fewest, 1000.0);
      const Result<double> seconds =
          slow && repetition == 0 ? Result<double>(quickest[i])
                                  : measure(probes[i], slow ? 1 : 2, static_cast<uint32_t>(calls));
      if (!seconds) return seconds.status();
      times[i].push_back(*seconds);
      quickest[i] = std::min(quickest[i], *seconds);
    }
  for (size_t i = 0; i < probes.size(); ++i) {
    std::sort(times[i].begin(), times[i].end());
    probes[i].seconds = times[i][times[i].size() / 4];
    probes[i].spread = times[i][times[i].size() / 2] / probes[i].seconds;
  }
  return {};
}

Predicted predict_probe(const Placement& placement, const Profile& profile, const Probe& probe,
                        bool closed_form_too) {
  Predicted p;
  const Algorithm* algorithm = find_algorithm(probe.algorithm);
  if (algorithm == nullptr) return p;
  const PlanRequest request = request_of(placement, probe);
  const Result<double> exact = price_exactly(placement, profile, *algorithm, request, probe.bytes,
                                             DType::float32, ReduceOp::sum);
  if (exact) p.simulated = *exact;
  if (!closed_form_too) return p;
  Predictor predictor(placement, profile);
  const Result<Prediction> closed =
      predictor.predict(*algorithm, request, probe.bytes, DType::float32, ReduceOp::sum);
  if (closed) p.closed = closed->seconds;
  return p;
}

}  // namespace tutti::perf
