#include "tests/ptx/machine.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <thread>

#include "tests/ptx/program.h"

namespace tutti::ptx {

std::string Fault::to_string() const {
  return kernel + ", PTX line " + std::to_string(line) + ", block " + std::to_string(block) +
         ", thread " + std::to_string(thread) + ": " + what;
}

Counts& Counts::operator+=(const Counts& other) {
  instructions += other.instructions;
  global_loads += other.global_loads;
  global_stores += other.global_stores;
  sectors += other.sectors;
  return *this;
}

struct Machine::State {
  std::mutex mutex;
  Module module;
  std::map<std::string, std::shared_ptr<const Program>> kernels;
};

Machine::~Machine() = default;

Result<std::shared_ptr<Machine>> Machine::load(std::string ptx) {
  auto module = Module::parse(std::move(ptx));
  if (!module) return module.status();
  auto machine = std::make_shared<Machine>();
  machine->state_ = std::make_unique<State>();
  machine->state_->module = std::move(*module);
  return machine;
}

Result<std::shared_ptr<const Program>> Machine::kernel(const std::string& name) {
  std::lock_guard lock(state_->mutex);
  if (auto found = state_->kernels.find(name); found != state_->kernels.end()) return found->second;
  auto program = link(state_->module, name);
  if (!program) return program.status();
  state_->kernels[name] = *program;
  return *program;
}

std::vector<std::string> Machine::kernels() const { return state_->module.names(true); }

uint64_t Machine::parameter_bytes(const Program& program) { return program.parameter_bytes; }

namespace {

// Steps of a warp before the next one has its turn.
constexpr uint32_t k_slice = 4096;
// What memory and registers hold before anything is written there. (Reading it is no fault: nvcc
// may load early what is not used then.)
constexpr uint64_t k_poison = 0xC5C5C5C5C5C5C5C5;

}  // namespace

// What the blocks of a grid share.
struct GridState {
  const Program& program;
  const Memory& memory;
  Grid grid;
  std::vector<uint64_t> parameters;  // of 8 bytes, for their alignment
  std::atomic<bool> stops{false};
  std::mutex mutex;
  std::optional<Fault> fault;
  Counts counts;
  bool counts_sectors = false;
};

class Block {
 public:
  Block(GridState& grid, uint32_t x, uint32_t y)
      : grid_(grid),
        program_(grid.program),
        index_(y * grid.grid.x + x),
        shared_(program_.shared_bytes / 8 + 1, k_poison),
        shadow_(program_.shared_bytes) {
    const uint32_t threads = grid.grid.threads;
    local_bytes_ = (program_.local_bytes + 15) / 16 * 16;
    local_.resize(local_bytes_ / 8 * threads + 2, k_poison);
    warps_.resize((threads + k_lanes - 1) / k_lanes);
    for (uint32_t i = 0; i < warps_.size(); ++i) {
      Warp& w = warps_[i];
      w.block = this;
      w.first_thread = i * k_lanes;
      const uint32_t here = std::min(k_lanes, threads - w.first_thread);
      w.live = here == k_lanes ? ~uint32_t{0} : (uint32_t{1} << here) - 1;
      w.constants = program_.constants.data();
      w.registers.assign(static_cast<size_t>(program_.slots) * k_lanes, k_poison);
      uint64_t* special =
          w.registers.data() + static_cast<size_t>(program_.slots - k_specials) * k_lanes;
      for (uint32_t l = 0; l < k_lanes; ++l) {
        const uint64_t values[k_specials] = {w.first_thread + l, threads,     x, y,
                                             grid.grid.x,        grid.grid.y, l};
        for (uint32_t k = 0; k < k_specials; ++k) special[k * k_lanes + l] = values[k];
      }
    }
  }

  // To the end of all threads; throws Fault.
  void run() {
    while (!grid_.stops.load(std::memory_order_relaxed)) {
      uint32_t live = 0;
      bool all_wait = true;
      for (Warp& w : warps_) {
        advance(w);
        live += static_cast<uint32_t>(std::popcount(w.live));
        all_wait = all_wait && w.live == w.waiting;
      }
      if (live == 0) break;
      if (all_wait) {
        meet();
      } else if (polls_ > 0) {
        // Whoever polls waits for another block; few cores run them all.
        if (++turns_ % 8 == 0)
          std::this_thread::sleep_for(std::chrono::microseconds(50));
        else
          sched_yield();
      }
      polls_ = 0;
    }
    std::lock_guard lock(grid_.mutex);
    grid_.counts += counts_;
  }

  std::byte* resolve(Warp& w, uint32_t lane, const Step& s, uint64_t address, uint32_t bytes,
                     bool writes) {
    Space space = s.space;
    uint64_t at = address;
    if (space == Space::generic) {
      const uint64_t shared = base(shared_), local = base(local_),
                     parameters = base(grid_.parameters);
      if (address - shared < program_.shared_bytes) {
        space = Space::shared, at = address - shared;
      } else if (address - local < local_.size() * 8) {
        const uint64_t own = local_base(w, lane);
        if (address - own >= program_.local_bytes)
          fault(w, lane, s, "local memory of another thread");
        space = Space::local, at = address - own;
      } else if (address - parameters < program_.parameter_bytes) {
        space = Space::param, at = address - parameters;
      }
    }
    if (at % bytes != 0 && (bytes & (bytes - 1)) == 0)
      fault(
          w, lane, s,
          "address " + std::to_string(address) + " is not a multiple of " + std::to_string(bytes));
    switch (space) {
      case Space::shared:
        within(w, lane, s, at, bytes, program_.shared_bytes, "shared memory");
        note(w, lane, s, at, bytes, writes);
        return reinterpret_cast<std::byte*>(shared_.data()) + at;
      case Space::local:
        within(w, lane, s, at, bytes, program_.local_bytes, "local memory");
        return reinterpret_cast<std::byte*>(local_base(w, lane) + at);
      case Space::param:
        if (writes) fault(w, lane, s, "writes into the kernel's parameters");
        within(w, lane, s, at, bytes, program_.parameter_bytes, "the kernel's parameters");
        return reinterpret_cast<std::byte*>(grid_.parameters.data()) + at;
      default:
        (writes ? counts_.global_stores : counts_.global_loads) += bytes;
        if (grid_.counts_sectors) sectors_.push_back(address / 32);
        return global(w, lane, s, address, bytes);
    }
  }

  uint64_t generic_address(Warp& w, uint32_t lane, Space space, uint64_t offset) {
    return offset + (space == Space::shared  ? base(shared_)
                     : space == Space::local ? local_base(w, lane)
                                             : base(grid_.parameters));
  }
  uint64_t offset_in(Warp& w, uint32_t lane, Space space, uint64_t generic) {
    return generic - generic_address(w, lane, space, 0);
  }
  void polled() { ++polls_; }
  void accessed() {
    if (sectors_.empty()) return;
    std::sort(sectors_.begin(), sectors_.end());
    counts_.sectors +=
        static_cast<uint64_t>(std::unique(sectors_.begin(), sectors_.end()) - sectors_.begin());
    sectors_.clear();
  }
  Fault fault_at(const Warp& w, uint32_t lane, uint32_t line, const std::string& what) const {
    return {program_.name, what, line, index_, w.first_thread + lane};
  }

 private:
  static uint64_t base(const std::vector<uint64_t>& memory) {
    return reinterpret_cast<uint64_t>(memory.data());
  }
  uint64_t local_base(const Warp& w, uint32_t lane) const {
    const uint64_t begin = (base(local_) + 15) / 16 * 16;
    return begin + (w.first_thread + lane) * local_bytes_;
  }
  static void within(const Warp& w, uint32_t lane, const Step& s, uint64_t at, uint32_t bytes,
                     uint64_t size, const char* what) {
    if (at >= size || size - at < bytes)
      ptx::fault(w, lane, s,
                 "offset " + std::to_string(at) + " of " + what + ", which has " +
                     std::to_string(size) + " bytes");
  }

  std::byte* global(const Warp& w, uint32_t lane, const Step& s, uint64_t address, uint32_t bytes) {
    const uint64_t frees = grid_.memory.frees();
    if (frees != frees_) {
      frees_ = frees;
      for (Memory::Range& r : recent_) r = {};
    }
    for (size_t i = 0; i < std::size(recent_); ++i)
      if (address >= recent_[i].begin && address + bytes <= recent_[i].end)
        return reinterpret_cast<std::byte*>(address);
    auto range = grid_.memory.find(address);
    for (const Memory::Range& r : program_.global_ranges)
      if (address >= r.begin && address < r.end) range = r;
    if (!range || address + bytes > range->end)
      ptx::fault(
          w, lane, s,
          std::to_string(bytes) + " bytes at address " + std::to_string(address) +
              (range ? ", which are " + std::to_string(address + bytes - range->end) +
                           " beyond its allocation of " + std::to_string(range->end - range->begin)
                     : ", which is no memory of the device"));
    recent_[oldest_++ % std::size(recent_)] = *range;
    return reinterpret_cast<std::byte*>(address);
  }

  // Who touched a byte of shared memory since the last barrier.
  struct Shadow {
    uint32_t written_in = 0, read_in = 0;  // barrier's number + 1; 0: never
    uint16_t writer = 0, reader = 0;
    bool several = false;  // readers
  };
  void note(const Warp& w, uint32_t lane, const Step& s, uint64_t at, uint32_t bytes, bool writes) {
    const auto thread = static_cast<uint16_t>(w.first_thread + lane);
    for (uint64_t i = at; i < at + bytes; ++i) {
      Shadow& byte = shadow_[i];
      const bool written = byte.written_in == epoch_ && byte.writer != thread;
      if (writes) {
        if (written || (byte.read_in == epoch_ && (byte.several || byte.reader != thread)))
          race(w, lane, s, i, written ? byte.writer : byte.reader, written ? "wrote" : "read");
        byte.written_in = epoch_, byte.writer = thread;
      } else {
        if (written) race(w, lane, s, i, byte.writer, "wrote");
        byte.several = byte.read_in == epoch_ && (byte.several || byte.reader != thread);
        byte.read_in = epoch_, byte.reader = thread;
      }
    }
  }
  static void race(const Warp& w, uint32_t lane, const Step& s, uint64_t at, uint32_t other,
                   const char* what) {
    ptx::fault(w, lane, s,
               "race: thread " + std::to_string(other) + " " + what + " byte " +
                   std::to_string(at) + " of shared memory since the last barrier");
  }

  // A warp's turn: the lanes that are furthest behind go on, until they are with others again.
  void advance(Warp& w) {
    uint32_t left = k_slice;
    while (left > 0) {
      const uint32_t ready = w.live & ~w.waiting;
      if (ready == 0) return;
      uint32_t pc = w.backwards ? 0 : ~uint32_t{0}, behind = ~uint32_t{0};
      lanes(ready,
            [&](uint32_t l) { pc = w.backwards ? std::max(pc, w.pc[l]) : std::min(pc, w.pc[l]); });
      uint32_t group = 0;
      lanes(ready, [&](uint32_t l) { group |= uint32_t{w.pc[l] == pc} << l; });
      // Those ahead, whom the group may meet.
      lanes(ready & ~group, [&](uint32_t l) { behind = std::min(behind, w.pc[l]); });
      if (w.backwards) behind = ~uint32_t{0}, left = std::min(left, k_slice / 4);
      run_group(w, group, pc, behind, left);
      if (left == 0) w.backwards = !w.backwards && (w.live & ~w.waiting & ~group) != 0;
    }
  }

  void run_group(Warp& w, uint32_t group, uint32_t pc, uint32_t join, uint32_t& left) {
    const auto put = [&](uint32_t which, uint32_t at) {
      lanes(which, [&](uint32_t l) { w.pc[l] = at; });
    };
    for (; left > 0 && pc < join; --left) {
      const Step& s = program_.steps[pc];
      uint32_t mask = group;
      if (s.guard >= 0) {
        const uint64_t* predicate = w.out(s.guard);
        mask = 0;
        lanes(group, [&](uint32_t l) { mask |= uint32_t{(predicate[l] != 0) != s.negated} << l; });
      }
      counts_.instructions += static_cast<uint64_t>(std::popcount(mask));
      switch (s.kind) {
        case Step::Kind::plain:
          if (mask != 0) {
            w.mask = mask;
            s.run(w, s);
          }
          ++pc;
          continue;
        case Step::Kind::branch:
          if (mask == group) {
            pc = s.target;
            continue;
          }
          if (mask == 0) {
            ++pc;
            continue;
          }
          put(mask, s.target);
          put(group & ~mask, pc + 1);
          return;
        case Step::Kind::call:
          lanes(group, [&](uint32_t l) { w.returns[l].push_back(pc + 1); });
          pc = s.target;
          continue;
        case Step::Kind::leave:
          put(group & ~mask, pc + 1);
          lanes(mask, [&](uint32_t l) {
            if (w.returns[l].empty()) {
              w.live &= ~(uint32_t{1} << l);
              w.pc[l] = pc;
            } else {
              w.pc[l] = w.returns[l].back();
              w.returns[l].pop_back();
            }
          });
          return;
        case Step::Kind::barrier:
          put(group, pc);
          w.waiting |= group;
          return;
      }
    }
    put(group, pc);
  }

  // All threads that are left wait at a barrier.
  void meet() {
    const uint32_t none = ~uint32_t{0};
    uint32_t at = none;
    bool vote = false;
    for (Warp& w : warps_)
      lanes(w.live, [&](uint32_t l) {
        if (at == none) at = w.pc[l];
        const Step& s = program_.steps[w.pc[l]];
        if (w.pc[l] != at)
          ptx::fault(w, l, s,
                     "some threads of the block wait at the barrier of line " +
                         std::to_string(program_.steps[at].line) + ", this one at another");
        if (s.votes) vote = vote || w.in(s.in[0])[l] != 0;
      });
    for (Warp& w : warps_) {
      const uint32_t all = std::min(k_lanes, grid_.grid.threads - w.first_thread);
      if (static_cast<uint32_t>(std::popcount(w.live)) != all)
        ptx::fault(w, static_cast<uint32_t>(std::countr_one(w.live)), program_.steps[at],
                   "left, while others of its block wait at this barrier");
      const Step& s = program_.steps[at];
      lanes(w.live, [&](uint32_t l) {
        if (s.votes) w.out(s.out[0])[l] = vote ? 1 : 0;
        ++w.pc[l];
      });
      w.waiting = 0;
    }
    ++epoch_;
  }

  GridState& grid_;
  const Program& program_;
  uint32_t index_;
  std::vector<uint64_t> shared_;
  std::vector<Shadow> shadow_;
  std::vector<uint64_t> local_;
  uint64_t local_bytes_ = 0;
  std::vector<Warp> warps_;
  uint32_t epoch_ = 1;
  uint64_t polls_ = 0, turns_ = 0;
  std::vector<uint64_t> sectors_;  // of the accesses of one step; no access here crosses one
  Memory::Range recent_[8];
  size_t oldest_ = 0;
  uint64_t frees_ = ~uint64_t{0};
  Counts counts_;
};

std::byte* resolve(Warp& w, uint32_t lane, const Step& s, uint64_t address, uint32_t bytes,
                   bool writes) {
  return w.block->resolve(w, lane, s, address, bytes, writes);
}
uint64_t generic_address(Warp& w, uint32_t lane, Space space, uint64_t offset) {
  return w.block->generic_address(w, lane, space, offset);
}
uint64_t offset_in(Warp& w, uint32_t lane, Space space, uint64_t generic) {
  return w.block->offset_in(w, lane, space, generic);
}
void polled(Warp& w) { w.block->polled(); }
void accessed(Warp& w) { w.block->accessed(); }
void fault(const Warp& w, uint32_t lane, const Step& s, const std::string& what) {
  throw w.block->fault_at(w, lane, s.line, what);
}

std::optional<Fault> run_grid(const Program& program, Grid grid,
                              std::span<const std::byte> parameters, const Memory& memory,
                              Counts* counts) {
  GridState state{program, memory, grid, {}, {}, {}, {}, {}, counts != nullptr};
  state.parameters.resize(program.parameter_bytes / 8 + 1);
  const auto refuse = [&](const std::string& what) { return Fault{program.name, what, 0, 0, 0}; };
  if (parameters.size() != program.parameter_bytes)
    return refuse("has " + std::to_string(program.parameter_bytes) + " bytes of parameters, not " +
                  std::to_string(parameters.size()));
  if (grid.threads == 0 || (program.max_threads != 0 && grid.threads > program.max_threads))
    return refuse("cannot have " + std::to_string(grid.threads) + " threads");
  std::memcpy(state.parameters.data(), parameters.data(), parameters.size());
  const auto run = [&](uint32_t x, uint32_t y) {
    try {
      Block(state, x, y).run();
    } catch (const Fault& f) {
      std::lock_guard lock(state.mutex);
      if (!state.fault) state.fault = f;
      state.stops = true;
    }
  };
  std::vector<std::thread> threads;
  for (uint32_t y = 0; y < grid.y; ++y)
    for (uint32_t x = 0; x < grid.x; ++x) {
      if (grid.cooperative)
        threads.emplace_back(run, x, y);
      else
        run(x, y);
    }
  for (std::thread& t : threads) t.join();
  if (counts != nullptr) *counts = state.counts;
  return state.fault;
}

}  // namespace tutti::ptx
