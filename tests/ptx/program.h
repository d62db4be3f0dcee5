// A kernel as the machine runs it: steps with handlers for all lanes of a warp at once.
#pragma once

#include <bit>
#include <cstring>

#include "tests/ptx/machine.h"

namespace tutti::ptx {

inline constexpr uint32_t k_lanes = 32;

class Warp;
struct Step;
using Handler = void (*)(Warp&, const Step&);

struct Step {
  enum class Kind : uint8_t { plain, branch, call, leave, barrier };
  Kind kind = Kind::plain;
  bool negated = false;  // the guard
  bool votes = false;    // a barrier that reduces a predicate by or
  Space space = Space::generic;
  bool synchronizes = false;  // a load that others' stores are waited for with
  bool releases = false;
  uint8_t element = 0;  // bytes of a memory access: each
  uint8_t elements = 0;
  bool extends = false;  // signed loads
  Handler run = nullptr;
  int32_t guard = -1;
  int32_t out[4] = {-1, -1, -1, -1};
  int32_t in[5] = {};  // registers' slots; constants are ~index
  int64_t offset = 0;  // of a memory access; from a local variable to another of a copy
  int64_t other = 0;
  uint32_t target = 0;  // of a branch or call
  uint32_t line = 0;
};

// Slots behind those of functions.
enum Special : uint32_t {
  k_tid,
  k_ntid,
  k_ctaid_x,
  k_ctaid_y,
  k_nctaid_x,
  k_nctaid_y,
  k_lane,
  k_specials
};

struct Program {
  std::string name;
  std::vector<Step> steps;
  std::vector<uint64_t> constants;  // each 32 times, for all lanes
  std::vector<std::unique_ptr<std::byte[]>> globals;
  std::vector<Memory::Range> global_ranges;
  uint32_t slots = 0;  // with the special ones, which are the last
  uint64_t parameter_bytes = 0, shared_bytes = 0, local_bytes = 0;
  uint32_t max_threads = 0;
};

// The handler of an instruction's opcode and what else of the step follows from it; null: not
// known.
Handler handler_of(const Instruction& instruction, Step& step);

// Puts a kernel and the functions that it calls one behind the other.
Result<std::shared_ptr<const Program>> link(Module& module, const std::string& kernel);

// Values in slots: the low bits count.
template <class T>
T get(uint64_t slot) {
  if constexpr (std::is_same_v<T, float>) {
    return std::bit_cast<float>(static_cast<uint32_t>(slot));
  } else if constexpr (std::is_same_v<T, double>) {
    return std::bit_cast<double>(slot);
  } else {
    return static_cast<T>(slot);
  }
}
template <class T>
uint64_t put(T value) {
  if constexpr (std::is_same_v<T, float>) {
    return std::bit_cast<uint32_t>(value);
  } else if constexpr (std::is_same_v<T, double>) {
    return std::bit_cast<uint64_t>(value);
  } else {
    return static_cast<uint64_t>(value);
  }
}

class Block;

class Warp {
 public:
  uint64_t* out(int32_t slot) { return registers.data() + static_cast<size_t>(slot) * k_lanes; }
  const uint64_t* in(int32_t operand) const {
    return operand >= 0 ? registers.data() + static_cast<size_t>(operand) * k_lanes
                        : constants + static_cast<size_t>(~operand) * k_lanes;
  }

  uint32_t mask = 0;  // of the step that runs
  std::vector<uint64_t> registers;
  const uint64_t* constants = nullptr;
  uint8_t carry[k_lanes] = {};
  Block* block = nullptr;
  uint32_t first_thread = 0;
  // Of every lane.
  uint32_t pc[k_lanes] = {};
  std::vector<uint32_t> returns[k_lanes];
  uint32_t live = 0, waiting = 0;
  bool backwards = false;  // the lanes furthest ahead have their turn
};

template <class Body>
inline void lanes(uint32_t mask, Body body) {
  if (mask == ~uint32_t{0}) {
    for (uint32_t l = 0; l < k_lanes; ++l) body(l);
  } else {
    for (; mask != 0; mask &= mask - 1) body(static_cast<uint32_t>(std::countr_zero(mask)));
  }
}

// --- what handlers of memory need of a block (machine.cc)

// Where bytes of a lane's address lie; throws Fault. `writes`: the access does.
std::byte* resolve(Warp& warp, uint32_t lane, const Step& step, uint64_t address, uint32_t bytes,
                   bool writes);
uint64_t generic_address(Warp& warp, uint32_t lane, Space space, uint64_t offset);
uint64_t offset_in(Warp& warp, uint32_t lane, Space space, uint64_t generic);
void polled(Warp& warp);
void accessed(Warp& warp);  // all lanes have
[[noreturn]] void fault(const Warp& warp, uint32_t lane, const Step& step, const std::string& what);

}  // namespace tutti::ptx
