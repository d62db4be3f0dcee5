// One call on device buffers as its caller made it.
#pragma once

#include "src/cuda/driver.h"
#include "tutti/communicator.h"

namespace tutti {

struct DeviceOperation {
  Collective collective = Collective::all_reduce;  // send_recv: one send or one receive
  bool sends = false;                              // of send_recv
  const void* send = nullptr;
  void* recv = nullptr;
  size_t count = 0;
  DType dtype = DType::int8;
  Reduction reduction;
  const void* late_scalar = nullptr;  // of premul_sum: read when the call runs
  Rank root = 0;                      // or the peer
  cuda::Stream stream = nullptr;

  bool transfer() const { return collective == Collective::send_recv; }
};

}  // namespace tutti
