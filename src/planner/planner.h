// Planner: which algorithm serves a call, and its plan. A pure function of what all ranks share
// (placement, configuration, the call), so that all ranks pick the same plan without talking.
//
// Until the cost model decides, the choice is a short table of preferences per collective, size and
// placement (planner.cc), overridable by Config::tune. Plans are cached by shape.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "src/algorithms/algorithms.h"
#include "src/plan/plan.h"
#include "tutti/status.h"

namespace tutti {

// Where the ranks are, as all of them know it.
struct Placement {
  uint32_t ranks = 1;
  uint32_t hosts = 1;
  bool shared = false;  // one host, and every rank reaches every other through shared windows
  Hierarchy hierarchy;  // hosts as groups; empty when flat (one rank per host, or one host)
};

// One line of Config::tune: "all_reduce:0-64K:ring;64K-inf:hierarchical_scatter@8".
struct TuneRule {
  Collective collective = Collective::all_reduce;
  uint64_t from = 0;         // bytes of a block, inclusive
  uint64_t to = UINT64_MAX;  // exclusive
  std::string algorithm;
  uint32_t chunks = 0;  // "@8": chunks of the block; 0: the planner's choice
};

// Errors: invalid_argument naming the position and what was expected, or the unknown algorithm.
Result<std::vector<TuneRule>> parse_tune(std::string_view text);

class Planner {
 public:
  Planner(Placement placement, std::vector<TuneRule> rules, bool deterministic)
      : placement_(std::move(placement)), rules_(std::move(rules)), deterministic_(deterministic) {}

  const Placement& placement() const { return placement_; }
  // `bytes` of a block. Errors: unsupported when no algorithm serves the call, or when the rule
  // that applies names one that cannot (with its reason).
  Result<PlanPtr> plan(Collective collective, uint64_t bytes, Rank root, bool in_place);

 private:
  struct Choice {
    std::string algorithm;
    uint32_t chunks = 0;
  };
  PlanRequest request(Collective collective, Rank root, bool in_place) const;
  Status supports(const Algorithm& algorithm, Collective collective, Rank root) const;
  Result<Choice> choose(Collective collective, uint64_t bytes, Rank root) const;

  Placement placement_;
  std::vector<TuneRule> rules_;
  bool deterministic_;
  std::map<std::tuple<Collective, std::string, uint32_t, Rank, bool>, PlanPtr> cache_;
};

}  // namespace tutti
