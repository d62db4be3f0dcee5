// Ranks of one process on one device, as one grid: their windows, programs and launches.
//
// Blocks of the grid wait for each other, so all of them must fit on the device at once; streams do
// not promise that, a cooperative launch does. What does not fit is an error before anything is
// enqueued.
#pragma once

#include <memory>
#include <vector>

#include "src/cuda/allocation.h"
#include "src/cuda/build.h"

namespace tutti::cuda {

class PlanWorld {
 public:
  // Windows for `shape.ranks` ranks, zeroed. Errors: device_error.
  static Result<std::unique_ptr<PlanWorld>> make(Runtime& runtime, Device& device,
                                                 const WindowShape& shape);

  // A plan bound to sizes, with its programs and scratch on the device; launched any number of
  // times.
  class Bound;
  // Errors: unsupported (a plan that windows do not serve, more blocks than fit), device_error.
  Result<std::shared_ptr<Bound>> bind(const PlanCall& call);

  // All ranks' calls as one grid on `stream`; buffers by rank. Waits for nothing; may be captured.
  // `ranks`: only the first so many take part (0: all); they wait for the others.
  Status launch(const Bound& bound, const std::vector<const void*>& inputs,
                const std::vector<void*>& outputs, Stream stream, uint32_t ranks = 0);

  // A small all_reduce by one of the plans that shots.h stands for, in shots, likewise as one grid;
  // `call.wire` and `workers` are of no account. Errors: unsupported (a call that shots do not
  // serve, more ranks or blocks than a grid takes), device_error.
  Status launch_shots(const PlanCall& call, const std::vector<const void*>& inputs,
                      const std::vector<void*>& outputs, Stream stream, uint32_t ranks = 0);

  // Makes every running and later grid leave as soon as it looks. From any thread.
  void abort();
  // The first rank that met a peer with another call: 1 + peer; 0: none.
  uint64_t mismatch(Rank rank) const;

 private:
  PlanWorld(Runtime& runtime, Device& device, const WindowShape& shape)
      : runtime_(runtime), device_(device), shape_(shape) {}
  Status place_programs(const PlanPtr& plan, Bound& bound);
  std::vector<std::byte*> windows() const;
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
  DeviceCut cut_;
  uint32_t lanes_ = 0;
  std::unique_ptr<Allocation> programs_, scratch_;
  std::vector<const DeviceProgram*> program_;  // by rank, as the device addresses them
};

}  // namespace tutti::cuda
