// Fit: the prices at which the model explains what was measured.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "perf/tune_probes.h"
#include "src/cost/profile.h"

namespace tutti::perf {

// Probes of one world of ranks.
struct ProbeSet {
  Placement placement;
  std::vector<Probe> probes;
};

// One price of the profile that a fit may change.
struct Knob {
  std::string name;
  double least = 0, most = 1;
  std::function<void(Profile&, double)> set;
  std::function<double(const Profile&)> get;
};
std::vector<Knob> memory_knobs();    // messages through shared memory, handover
std::vector<Knob> window_knobs();    // shared windows
std::vector<Knob> loopback_knobs();  // sockets inside a host
std::vector<Knob> network_knobs();   // sockets between hosts

// The profile with curves for what messages cost at their ends (over a network or not), a knot at
// each size, as long as they change nothing; and what bends them: at each knot both ends' costs, by
// a factor. Curves never fall.
Profile with_curves(const Profile& profile, bool network, const std::vector<uint64_t>& sizes);
std::vector<Knob> curve_knobs(const Profile& straight, bool network,
                              const std::vector<uint64_t>& sizes);

// Mean of |ln(predicted / measured)| over all probes: robust, since a probe that was disturbed
// counts no more than by its logarithm. The more a probe's repetitions differ the less it counts.
double misfit(const Profile& profile, const std::vector<ProbeSet>& sets);
// Coordinate descent in the logarithms of the knobs, from `start`; it ends where no knob helps.
Profile fit(const Profile& start, const std::vector<Knob>& knobs,
            const std::vector<ProbeSet>& sets);
// With curves where they explain the probes better by a twentieth at least; else as it was.
Profile fit_curves(const Profile& start, bool network, const std::vector<ProbeSet>& sets);

// The profile with corrections for everything that was measured in that world, and none of older
// ones for it: its predictions there are then what was measured.
Profile corrected(const Profile& profile, const ProbeSet& measured);

}  // namespace tutti::perf
