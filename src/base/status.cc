#include "tutti/status.h"

namespace tutti {

const char* name(Code code) {
  switch (code) {
    case Code::ok:
      return "ok";
    case Code::in_progress:
      return "in_progress";
    case Code::invalid_argument:
      return "invalid_argument";
    case Code::invalid_usage:
      return "invalid_usage";
    case Code::unsupported:
      return "unsupported";
    case Code::system_error:
      return "system_error";
    case Code::remote_error:
      return "remote_error";
    case Code::timeout:
      return "timeout";
    case Code::aborted:
      return "aborted";
    case Code::device_error:
      return "device_error";
    case Code::internal_error:
      return "internal_error";
  }
  return "unknown";
}

std::string Status::to_string() const {
  return ok() ? "ok" : std::string(name(code())) + ": " + message();
}

}  // namespace tutti
