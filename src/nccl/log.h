// The log that NCCL_DEBUG asks for; silent without it. Lines look like NCCL's, to standard output
// or to NCCL_DEBUG_FILE (%h: host, %p: process):  host:pid:tid [0] NCCL WARN text
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tutti::nccl {

enum class LogLevel : uint8_t { none, version, warn, info, trace };

// Parts of the library that NCCL_DEBUG_SUBSYS names. Warnings belong to none and are always shown.
enum class Subsystem : uint32_t {
  none = 0,
  init = 1,
  coll = 2,
  p2p = 4,
  env = 8,
  reg = 16,
  call = 32,
};

// Whether a line would be written: ask before building an expensive one.
bool logs(LogLevel level, Subsystem subsystem);
void log_line(LogLevel level, Subsystem subsystem, std::string_view text);
// Reads the settings again (ncclResetDebugInit).
void reset_log();

}  // namespace tutti::nccl
