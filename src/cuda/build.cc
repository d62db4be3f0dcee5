#include "src/cuda/build.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

namespace tutti::cuda {
namespace {

// Chunks that go through slots at least fill a few cache lines per worker.
constexpr uint64_t k_least_chunk = 64;
// What one chunk of a message needs in a slot: a worker's share is rounded up to a cache line.
constexpr uint32_t k_least_slot = 128;
// A worker more for so many bytes of a chunk.
constexpr uint64_t k_worker_bytes = 16384;

Status refuse(const Plan& plan, std::string why) {
  return Status(Code::unsupported,
                fmt::format("plan {} cannot run on a device: {}", plan.algorithm(), why));
}

// Where the two ends of a rank's connections lie, on one lane of the windows.
class LinkMaker {
 public:
  LinkMaker(const BuildRequest& request, Lane lane) : request_(request), lane_(lane) {}

  Link out(Rank peer) const {
    Link link = towards(request_.rank, peer);
    link.counters = at<Counters>(mine(), request_.window.counters_out(peer, lane_));
    link.peer = peer;
    return link;
  }
  Link in(Rank peer) const {
    Link link = towards(peer, request_.rank);
    link.counters = at<Counters>(mine(), request_.window.counters_in(peer, lane_));
    link.peer = peer;
    return link;
  }
  // Tokens between two lanes of this rank.
  Link signal(Lane from, Lane to, bool out) const {
    Link link;
    link.inbox = at<Inbox>(mine(), request_.window.signal(from, to));
    link.counters = at<Counters>(mine(), request_.window.counters_signal(from, to, out));
    link.peer = request_.rank;
    return link;
  }

 private:
  // What both ends of the connection from one rank to another use.
  Link towards(Rank from, Rank to) const {
    const View receiver = view(to, from), sender = view(from, to);
    const WindowShape& w = receiver.shape;
    Link link;
    link.inbox = at<Inbox>(receiver.base, w.inbox(receiver.place, lane_));
    link.ack = at<Ack>(sender.base, sender.shape.ack(sender.place, lane_));
    link.packets = receiver.base + w.packets(receiver.place, lane_);
    link.slots = receiver.base + w.slots(receiver.place, lane_);
    link.relayed = receiver.base != request_.windows[to] ? 1 : 0;
    return link;
  }
  // A rank's window towards a peer, or what stands for it.
  struct View {
    std::byte* base;
    WindowShape shape;
    Rank place;
  };
  View view(Rank owner, Rank peer) const {
    const bool own = owner == request_.rank;
    const Rank other = own ? peer : owner;
    if (other < request_.mirrors.size() && request_.mirrors[other].here != nullptr) {
      const Mirror& mirror = request_.mirrors[other];
      return {own ? mirror.here : mirror.there, request_.window.between_two(), 0};
    }
    return {request_.windows[owner], request_.window, peer};
  }
  std::byte* mine() const { return request_.windows[request_.rank]; }
  template <class T>
  static T* at(std::byte* window, uint64_t offset) {
    return reinterpret_cast<T*>(window + offset);
  }

  const BuildRequest& request_;
  const Lane lane_;
};

// One lane, before addresses are known.
struct LaneDraft {
  std::vector<DeviceAction> actions;
  std::vector<Operand> operands;
  std::vector<Link> out, in;
};

class LaneBuilder {
 public:
  LaneBuilder(const BuildRequest& request, Lane lane)
      : request_(request),
        plan_(*request.plan),
        lane_(lane),
        make_(request, lane),
        program_(plan_, request.rank, lane) {}

  Result<LaneDraft> build() {
    for (uint32_t at = 0; at < program_.steps();) {
      const tutti::Action action = program_.action(at);
      TUTTI_RETURN_IF_ERROR(add(action));
      at += action.steps;
    }
    if (std::max(draft_.out.size(), draft_.in.size()) > k_max_links)
      return refuse(plan_, fmt::format("more than {} peers per lane", k_max_links));
    return std::move(draft_);
  }

 private:
  using Verb = DeviceAction::Verb;
  using Kind = tutti::Action::Kind;

  Status add(const tutti::Action& action) {
    switch (action.kind) {
      case Kind::send:
        return add_sends(action);
      case Kind::recv:
        if (action.step.count == 0) return add_token(Verb::recv_token, link_in(action.step.peer));
        open(Verb::recv, action.step);
        add_message(action.step.peer);
        return close();
      case Kind::pass:
        return add_pass(action);
      case Kind::copy:
        open(Verb::copy, action.step);
        return close();
      case Kind::signal:
        return add_token(Verb::send_token, signal(lane_, action.step.peer, true));
      case Kind::wait:
        return add_token(Verb::recv_token, signal(action.step.peer, lane_, false));
    }
    return {};
  }

  // A reader may come only once in an action: its message numbers are counted one at a time.
  Status add_sends(const tutti::Action& action) {
    const Verb verb = action.step.count == 0 ? Verb::send_token : Verb::send;
    open(verb, action.step);
    for (uint32_t i = 0; i < action.steps; ++i) {
      const uint32_t link = link_out(program_.step(action.first + i).peer);
      const auto begin = draft_.operands.begin() + draft_.actions.back().first_operand;
      const bool again = std::any_of(begin, draft_.operands.end(),
                                     [&](const Operand& o) { return o.link == link; });
      if (again) {
        TUTTI_RETURN_IF_ERROR(close());
        open(verb, action.step);
      }
      draft_.operands.push_back({link, Buffer::input, 0});
    }
    return close();
  }

  Status add_pass(const tutti::Action& action) {
    const Step& first = action.step;
    open(Verb::pass, first);
    draft_.actions.back().last = action.last;
    if (first.op == Op::reduce) {
      draft_.operands.push_back({k_local, first.dst_buffer, first.dst});
    } else {
      draft_.operands.push_back({k_local, first.src_buffer, first.src});
    }
    for (uint32_t i = 0; i < action.steps; ++i) {
      const Step s = program_.step(action.first + i);
      if (s.op == Op::reduce) {
        draft_.operands.push_back({k_local, s.src_buffer, s.src});
      } else {
        const auto begin = draft_.operands.begin() + draft_.actions.back().first_operand;
        const uint32_t link = link_in(s.peer);
        if (std::any_of(begin, draft_.operands.end(),
                        [&](const Operand& o) { return o.link == link; }))
          return refuse(plan_, "a pass hears a peer twice");
        add_message(s.peer);
      }
    }
    return close();
  }

  Status add_token(Verb verb, uint32_t link) {
    open(verb, {});
    draft_.operands.push_back({link, Buffer::input, 0});
    return close();
  }

  void open(Verb verb, const Step& step) {
    DeviceAction a;
    a.verb = verb;
    a.dst_buffer = step.dst_buffer;
    a.src_buffer = step.src_buffer;
    a.count = step.count;
    a.dst = step.dst;
    a.src = step.src;
    a.first_operand = static_cast<uint32_t>(draft_.operands.size());
    draft_.actions.push_back(a);
  }
  Status close() {
    DeviceAction& a = draft_.actions.back();
    a.operands = static_cast<uint32_t>(draft_.operands.size()) - a.first_operand;
    if (a.operands > k_max_links)
      return refuse(plan_, fmt::format("a step with more than {} operands", k_max_links));
    return {};
  }

  // The next message of a peer, and where the peer has it.
  void add_message(Rank peer) {
    const uint32_t link = link_in(peer);
    const Step sent = next_send_of(peer);
    draft_.operands.push_back({link, sent.src_buffer, sent.src});
  }

  // The k-th send of a peer's lane to this rank meets the k-th receive here.
  Step next_send_of(Rank peer) {
    auto [found, fresh] = sends_.try_emplace(peer);
    Sends& sends = found->second;
    if (fresh)
      for (uint32_t i = 0; i < plan_.steps(peer, lane_); ++i)
        if (const Step s = plan_.step_at(peer, lane_, i);
            s.op == Op::send && s.count > 0 && s.peer == request_.rank)
          sends.steps.push_back(s);
    return sends.next < sends.steps.size() ? sends.steps[sends.next++] : Step{};
  }

  // --- links, made when first used

  uint32_t link_out(Rank peer) {
    return find(out_, {peer, 0}, draft_.out, [&] { return make_.out(peer); });
  }
  uint32_t link_in(Rank peer) {
    return find(in_, {peer, 0}, draft_.in, [&] { return make_.in(peer); });
  }
  uint32_t signal(Lane from, Lane to, bool out) {
    return find(out ? out_ : in_, {out ? to : from, 1}, out ? draft_.out : draft_.in,
                [&] { return make_.signal(from, to, out); });
  }
  using Key = std::pair<uint32_t, uint32_t>;  // peer or lane; 1: a lane
  template <class Make>
  uint32_t find(std::map<Key, uint32_t>& known, Key key, std::vector<Link>& links, Make&& make) {
    auto [entry, fresh] = known.try_emplace(key, static_cast<uint32_t>(links.size()));
    if (fresh) links.push_back(make());
    return entry->second;
  }

  struct Sends {
    std::vector<Step> steps;
    size_t next = 0;
  };

  const BuildRequest& request_;
  const Plan& plan_;
  Lane lane_;
  LinkMaker make_;
  LaneProgram program_;
  LaneDraft draft_;
  std::map<Key, uint32_t> out_, in_;
  std::map<Rank, Sends> sends_;
};

// Puts arrays behind each other, 16-byte aligned, and tells where they will be.
class Packer {
 public:
  explicit Packer(uint64_t base) : base_(base) {}
  template <class T>
  const T* put(const std::vector<T>& items) {
    const uint64_t at = reserve(items.size() * sizeof(T));
    if (!items.empty()) std::memcpy(bytes_.data() + at, items.data(), items.size() * sizeof(T));
    return reinterpret_cast<const T*>(base_ + at);
  }
  uint64_t size() const { return bytes_.size(); }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  uint64_t reserve(uint64_t bytes) {
    const uint64_t at = (bytes_.size() + 15) / 16 * 16;
    bytes_.resize(at + bytes);
    return at;
  }
  uint64_t base_;
  std::vector<std::byte> bytes_;
};

uint32_t slot_bytes(Wire wire, const WindowShape& window) {
  return wire == Wire::packets ? window.packet_bytes : window.slot_bytes;
}

// The most of a chunk in one round; 0: everything.
uint64_t chunk_limit(const Shape& shape, Wire wire, const WindowShape& window, uint32_t workers) {
  // Scratch of several generations must not grow with the call.
  if (wire == Wire::direct) return shape.scratch > shape.chunks ? uint64_t{4} << 20 : 0;
  // A worker's share of a chunk is rounded up to a cache line.
  return std::max<uint64_t>(k_least_chunk,
                            (slot_bytes(wire, window) / shape.longest - 64) * workers);
}

Status check(const PlanCall& call, const WindowShape& window) {
  const Plan& plan = *call.plan;
  const Shape& shape = plan.shape();
  if (shape.lanes > window.lanes)
    return refuse(plan, fmt::format("{} lanes, windows have {}", shape.lanes, window.lanes));
  if (call.workers == 0 || call.workers > window.workers)
    return refuse(plan, fmt::format("{} workers, windows have {}", call.workers, window.workers));
  if (call.wire == Wire::direct) return {};
  const uint32_t depth = std::min(window.depth, k_max_depth), slot = slot_bytes(call.wire, window);
  if (shape.credits > depth)
    return refuse(
        plan, fmt::format("{} messages in flight per link, windows have {}", shape.credits, depth));
  // Packets are relaxed words: what another lane of this rank wrote before is not ordered by them.
  if (call.wire == Wire::packets && shape.lanes > 1)
    return refuse(plan, fmt::format("packets give no order among its {} lanes", shape.lanes));
  if (slot == 0)
    return refuse(plan, call.wire == Wire::packets ? "windows have no slots for packets"
                                                   : "windows have no slots");
  if (slot / shape.longest < k_least_slot)
    return refuse(plan,
                  fmt::format("messages of {} chunks, slots of {} bytes", shape.longest, slot));
  return {};
}

}  // namespace

Result<DeviceCut> cut_of(const PlanCall& call, const WindowShape& window) {
  TUTTI_RETURN_IF_ERROR(check(call, window));
  const Shape& shape = call.plan->shape();
  DeviceCut cut;
  cut.layout = Layout(shape, call.count, size_of(call.dtype),
                      chunk_limit(shape, call.wire, window, call.workers), k_least_chunk);
  cut.wire = call.wire;
  cut.workers = call.workers;
  cut.slot_bytes = slot_bytes(call.wire, window);
  cut.share = share_of(cut.layout.scratch_bytes(1), call.workers);
  return cut;
}

Result<DeviceCut> fit_cut(const PlanPtr& plan, uint64_t count, DType dtype,
                          const WindowShape& window, uint32_t blocks, std::optional<Wire> wire) {
  const uint32_t lanes = std::max<uint32_t>(1, plan->shape().lanes);
  if (lanes > blocks)
    return refuse(*plan, fmt::format("{} lanes, a launch may take {} blocks", lanes, blocks));
  const uint32_t most = std::min(window.workers, blocks / lanes);
  PlanCall call{plan, count, dtype, ReduceOp::sum, Wire::packets, 1};
  for (; wire != Wire::slots && call.workers <= most; call.workers *= 2) {
    Result<DeviceCut> packets = cut_of(call, window);
    if (!packets && wire) return packets;
    if (!packets) break;
    if (packets->layout.rounds() == 1) return packets;
  }
  call.wire = wire.value_or(Wire::slots);
  call.workers = most;
  if (call.wire == Wire::slots) {
    const uint64_t chunk = count * size_of(dtype) / std::max<uint32_t>(1, plan->shape().chunks);
    call.workers = static_cast<uint32_t>(std::clamp<uint64_t>(chunk / k_worker_bytes, 1, most));
  }
  return cut_of(call, window);
}

uint64_t scratch_bound(const Plan& plan, const WindowShape& window) {
  const Shape& shape = plan.shape();
  uint64_t most = 0;
  for (Wire wire : {Wire::packets, Wire::slots})
    if (slot_bytes(wire, window) / shape.longest >= k_least_slot)
      most = std::max(most, chunk_limit(shape, wire, window, window.workers));
  return shape.scratch * most;
}

Operator operator_of(const PlanCall& call) {
  return {call.op == ReduceOp::avg ? call.plan->shape().ranks : 0, call.op == ReduceOp::max,
          call.op == ReduceOp::premul_sum};
}

Result<ProgramImage> build_program(const BuildRequest& request, uint64_t base) {
  if (request.plan->shape().lanes > request.window.lanes)
    return refuse(*request.plan, fmt::format("{} lanes, windows have {}",
                                             request.plan->shape().lanes, request.window.lanes));
  Packer packer(base);
  std::vector<DeviceLane> lanes;
  for (Lane l = 0; l < request.plan->shape().lanes; ++l) {
    Result<LaneDraft> draft = LaneBuilder(request, l).build();
    if (!draft) return draft.status();
    DeviceLane lane;
    lane.actions = packer.put(draft->actions);
    lane.operands = packer.put(draft->operands);
    lane.out = packer.put(draft->out);
    lane.in = packer.put(draft->in);
    lane.action_count = static_cast<uint32_t>(draft->actions.size());
    lane.out_count = static_cast<uint32_t>(draft->out.size());
    lane.in_count = static_cast<uint32_t>(draft->in.size());
    lanes.push_back(lane);
  }
  std::vector<uint64_t*> notices;
  const bool notices_there = request.window.shots() && request.mirrors.empty();
  for (Rank r = 0; notices_there && r < request.plan->shape().ranks; ++r)
    notices.push_back(r == request.rank
                          ? nullptr
                          : reinterpret_cast<uint64_t*>(request.windows[r] +
                                                        request.window.notice(request.rank)));
  DeviceProgram program;
  if (notices_there) {
    program.calls = reinterpret_cast<CallCounters*>(request.windows[request.rank] +
                                                    request.window.call_counters());
    program.notices = packer.put(notices);
    program.ranks = static_cast<uint32_t>(notices.size());
  }
  program.lanes = request.plan->shape().lanes;
  program.depth = std::min(request.window.depth, k_max_depth);
  program.lane = packer.put(lanes);
  program.scratch = request.scratch;
  program.control = request.control;
  ProgramImage image;
  const auto* place = packer.put(std::vector<DeviceProgram>{program});
  image.program = reinterpret_cast<uint64_t>(place) - base;
  image.bytes = packer.take();
  return image;
}

TransferLinks transfer_links(const BuildRequest& request, Rank peer) {
  const LinkMaker make(request, request.window.transfer_lane());
  return {make.out(peer), make.in(peer)};
}

Status can_build(const PlanPtr& plan, const WindowShape& window) {
  BuildRequest request;
  request.plan = plan;
  request.window = window;
  // Addresses that nobody follows.
  request.windows.assign(plan->shape().ranks, reinterpret_cast<std::byte*>(uint64_t{1} << 32));
  for (; request.rank < plan->shape().ranks; ++request.rank)
    TUTTI_RETURN_IF_ERROR(program_bytes(request).status());
  return {};
}

Result<uint64_t> program_bytes(const BuildRequest& request) {
  Result<ProgramImage> image = build_program(request, 0);
  if (!image) return image.status();
  return uint64_t{image->bytes.size()};
}

}  // namespace tutti::cuda
