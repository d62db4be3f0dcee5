// Where this process stands: rank, size and rendezvous as its launcher has told it, and the
// settings that its user has. The environment is read once, in config.cc, and handed around as a
// value, so that everything here can be tested with made-up environments.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tutti/config.h"
#include "tutti/types.h"
#include "tutti/unique_id.h"

namespace tutti {

using Variables = std::map<std::string, std::string>;

// The environment of this process, and NCCL_* from NCCL's files where they are not set: the one
// that NCCL_CONF_FILE names or ~/.nccl.conf, then /etc/nccl.conf (config.cc).
Variables read_environment();
// Config::from_environment() on given variables.
Result<Config> config_from(const Variables& variables);
// "TUTTI_SOKET_IFNAME is not a setting; did you mean TUTTI_SOCKET_IFNAME?", one sentence for each
// TUTTI_* variable that nothing reads.
std::vector<std::string> unknown_variables(const Variables& variables);
// Where the profile is looked for when nothing names one; empty where there is no home.
std::string default_profile_path();

// NCCL_ALGO ("Ring", "Tree", "allreduce:tree;broadcast:ring") and NCCL_PROTO ("Simple",
// "^LL,LL128", "allreduce:LL"; of devices) as a Config::tune. Algorithms that tutti does not have,
// and exclusions
// (^) of algorithms, leave the choice to the planner.
std::string tune_from_nccl(const std::string& algorithms, const std::string& protocols);

struct LaunchInfo {
  Rank rank = 0;
  uint32_t ranks = 1;
  uint32_t local_rank = 0;        // among the ranks of this host, as the launcher counts them
  uint32_t local_ranks = 1;       // 0: the launcher does not say
  std::string launcher = "none";  // "tutti run", "PMI", "Open MPI", "torchrun", "Slurm", "none"
  // The secret could be guessed by others who know the job's number: set TUTTI_SECRET_FILE.
  bool weak_secret = false;
  UniqueId id;
};

// Finds out who started this process. The first that applies:
//
//   tutti run   TUTTI_RANK TUTTI_SIZE, and the id: TUTTI_ID_FD (an inherited descriptor), TUTTI_ID
//               (256 hex digits) or TUTTI_ROOT with a secret
//   PMI         PMI_RANK PMI_SIZE PMI_FD (MPICH's hydra, Slurm's pmi2): the id travels through the
//               process manager's key-value space
//   Open MPI    OMPI_COMM_WORLD_RANK and _SIZE: on one host, rank 0 hands the id over on an
//   abstract
//               Unix socket that only the same user is served on; across hosts set TUTTI_ROOT
//   torchrun    RANK WORLD_SIZE MASTER_ADDR MASTER_PORT: rank 0 listens on MASTER_PORT + 1, or on
//               TUTTI_PORT
//   Slurm       SLURM_PROCID SLURM_STEP_ID SLURM_STEP_NUM_TASKS: rank 0 listens on the first node,
//   on
//               a port made from job and step
//
// TUTTI_ROOT=address:port overrides the rendezvous of any launcher: rank 0 listens there. A secret
// comes from TUTTI_SECRET_FILE (mode 0600, own user) or TUTTI_SECRET. Where there is none,
// torchrun's and Slurm's jobs derive one from the job's names: it keeps jobs apart, not attackers
// out (weak_secret).
//
// May block for the exchange of the id, config.init_timeout at most. Errors: invalid_argument that
// names the variable that is missing or bad.
Result<LaunchInfo> detect_launch(const Variables& variables, const Config& config);
// On the environment of this process (config.cc).
Result<LaunchInfo> launch_from_environment();

}  // namespace tutti
