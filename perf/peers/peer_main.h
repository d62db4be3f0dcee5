// main() of the peers' programs: tutti's own loop, data check and numbers over another library.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "perf/harness.h"

namespace CLI {
class App;
}

namespace tutti::perf {

struct PeerOptions {
  std::string configuration;  // label in the results
  std::string json_lines_file;
};

// Parses nccl-tests' sweep flags (and what `more` adds), makes the harness, runs the sweep and, on
// rank 0, appends a JSON line per point. Exit codes as perf_main.
int peer_main(int argc, char** argv, const std::string& library,
              const std::function<void(CLI::App&)>& more,
              const std::function<std::unique_ptr<Harness>()>& make);

}  // namespace tutti::perf
