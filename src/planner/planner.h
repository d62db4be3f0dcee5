// Planner: which algorithm serves a call, and its plan. A pure function of what all ranks share
// (placement, profile, configuration, the call, what was learnt), so that all ranks pick the same
// plan without talking.
//
// Whose word counts: a rule of Config::tune; then what was learnt from measurements; then, for an
// all_reduce whose profile is only assumed, a table of what was fastest where it was measured; then
// the tuner's prices (tuner.h), per power of two of the block's bytes. Under Config::deterministic
// one row of the table decides alone, so that neither prices nor sizes change the order of
// operands. Plans and choices are cached by shape.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "src/algorithms/algorithms.h"
#include "src/plan/plan.h"
#include "src/planner/placement.h"
#include "src/planner/tuner.h"
#include "tutti/status.h"

namespace tutti {

// How plans on devices move messages (src/cuda/program.h): data with a flag in every word, or slots
// with one flag.
enum class WireProtocol : uint8_t { packets, slots };
std::string_view name(WireProtocol protocol);

// One line of Config::tune: "all_reduce:0-64K:ring;64K-inf:hierarchical_scatter@8". "ring/packets"
// and "auto/slots" say how devices move messages as well; calls on host buffers pass over "auto".
struct TuneRule {
  Collective collective = Collective::all_reduce;
  uint64_t from = 0;         // bytes of a block, inclusive
  uint64_t to = UINT64_MAX;  // exclusive
  std::string algorithm;
  uint32_t chunks = 0;                   // "@8": chunks of the block; 0: the planner's choice
  std::optional<WireProtocol> protocol;  // of devices

  bool chooses() const { return algorithm != "auto"; }
  bool applies(Collective c, uint64_t bytes) const {
    return c == collective && bytes >= from && bytes < to;
  }
};

// Errors: invalid_argument naming the position and what was expected, or the unknown algorithm.
Result<std::vector<TuneRule>> parse_tune(std::string_view text);

// What runs a call.
struct Choice {
  std::string algorithm;
  uint32_t chunks = 0;
  uint32_t mapping = 0;  // Candidate::mapping

  bool hierarchical() const { return algorithm.starts_with("hierarchical"); }
  bool along_links() const { return mapping == 1 && !hierarchical(); }
  bool operator==(const Choice&) const = default;
};

// Calls that share a choice: bytes up to the next power of two. Where nothing is reduced the type
// and operator are those of a default ShapeClass.
struct ShapeClass {
  Collective collective = Collective::all_reduce;
  uint64_t bytes = 0;  // of a block, rounded up
  DType dtype = DType::float32;
  ReduceOp op = ReduceOp::sum;

  static ShapeClass of(Collective collective, uint64_t bytes, DType dtype, ReduceOp op);
  auto operator<=>(const ShapeClass&) const = default;
};

class Planner {
 public:
  Planner(Placement placement, Profile profile, std::vector<TuneRule> rules, bool deterministic)
      : placement_(std::move(placement)),
        profile_(std::move(profile)),
        rules_(std::move(rules)),
        deterministic_(deterministic),
        assumed_(profile_ == builtin_profile()) {}

  struct Call {
    Collective collective = Collective::all_reduce;
    uint64_t bytes = 0;  // of a block
    Rank root = 0;
    DType dtype = DType::float32;
    ReduceOp op = ReduceOp::sum;
  };

  const Placement& placement() const { return placement_; }
  const Profile& profile() const { return profile_; }
  const std::vector<TuneRule>& rules() const { return rules_; }
  bool deterministic() const { return deterministic_; }
  // Errors: unsupported when no algorithm serves the call, or when the rule that applies names one
  // that cannot (with its reason).
  Result<Choice> choose(const Call& call);
  Result<PlanPtr> plan(const Call& call, bool in_place);
  Result<PlanPtr> plan(const Call& call, const Choice& choice, bool in_place);

  // Choices whose prices are too close to the best one's to trust, that one first; fewer than two
  // where a rule, the table or what was learnt has decided.
  std::vector<Choice> contenders(const Call& call);
  // From now on `choice` serves the class; it is dropped where it cannot. Equal on all ranks.
  void learn(const ShapeClass& shape, const Choice& choice) { learnt_[shape] = choice; }
  const std::map<ShapeClass, Choice>& learnt() const { return learnt_; }

  // Seconds that the call would take, by the price of what would serve it.
  Result<double> estimate(const Call& call);
  // The candidates with their prices, which one serves the call, and why.
  Result<std::string> explain(const Call& call);

 private:
  const TuneRule* rule_for(const Call& call) const;
  PlanRequest request(const Call& call, bool in_place, const Choice& choice) const;
  Status supports(const Call& call, const Choice& choice) const;
  Choice on_links(Choice choice, const Call& call) const;
  uint32_t mapping_of_hosts() const;
  Result<PlanPtr> make(const Call& call, const Choice& choice, bool in_place) const;
  Result<Choice> from_table(const Call& call) const;
  bool in_measured_table(const Call& call) const;
  // Cached by class.
  Result<const std::vector<Priced>*> prices(const Call& call);
  bool serves(const Call& call, const Priced& p) const;

  Placement placement_;
  Profile profile_;
  std::vector<TuneRule> rules_;
  bool deterministic_;
  bool assumed_;  // nobody has measured this machine
  std::map<ShapeClass, std::vector<Priced>> prices_;
  std::map<ShapeClass, Choice> learnt_;
  std::map<std::tuple<Collective, std::string, uint32_t, uint32_t, Rank, bool>, PlanPtr> plans_;
};

}  // namespace tutti
