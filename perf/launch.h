// Starts the ranks of a measurement: processes of this program, threads, or what a launcher
// started.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tutti/communicator.h"

namespace tutti::perf {

struct LaunchOptions {
  uint32_t ranks = 0;         // start this many processes (or threads); 0: a launcher did
  bool threads_mode = false;  // `ranks` counts threads of this process
  uint32_t threads = 1;       // ranks in each process
};

// Called once per rank, each in a thread of its own; what it returns becomes the exit code (the
// first that is not 0).
using RankBody = std::function<int(std::unique_ptr<Communicator>)>;

// Runs `body` on every rank that this process, or its children, hold. Forks before it touches the
// library. Failures to start are printed to stderr and give 3.
int launch(const LaunchOptions& options, const RankBody& body);

// True when the environment of a launcher says that this process is not rank 0.
bool launched_as_other_rank();
// "tutti run", "torchrun" ...: which launcher's variables are set; empty for none.
std::string launcher_name();

}  // namespace tutti::perf
