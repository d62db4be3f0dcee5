// PTX as nvcc writes it: functions, their variables and instructions. A reader for the machine of
// this folder (machine.h), which runs the kernels where there is no device.
//
// Source: PTX ISA 9.0. What nvcc does not write for the kernels here is an error, not a guess.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tutti/status.h"

namespace tutti::ptx {

enum class Space : uint8_t { generic, global, shared, local, param };

// A variable of a function or module: bytes somewhere in its space.
struct Variable {
  std::string name;
  Space space = Space::generic;
  uint64_t bytes = 0;
  uint64_t align = 1;
  uint64_t offset = 0;  // within what the function has in that space
};

struct Operand {
  enum class Kind : uint8_t { reg, immediate, symbol, special, address, label, sink };
  Kind kind = Kind::sink;
  uint32_t reg = 0;    // reg, and address with a register as its base
  bool based = false;  // of an address: on a register, not on a symbol
  int64_t value = 0;   // immediate (bits of floats), or what is added to a symbol or base
  std::string name;    // symbol, special register or label
};

struct Instruction {
  std::vector<std::string> opcode;  // "ld", "global", "u32"
  std::optional<uint32_t> guard;    // a predicate register
  bool negated = false;
  // Vectors are spread out: ld.v2 {a, b}, [c] has operands a, b, c.
  std::vector<Operand> operands;
  bool taken_apart = false;  // mov {a, b}, c
  // Of a call: the names of the variables that take the result and hold the arguments.
  std::vector<std::string> results, arguments;
  uint32_t line = 0;
};

struct Function {
  std::string name;
  bool entry = false;
  uint32_t max_threads = 0;          // of .maxntid; 0: not said
  std::vector<Variable> parameters;  // in order
  std::vector<Variable> results;     // of a function that is called
  std::vector<Variable> variables;   // shared, local, and param of calls
  uint32_t registers = 0;
  std::vector<Instruction> code;
  std::map<std::string, uint32_t> labels;  // name: index of the instruction behind it

  const Variable* variable(const std::string& name) const;
};

class Module {
 public:
  // Finds the functions of a text; their bodies are read when they are asked for.
  static Result<Module> parse(std::string text);

  // Of functions with a body; of kernels alone.
  std::vector<std::string> names(bool entries = false) const;
  // Errors: no such function; what this reader does not know, with its line.
  Result<const Function*> function(const std::string& name);
  const std::vector<Variable>& globals() const { return globals_; }
  const std::string& target() const { return target_; }

 private:
  struct Body {
    size_t begin, end;  // of the text from .entry or .func to its last brace
    uint32_t line;
    bool entry;
  };
  std::string text_, target_;
  std::map<std::string, Body> bodies_;
  std::map<std::string, Function> read_;
  std::vector<Variable> globals_;  // all zero: the kernels here have no others
};

}  // namespace tutti::ptx
