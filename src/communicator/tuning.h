// Tuning: the profile and what was learnt, from rank 0's files to all ranks. Every rank looks at
// its own profile, so that differences can be named, but rank 0's counts for all: ranks never plan
// with different prices. docs/simulator.md has the rules.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/planner/placement.h"
#include "tutti/config.h"
#include "tutti/status.h"
#include "tutti/types.h"

namespace tutti {

struct Tuning {
  Status error;         // of reading it; rank 0's is every rank's
  std::string profile;  // JSON; empty: the built-in one
  std::string learnt;   // sections by levels_of() (src/planner/feedback.h)
  std::string ignored;  // what of the profile is not used, and why: it is from another machine
  bool feedback = false;
  uint64_t digest = 0;  // of the profile; 0: none

  // `placement`: hosts and ranks, as far as they are known before ranks have told of themselves.
  static Tuning of_this_rank(const Config& config, Rank rank, const Placement& placement);
  // Rank 0's is everything, the others' are hashes.
  std::string encode(Rank rank) const;
  static Result<Tuning> decode(const std::string& text);
  // What rank 0 has to warn about, given what all ranks have encoded.
  std::vector<std::string> complaints(const std::vector<std::string>& all, Rank rank) const;
};

// What distinguishes placements in the file: machine, ranks, hosts, transports ...
std::string tuning_section(const Placement& placement, const Config& config);
// ... and the levels of the hierarchy, which what was learnt speaks of by number and which are not
// known yet when rank 0 reads the file. Empty where hosts are the only ones.
std::string levels_of(const Placement& placement);
// "FILE.learnt"
std::string learnt_file(const Config& config);
// Replaces the section of the file, so that readers see the old file or the new one.
Status write_learnt(const std::string& file, const std::string& section, const std::string& lines);

}  // namespace tutti
