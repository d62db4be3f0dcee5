// Version, errors, log and encryption: what belongs to no communicator.
#include <fmt/format.h>

#include <cstring>

#include "src/nccl/api.h"
#include "src/nccl/comm.h"
#include "src/nccl/log.h"

using namespace tutti;        // NOLINT: this file is all C functions
using namespace tutti::nccl;  // NOLINT

ncclResult_t pncclGetVersion(int* version) {
  return answer("ncclGetVersion", [&]() -> Status {
    if (version == nullptr) return invalid_argument("the version pointer is null");
    *version = reported_version();
    return {};
  });
}

const char* pncclGetErrorString(ncclResult_t result) {
  switch (static_cast<int>(result)) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    case ncclTimeout:
      return "NCCL operation timed out";
    default:
      return "unknown result code";
  }
}

const char* pncclGetLastError(ncclComm_t comm) {
  thread_local std::string text;
  try {
    text = thread_error();
    if (text.empty() && comm != nullptr)
      if (CommTable::Pin pin = comms().pin(comm)) text = pin->last_error();
    if (text.empty()) text = process_error();
  } catch (const std::exception&) {
    return "out of memory";
  }
  return text.c_str();
}

void pncclResetDebugInit(void) {
  static_cast<void>(answer("ncclResetDebugInit", []() -> Status {
    reset_log();
    return {};
  }));
}

ncclResult_t pncclSetEncryption(const ncclEncryptionConfig_t* config) {
  return answer("ncclSetEncryption", [&]() -> Status {
    if (config == nullptr) return invalid_argument("the config is null");
    if (config->magic != NCCL_API_MAGIC)
      return invalid_argument(
          fmt::format("config.magic is {:#x}, not {:#x}: use "
                      "NCCL_ENCRYPTION_CONFIG_INITIALIZER",
                      config->magic, NCCL_API_MAGIC));
    if (config->size < offsetof(ncclEncryptionConfig_t, psk))
      return invalid_argument(fmt::format("config.size is {} bytes", config->size));
    if (config->mode == NCCL_ENCRYPTION_MODE_NONE) return {};
    if (config->mode != NCCL_ENCRYPTION_MODE_PSK)
      return invalid_argument(fmt::format("config.mode is {}", config->mode));
    return invalid_usage(
        "tutti authenticates connections with the secret in the unique id and encrypts none");
  });
}

// NCCL exports this name without a twin; what reset the log calls.
extern "C" __attribute__((visibility("default"))) void ncclResetDebugInitInternal(void) {
  pncclResetDebugInit();
}

TUTTI_NCCL_LIBRARY_NAMES(TUTTI_NCCL_WEAK_ALIAS)
