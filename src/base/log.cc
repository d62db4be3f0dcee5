#include "src/base/log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace tutti {
namespace {

std::string host_name() {
  char name[256] = "?";
  gethostname(name, sizeof(name) - 1);
  return name;
}

}  // namespace

std::string log_path(const std::string& pattern) {
  std::string path;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char next = pattern[i] == '%' && i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (next == 'h') {
      path += host_name();
    } else if (next == 'p') {
      path += std::to_string(getpid());
    } else if (next == '%') {
      path += '%';
    } else {
      path += pattern[i];
      continue;
    }
    ++i;
  }
  return path;
}

Result<LogLevel> parse_log_level(std::string_view text) {
  if (text.empty()) return LogLevel::quiet;
  if (text == "WARN") return LogLevel::warn;
  if (text == "INFO") return LogLevel::info;
  if (text == "TRACE") return LogLevel::trace;
  return Status(Code::invalid_argument,
                fmt::format("\"{}\" is no log level: WARN, INFO or TRACE", text));
}

Result<Log> Log::open(LogLevel level, const std::string& file, Rank rank) {
  Log log;
  if (level == LogLevel::quiet) return log;
  if (file.empty() || file == "stderr") {
    log.fd_ = STDERR_FILENO;
  } else if (file == "stdout") {
    log.fd_ = STDOUT_FILENO;
  } else {
    const std::string path = log_path(file);
    log.owned_ = Fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    log.fd_ = log.owned_.get();
    if (log.fd_ < 0)
      return Status(Code::system_error,
                    fmt::format("cannot log to {}: {}", path, std::strerror(errno)));
  }
  log.level_ = level;
  log.prefix_ = fmt::format("{}:{}:rank {} ", host_name(), getpid(), rank);
  return log;
}

void Log::write(LogLevel level, std::string_view text) const {
  if (!on(level) || level == LogLevel::quiet) return;
  const char* tag = level == LogLevel::warn ? "warn" : level == LogLevel::info ? "info" : "trace";
  const std::string line = fmt::format("{}[{}] {}\n", prefix_, tag, text);
  // A log that cannot be written must not stop the work.
  [[maybe_unused]] const ssize_t written = ::write(fd_, line.data(), line.size());
}

}  // namespace tutti
