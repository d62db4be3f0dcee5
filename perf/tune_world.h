// Worlds of ranks that `tutti tune` measures: processes that it starts on this host.
#pragma once

#include <cstdint>
#include <vector>

#include "perf/tune_fit.h"
#include "perf/tune_probes.h"
#include "src/planner/placement.h"
#include "tutti/status.h"

namespace tutti::perf {

// The placement that so many ranks on this host have; `tcp`: they talk through sockets.
Placement local_placement(uint32_t ranks, bool tcp);

// Measures the probes that something serves on `ranks` processes of this host, which are started
// several times, with a share of the repetitions each; the median of the launches counts. Errors:
// system_error with the exit code of the ranks, which have told why; invalid_argument when there
// are too many.
Result<ProbeSet> measure_here(uint32_t ranks, bool tcp, const std::vector<Probe>& wanted,
                              const ProbeOptions& options);

}  // namespace tutti::perf
