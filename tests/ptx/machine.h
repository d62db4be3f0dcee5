// A machine that runs kernels as nvcc compiled them, where there is no device: their PTX, warps of
// 32 lanes, blocks with barriers and shared memory, grids whose blocks wait for each other.
//
// It is a checker as well. It stops a grid at the first access that is misaligned or outside of
// what the Memory knows, at a race of two threads of a block in shared memory (between two
// barriers), and where threads of a block do not all come to the same barrier. What a device's
// sanitizer tools look for, compilers for the host cannot see: there, memcpy stands for a vector
// access.
//
// It is no model of a device's speed or of its weak memory order (the host's code under
// ThreadSanitizer serves for that), and what ptxas makes of the PTX is not looked at.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "tests/ptx/module.h"

namespace tutti::ptx {

// What a device may access.
class Memory {
 public:
  struct Range {
    uint64_t begin = 0, end = 0;
  };
  virtual ~Memory() = default;
  // The allocation that an address lies in; asked from several threads.
  virtual std::optional<Range> find(uint64_t address) const = 0;
  // Grows when memory is freed.
  virtual uint64_t frees() const = 0;
};

struct Fault {
  std::string kernel, what;
  uint32_t line = 0, block = 0, thread = 0;
  std::string to_string() const;
};

// What a grid did.
struct Counts {
  uint64_t instructions = 0;                     // of threads
  uint64_t global_loads = 0, global_stores = 0;  // bytes of accesses to global memory
  uint64_t sectors = 0;  // of 32 bytes: that the accesses of a warp touch at a time

  Counts& operator+=(const Counts& other);
};

struct Grid {
  uint32_t x = 1, y = 1;     // blocks
  uint32_t threads = 1;      // of a block; in x alone
  bool cooperative = false;  // all blocks at the same time, else one after the other
};

struct Program;  // a kernel, decoded

class Machine {
 public:
  // Errors: those of Module::parse.
  static Result<std::shared_ptr<Machine>> load(std::string ptx);
  ~Machine();

  // A kernel with what it calls, ready to run. Errors: no such kernel; what this machine cannot do,
  // with the line of the PTX.
  Result<std::shared_ptr<const Program>> kernel(const std::string& name);
  std::vector<std::string> kernels() const;
  static uint64_t parameter_bytes(const Program& program);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Runs a grid to its end or to its first fault. `parameters`: Machine::parameter_bytes of them.
std::optional<Fault> run_grid(const Program& program, Grid grid,
                              std::span<const std::byte> parameters, const Memory& memory,
                              Counts* counts = nullptr);

}  // namespace tutti::ptx
