// Commands of the tests and what they said.
#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <string>

namespace tutti::nccl_test {

struct Outcome {
  int code = -1;
  std::string text;
};

inline Outcome shell(const std::string& command) {
  Outcome outcome;
  FILE* pipe = ::popen(("{ " + command + " ; } 2>&1").c_str(), "r");
  char buffer[4096];
  while (size_t got = ::fread(buffer, 1, sizeof buffer, pipe)) outcome.text.append(buffer, got);
  const int status = ::pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

inline const std::string k_bin = std::string(TUTTI_BINARY_DIR) + "/bin/";
inline const std::string k_library = std::string(TUTTI_BINARY_DIR) + "/lib/libnccl.so.2";
inline const std::string k_sources = std::string(TUTTI_SOURCE_DIR) + "/tests/nccl/";

}  // namespace tutti::nccl_test
