// Log: what a communicator tells its user, when asked to (TUTTI_DEBUG). Each communicator has its
// own; there is no global one. A line is one write(), so that processes may share a file:
//
//   node7:4182:rank 3 [info] joined: 8 ranks on 2 hosts, shm+tcp
#pragma once

#include <string>
#include <string_view>

#include "src/base/fd.h"
#include "tutti/status.h"
#include "tutti/types.h"

namespace tutti {

enum class LogLevel : unsigned char { quiet, warn, info, trace };

// The path that a pattern of NCCL_DEBUG_FILE means: %h is the host, %p the process, %% a percent
// sign.
std::string log_path(const std::string& pattern);

// "WARN", "INFO", "TRACE" or "" (quiet).
Result<LogLevel> parse_log_level(std::string_view text);

class Log {
 public:
  Log() = default;  // quiet
  // `file`: empty or "stderr", "stdout", else a path to append to, in which %h stands for the host
  // and %p for the process, as in NCCL_DEBUG_FILE. Errors: system_error naming the path.
  static Result<Log> open(LogLevel level, const std::string& file, Rank rank);

  bool on(LogLevel level) const { return level <= level_; }
  // Callers that compose a text ask on() first.
  void write(LogLevel level, std::string_view text) const;

 private:
  LogLevel level_ = LogLevel::quiet;
  int fd_ = -1;
  Fd owned_;
  std::string prefix_;
};

}  // namespace tutti
