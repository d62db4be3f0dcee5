// From a plan to a device program: bind's twin for devices. Decoding uses the CPU executor's
// peepholes (publish once, k-way passes), so that both executors do the same work in the same
// order.
#pragma once

#include <optional>
#include <vector>

#include "src/cuda/transfers.h"
#include "src/cuda/window.h"
#include "src/executor/bound_plan.h"
#include "src/plan/plan.h"
#include "tutti/status.h"

namespace tutti::cuda {

// A call of a plan, in what every rank says alike.
struct PlanCall {
  PlanPtr plan;
  uint64_t count = 0;  // elements of a block
  DType dtype = DType::int8;
  ReduceOp op = ReduceOp::sum;
  Wire wire = Wire::direct;
  uint32_t workers = 1;
};

// How a call is cut into rounds, chunks and workers' shares; pure, the same on every rank.
// Errors: unsupported when the plan needs more lanes, workers, messages in flight or room in slots
// than windows have.
Result<DeviceCut> cut_of(const PlanCall& call, const WindowShape& window);
// The same where a launch may take `blocks` blocks: with as many workers as the call's size is
// worth, and without a `wire` through packets while one round holds it, then slots. Errors:
// unsupported.
Result<DeviceCut> fit_cut(const PlanPtr& plan, uint64_t count, DType dtype,
                          const WindowShape& window, uint32_t blocks, std::optional<Wire> wire);
// The most scratch that any call through packets or slots takes, at any size.
uint64_t scratch_bound(const Plan& plan, const WindowShape& window);
Operator operator_of(const PlanCall& call);

struct BuildRequest {
  PlanPtr plan;
  Rank rank = 0;
  WindowShape window;
  std::vector<std::byte*> windows;  // of every rank, as this rank's device addresses them
  std::byte* scratch =
      nullptr;                  // scratch_bytes() of the largest layout, as the device addresses it
  Control* control = nullptr;   // likewise
  std::vector<Mirror> mirrors;  // by rank, for those on other hosts; empty: there are none
};

// The program as bytes that hold pointers into themselves: right at one address only.
struct ProgramImage {
  std::vector<std::byte> bytes;
  uint64_t program = 0;  // offset of the DeviceProgram
};

// The image for the address `base`. Errors: unsupported when the plan needs more lanes, links or
// operands than windows have.
Result<ProgramImage> build_program(const BuildRequest& request, uint64_t base);
// What a rank's transfers with a peer use; no plan.
TransferLinks transfer_links(const BuildRequest& request, Rank peer);
// Whether every rank's program can be built. Errors: those of build_program().
Status can_build(const PlanPtr& plan, const WindowShape& window);
// The bytes of that image, for allocation; the same for every base.
Result<uint64_t> program_bytes(const BuildRequest& request);

}  // namespace tutti::cuda
