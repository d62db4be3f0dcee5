// The way of every communication call: checked, then run, queued or put into the open group.
#pragma once

#include "src/nccl/comm.h"

namespace tutti::nccl {

Status submit(Operation* operation, ncclComm_t comm);

}  // namespace tutti::nccl
