// From Status to ncclResult_t, and what ncclGetLastError says.
#pragma once

#include <string>

#include "src/nccl/public.h"
#include "tutti/status.h"

namespace tutti::nccl {

// The version that ncclGetVersion reports: TUTTI_REPORT_VERSION ("22809" or "2.28.9"), or 2.28.9.
int reported_version();

// ncclTimeout only for callers that know it.
ncclResult_t result_of(Code code);

// What a C function returns when all is well: the thread has no error of its own any more.
ncclResult_t succeeded();
// Records `status` as the latest error of this thread and of the process, logs it, and gives its
// result. in_progress is no error.
ncclResult_t failed(const char* function, const Status& status);
// An error that no call returned: the process's latest.
void note_error(const Status& status);

// A Status for "not finished yet"; shared, so that it costs nothing.
const Status& in_progress();

// The texts behind ncclGetLastError: of this thread's latest call, or of the process.
std::string thread_error();
std::string process_error();

Status invalid_argument(std::string message);
Status invalid_usage(std::string message);

}  // namespace tutti::nccl
