// `tutti perf` and the nccl-tests-style binaries.
#pragma once

#include <optional>

#include "perf/measure.h"

namespace tutti::perf {

// `fixed`: the collective of a nccl-tests-named binary; none: --collective says it.
// Exit codes: 0, 1 (wrong values or below NCCL_TESTS_MIN_BW), 2 (command line), 3 (could not run).
int perf_main(int argc, char** argv, std::optional<Collective> fixed);

// Median of each figure over sweeps that measured the same points.
std::vector<Point> median_points(const std::vector<std::vector<Point>>& sweeps);

}  // namespace tutti::perf

int perf_command(int argc, char** argv);
