// What must hold for whatever topology could be built from a fuzzer's bytes.
#pragma once

#include <cstdlib>
#include <vector>

#include "topology/topology.h"

namespace tutti {

inline void walk(const Result<Topology>& topology) {
  if (!topology) return;
  Routes routes(*topology);
  std::vector<LinkId> links;
  if (!routes.find(0, topology->ranks() - 1, &links)) std::abort();
  (void)topology->groups();
}

}  // namespace tutti
