// One communication call as its user made it.
#pragma once

#include <cstddef>
#include <vector>

#include "src/nccl/public.h"
#include "tutti/communicator.h"

namespace tutti::nccl {

struct Operation {
  enum class Kind : uint8_t {
    all_reduce,
    reduce_scatter,
    all_gather,
    broadcast,
    reduce,
    all_to_all,
    gather,
    scatter,
    send,
    recv,
    put_signal,
    signal,
    wait_signal,
  };
  Kind kind = Kind::all_reduce;
  const void* send = nullptr;
  void* recv = nullptr;
  size_t count = 0;
  int datatype = 0;
  int op = ncclSum;
  int root = 0;                   // or the peer
  cudaStream_t stream = nullptr;  // of device buffers, and for a real NCCL

  bool transfer() const { return kind == Kind::send || kind == Kind::recv; }
  bool one_sided() const {
    return kind == Kind::put_signal || kind == Kind::signal || kind == Kind::wait_signal;
  }
  bool reduces() const {
    return kind == Kind::all_reduce || kind == Kind::reduce_scatter || kind == Kind::reduce;
  }
  bool rooted() const {
    return kind == Kind::broadcast || kind == Kind::reduce || kind == Kind::gather ||
           kind == Kind::scatter;
  }
  DType dtype() const { return static_cast<DType>(datatype); }

  // Of one-sided calls.
  struct Signal {
    int index = 0, context = 0;
    uint64_t number() const {
      return static_cast<uint64_t>(context) << 32 | static_cast<uint32_t>(index);
    }
  };
  Signal signal;
  ncclWindow_t window = nullptr;
  size_t offset = 0;                        // bytes
  std::vector<ncclWaitSignalDesc_t> waits;  // of wait_signal

  // Filled by Comm::check().
  bool checked = false;
  bool on_device = false;  // its buffers are
  bool counted = false;    // among the messages of its communicator
  Reduction reduction;
  Window target;                      // what `window` stands for
  const void* late_scalar = nullptr;  // ncclScalarDevice: read when the operation runs
};

// Sends and receives are send_recv.
Collective collective_of(Operation::Kind kind);

}  // namespace tutti::nccl
