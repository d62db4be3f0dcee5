// Probes: collectives by forced algorithms, measured through a communicator, and what the cost
// model says about them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/planner/placement.h"
#include "tutti/communicator.h"
#include "tutti/types.h"

namespace tutti::perf {

struct Probe {
  Collective collective = Collective::all_reduce;
  std::string algorithm;  // empty: the planner's choice
  uint64_t bytes = 0;     // of a block
  // Measured: the lower quartile over repetitions of the slowest rank's mean. What disturbs a call
  // only makes it longer.
  double seconds = 0;
  double spread = 1;  // the median over the lower quartile: how much was disturbed

  bool same_call(const Probe& other) const {
    return collective == other.collective && algorithm == other.algorithm && bytes == other.bytes;
  }
};

struct ProbeOptions {
  uint32_t repetitions = 3;
  double seconds_each = 0.008;  // of one repetition of one probe
};

// The placement that the communicator's planner has, as far as it can be seen from outside: hosts,
// sockets and NUMA nodes, NICs and switches as ranks tell them at init. Collective over all ranks.
Result<Placement> placement_of(Communicator& communicator, const Config& config);

// What Config::tune says so that `algorithm` serves every collective that it is probed with.
std::string rules_for(const std::string& algorithm, const std::vector<Probe>& probes);

// Fills `seconds` of every probe, the same on all ranks; probes that nothing serves are removed.
// Repetitions are interleaved, so that a disturbance meets all probes. Collective over all ranks.
Status measure_probes(Communicator& communicator, const Config& config, const ProbeOptions& options,
                      std::vector<Probe>& probes);

// What the model says; negative where it has no answer.
struct Predicted {
  double closed = -1, simulated = -1;
};
Predicted predict_probe(const Placement& placement, const Profile& profile, const Probe& probe,
                        bool closed_form_too = true);

}  // namespace tutti::perf
