// From a plan to a device program: bind's twin for devices. Decoding uses the CPU executor's
// peepholes (publish once, k-way passes), so that both executors do the same work in the same
// order.
#pragma once

#include <vector>

#include "src/cuda/window.h"
#include "src/executor/bound_plan.h"
#include "src/plan/plan.h"
#include "tutti/status.h"

namespace tutti::cuda {

struct BuildRequest {
  PlanPtr plan;
  Rank rank = 0;
  uint64_t count = 0;  // elements of a block
  DType dtype = DType::int8;
  Wire wire = Wire::direct;
  uint32_t workers = 1;
  WindowShape window;
  std::vector<std::byte*> windows;  // of every rank, as this rank's device addresses them
  std::byte* scratch = nullptr;     // scratch_bytes() of the layout, as the device addresses it
  Control* control = nullptr;       // likewise
};

// The program as bytes that hold pointers into themselves: right at one address only.
struct ProgramImage {
  std::vector<std::byte> bytes;
  uint64_t program = 0;  // offset of the DeviceProgram
};

// How a call is cut into rounds and chunks under a wire protocol; pure, the same on every rank.
Layout device_layout(const Plan& plan, uint64_t count, DType dtype, Wire wire,
                     const WindowShape& window, uint32_t workers);

// The image for the address `base`. Errors: unsupported when the plan needs more links, lanes,
// operands or messages in flight than windows have.
Result<ProgramImage> build_program(const BuildRequest& request, uint64_t base);
// The bytes of that image, for allocation; the same for every base.
Result<uint64_t> program_bytes(const BuildRequest& request);

}  // namespace tutti::cuda
