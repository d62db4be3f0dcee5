// `tutti perf --peers`: tutti and its peers in turns, and the table of ratios.
#pragma once

#include "perf/options.h"

namespace tutti::perf {

// Exit code: 0, 1 when tutti gave wrong values, 3 when it could not run.
int peers_main(const PerfOptions& options);

}  // namespace tutti::perf
