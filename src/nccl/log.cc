#include "src/nccl/log.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <mutex>

#include "src/base/log.h"
#include "src/communicator/environment.h"

namespace tutti::nccl {
namespace {

struct Settings {
  std::atomic<LogLevel> level{LogLevel::none};
  std::atomic<uint32_t> subsystems{0};
  std::mutex mutex;  // guards what follows, and keeps lines whole
  int fd = STDOUT_FILENO;
  bool own_fd = false;
  std::string host;
};

std::string upper(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return result;
}

LogLevel level_of(const std::string& text) {
  const std::string level = upper(text);
  if (level == "VERSION") return LogLevel::version;
  if (level == "WARN" || level == "ABORT") return LogLevel::warn;
  if (level == "INFO") return LogLevel::info;
  if (level == "TRACE") return LogLevel::trace;
  return LogLevel::none;
}

uint32_t bits_of(const std::string& name) {
  const std::pair<const char*, Subsystem> names[] = {
      {"INIT", Subsystem::init}, {"COLL", Subsystem::coll}, {"P2P", Subsystem::p2p},
      {"ENV", Subsystem::env},   {"REG", Subsystem::reg},   {"CALL", Subsystem::call}};
  for (const auto& [known, bit] : names)
    if (name == known) return static_cast<uint32_t>(bit);
  return name == "ALL" ? ~uint32_t{0} : 0;  // subsystems that only NCCL has
}

// "INIT,COLL", or "^COLL" for all others. NCCL's default is INIT,BOOTSTRAP,ENV.
uint32_t subsystems_of(std::string text) {
  if (text.empty()) return static_cast<uint32_t>(Subsystem::init) | bits_of("ENV");
  const bool inverted = text[0] == '^';
  if (inverted) text.erase(0, 1);
  uint32_t bits = 0;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    bits |= bits_of(upper(text.substr(at, comma - at)));
    at = comma + 1;
  }
  return inverted ? ~bits : bits;
}

void read_settings(Settings* settings) {
  const Variables variables = read_environment();
  auto value = [&](std::initializer_list<const char*> names) {
    for (const char* name : names)
      if (auto found = variables.find(name); found != variables.end()) return found->second;
    return std::string();
  };
  std::lock_guard lock(settings->mutex);
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  settings->host = std::string(host).substr(0, std::string_view(host).find('.'));
  if (settings->own_fd) ::close(settings->fd);
  settings->own_fd = false;
  settings->fd = STDOUT_FILENO;
  const LogLevel level = level_of(value({"TUTTI_DEBUG", "NCCL_DEBUG"}));
  const std::string pattern = value({"TUTTI_DEBUG_FILE", "NCCL_DEBUG_FILE"});
  if (level != LogLevel::none && !pattern.empty()) {
    const int fd =
        ::open(log_path(pattern).c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    settings->own_fd = fd >= 0;
    if (fd >= 0) settings->fd = fd;
  }
  settings->subsystems.store(subsystems_of(value({"NCCL_DEBUG_SUBSYS"})));
  settings->level.store(level);
}

Settings& settings() {
  static Settings* instance = [] {
    auto* made = new Settings;
    read_settings(made);
    return made;
  }();
  return *instance;
}

}  // namespace

bool logs(LogLevel level, Subsystem subsystem) {
  Settings& s = settings();
  if (level > s.level.load(std::memory_order_relaxed)) return false;
  return subsystem == Subsystem::none ||
         (s.subsystems.load(std::memory_order_relaxed) & static_cast<uint32_t>(subsystem)) != 0;
}

void log_line(LogLevel level, Subsystem subsystem, std::string_view text) {
  if (!logs(level, subsystem)) return;
  Settings& s = settings();
  const char* word = level == LogLevel::warn ? "WARN" : level == LogLevel::trace ? "TRACE" : "INFO";
  std::string line;
  if (level != LogLevel::version) {
    line = s.host + ":" + std::to_string(::getpid()) + ":" + std::to_string(::syscall(SYS_gettid)) +
           " [0] NCCL " + word + " ";
    if (level == LogLevel::warn) line.insert(0, "\n");  // as NCCL does
  }
  line.append(text);
  line.push_back('\n');
  std::lock_guard lock(s.mutex);
  // A log that cannot be written is not worth a failed operation.
  [[maybe_unused]] const ssize_t written = ::write(s.fd, line.data(), line.size());
}

void reset_log() { read_settings(&settings()); }

}  // namespace tutti::nccl
