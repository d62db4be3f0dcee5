// Slots for the registers of a function: nvcc numbers thousands of them, few live at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/ptx/module.h"

namespace tutti::ptx {

struct Slots {
  std::vector<uint32_t> of;  // by register
  uint32_t count = 0;
  // Registers that some path from the beginning reads before it writes them.
  std::vector<uint32_t> undefined;
};

// Which operands an instruction writes: the first `writes`.
uint32_t writes_of(const Instruction& i);

// By linear scan over live intervals (Poletto and Sarkar, 1999).
Slots assign_slots(const Function& function);

}  // namespace tutti::ptx
