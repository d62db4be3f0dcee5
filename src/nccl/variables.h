// The NCCL_* variables: which of them mean something here, and what is said about the others.
// docs/nccl.md shows this table, and a test holds the two together.
#pragma once

#include <span>
#include <string>

namespace tutti::nccl {

struct Variable {
  const char* name;
  bool honoured;
  const char* what;  // what it does here, or why it does nothing
};

std::span<const Variable> variables();
// Null for a name that is not in the table.
const Variable* find_variable(const std::string& name);

// Once per process: tells the log which NCCL_* and TUTTI_* variables are set, honoured or ignored.
void report_variables();

// NCCL_MULTI_RANK_GPU_ENABLE=1 or TUTTI_MULTI_RANK_GPU=1.
bool several_ranks_per_device();

}  // namespace tutti::nccl
