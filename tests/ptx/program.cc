#include "tests/ptx/program.h"

#include <algorithm>
#include <map>

#include "tests/ptx/registers.h"

namespace tutti::ptx {
namespace {

class Linker {
 public:
  explicit Linker(Module& module) : module_(module), program_(std::make_shared<Program>()) {}

  Result<std::shared_ptr<const Program>> link(const std::string& kernel) {
    program_->name = kernel;
    for (const Variable& g : module_.globals()) {
      // Aligned for the widest access.
      program_->globals.push_back(std::make_unique<std::byte[]>(g.bytes + 16));
      uint64_t at = reinterpret_cast<uint64_t>(program_->globals.back().get());
      at += (16 - at % 16) % 16;
      program_->global_ranges.push_back({at, at + g.bytes});
      globals_[g.name] = at;
    }
    if (Status s = place(kernel, true); !s.ok()) return s;
    for (size_t i = 0; i < order_.size(); ++i)  // grows by the functions that are called
      if (Status s = emit(order_[i]); !s.ok()) return s;
    for (const auto& [step, callee] : calls_)
      program_->steps[step].target = placed_.at(callee).begin;
    resolve_specials();
    return std::shared_ptr<const Program>(program_);
  }

 private:
  // A function within the program: where its registers and its thread's variables are.
  struct Placed {
    const Function* function = nullptr;
    Slots slots;
    uint32_t first_slot = 0, begin = 0;
    std::map<std::string, std::pair<Space, uint64_t>> variables;
  };

  Status place(const std::string& name, bool entry) {
    if (placed_.contains(name)) return {};
    auto function = module_.function(name);
    if (!function) return function.status();
    Placed& p = placed_[name];
    p.function = *function;
    p.slots = assign_slots(**function);
    if (!p.slots.undefined.empty())
      return Status(Code::unsupported, name + " may read a register before anything wrote it");
    p.first_slot = program_->slots;
    program_->slots += p.slots.count;
    const auto put = [&](const Variable& v, Space space, uint64_t& used) {
      used = (used + v.align - 1) / v.align * v.align;
      p.variables[v.name] = {space, used};
      used += v.bytes;
    };
    for (const Variable& v : p.function->variables) {
      // Temporaries of calls are the thread's own, like what a callee finds its parameters in.
      if (v.space == Space::shared)
        put(v, Space::shared, program_->shared_bytes);
      else
        put(v, Space::local, program_->local_bytes);
    }
    for (const Variable& v : p.function->parameters) {
      if (entry)
        put(v, Space::param, program_->parameter_bytes);
      else
        put(v, Space::local, program_->local_bytes);
    }
    for (const Variable& v : p.function->results) put(v, Space::local, program_->local_bytes);
    if (entry) program_->max_threads = p.function->max_threads;
    order_.push_back(name);
    return {};
  }

  int32_t constant(uint64_t value) {
    auto [found, fresh] = constants_.try_emplace(value, static_cast<int32_t>(constants_.size()));
    if (fresh) program_->constants.insert(program_->constants.end(), k_lanes, value);
    return ~found->second;
  }

  // Nothing for what is not known.
  std::optional<int32_t> operand(const Placed& p, const Operand& o) {
    switch (o.kind) {
      case Operand::Kind::reg:
        return static_cast<int32_t>(p.first_slot + p.slots.of[o.reg]);
      case Operand::Kind::immediate:
        return constant(static_cast<uint64_t>(o.value));
      case Operand::Kind::symbol: {
        if (const auto global = globals_.find(o.name); global != globals_.end())
          return constant(global->second + static_cast<uint64_t>(o.value));
        const auto v = p.variables.find(o.name);
        if (v == p.variables.end()) return std::nullopt;
        return constant(v->second.second + static_cast<uint64_t>(o.value));
      }
      case Operand::Kind::special: {
        static const std::map<std::string, uint32_t> k_names{
            {"%tid.x", k_tid},       {"%ntid.x", k_ntid},       {"%ctaid.x", k_ctaid_x},
            {"%ctaid.y", k_ctaid_y}, {"%nctaid.x", k_nctaid_x}, {"%nctaid.y", k_nctaid_y},
            {"%laneid", k_lane}};
        const auto special = k_names.find(o.name);
        if (special == k_names.end()) return std::nullopt;
        return k_special + static_cast<int32_t>(special->second);
      }
      default:
        return std::nullopt;
    }
  }
  // The specials come behind all functions' slots, which are not known before the end.
  static constexpr int32_t k_special = 1 << 24;
  void resolve_specials() {
    const auto first = static_cast<int32_t>(program_->slots);
    for (Step& s : program_->steps)
      for (int32_t& in : s.in)
        if (in >= k_special) in += first - k_special;
    program_->slots += k_specials;
  }

  Status emit(const std::string& name) {
    Placed& p = placed_.at(name);
    std::vector<Step>& steps = program_->steps;
    p.begin = static_cast<uint32_t>(steps.size());
    std::vector<uint32_t> at;  // by instruction
    std::vector<std::pair<uint32_t, uint32_t>> branches;
    for (const Instruction& i : p.function->code) {
      at.push_back(static_cast<uint32_t>(steps.size()));
      Step s;
      s.line = i.line;
      s.negated = i.negated;
      if (i.guard) s.guard = static_cast<int32_t>(p.first_slot + p.slots.of[*i.guard]);
      const std::string& opcode = i.opcode[0];
      const auto refuse = [&](const std::string& what) {
        std::string text;
        for (const std::string& part : i.opcode) text += (text.empty() ? "" : ".") + part;
        return Status(Code::unsupported,
                      "PTX line " + std::to_string(i.line) + ": " + text + ": " + what);
      };
      if (opcode == "bra") {
        s.kind = Step::Kind::branch;
        branches.emplace_back(static_cast<uint32_t>(steps.size()),
                              p.function->labels.at(i.operands[0].name));
        steps.push_back(s);
        continue;
      }
      if (opcode == "ret" || opcode == "exit") {
        s.kind = Step::Kind::leave;
        steps.push_back(s);
        continue;
      }
      if (opcode == "call") {
        if (Status done = call(p, i, s); !done.ok()) return refuse(done.message());
        continue;
      }
      if (opcode == "bar" || opcode == "barrier") {
        s.kind = Step::Kind::barrier;
        s.votes = i.opcode[1] == "red";
        if (s.votes && (i.opcode[2] != "or" || i.operands.size() != 3)) return refuse("not known");
        const Operand& which = i.operands[s.votes ? 1 : 0];
        if (which.kind != Operand::Kind::immediate || which.value != 0)
          return refuse("another barrier than 0");
        if (i.guard) return refuse("guarded");
      } else {
        s.run = handler_of(i, s);
        if (s.run == nullptr) return refuse("not known");
      }
      if (Status done = operands(p, i, s); !done.ok()) return refuse(done.message());
      steps.push_back(s);
    }
    at.push_back(static_cast<uint32_t>(steps.size()));
    for (const auto& [step, instruction] : branches) steps[step].target = at[instruction];
    return {};
  }

  Status operands(const Placed& p, const Instruction& i, Step& s) {
    const uint32_t writes = writes_of(i);
    uint32_t in = 0;
    for (uint32_t k = 0; k < i.operands.size(); ++k) {
      const Operand& o = i.operands[k];
      if (k < writes) {
        if (o.kind == Operand::Kind::sink) continue;
        if (o.kind != Operand::Kind::reg) return Status(Code::unsupported, "writes no register");
        s.out[k] = static_cast<int32_t>(p.first_slot + p.slots.of[o.reg]);
      } else if (o.kind == Operand::Kind::address) {
        if (Status done = address(p, o, s, in++); !done.ok()) return done;
      } else if (s.kind == Step::Kind::barrier && o.kind == Operand::Kind::immediate) {
        continue;
      } else {
        const auto known = operand(p, o);
        if (!known || in >= 5) return Status(Code::unsupported, "what is " + o.name);
        s.in[in++] = *known;
      }
    }
    return {};
  }
  Status address(const Placed& p, const Operand& o, Step& s, uint32_t in) {
    s.offset = o.value;
    if (o.based) {
      s.in[in] = static_cast<int32_t>(p.first_slot + p.slots.of[o.reg]);
      return {};
    }
    if (const auto global = globals_.find(o.name); global != globals_.end()) {
      s.in[in] = constant(global->second);
      return {};
    }
    const auto v = p.variables.find(o.name);
    if (v == p.variables.end()) return Status(Code::unsupported, "what is " + o.name);
    s.space = v->second.first;
    s.in[in] = constant(v->second.second);
    return {};
  }

  // Copies of the arguments, the jump, copies of the results.
  Status call(const Placed& p, const Instruction& i, Step s) {
    if (i.guard) return Status(Code::unsupported, "guarded");
    const std::string& callee = i.operands[0].name;
    if (Status done = place(callee, false); !done.ok()) return done;
    const Placed& to = placed_.at(callee);
    const auto copy = [&](const Variable& v, const std::string& from, const Placed& a,
                          const std::string& into, const Placed& b) {
      Step c = s;
      c.kind = Step::Kind::plain;
      c.run = handler_of(i, c);
      c.element = static_cast<uint8_t>(v.bytes);
      c.offset = static_cast<int64_t>(a.variables.at(from).second);
      c.other = static_cast<int64_t>(b.variables.at(into).second);
      program_->steps.push_back(c);
    };
    if (i.arguments.size() != to.function->parameters.size() ||
        i.results.size() != to.function->results.size())
      return Status(Code::unsupported, "another number of arguments than " + callee + " has");
    for (size_t k = 0; k < i.arguments.size(); ++k)
      copy(to.function->parameters[k], i.arguments[k], p, to.function->parameters[k].name, to);
    s.kind = Step::Kind::call;
    calls_.emplace_back(program_->steps.size(), callee);
    program_->steps.push_back(s);
    for (size_t k = 0; k < i.results.size(); ++k)
      copy(to.function->results[k], to.function->results[k].name, to, i.results[k], p);
    return {};
  }

  Module& module_;
  std::shared_ptr<Program> program_;
  std::map<std::string, Placed> placed_;
  std::vector<std::string> order_;
  std::map<std::string, uint64_t> globals_;
  std::map<uint64_t, int32_t> constants_;
  std::vector<std::pair<size_t, std::string>> calls_;
};

}  // namespace

Result<std::shared_ptr<const Program>> link(Module& module, const std::string& kernel) {
  return Linker(module).link(kernel);
}

}  // namespace tutti::ptx
