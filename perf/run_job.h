// The part of a job that one host runs: what `tutti run` and its agents on other hosts share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tutti/status.h"
#include "tutti/unique_id.h"

namespace tutti::run {

struct Job {
  uint32_t ranks = 0;       // of the whole job
  uint32_t first_rank = 0;  // here: first_rank .. first_rank + local_ranks - 1
  uint32_t local_ranks = 0;
  bool label = false;                    // "[3] " before every line of output
  bool bind = false;                     // each rank on its share of the CPUs
  std::string interface;                 // where the root listens, NCCL_SOCKET_IFNAME syntax
  std::string id;                        // hexadecimal; empty: make one and tell it
  std::string directory;                 // of the ranks; empty: as it is
  std::vector<std::string> environment;  // NAME=VALUE
  std::vector<std::string> command;
};

// A Job as bytes for an agent's standard input, with its length in front; and from there.
std::string encode_job(const Job& job);
Result<Job> decode_job(const std::string& bytes);
Result<Job> read_job(int fd);

// Starts the ranks and stays until they have ended. `lifeline`: a descriptor whose end of file
// means that whoever wanted this is gone (-1: none). Returns the exit code of the first that
// failed.
int run_job(const Job& job, const UniqueId& id, int lifeline);

}  // namespace tutti::run
