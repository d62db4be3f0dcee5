// Held to reality: tables of what was predicted beside what was measured, and of the planner's
// choices beside the fastest.
#pragma once

#include <string>
#include <vector>

#include "perf/tune_fit.h"
#include "perf/tune_probes.h"
#include "src/cost/profile.h"

namespace tutti::perf {

// Every algorithm of the collectives with a choice, at each size. Blocks that a rank has from
// every other are left out where all of them together would be larger than k_most_together.
constexpr uint64_t k_most_together = 16 << 20;
std::vector<Probe> every_algorithm(const std::vector<uint64_t>& sizes, uint32_t ranks);

// Prints measured and predicted seconds of every probe, and the median error.
void print_predictions(const std::string& what, const ProbeSet& set, const Profile& profile);

// Of every collective and size, the few fastest algorithms of `measured` and the planner's own
// choice (an empty name), to be measured beside each other. A single candidate is no contest.
std::vector<Probe> contests(const std::vector<Probe>& measured);

// Prints each contest, and in how many the planner's choice is within 15 % of the fastest. A choice
// that is one of the algorithms as it stands was measured twice and counts by the mean.
void print_choices(const ProbeSet& contested, const Profile& profile);

}  // namespace tutti::perf
