// Which plan runs a collective between devices, and how it moves messages.
//
// Whose word counts: a rule of Config::tune; deterministic runs, which take the same for all sizes;
// where ranks share a device, the fewest launches (src/cuda/ranges.h); where it is known what lies
// between the devices, or they are on several hosts, the tuner's prices
// (src/planner/device_choice.h); else the size alone:
// everyone reaches everyone, so nothing is forwarded. A pure function of what all ranks share.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "src/cuda/build.h"
#include "src/planner/device_choice.h"
#include "tutti/status.h"
#include "tutti/types.h"

namespace tutti {

// What ranks with devices know alike.
struct DeviceWorld {
  uint32_t ranks = 1;
  std::shared_ptr<const Topology>
      topology;                            // rank r of it is the device of rank r; null: not known
  std::shared_ptr<const Placement> hosts;  // who is on which; null: all on one
  uint32_t turns = 1;  // ranks on the device that most of them share; 1: each has its own
  cuda::WindowShape window;
  uint32_t blocks = 1;  // of a launch, at most
};

class DevicePlanner {
 public:
  DevicePlanner(DeviceWorld world, Profile profile, std::vector<TuneRule> rules,
                bool deterministic);

  struct Call {
    Collective collective = Collective::all_reduce;
    uint64_t count = 0;  // elements of a block
    DType dtype = DType::float32;
    ReduceOp op = ReduceOp::sum;
    Rank root = 0;
    bool in_place =
        false;  // this rank's own matter: its peers exchange the same messages either way
    uint64_t bytes() const { return count * size_of(dtype); }
  };
  struct Chosen {
    PlanPtr plan;
    std::optional<cuda::Wire> wire;  // none: packets while one round holds the call, then slots
    // The buffers differ, but the plan is for one: the input is to be copied to the output.
    bool copy_first = false;
  };
  // Errors: unsupported: a rule's algorithm that devices cannot run (with its reason), or nothing
  // serves.
  Result<Chosen> choose(const Call& call);
  // What was considered, and why it is this.
  Result<std::string> explain(const Call& call);

 private:
  struct Decision {
    Choice choice;
    std::optional<cuda::Wire> wire;
    std::string why;
  };
  struct Form {
    bool in_place, copy_first;
  };
  using Class = std::tuple<Collective, uint64_t, DType, ReduceOp>;  // bytes rounded up
  using Key = std::tuple<Collective, uint64_t, DType, ReduceOp, Rank, bool>;

  // Whether plans have prices: the links are known or were measured, and all devices run at once.
  bool has_prices() const {
    return world_.turns == 1 && (world_.topology != nullptr || world_.hosts != nullptr ||
                                 profile_.device.peer_byte.has_value());
  }
  const TuneRule* rule_for(const Call& call) const;
  Result<Decision> decide(const Call& call);
  std::optional<Decision> for_class(const Call& call, std::optional<cuda::Wire> wire);
  Result<Decision> by_rule(const Call& call, const TuneRule& rule);
  Decision by_size(const Call& call, std::optional<cuda::Wire> wire) const;
  std::optional<Decision> by_launches(const Call& call, std::optional<cuda::Wire> wire);
  std::optional<Decision> by_price(const Call& call, std::optional<cuda::Wire> wire);
  Result<std::vector<DeviceCandidate>> candidates(const Call& call,
                                                  std::optional<cuda::Wire> wire) const;
  static Result<Form> form(const Choice& choice, const Call& call, uint32_t ranks);
  Result<PlanPtr> plan(const Choice& choice, const Call& call, bool in_place);
  // Whether windows and launches serve the choice on every rank.
  Status serves(const Choice& choice, const Call& call, std::optional<cuda::Wire> wire);
  bool in_shots(const Decision& decision, const Call& call);
  double launches_seconds(const PlanPtr& plan, const cuda::DeviceCut& cut, const Call& call) const;

  DeviceWorld world_;
  Profile profile_;
  std::vector<TuneRule> rules_;
  bool deterministic_;
  Planner plans_;  // makes plans, also along links
  std::map<Class, std::optional<Decision>> decided_;
  std::map<Key, Chosen> chosen_;
  std::map<const Plan*, std::pair<PlanPtr, Status>> buildable_;
};

}  // namespace tutti
