#include "tests/ptx/registers.h"

#include <algorithm>
#include <set>

namespace tutti::ptx {
namespace {

using Bits = std::vector<uint64_t>;
bool test(const Bits& b, uint32_t i) { return (b[i / 64] >> (i % 64) & 1) != 0; }
void set(Bits& b, uint32_t i) { b[i / 64] |= uint64_t{1} << (i % 64); }

struct BasicBlock {
  uint32_t begin = 0, end = 0;
  std::vector<uint32_t> next;
  Bits reads, writes, in, out;
};

// Calls `use` and `define` for the registers of an instruction. A guarded one may leave what it
// writes as it was, so that is read as well.
template <class Use, class Define>
void visit(const Instruction& i, Use use, Define define) {
  const uint32_t writes = writes_of(i);
  if (i.guard) use(*i.guard);
  for (uint32_t k = 0; k < i.operands.size(); ++k) {
    const Operand& o = i.operands[k];
    const bool reg = o.kind == Operand::Kind::reg;
    if (k >= writes && (reg || (o.kind == Operand::Kind::address && o.based))) use(o.reg);
    if (k < writes && reg && i.guard) use(o.reg);
  }
  for (uint32_t k = 0; k < writes && k < i.operands.size(); ++k)
    if (i.operands[k].kind == Operand::Kind::reg) define(i.operands[k].reg);
}

std::vector<BasicBlock> blocks_of(const Function& f) {
  std::set<uint32_t> starts{0};
  for (uint32_t at = 0; at < f.code.size(); ++at) {
    const std::string& opcode = f.code[at].opcode[0];
    if (opcode != "bra" && opcode != "ret" && opcode != "exit") continue;
    starts.insert(at + 1);
    for (const Operand& o : f.code[at].operands)
      if (o.kind == Operand::Kind::label) starts.insert(f.labels.at(o.name));
  }
  starts.erase(static_cast<uint32_t>(f.code.size()));
  std::vector<BasicBlock> blocks;
  std::map<uint32_t, uint32_t> index;
  for (uint32_t start : starts) {
    if (!blocks.empty()) blocks.back().end = start;
    index[start] = static_cast<uint32_t>(blocks.size());
    blocks.emplace_back().begin = start;
  }
  blocks.back().end = static_cast<uint32_t>(f.code.size());
  for (BasicBlock& b : blocks) {
    const Instruction& last = f.code[b.end - 1];
    const bool leaves =
        last.opcode[0] == "bra" || last.opcode[0] == "ret" || last.opcode[0] == "exit";
    for (const Operand& o : last.operands)
      if (o.kind == Operand::Kind::label && index.contains(f.labels.at(o.name)))
        b.next.push_back(index.at(f.labels.at(o.name)));
    if ((!leaves || last.guard) && index.contains(b.end)) b.next.push_back(index.at(b.end));
  }
  return blocks;
}

}  // namespace

uint32_t writes_of(const Instruction& i) {
  const std::string& name = i.opcode[0];
  for (const char* none : {"st", "bra", "ret", "exit", "call", "membar", "fence", "trap"})
    if (name == none) return 0;
  if (name == "bar" || name == "barrier") return i.opcode[1] == "red" ? 1 : 0;
  uint32_t writes = 1;
  for (const std::string& part : i.opcode) {
    if (name == "ld" && part == "v2") writes = 2;
    if (name == "ld" && part == "v4") writes = 4;
  }
  if (i.taken_apart) writes = static_cast<uint32_t>(i.operands.size()) - 1;
  return writes;
}

Slots assign_slots(const Function& f) {
  const uint32_t n = f.registers;
  const size_t words = (n + 63) / 64;
  Slots slots;
  slots.of.assign(n, 0);
  if (n == 0 || f.code.empty()) return slots;
  std::vector<BasicBlock> blocks = blocks_of(f);
  for (BasicBlock& b : blocks) {
    b.reads.assign(words, 0), b.writes.assign(words, 0), b.in.assign(words, 0),
        b.out.assign(words, 0);
    for (uint32_t at = b.begin; at < b.end; ++at)
      visit(
          f.code[at],
          [&](uint32_t r) {
            if (!test(b.writes, r)) set(b.reads, r);
          },
          [&](uint32_t r) { set(b.writes, r); });
    b.in = b.reads;
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = blocks.size(); i-- > 0;) {
      BasicBlock& b = blocks[i];
      for (uint32_t next : b.next)
        for (size_t w = 0; w < words; ++w) b.out[w] |= blocks[next].in[w];
      for (size_t w = 0; w < words; ++w) {
        const uint64_t in = b.reads[w] | (b.out[w] & ~b.writes[w]);
        changed = changed || in != b.in[w];
        b.in[w] = in;
      }
    }
  }
  for (uint32_t r = 0; r < n; ++r)
    if (test(blocks[0].in, r)) slots.undefined.push_back(r);

  // A register lives from its first place to its last, and through every block that it enters or
  // leaves.
  constexpr uint32_t k_never = ~uint32_t{0};
  std::vector<uint32_t> first(n, k_never), last(n, 0);
  const auto lives = [&](uint32_t r, uint32_t at) {
    first[r] = std::min(first[r], at);
    last[r] = std::max(last[r], at);
  };
  for (const BasicBlock& b : blocks) {
    for (size_t w = 0; w < words; ++w)
      for (uint64_t both[2] = {b.in[w], b.out[w]}, k = 0; k < 2; ++k)
        for (uint64_t m = both[k]; m != 0; m &= m - 1)
          lives(static_cast<uint32_t>(64 * w) + static_cast<uint32_t>(__builtin_ctzll(m)),
                k == 0 ? b.begin : b.end - 1);
    for (uint32_t at = b.begin; at < b.end; ++at)
      visit(
          f.code[at], [&](uint32_t r) { lives(r, at); }, [&](uint32_t r) { lives(r, at); });
  }
  std::vector<uint32_t> order;
  for (uint32_t r = 0; r < n; ++r)
    if (first[r] != k_never) order.push_back(r);
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return first[a] < first[b]; });
  std::set<std::pair<uint32_t, uint32_t>> active;  // last place, slot
  std::vector<uint32_t> free;
  for (uint32_t r : order) {
    // What an instruction writes must not lie where it still reads: lanes go one after the other.
    while (!active.empty() && active.begin()->first < first[r]) {
      free.push_back(active.begin()->second);
      active.erase(active.begin());
    }
    uint32_t slot = slots.count;
    if (free.empty()) {
      ++slots.count;
    } else {
      slot = free.back();
      free.pop_back();
    }
    slots.of[r] = slot;
    active.emplace(last[r], slot);
  }
  return slots;
}

}  // namespace tutti::ptx
