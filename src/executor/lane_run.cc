#include "src/executor/lane_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu/kernels.h"

namespace tutti {
namespace {

// Sources that a system call has to fetch are reduced in tiles that stay in the L2 cache.
constexpr uint64_t k_tile_bytes = 64 * 1024;

}  // namespace

Status mismatch(Rank peer, std::string_view what) {
  return Status(Code::invalid_usage,
                fmt::format("rank {} does not make the same call: {}", peer, what));
}

void LaneRun::start(Shared& shared) {
  shared_ = &shared;
  action_ = program_.action(0);
  round_ = sub_ = 0;
  prepared_ = draining_ = false;
  status_ = Status();
  published_ = nullptr;
  slot_ = nullptr;
  pulled_.clear();
  tokens_.clear();
}

LaneRun::Advance LaneRun::advance() {
  bool moved = false;
  while (true) {
    if (draining_) {
      if (drain()) return Advance::done;
      return !status_.ok() ? Advance::failed : moved ? Advance::moved : Advance::blocked;
    }
    const Io io = execute();
    if (io == Io::failed) return Advance::failed;
    if (io == Io::again) return moved ? Advance::moved : Advance::blocked;
    moved = true;
    next();
  }
}

Io LaneRun::execute() {
  switch (action_.kind) {
    case Action::Kind::send:
      return send();
    case Action::Kind::recv:
      return recv();
    case Action::Kind::pass:
      return pass();
    case Action::Kind::copy:
      return copy();
    case Action::Kind::signal:
      return signal();
    case Action::Kind::wait:
      return wait();
  }
  return Io::failed;
}

void LaneRun::next() {
  sub_ = 0;
  prepared_ = false;
  uint32_t pc = action_.first + action_.steps;
  if (pc == program_.steps()) {
    pc = 0;
    if (++round_ == shared_->bound.layout.rounds()) {
      draining_ = true;
      return;
    }
    if (program_.steps() == action_.steps) return;  // a lane of one action stays decoded
  }
  action_ = program_.action(pc);
}

// A rank completes only when its pulled chunks have been consumed.
bool LaneRun::drain() {
  while (!pulled_.empty()) {
    const auto& [to, message] = pulled_.back();
    if (to->consumed() < message) {
      waiting_for_ = to->peer();
      status_ = to->status();
      return false;
    }
    pulled_.pop_back();
  }
  return true;
}

// --- helpers

std::byte* LaneRun::base(Buffer buffer) const {
  switch (buffer) {
    case Buffer::input:
      return const_cast<std::byte*>(shared_->buffers.input);
    case Buffer::output:
      return shared_->buffers.output;
    case Buffer::scratch:
      return shared_->bound.scratch;
  }
  return nullptr;
}

// pieces_ = the memory of chunks [first, first + count), once per action.
void LaneRun::prepare(Buffer buffer, uint32_t first, uint32_t count) {
  if (prepared_) return;
  prepared_ = true;
  pieces_.clear();
  std::byte* memory = base(buffer);
  shared_->bound.layout.for_each_extent(buffer, first, count, round_, [&](Extent e) {
    pieces_.push_back({memory + e.offset, e.bytes});
  });
}

uint64_t LaneRun::bytes_of(const Step& step) const {
  const uint32_t chunk = reads_src(step.op) ? step.src : step.dst;
  return shared_->bound.layout.bytes(chunk, step.count, round_);
}

Endpoint* LaneRun::endpoint(Rank peer) {
  waiting_for_ = peer;
  Result<Endpoint*> e = shared_->router.endpoint(peer, program_.lane());
  if (e) return *e;
  status_ = e.status();
  return nullptr;
}

Io LaneRun::fail(Status status) {
  status_ = std::move(status);
  return Io::failed;
}

// again, unless the endpoint is broken.
Io LaneRun::blocked_on(const Endpoint& e) {
  Status s = e.status();
  return s.ok() ? Io::again : fail(std::move(s));
}

bool LaneRun::check(const Endpoint& from, uint64_t signature, uint64_t bytes, uint64_t expected) {
  if (signature == shared_->signature && bytes == expected) return true;
  status_ = mismatch(from.peer(),
                     signature != shared_->signature
                         ? std::string("its message belongs to another call")
                         : fmt::format("its message has {} bytes, {} expected", bytes, expected));
  return false;
}

// --- actions

Io LaneRun::send() {
  const Step& s = action_.step;
  const uint64_t bytes = bytes_of(s);
  if (s.count > 0 && bytes == 0) return Io::done;
  prepare(s.src_buffer, s.src, s.count);
  for (; sub_ < action_.steps; ++sub_) {
    Endpoint* to = endpoint(sub_ == 0 ? s.peer : program_.step(action_.first + sub_).peer);
    if (to == nullptr) return Io::failed;
    if (slot_ != nullptr) {  // the pass before has filled it
      to->commit(shared_->signature, bytes);
      slot_ = nullptr;
      published_ = to;
      continue;
    }
    if (send_one(*to, bytes) != Io::done) return blocked_on(*to);
  }
  published_ = nullptr;
  return Io::done;
}

Io LaneRun::send_one(Endpoint& to, uint64_t bytes) {
  const Capabilities& caps = shared_->router.capabilities(to.peer());
  if (shared_->router.pulls(to.peer(), bytes) && pieces_.size() == 1) {
    const Io io = to.send_ref(shared_->signature, pieces_[0].iov_base, bytes);
    if (io != Io::done) return io;
    if (!pulled_.empty() && pulled_.back().first == &to) {
      pulled_.back().second = to.sent();
    } else {
      pulled_.emplace_back(&to, to.sent());
    }
    return io;
  }
  if (published_ != nullptr && shared_->router.same_transport(published_->peer(), to.peer()))
    return to.share(shared_->signature, *published_);
  const Io io = to.send(shared_->signature, pieces_);
  if (io == Io::done && bytes > caps.inline_bytes && to.supports_share()) published_ = &to;
  return io;
}

Io LaneRun::recv() {
  const Step& s = action_.step;
  const uint64_t expected = bytes_of(s);
  if (s.count > 0 && expected == 0) return Io::done;
  Endpoint* from = endpoint(s.peer);
  if (from == nullptr) return Io::failed;
  prepare(s.dst_buffer, s.dst, s.count);
  uint64_t signature = 0;
  size_t bytes = 0;
  const Io io = from->recv(pieces_, &signature, &bytes);
  if (io == Io::again) return blocked_on(*from);
  if (io == Io::failed && !from->status().ok()) return fail(from->status());
  if (!check(*from, signature, bytes, expected)) return Io::failed;
  return io == Io::done ? io : fail(mismatch(s.peer, "its message is longer than expected"));
}

Io LaneRun::copy() {
  const Step& s = action_.step;
  const Layout& layout = shared_->bound.layout;
  for (uint32_t c = 0; c < s.count; ++c) {
    const Extent dst = layout.chunk(s.dst_buffer, s.dst + c, round_);
    const Extent src = layout.chunk(s.src_buffer, s.src + c, round_);
    std::byte* to = base(s.dst_buffer) + dst.offset;
    const std::byte* from = base(s.src_buffer) + src.offset;
    if (dst.bytes > 0 && to != from) kernels::copy(to, from, dst.bytes);
  }
  return Io::done;
}

Io LaneRun::signal() {
  for (LaneRun& other : shared_->bound.runs) {
    if (other.lane() != action_.step.peer) continue;
    auto& tokens = other.tokens_;
    const auto it = std::find_if(tokens.begin(), tokens.end(),
                                 [&](const auto& t) { return t.first == lane(); });
    if (it != tokens.end()) {
      ++it->second;
    } else {
      tokens.emplace_back(lane(), 1);
    }
  }
  return Io::done;
}

Io LaneRun::wait() {
  for (auto& [from, tokens] : tokens_)
    if (from == action_.step.peer && tokens > 0) {
      --tokens;
      return Io::done;
    }
  return Io::again;
}

// --- passes

Io LaneRun::pass() {
  if (elided(action_.step)) return Io::done;
  if (const Io io = collect(); io != Io::done) return io;
  slot_ = outgoing_slot(bytes_of(action_.step));
  reduce_operands();
  if (!status_.ok()) return Io::failed;
  for (const Operand& o : operands_)
    if (o.endpoint != nullptr) o.endpoint->release();
  return Io::done;
}

// done when every operand of the pass is here.
Io LaneRun::collect() {
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
    if (action_.steps <= k_endpoint_credits * 16)
      for (const Operand& held : operands_) earlier += held.endpoint == o.endpoint;
    if (o.endpoint->peek_at(earlier, &o.message) != Io::done) return blocked_on(*o.endpoint);
    if (!check(*o.endpoint, o.message.signature, o.message.bytes, expected)) return Io::failed;
    operands_.push_back(o);
  }
  return Io::done;
}

// Memory of the message that is sent next, if that is the result of this pass and goes by slot.
std::byte* LaneRun::outgoing_slot(uint64_t bytes) {
  const uint32_t after = action_.first + action_.steps;
  if (after >= program_.steps() || action_.step.count != 1) return nullptr;
  const Step following = program_.step(after);
  if (following.op != Op::send || following.count != 1 ||
      following.src_buffer != action_.step.dst_buffer || following.src != action_.step.dst)
    return nullptr;
  const Capabilities& caps = shared_->router.capabilities(following.peer);
  if (bytes <= caps.inline_bytes || shared_->router.pulls(following.peer, bytes)) return nullptr;
  Endpoint* to = endpoint(following.peer);
  return to != nullptr && to->supports_reserve() ? to->reserve(bytes) : nullptr;
}

void LaneRun::reduce_operands() {
  const Step& s = action_.step;
  const Layout& layout = shared_->bound.layout;
  uint64_t at = 0;  // offset in the messages
  for (uint32_t c = 0; c < s.count && status_.ok();) {
    // As many chunks at once as are contiguous in every operand.
    Extent dst = layout.chunk(s.dst_buffer, s.dst + c, round_);
    uint32_t run = 1;
    while (c + run < s.count && extends(dst, c + run))
      dst.bytes += layout.chunk(s.dst_buffer, s.dst + c + run++, round_).bytes;
    if (dst.bytes > 0) reduce_run(c, dst, at);
    at += dst.bytes;
    c += run;
  }
}

bool LaneRun::extends(const Extent& dst, uint32_t c) const {
  const Layout& layout = shared_->bound.layout;
  const Extent e = layout.chunk(action_.step.dst_buffer, action_.step.dst + c, round_);
  if (dst.offset + dst.bytes != e.offset) return false;
  return std::all_of(operands_.begin(), operands_.end(), [&](const Operand& o) {
    if (o.endpoint != nullptr) return true;
    const Extent before = layout.chunk(o.buffer, o.chunk + c - 1, round_);
    return before.offset + before.bytes == layout.chunk(o.buffer, o.chunk + c, round_).offset;
  });
}

void LaneRun::reduce_run(uint32_t c, const Extent& dst, uint64_t at) {
  const auto remote =
      static_cast<size_t>(std::count_if(operands_.begin(), operands_.end(), [](const Operand& o) {
        return o.endpoint != nullptr && o.message.data == nullptr;
      }));
  if (shared_->tiles.size() < remote * k_tile_bytes) shared_->tiles.resize(remote * k_tile_bytes);
  const uint64_t tile = remote > 0 ? k_tile_bytes : dst.bytes;
  for (uint64_t done = 0; done < dst.bytes && status_.ok(); done += tile)
    reduce_tile(c, {dst.offset + done, std::min(tile, dst.bytes - done)}, at + done, done);
}

void LaneRun::reduce_tile(uint32_t c, const Extent& dst, uint64_t at, uint64_t within) {
  sources_.clear();
  std::byte* staging = shared_->tiles.data();
  for (const Operand& o : operands_) {
    if (o.endpoint == nullptr) {
      const Extent e = shared_->bound.layout.chunk(o.buffer, o.chunk + c, round_);
      sources_.push_back(base(o.buffer) + e.offset + within);
    } else if (o.message.data != nullptr) {
      sources_.push_back(o.message.data + at);
    } else {
      if (Status s = o.endpoint->fetch(at, {staging, dst.bytes}); !s.ok()) {
        status_ = std::move(s);
        return;
      }
      sources_.push_back(staging);
      staging += k_tile_bytes;
    }
  }
  void* destinations[2] = {base(action_.step.dst_buffer) + dst.offset, slot_ + at};
  const BindRequest& request = shared_->bound.request;
  kernels::reduce(request.dtype, request.op, sources_, {destinations, slot_ != nullptr ? 2u : 1u},
                  dst.bytes / shared_->bound.layout.element_bytes(),
                  action_.last ? shared_->bound.divisor : 0);
}

}  // namespace tutti
