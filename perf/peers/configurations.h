// What `tutti perf --peers` compares: tutti with both kinds of buffers, and every way that Open
// MPI, MPICH and Gloo can be set up here.
#pragma once

#include <string>
#include <vector>

#include "perf/options.h"

namespace tutti::perf {

struct Configuration {
  std::string library;               // tutti, openmpi, mpich, gloo
  std::string label;                 // private, mem_alloc, default, ring, ...
  std::vector<std::string> command;  // lacks the sweep's flags and --json-lines
};

// Those that are built and whose launcher is installed; what is missing is named in *missing.
std::vector<Configuration> available_configurations(const std::string& transport, uint32_t ranks,
                                                    Collective collective,
                                                    std::vector<std::string>* missing);

}  // namespace tutti::perf
