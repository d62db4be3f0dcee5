#include "src/executor/cpu_executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu/kernels.h"

namespace tutti {
namespace {

// Below this a copy into a slot costs less than telling the peer where to read.
constexpr uint64_t k_pull_bytes = 4096;
// Sources that process_vm_readv has to fetch are reduced in tiles that stay in the L2 cache.
constexpr uint64_t k_tile_bytes = 64 * 1024;

enum class Advance : uint8_t { blocked, moved, done, failed };

}  // namespace

Status mismatch(Rank peer, std::string_view what) {
  return Status(Code::invalid_usage,
                fmt::format("rank {} does not make the same call: {}", peer, what));
}

// Runs one lane of one call. Every method returns without blocking.
class CpuExecutor::LaneRun {
 public:
  LaneRun(CpuExecutor& executor, BoundPlan& bound, const LaneProgram& program,
          const CallBuffers& buffers, uint64_t signature, std::vector<LaneRun>& lanes)
      : executor_(executor),
        bound_(bound),
        program_(program),
        buffers_(buffers),
        signature_(signature),
        lanes_(lanes) {
    if (!program_.empty()) action_ = program_.action(0);
  }

  Advance advance() {
    bool moved = false;
    while (true) {
      if (draining_) return drain() ? Advance::done : moved ? Advance::moved : Advance::blocked;
      const Io io = execute();
      if (io == Io::failed) return Advance::failed;
      if (io == Io::again) return moved ? Advance::moved : Advance::blocked;
      moved = true;
      next();
    }
  }

  Lane lane() const { return program_.lane(); }
  const Status& status() const { return status_; }
  Rank waiting_for() const { return waiting_for_; }

 private:
  Io execute() {
    switch (action_.kind) {
      case Action::Kind::send: return send();
      case Action::Kind::recv: return recv();
      case Action::Kind::pass: return pass();
      case Action::Kind::copy: return copy();
      case Action::Kind::signal: return signal();
      case Action::Kind::wait: return wait();
    }
    return Io::failed;
  }

  void next() {
    sub_ = 0;
    uint32_t pc = action_.first + action_.steps;
    if (pc == program_.steps()) {
      pc = 0;
      if (++round_ == bound_.layout.rounds()) {
        draining_ = true;
        return;
      }
      if (program_.steps() == action_.steps) return;  // a lane of one action: it stays decoded
    }
    action_ = program_.action(pc);
  }

  // A rank completes only when its pulled chunks have been consumed.
  bool drain() {
    while (!pulled_.empty()) {
      const auto& [endpoint, message] = pulled_.back();
      if (endpoint->consumed() < message) {
        waiting_for_ = endpoint->peer();
        if (!endpoint->status().ok()) {
          status_ = endpoint->status();
        }
        return false;
      }
      pulled_.pop_back();
    }
    return true;
  }

  // --- memory
  std::byte* base(Buffer buffer) const {
    switch (buffer) {
      case Buffer::input: return const_cast<std::byte*>(buffers_.input);
      case Buffer::output: return buffers_.output;
      case Buffer::scratch: return bound_.scratch;
    }
    return nullptr;
  }
  const std::vector<iovec>& pieces(Buffer buffer, uint32_t first, uint32_t count) {
    pieces_.clear();
    std::byte* memory = base(buffer);
    bound_.layout.for_each_extent(buffer, first, count, round_, [&](Extent e) {
      pieces_.push_back({memory + e.offset, e.bytes});
    });
    return pieces_;
  }
  uint64_t bytes_of(const Step& step) const {
    const uint32_t chunk = reads_src(step.op) ? step.src : step.dst;
    return bound_.layout.bytes(chunk, step.count, round_);
  }
  // Steps whose chunks are empty in this round are elided; tokens (no chunks) never are.
  bool elided(const Step& step) const { return step.count > 0 && bytes_of(step) == 0; }

  Io fail(Status status) {
    status_ = std::move(status);
    return Io::failed;
  }
  Endpoint* endpoint(Rank peer) {
    Result<Endpoint*> e = executor_.router_.endpoint(peer, program_.lane());
    if (!e) {
      status_ = e.status();
      return nullptr;
    }
    waiting_for_ = peer;
    return *e;
  }
  // again, unless the endpoint is broken.
  Io blocked_on(const Endpoint& e) {
    Status s = e.status();
    return s.ok() ? Io::again : fail(std::move(s));
  }
  bool check(const Endpoint& e, uint64_t signature, uint64_t bytes, uint64_t expected) {
    if (signature == signature_ && bytes == expected) return true;
    status_ = mismatch(e.peer(), signature != signature_
                                     ? std::string("its message belongs to another call")
                                     : fmt::format("its message has {} bytes, {} expected", bytes,
                                                   expected));
    return false;
  }

  // --- the actions; sub_ counts the steps of the action that are through.
  Io send() {
    if (elided(action_.step)) return Io::done;
    const Step& s = action_.step;
    const std::vector<iovec>& memory = pieces(s.src_buffer, s.src, s.count);
    const uint64_t bytes = s.count == 0 ? 0 : bytes_of(s);
    for (; sub_ < action_.steps; ++sub_) {
      Endpoint* to = endpoint(sub_ == 0 ? s.peer : program_.step(action_.first + sub_).peer);
      if (to == nullptr) return Io::failed;
      const Io io = send_one(*to, memory, bytes);
      if (io == Io::failed) return status_.ok() ? blocked_on(*to) : io;
      if (io == Io::again) return blocked_on(*to);
    }
    published_ = nullptr;
    return Io::done;
  }

  Io send_one(Endpoint& to, const std::vector<iovec>& memory, uint64_t bytes) {
    const Capabilities caps = executor_.router_.transport(to.peer()).capabilities();
    if (caps.pull && bytes > k_pull_bytes && memory.size() == 1) {
      const Io io = to.send_ref(signature_, memory[0].iov_base, bytes);
      if (io == Io::done) remember_pulled(to);
      return io;
    }
    if (published_ != nullptr && published_transport_ == &executor_.router_.transport(to.peer()))
      return to.share(signature_, *published_);
    const Io io = to.send(signature_, memory);
    if (io == Io::done && to.supports_share() && bytes > caps.inline_bytes) {
      published_ = &to;
      published_transport_ = &executor_.router_.transport(to.peer());
    }
    return io;
  }

  void remember_pulled(Endpoint& to) {
    if (!pulled_.empty() && pulled_.back().first == &to) {
      pulled_.back().second = to.sent();
    } else {
      pulled_.emplace_back(&to, to.sent());
    }
  }

  Io recv() {
    if (elided(action_.step)) return Io::done;
    const Step& s = action_.step;
    Endpoint* from = endpoint(s.peer);
    if (from == nullptr) return Io::failed;
    const std::vector<iovec>& memory = pieces(s.dst_buffer, s.dst, s.count);
    uint64_t signature = 0;
    size_t bytes = 0;
    const Io io = from->recv(memory, &signature, &bytes);
    if (io == Io::again) return blocked_on(*from);
    const uint64_t expected = s.count == 0 ? 0 : bytes_of(s);
    if (io == Io::failed && from->status().ok()) {
      check(*from, signature, bytes, expected);
      if (status_.ok()) status_ = mismatch(s.peer, "its message is longer than expected");
      return Io::failed;
    }
    if (io == Io::failed) return fail(from->status());
    return check(*from, signature, bytes, expected) ? Io::done : Io::failed;
  }

  Io copy() {
    const Step& s = action_.step;
    for (uint32_t c = 0; c < s.count; ++c) {
      const Extent dst = bound_.layout.chunk(s.dst_buffer, s.dst + c, round_);
      const Extent src = bound_.layout.chunk(s.src_buffer, s.src + c, round_);
      std::byte* to = base(s.dst_buffer) + dst.offset;
      const std::byte* from = base(s.src_buffer) + src.offset;
      if (dst.bytes > 0 && to != from) kernels::copy(to, from, dst.bytes);
    }
    return Io::done;
  }

  Io signal() {
    for (LaneRun& other : lanes_)
      if (other.lane() == action_.step.peer) other.add_token(program_.lane());
    return Io::done;
  }

  Io wait() {
    for (auto& [from, tokens] : tokens_)
      if (from == action_.step.peer && tokens > 0) {
        --tokens;
        return Io::done;
      }
    return Io::again;
  }

  void add_token(Lane from) {
    for (auto& [lane, tokens] : tokens_)
      if (lane == from) {
        ++tokens;
        return;
      }
    tokens_.emplace_back(from, 1);
  }

  // --- passes: one n-ary reduction over everything that has arrived.
  struct Operand {
    Endpoint* endpoint = nullptr;  // null: local memory
    Message message;
    Buffer buffer = Buffer::input;  // local
    uint32_t chunk = 0;
  };

  Io pass() {
    if (elided(action_.step)) return Io::done;
    if (sub_ == 0) {
      operands_.clear();
      const Step& s = action_.step;
      // recv_reduce starts from its source, reduce from its destination.
      if (s.op == Op::recv_reduce) operands_.push_back({nullptr, {}, s.src_buffer, s.src});
      if (s.op == Op::reduce) operands_.push_back({nullptr, {}, s.dst_buffer, s.dst});
    }
    const uint64_t expected = bytes_of(action_.step);
    for (; sub_ < action_.steps; ++sub_) {
      const Step s = program_.step(action_.first + sub_);
      if (s.op == Op::reduce) {
        operands_.push_back({nullptr, {}, s.src_buffer, s.src});
        continue;
      }
      Operand o;
      o.endpoint = endpoint(s.peer);
      if (o.endpoint == nullptr) return Io::failed;
      uint32_t earlier = 0;  // messages of the same peer that this pass already holds
      for (const Operand& held : operands_) earlier += held.endpoint == o.endpoint;
      if (o.endpoint->peek_at(earlier, &o.message) != Io::done) return blocked_on(*o.endpoint);
      if (!check(*o.endpoint, o.message.signature, o.message.bytes, expected)) return Io::failed;
      operands_.push_back(o);
    }
    reduce_operands();
    for (const Operand& o : operands_)
      if (o.endpoint != nullptr) o.endpoint->release();
    return status_.ok() ? Io::done : Io::failed;
  }

  void reduce_operands() {
    const Step& s = action_.step;
    uint64_t at = 0;  // offset in the messages
    for (uint32_t c = 0; c < s.count;) {
      // As many chunks at once as are contiguous in every operand.
      Extent dst = bound_.layout.chunk(s.dst_buffer, s.dst + c, round_);
      uint32_t run = 1;
      while (c + run < s.count && extends(dst, c + run)) {
        dst.bytes += bound_.layout.chunk(s.dst_buffer, s.dst + c + run, round_).bytes;
        ++run;
      }
      if (dst.bytes > 0) reduce_run(c, dst, at);
      if (!status_.ok()) return;
      at += dst.bytes;
      c += run;
    }
  }

  bool extends(const Extent& dst, uint32_t c) const {
    const Extent e = bound_.layout.chunk(action_.step.dst_buffer, action_.step.dst + c, round_);
    if (dst.offset + dst.bytes != e.offset) return false;
    for (const Operand& o : operands_) {
      if (o.endpoint != nullptr) continue;
      const Extent before = bound_.layout.chunk(o.buffer, o.chunk + c - 1, round_);
      const Extent here = bound_.layout.chunk(o.buffer, o.chunk + c, round_);
      if (before.offset + before.bytes != here.offset) return false;
    }
    return true;
  }

  void reduce_run(uint32_t c, const Extent& dst, uint64_t at) {
    bool remote = false;
    for (const Operand& o : operands_)
      remote |= o.endpoint != nullptr && o.message.data == nullptr;
    const uint64_t tile = remote ? k_tile_bytes : dst.bytes;
    for (uint64_t done = 0; done < dst.bytes && status_.ok(); done += tile)
      reduce_tile(c, {dst.offset + done, std::min(tile, dst.bytes - done)}, at + done, done);
  }

  void reduce_tile(uint32_t c, const Extent& dst, uint64_t at, uint64_t within) {
    sources_.clear();
    size_t staged = 0;
    if (executor_.tiles_.size() < operands_.size() * k_tile_bytes && needs_tiles())
      executor_.tiles_.resize(operands_.size() * k_tile_bytes);
    for (const Operand& o : operands_) {
      if (o.endpoint == nullptr) {
        const Extent e = bound_.layout.chunk(o.buffer, o.chunk + c, round_);
        sources_.push_back(base(o.buffer) + e.offset + within);
      } else if (o.message.data != nullptr) {
        sources_.push_back(o.message.data + at);
      } else {
        std::byte* staging = executor_.tiles_.data() + k_tile_bytes * staged++;
        if (Status s = o.endpoint->fetch(at, {staging, dst.bytes}); !s.ok()) {
          status_ = std::move(s);
          return;
        }
        sources_.push_back(staging);
      }
    }
    void* destination = base(action_.step.dst_buffer) + dst.offset;
    const BindRequest& request = bound_.request;
    kernels::reduce(request.dtype, request.op, sources_, {&destination, 1},
                    dst.bytes / bound_.layout.element_bytes(), action_.last ? bound_.divisor : 0);
  }

  bool needs_tiles() const {
    return std::any_of(operands_.begin(), operands_.end(), [](const Operand& o) {
      return o.endpoint != nullptr && o.message.data == nullptr;
    });
  }

  CpuExecutor& executor_;
  BoundPlan& bound_;
  const LaneProgram& program_;
  const CallBuffers& buffers_;
  uint64_t signature_;
  std::vector<LaneRun>& lanes_;

  Action action_;
  uint32_t round_ = 0;
  uint32_t sub_ = 0;
  bool draining_ = false;
  Rank waiting_for_ = 0;
  Status status_;
  Endpoint* published_ = nullptr;  // where the chunk of the current run of sends was copied to
  Transport* published_transport_ = nullptr;
  std::vector<iovec> pieces_;
  std::vector<Operand> operands_;
  std::vector<const void*> sources_;
  std::vector<std::pair<Lane, uint32_t>> tokens_;
  std::vector<std::pair<Endpoint*, uint64_t>> pulled_;  // endpoint, its last message by reference
};

Status CpuExecutor::run(BoundPlan& bound, const CallBuffers& buffers, uint64_t signature) {
  std::vector<LaneRun> lanes;
  lanes.reserve(bound.lanes.size());
  for (const LaneProgram& program : bound.lanes)
    lanes.emplace_back(*this, bound, program, buffers, signature, lanes);
  std::vector<uint32_t> active(lanes.size());
  for (uint32_t i = 0; i < active.size(); ++i) active[i] = i;

  Waiter waiter(policy_, monitor_);
  while (!active.empty()) {
    bool moved = false;
    for (size_t i = 0; i < active.size();) {
      LaneRun& lane = lanes[active[i]];
      const Advance advance = lane.advance();
      if (advance == Advance::failed || !lane.status().ok()) return lane.status();
      moved |= advance != Advance::blocked;
      if (advance == Advance::done) {
        active[i] = active.back();
        active.pop_back();
      } else {
        ++i;
      }
    }
    if (moved) {
      waiter.moved();
    } else {
      TUTTI_RETURN_IF_ERROR(waiter.idle(lanes[active[0]].waiting_for()));
    }
  }
  return {};
}

}  // namespace tutti
