// Ways for rank 0 to hand the unique id to the other ranks of a job that some launcher started.
#pragma once

#include <string>

#include "src/base/socket.h"
#include "tutti/types.h"
#include "tutti/unique_id.h"

namespace tutti {

// A client of the PMI-1 wire protocol (MPICH's hydra, Slurm's pmi2 plugin): key=value lines on the
// descriptor PMI_FD that only this process and its process manager hold.
class PmiClient {
 public:
  PmiClient(int fd, SocketDeadline deadline) : fd_(fd), deadline_(deadline) {}

  Status init();  // negotiates version 1.1 and asks for the name of the key-value space
  Status put(const std::string& key, const std::string& value);
  Result<std::string> get(const std::string& key);
  Status barrier();
  // hydra takes a process that was greeted and exits without this for a crash, and kills the
  // others; after it the descriptor is dead. So the exchange works once per process.
  Status finalize();

 private:
  // Sends one line and reads the answer, which must be of `command` and, if it has an rc, of rc=0.
  Result<std::string> ask(const std::string& line, const std::string& command);
  Result<std::string> read_line();

  int fd_;
  SocketDeadline deadline_;
  std::string space_;
  std::string pending_;
};

// Rank 0 gives `mine`, everybody else's `mine` is ignored; all get rank 0's. Collective.
Result<UniqueId> exchange_by_pmi(int fd, Rank rank, const UniqueId& mine, SocketDeadline deadline);

// The same among ranks of one host and one user: rank 0 serves the others on an abstract Unix
// socket called after `job`. Each end checks that the other runs under its own user id.
Result<UniqueId> exchange_by_socket(const std::string& job, Rank rank, uint32_t ranks,
                                    const UniqueId& mine, SocketDeadline deadline);

}  // namespace tutti
