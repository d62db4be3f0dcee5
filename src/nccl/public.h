// The public C headers, with everything they declare visible and without CUDA's own headers.
#pragma once

#define TUTTI_NCCL_WITHOUT_CUDA 1
#pragma GCC visibility push(default)
#include "nccl.h"
#include "nccl_device.h"
#pragma GCC visibility pop
