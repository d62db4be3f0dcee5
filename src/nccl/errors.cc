#include "src/nccl/errors.h"

#include <charconv>
#include <mutex>

#include "src/communicator/environment.h"
#include "src/nccl/log.h"

namespace tutti::nccl {
namespace {

constexpr int k_default_version = 22809;
constexpr int k_timeout_known_since = 23000;

int version_from(const std::string& text) {
  int parts[3] = {0, 0, 0};
  int count = 0;
  const char* at = text.data();
  const char* end = at + text.size();
  while (count < 3) {
    const auto [rest, error] = std::from_chars(at, end, parts[count]);
    if (error != std::errc() || parts[count] < 0) return k_default_version;
    ++count;
    if (rest == end) break;
    if (*rest != '.') return k_default_version;
    at = rest + 1;
  }
  if (count == 1) return parts[0];
  return NCCL_VERSION(parts[0], parts[1], parts[2]);
}

// Whether this thread's latest call failed, and how.
thread_local bool t_latest_failed = false;  // apart, so that success touches no constructor
thread_local std::string t_text;

struct ProcessError {
  std::mutex mutex;
  std::string text;
};
ProcessError& process() {
  static auto* error = new ProcessError;  // threads may outlive static destructors
  return *error;
}

}  // namespace

int reported_version() {
  static const int version = [] {
    const Variables variables = read_environment();
    const auto found = variables.find("TUTTI_REPORT_VERSION");
    return found == variables.end() ? k_default_version : version_from(found->second);
  }();
  return version;
}

ncclResult_t result_of(Code code) {
  switch (code) {
    case Code::ok:
      return ncclSuccess;
    case Code::in_progress:
      return ncclInProgress;
    case Code::invalid_argument:
      return ncclInvalidArgument;
    case Code::invalid_usage:
    case Code::unsupported:
      return ncclInvalidUsage;
    case Code::device_error:
      return ncclUnhandledCudaError;
    case Code::system_error:
      return ncclSystemError;
    case Code::remote_error:
      return ncclRemoteError;
    case Code::timeout:
      return reported_version() >= k_timeout_known_since ? ncclTimeout : ncclRemoteError;
    case Code::aborted:
    case Code::internal_error:
      return ncclInternalError;
  }
  return ncclInternalError;
}

ncclResult_t succeeded() {
  t_latest_failed = false;
  return ncclSuccess;
}

ncclResult_t failed(const char* function, const Status& status) {
  if (status.code() == Code::in_progress) {
    t_latest_failed = false;
    return ncclInProgress;
  }
  const std::string text = std::string(function) + ": " + status.message();
  t_latest_failed = true;
  t_text = text;
  note_error(Status(status.code(), text));
  return result_of(status.code());
}

void note_error(const Status& status) {
  {
    std::lock_guard lock(process().mutex);
    process().text = status.message();
  }
  log_line(LogLevel::warn, Subsystem::none, status.message());
}

const Status& in_progress() {
  static const auto* status = new Status(Code::in_progress, "the operation has not finished");
  return *status;
}

std::string thread_error() { return t_latest_failed ? t_text : std::string(); }

std::string process_error() {
  std::lock_guard lock(process().mutex);
  return process().text;
}

Status invalid_argument(std::string message) {
  return Status(Code::invalid_argument, std::move(message));
}
Status invalid_usage(std::string message) {
  return Status(Code::invalid_usage, std::move(message));
}

}  // namespace tutti::nccl
