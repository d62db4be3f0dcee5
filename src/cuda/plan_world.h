// Ranks of one process on one device, as one grid: their windows, programs and launches.
//
// Blocks of the grid wait for each other, so all of them must fit on the device at once; streams do
// not promise that, a cooperative launch does. What does not fit is an error before anything is
// enqueued.
#pragma once

#include <memory>
#include <vector>

#include "src/cuda/build.h"
#include "src/cuda/runtime.h"

namespace tutti::cuda {

// Memory of a device, or pinned memory of the host that the device reaches.
class Allocation {
 public:
  static Result<std::unique_ptr<Allocation>> on_device(Runtime& runtime, Device& device,
                                                       uint64_t bytes);
  static Result<std::unique_ptr<Allocation>> pinned(Runtime& runtime, Device& device,
                                                    uint64_t bytes);
  ~Allocation();
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;
  std::byte* data() const { return data_; }
  DevicePtr address() const { return reinterpret_cast<DevicePtr>(data_); }

 private:
  Allocation(Runtime& runtime, Device& device, std::byte* data, bool pinned)
      : runtime_(runtime), device_(device), data_(data), pinned_(pinned) {}
  Runtime& runtime_;
  Device& device_;
  std::byte* data_;
  bool pinned_;
};

class PlanWorld {
 public:
  // Windows for `shape.ranks` ranks, zeroed. Errors: device_error.
  static Result<std::unique_ptr<PlanWorld>> make(Runtime& runtime, Device& device,
                                                 const WindowShape& shape);

  struct Request {
    PlanPtr plan;
    uint64_t count = 0;
    DType dtype = DType::int8;
    ReduceOp op = ReduceOp::sum;
    Wire wire = Wire::direct;
    uint32_t workers = 1;
  };
  // A plan bound to sizes, with its programs and scratch on the device; launched any number of
  // times.
  class Bound;
  // Errors: unsupported (a plan that windows do not serve, more blocks than fit), device_error.
  Result<std::shared_ptr<Bound>> bind(const Request& request);

  // All ranks' calls as one grid on `stream`; buffers by rank. Waits for nothing; may be captured.
  // `ranks`: only the first so many take part (0: all); they wait for the others.
  Status launch(const Bound& bound, const std::vector<const void*>& inputs,
                const std::vector<void*>& outputs, Stream stream, uint32_t ranks = 0);

  // Makes every running and later grid leave as soon as it looks. From any thread.
  void abort();
  // The first rank that met a peer with another call: 1 + peer; 0: none.
  uint64_t mismatch(Rank rank) const;

 private:
  PlanWorld(Runtime& runtime, Device& device, const WindowShape& shape)
      : runtime_(runtime), device_(device), shape_(shape) {}
  Control* control(Rank rank) const { return reinterpret_cast<Control*>(controls_->data()) + rank; }

  Runtime& runtime_;
  Device& device_;
  WindowShape shape_;
  std::unique_ptr<Allocation> windows_;
  std::unique_ptr<Allocation> controls_;
};

class PlanWorld::Bound {
 private:
  friend class PlanWorld;
  Function function_ = nullptr;
  Operator op_;
  uint32_t lanes_ = 0, workers_ = 0;
  std::unique_ptr<Allocation> programs_, scratch_;
  std::vector<const DeviceProgram*> program_;  // by rank, as the device addresses them
};

}  // namespace tutti::cuda
