// What this machine allows, measured beside the collectives: copy bandwidth by size with all cores,
// one-way latency of a flag between two threads, and a TCP connection over loopback.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tutti/types.h"

namespace tutti::perf {

struct Ceilings {
  unsigned cores = 1;
  double flag_us = 0;  // one way
  double tcp_us = 0;   // one way
  double tcp_gbps = 0;
  std::vector<std::pair<size_t, double>> copy_gbps;  // (bytes of the buffer, GB/s), ascending

  // The least time of a collective whose nominal size is `bytes`: a latency, or the time to read
  // every input and write every output once at copy bandwidth (memory) or to move what must cross
  // connections (tcp), whichever is longer. 0 for one rank or nothing measured.
  double least_us(Collective collective, size_t bytes, uint32_t ranks, bool tcp) const;
  std::vector<std::string> lines() const;
};

// Takes about 20 ms per size plus 0.2 s. Empty figures where the machine refuses.
Ceilings measure_ceilings(const std::vector<size_t>& sizes);

// CPUs this process may run on.
unsigned allowed_cores();

}  // namespace tutti::perf
