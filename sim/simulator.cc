// Lanes, connections and the clock; the links are in network.h.
#include "sim/simulator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "sim/network.h"
#include "src/plan/layout.h"
#include "src/plan/plan_index.h"

namespace tutti {
namespace {

using sim::k_never;
using sim::Time;

constexpr uint32_t k_none = ~uint32_t{0};
constexpr Time k_end_of_time = Time{100} * 86400 * Time{1000000000000};  // 100 days

Time to_time(double seconds) { return std::llround(seconds * sim::k_per_second); }
double to_seconds(Time t) { return static_cast<double>(t) / sim::k_per_second; }

Status invalid(std::string message) { return {Code::invalid_argument, std::move(message)}; }

// A random number in (0, 1] that depends on its arguments alone.
double draw(uint64_t seed, uint64_t a, uint64_t b) {
  uint64_t x = seed * 0x9e3779b97f4a7c15ULL + a * 0xbf58476d1ce4e5b9ULL + b + 1;
  for (int i = 0; i < 2; ++i) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    x ^= x >> 31;
  }
  return static_cast<double>((x >> 11) + 1) / 9007199254740992.0;
}

// Something that happens; the earliest first, flows before lanes.
struct Event {
  Time time = 0;
  uint32_t kind = 0;
  uint32_t id = 0;
  enum : uint32_t { k_flow, k_lane };

  bool operator>(const Event& o) const {
    if (time != o.time) return time > o.time;
    return kind != o.kind ? kind > o.kind : id > o.id;
  }
};

// A message slot of a connection; it is used again when its message has been consumed.
struct Slot {
  Time arrival = k_never;  // known once its last byte has left
  Time freed = k_never;    // when the sender knows that it was consumed
  double bytes = 0;
  uint32_t channel = 0;
  uint32_t next = k_none;    // in the sender's queue
  uint32_t record = k_none;  // in the trace
  bool waits = false;        // for the receiver (rendezvous), not under way yet
  Time announced = 0;        // when the receiver hears of a message that waits
};

class Simulation {
 public:
  Simulation(const PlanIndex& index, const Topology& topology, const Profile& profile,
             const SimOptions& options)
      : index_(index),
        plan_(index.plan()),
        shape_(index.shape()),
        topology_(topology),
        profile_(profile),
        options_(options),
        network_(capacities()),
        lanes_(index.lanes()),
        ranks_(shape_.ranks),
        channels_(index.channels().size()),
        queues_(profile.serial_lanes ? index.lanes() : index.channels().size()) {
    const size_t element = size_of(options.dtype);
    for (const SimSegment& s : options.segments)
      layouts_.emplace_back(shape_, (s.bytes + element - 1) / element, element,
                            options.max_chunk_bytes, options.min_chunk_bytes);
    uint64_t largest = 0;
    for (const SimSegment& s : options.segments) largest = std::max(largest, s.bytes);
    beyond_cache_ = profile.cache_factor(largest);
    gamma_ = profile.reduce_cost(options.dtype, options.op) * beyond_cache_;
    copy_ = profile.copy * beyond_cache_;
    for (const bool network : {false, true}) ends_[network] = profile.ends_of(network);
    for (const auto& directions : profile.links)
      for (const LinkCost& cost : directions) latency_by_size_ |= !cost.curve.empty();
    report_.segment_seconds.resize(layouts_.size());
    if (options.stop_after > 0)
      stop_after_ = to_time(std::min(options.stop_after, to_seconds(k_end_of_time)));
    if (options.most_work > 0) most_work_ = options.most_work;
  }

  Result<SimReport> run() {
    TUTTI_RETURN_IF_ERROR(connect());
    if (profile_.cpus > 0) share_cpus();
    start_ranks();
    while (!events_.empty() || network_.pending()) {
      if (network_.pending() && (events_.empty() || events_.front().time > now_)) {
        network_.settle(now_, [this](uint32_t flow, Time end) {
          push({end, Event::k_flow, flow});
        });
        continue;
      }
      const Event e = pop();
      if (e.time > k_end_of_time) return invalid("simulation: it would take more than 100 days");
      now_ = e.time;
      ++report_.events;
      if (e.time > stop_after_ || work() > most_work_) return unfinished();
      if (e.kind == Event::k_flow) {
        if (network_.end(e.id) == e.time) flow_ended(e.id);
      } else if (lanes_[e.id].wake == e.time) {
        lanes_[e.id].wake = k_never;
        advance(e.id);
      }
    }
    TUTTI_RETURN_IF_ERROR(check_finished());
    finish_report();
    return std::move(report_);
  }

 private:
  struct LaneState {
    uint32_t steps = 0, index = 0, round = 0;
    uint32_t out_hint = 0, in_hint = 0;
    uint32_t waiting = k_none;  // channel whose sender or receiver must move first
    uint32_t ready = 0;         // steps of the pass at `index` that have what they need
    uint32_t cause = k_none;    // the message waited for last
    bool has_step = false;
    bool paid = false;     // the overhead of the send at `index` is in the clock
    bool through = false;  // with the segment
    Time clock = 0;        // the lane's own time: never behind the events that it saw
    Time wake = k_never;   // its event
    Step step;             // steps[index], when has_step
  };
  struct RankState {
    uint32_t segment = 0;
    uint32_t lanes_left = 0;
    double slow = 1;
    Time end = 0;
    // With Profile::cpus.
    uint32_t pool = 0;
    bool crowded = false;
    Time thread_free = 0;
    Time handover = 0;
  };
  struct ChannelState {
    uint64_t first_slot = 0;
    uint32_t capacity = 0;
    uint32_t sent = 0, received = 0;
    uint32_t left = 0;     // messages whose last byte has left
    uint32_t claimed = 0;  // of the pass at hand
    bool instant = false;  // both ends on one node, or a signal
    bool network = false;  // crosses a link of class nic or network
    bool pulling = false;  // its flow is a rendezvous
    uint32_t pull_slot = k_none;
    Time latency = 0;
    Time last_arrival = 0;
    double bytes = 0;
  };
  struct Queue {
    uint32_t head = k_none, tail = k_none;  // slots
    bool busy = false;                      // the head is under way
  };

  uint64_t work() const { return report_.events + network_.work(); }
  SimReport unfinished() {
    report_.finished = false;
    report_.seconds = to_seconds(now_);
    report_.work = work();
    return std::move(report_);
  }

  // --- set-up

  std::vector<double> capacities() const {
    std::vector<double> slow(topology_.nodes().size(), 1);
    for (const auto& s : options_.stragglers) {
      double& factor = slow[topology_.node_of(placed(s.rank))];
      factor = std::max(factor, s.factor);
    }
    std::vector<double> capacity;
    for (const Link& l : topology_.links())
      capacity.push_back(profile_.bandwidth(l) / std::max(slow[l.from], slow[l.to]));
    return capacity;
  }

  Rank placed(Rank rank) const {
    return options_.placement.empty() ? rank : options_.placement[rank];
  }

  Status connect() {
    uint64_t rounds = 0;
    for (uint32_t i = 0; i < layouts_.size(); ++i) rounds += rounds_of(i);
    const uint32_t credits =
        std::max(options_.credits > 0 ? options_.credits : profile_.credits, shape_.credits);
    Routes routes(topology_);
    std::vector<LinkId> way;
    uint64_t slots = 0;
    for (uint32_t c = 0; c < channels_.size(); ++c) {
      const Channel& channel = index_.channels()[c];
      ChannelState& state = channels_[c];
      const uint64_t most = channel.messages * rounds;
      state.first_slot = slots;
      state.capacity = static_cast<uint32_t>(
          std::min<uint64_t>(most, channel.signal ? uint64_t{1} << 24 : credits));
      slots += state.capacity;
      way.clear();
      const Rank from = index_.rank_of(channel.from), to = index_.rank_of(channel.to);
      if (!channel.signal && !routes.find(placed(from), placed(to), &way))
        return invalid(fmt::format("simulation: no way from rank {} ({}) to rank {} ({})", from,
                                   topology_.describe(topology_.node_of(placed(from))), to,
                                   topology_.describe(topology_.node_of(placed(to)))));
      network_.add_flow(way);
      state.instant = way.empty();
      double latency = 0;
      for (LinkId l : way) {
        const Link& link = topology_.links()[l];
        latency += profile_.alpha(link);
        state.network |= link.link_class == LinkClass::nic || link.link_class == LinkClass::network;
      }
      state.latency = to_time(latency);
    }
    if (slots >= k_none) return invalid("simulation: too many messages in flight");
    slots_.resize(slots);
    for (ChannelState& state : channels_)
      for (uint32_t i = 0; i < state.capacity; ++i)
        slots_[state.first_slot + i].channel = static_cast<uint32_t>(&state - channels_.data());
    return {};
  }

  // Which CPUs each rank runs on, and how crowded they are.
  void share_cpus() {
    std::map<uint32_t, uint32_t> index;  // by host or pool of the options
    std::vector<uint32_t> crowd;
    for (Rank r = 0; r < shape_.ranks; ++r) {
      const uint32_t key = options_.cpu_pools.empty()
                               ? topology_.host_of(topology_.node_of(placed(r)))
                               : options_.cpu_pools[r];
      const auto [it, made] = index.try_emplace(key, static_cast<uint32_t>(crowd.size()));
      if (made) crowd.push_back(0);
      ++crowd[it->second];
      ranks_[r].pool = it->second;
    }
    for (RankState& r : ranks_) {
      r.crowded = crowd[r.pool] > profile_.cpus;
      if (r.crowded) r.handover = to_time(profile_.handover * crowd[r.pool] / profile_.cpus);
    }
    cpu_free_.assign(crowd.size() * profile_.cpus, 0);
  }

  void start_ranks() {
    for (const auto& s : options_.stragglers)
      ranks_[s.rank].slow = std::max(ranks_[s.rank].slow, s.factor);
    for (uint32_t id = 0; id < lanes_.size(); ++id)
      lanes_[id].steps = plan_.steps(id / shape_.lanes, id % shape_.lanes);
    for (Rank r = 0; r < shape_.ranks; ++r)
      start_segment(r, options_.skew > 0 ? to_time(options_.skew * draw(options_.seed, r, 77)) : 0);
  }

  // --- events

  void push(const Event& e) {
    if (e.time == k_never) {
      beyond_ = true;
      return;
    }
    events_.push_back(e);
    std::push_heap(events_.begin(), events_.end(), std::greater<>());
  }
  Event pop() {
    std::pop_heap(events_.begin(), events_.end(), std::greater<>());
    const Event e = events_.back();
    events_.pop_back();
    return e;
  }
  void wake(uint32_t id, Time at) {
    LaneState& s = lanes_[id];
    if (s.wake <= at) return;
    s.wake = at;
    push({at, Event::k_lane, id});
  }
  void wake_if_waiting(uint32_t id, uint32_t channel, Time at) {
    LaneState& s = lanes_[id];
    if (s.waiting != channel) return;
    s.waiting = k_none;
    wake(id, std::max(at, now_));
  }

  // --- ranks

  void start_segment(Rank rank, Time at) {
    RankState& r = ranks_[rank];
    at = std::max(at, to_time(options_.segments[r.segment].ready));
    at = occupy(r, at, profile_.call_overhead);
    r.lanes_left = 0;
    r.end = at;
    for (Lane l = 0; l < shape_.lanes; ++l) {
      LaneState& s = lanes_[rank * shape_.lanes + l];
      s.through = s.steps == 0;
      r.lanes_left += !s.through;
    }
    if (r.lanes_left == 0) return finish_segment(rank);
    for (Lane l = 0; l < shape_.lanes; ++l) {
      const uint32_t id = rank * shape_.lanes + l;
      LaneState& s = lanes_[id];
      if (s.through) continue;
      s.index = s.round = 0;
      s.has_step = false;
      s.clock = at;
      wake(id, at);
    }
  }

  void finish_lane(uint32_t id) {
    LaneState& s = lanes_[id];
    s.through = true;
    RankState& r = ranks_[id / shape_.lanes];
    if (s.clock >= r.end) {
      r.end = s.clock;
      if (last_lane_ == k_none || r.end >= lanes_[last_lane_].clock) last_lane_ = id;
    }
    if (--r.lanes_left == 0) finish_segment(id / shape_.lanes);
  }

  void finish_segment(Rank rank) {
    RankState& r = ranks_[rank];
    double& end = report_.segment_seconds[r.segment];
    end = std::max(end, to_seconds(r.end));
    if (++r.segment < layouts_.size()) {
      start_segment(rank, r.end);
    } else {
      ++finished_;
    }
  }

  // --- lanes

  uint32_t rounds_of(uint32_t segment) const {
    const uint32_t rounds = layouts_[segment].rounds();
    return options_.most_rounds > 0 ? std::min(rounds, options_.most_rounds) : rounds;
  }
  const Layout& layout(uint32_t id) const { return layouts_[ranks_[id / shape_.lanes].segment]; }
  uint64_t bytes_of(uint32_t id, const Step& step) const {
    const uint32_t chunk = reads_src(step.op) ? step.src : step.dst;
    return layout(id).bytes(chunk, step.count, lanes_[id].round);
  }
  Step fetch(uint32_t id, uint32_t i) const {
    return plan_.step_at(id / shape_.lanes, id % shape_.lanes, i);
  }
  // When the rank is through with work that it begins at `at`, or once it gets a CPU.
  Time occupy(RankState& rank, Time at, double seconds) {
    if (seconds == 0) return at;
    const Time work = to_time(seconds * rank.slow);
    if (cpu_free_.empty()) return at + work;
    // The CPU that was last free before the work can begin, so that none lies idle for it; where
    // all are busy the next one.
    at = std::max(at, rank.thread_free);
    const auto first = cpu_free_.begin() + rank.pool * profile_.cpus;
    const auto cpu = std::max_element(first, first + profile_.cpus, [&](Time a, Time b) {
      return a <= at && b <= at ? a < b : a > b;
    });
    return rank.thread_free = *cpu = std::max(at, *cpu) + work;
  }
  void occupy(uint32_t id, LaneState& s, double seconds) {
    s.clock = occupy(ranks_[id / shape_.lanes], s.clock, seconds);
  }

  // Where CPUs are short, a lane asks for one when its time has come: it must not book ahead of
  // others that are there before.
  bool comes_later(uint32_t id, const LaneState& s) {
    if (!ranks_[id / shape_.lanes].crowded || s.clock <= now_) return false;
    wake(id, s.clock);
    return true;
  }

  // Runs the lane until something that others see lies in its future, or it has to wait.
  void advance(uint32_t id) {
    LaneState& s = lanes_[id];
    s.waiting = k_none;
    while (!comes_later(id, s)) {
      if (s.index == s.steps) {
        s.index = 0;
        s.has_step = false;
        if (++s.round == rounds_of(ranks_[id / shape_.lanes].segment)) return finish_lane(id);
      }
      if (!s.has_step) {
        s.step = fetch(id, s.index);
        s.has_step = true;
      }
      bool done = false;
      switch (s.step.op) {
        case Op::send:
          done = send(id, s);
          break;
        case Op::signal:
          done = signal(id, s);
          break;
        case Op::recv:
        case Op::wait:
          done = recv(id, s);
          break;
        case Op::copy:
          occupy(id, s, copy_ * static_cast<double>(bytes_of(id, s.step)));
          next(s, 1);
          done = true;
          break;
        case Op::recv_reduce:
        case Op::reduce:
          done = pass(id, s);
          break;
      }
      if (!done) return;
    }
  }

  static void next(LaneState& s, uint32_t steps) {
    s.index += steps;
    s.has_step = false;
    s.paid = false;
  }
  static bool wait_for(LaneState& s, uint32_t channel) {
    s.waiting = channel;
    return false;
  }
  // Moves the lane's clock to `at`, because of a message.
  void reach(uint32_t id, LaneState& s, Time at, const Slot& slot) {
    if (at <= s.clock) return;
    s.clock = at + ranks_[id / shape_.lanes].handover;
    s.cause = slot.record;
  }
  // Sends of one chunk to several ranks, one after the other, are one publication.
  bool published(uint32_t id, const LaneState& s) const {
    if (s.index == 0) return false;
    const Step before = fetch(id, s.index - 1);
    return before.op == Op::send && before.src_buffer == s.step.src_buffer &&
           before.src == s.step.src && before.count == s.step.count && before.peer != s.step.peer;
  }

  bool send(uint32_t id, LaneState& s) {
    const uint64_t bytes = bytes_of(id, s.step);
    if (s.step.count > 0 && bytes == 0) {
      next(s, 1);
      return true;
    }
    const uint32_t c = index_.out_channel(id, index_.peer_key(s.step), s.out_hint);
    ChannelState& channel = channels_[c];
    const auto place = static_cast<uint32_t>(channel.first_slot + channel.sent % channel.capacity);
    Slot& slot = slots_[place];
    if (channel.sent >= channel.capacity) {
      if (slot.freed == k_never) return wait_for(s, c);
      reach(id, s, slot.freed, slot);
    }
    if (!s.paid) {
      s.paid = true;
      const EndCost& end = ends_[channel.network];
      const bool again =
          (end.send_byte > 0 || !end.send_curve.empty()) && !channel.network && published(id, s);
      occupy(id, s, end.sending(again ? 0 : static_cast<double>(bytes), beyond_cache_));
    }
    if (s.clock > now_) {
      wake(id, s.clock);
      return false;
    }
    s.clock = now_;
    slot.arrival = slot.freed = k_never;
    slot.bytes = static_cast<double>(bytes);
    slot.next = k_none;
    ++channel.sent;
    channel.bytes += slot.bytes;
    ++report_.messages;
    if (options_.record) record(id, s, c, slot);
    if (bytes > profile_.eager_bytes && !channel.instant) {
      slot.waits = true;
      slot.announced = now_ + channel.latency;
      wake_if_waiting(index_.channels()[c].to, c, slot.announced);
    } else {
      enqueue(profile_.serial_lanes ? id : c, place);
    }
    next(s, 1);
    return true;
  }

  bool signal(uint32_t id, LaneState& s) {
    const uint32_t c = index_.out_channel(id, index_.peer_key(s.step), s.out_hint);
    ChannelState& channel = channels_[c];
    Slot& slot = slots_[channel.first_slot + channel.sent % channel.capacity];
    slot.arrival = s.clock;
    slot.record = s.cause;  // who waits for the token waits for what this lane waited for
    ++channel.sent;
    wake_if_waiting(index_.channels()[c].to, c, s.clock);
    next(s, 1);
    return true;
  }

  // The `nth` message not yet received: true when its arrival is known, else the lane waits.
  bool await(LaneState& s, uint32_t c, uint32_t nth, Slot** found) {
    ChannelState& channel = channels_[c];
    if (channel.received + nth == channel.sent) return wait_for(s, c);
    Slot& slot = slots_[channel.first_slot + (channel.received + nth) % channel.capacity];
    if (slot.waits) {
      // The receiver is here: the transfer starts when it has heard of the message.
      const Time start = std::max(slot.announced, s.clock);
      if (start > now_) {
        wake(index_.channels()[c].to, start);
        return false;
      }
      if (network_.active(c)) return wait_for(s, c);  // a message after this one; it ends
      slot.waits = false;
      channel.pulling = true;
      channel.pull_slot = static_cast<uint32_t>(&slot - slots_.data());
      begin(slot);
      network_.start(c, slot.bytes, now_);
    }
    if (slot.arrival == k_never) return wait_for(s, c);
    *found = &slot;
    return true;
  }

  void consume(uint32_t c, Slot& slot, Time at) {
    ChannelState& channel = channels_[c];
    ++channel.received;
    slot.freed = at + channel.latency;
    wake_if_waiting(index_.channels()[c].from, c, slot.freed);
  }

  double receiving(uint32_t channel, double bytes) const {
    return ends_[channels_[channel].network].receiving(bytes, beyond_cache_);
  }

  bool recv(uint32_t id, LaneState& s) {
    if (s.step.count > 0 && bytes_of(id, s.step) == 0) {
      next(s, 1);
      return true;
    }
    const uint32_t c = index_.in_channel(id, index_.peer_key(s.step), s.in_hint);
    Slot* slot = nullptr;
    if (!await(s, c, 0, &slot)) return false;
    reach(id, s, slot->arrival, *slot);
    if (comes_later(id, s)) return false;
    if (s.step.op == Op::recv) occupy(id, s, receiving(c, slot->bytes));
    consume(c, *slot, s.clock);
    next(s, 1);
    return true;
  }

  // The messages of a pass are awaited together, reduced and consumed together.
  bool pass(uint32_t id, LaneState& s) {
    const uint64_t bytes = bytes_of(id, s.step);
    steps_.assign(1, s.step);
    Step following;
    bool ahead = false;
    for (uint32_t end = s.index + 1; end < s.steps; ++end) {
      following = fetch(id, end);
      ahead = true;
      if (!continues_pass(steps_.back(), following)) break;
      steps_.push_back(following);
      ahead = false;
    }
    arrivals_.clear();
    if (bytes > 0) {
      // How often a channel is heard: `claimed` counts, and is zero again at the end.
      bool all = true;
      for (const Step& step : steps_) {
        if (step.op != Op::recv_reduce) continue;
        const uint32_t c = index_.in_channel(id, step.peer, s.in_hint);
        Slot* slot = nullptr;
        if (arrivals_.size() < s.ready) {
          const ChannelState& channel = channels_[c];
          slot =
              &slots_[channel.first_slot + (channel.received + channel.claimed) % channel.capacity];
        } else if (!await(s, c, channels_[c].claimed, &slot)) {
          all = false;
          break;
        } else {
          reach(id, s, slot->arrival, *slot);
        }
        ++channels_[c].claimed;
        arrivals_.emplace_back(c, slot);
      }
      for (const auto& [c, slot] : arrivals_) channels_[c].claimed = 0;
      s.ready = static_cast<uint32_t>(arrivals_.size());
      if (!all || comes_later(id, s)) return false;
      double work = gamma_ * static_cast<double>(bytes) * static_cast<double>(steps_.size());
      for (const auto& [c, slot] : arrivals_) work += receiving(c, slot->bytes);
      occupy(id, s, work);
      for (const auto& [c, slot] : arrivals_) consume(c, *slot, s.clock);
    }
    s.ready = 0;
    next(s, static_cast<uint32_t>(steps_.size()));
    s.step = following;
    s.has_step = ahead;
    return true;
  }

  // --- messages

  void enqueue(uint32_t q, uint32_t place) {
    Queue& queue = queues_[q];
    if (queue.head == k_none) {
      queue.head = place;
    } else {
      slots_[queue.tail].next = place;
    }
    queue.tail = place;
    if (!queue.busy) launch(queue);
  }

  // Starts the head of the queue; messages without a flow go at once.
  void launch(Queue& queue) {
    while (queue.head != k_none) {
      Slot& slot = slots_[queue.head];
      ChannelState& channel = channels_[slot.channel];
      if (slot.bytes > 0 && !channel.instant) {
        if (network_.active(slot.channel)) return;  // a rendezvous on the connection
        begin(slot);
        queue.busy = true;
        network_.start(slot.channel, slot.bytes, now_);
        return;
      }
      queue.head = slot.next;
      begin(slot);
      leave(slot);
    }
  }

  void flow_ended(uint32_t c) {
    network_.finish(c);
    ChannelState& channel = channels_[c];
    Queue& queue = queues_[profile_.serial_lanes ? index_.channels()[c].from : c];
    if (channel.pulling) {
      channel.pulling = false;
      leave(slots_[channel.pull_slot]);
    } else {
      Slot& slot = slots_[queue.head];
      queue.head = slot.next;
      queue.busy = false;
      leave(slot);
    }
    if (!queue.busy) launch(queue);
  }

  void begin(const Slot& slot) {
    if (slot.record != k_none) report_.trace[slot.record].started = to_seconds(now_);
  }

  Time latency_of(uint32_t c, double bytes) const {
    double seconds = 0;
    for (uint32_t l : network_.path(c)) seconds += profile_.alpha(topology_.links()[l], bytes);
    return to_time(seconds);
  }

  // The last byte of the message has left.
  void leave(Slot& slot) {
    const uint32_t c = slot.channel;
    ChannelState& channel = channels_[c];
    Time latency = latency_by_size_ ? latency_of(c, slot.bytes) : channel.latency;
    if (options_.jitter > 0 && latency > 0)
      latency += to_time(to_seconds(latency) * options_.jitter *
                         -std::log(draw(options_.seed, c, channel.left)));
    ++channel.left;
    slot.arrival = std::max(channel.last_arrival, now_ + latency);
    channel.last_arrival = slot.arrival;
    if (slot.record != k_none) {
      report_.trace[slot.record].left = to_seconds(now_);
      report_.trace[slot.record].arrived = to_seconds(slot.arrival);
    }
    wake_if_waiting(index_.channels()[c].to, c, slot.arrival);
  }

  void record(uint32_t id, const LaneState& s, uint32_t c, Slot& slot) {
    slot.record = static_cast<uint32_t>(report_.trace.size());
    SimMessage m;
    m.from = id;
    m.to = index_.channels()[c].to;
    m.step = s.index;
    m.cause = s.cause;
    m.bytes = slot.bytes;
    m.posted = to_seconds(now_);
    report_.trace.push_back(m);
  }

  // --- the end

  Status check_finished() const {
    if (finished_ == shape_.ranks) return {};
    if (beyond_) return invalid("simulation: it would take more than 100 days");
    for (uint32_t id = 0; id < lanes_.size(); ++id)
      if (!lanes_[id].through && lanes_[id].waiting != k_none)
        return invalid(
            "simulation: " +
            describe_step(plan_, id / shape_.lanes, id % shape_.lanes, lanes_[id].index) +
            " waits for ever");
    return {Code::internal_error, "simulation: it stopped before its end"};
  }

  void finish_report() {
    for (const RankState& r : ranks_) {
      report_.rank_seconds.push_back(to_seconds(r.end));
      report_.seconds = std::max(report_.seconds, report_.rank_seconds.back());
    }
    report_.work = work();
    std::vector<double> carried(topology_.links().size(), 0);
    for (uint32_t c = 0; c < channels_.size(); ++c)
      for (uint32_t l : network_.path(c)) carried[l] += channels_[c].bytes;
    for (LinkId l = 0; l < carried.size(); ++l)
      if (carried[l] > 0)
        report_.links.push_back(
            {l, carried[l],
             carried[l] / profile_.bandwidth(topology_.links()[l]) / report_.seconds});
    trace_path();
  }

  void trace_path() {
    if (!options_.record || last_lane_ == k_none) return;
    for (uint32_t m = lanes_[last_lane_].cause; m != k_none; m = report_.trace[m].cause) {
      const SimMessage& message = report_.trace[m];
      report_.critical_path.push_back(m);
      report_.path_queue += message.started - message.posted;
      report_.path_transfer += message.left - message.started;
      report_.path_latency += message.arrived - message.left;
    }
    std::reverse(report_.critical_path.begin(), report_.critical_path.end());
  }

  const PlanIndex& index_;
  const Plan& plan_;
  const Shape& shape_;
  const Topology& topology_;
  const Profile& profile_;
  const SimOptions& options_;
  sim::Network network_;
  std::vector<Layout> layouts_;  // by segment
  double beyond_cache_ = 1, gamma_ = 0, copy_ = 0;
  bool latency_by_size_ = false;
  EndCost ends_[2];             // inside a host, over a network
  std::vector<Time> cpu_free_;  // pool after pool; empty: every lane has a CPU of its own

  Time now_ = 0;
  std::vector<Event> events_;
  bool beyond_ = false;  // something would end after the last Time
  std::vector<LaneState> lanes_;
  std::vector<RankState> ranks_;
  std::vector<ChannelState> channels_;
  std::vector<Slot> slots_;
  std::vector<Queue> queues_;
  Time stop_after_ = k_never;
  uint64_t most_work_ = UINT64_MAX;
  uint32_t finished_ = 0;
  uint32_t last_lane_ = k_none;

  std::vector<Step> steps_;  // of the pass at hand
  std::vector<std::pair<uint32_t, Slot*>> arrivals_;
  SimReport report_;
};

Status check(const Plan& plan, const Topology& topology, const SimOptions& o) {
  const uint32_t ranks = plan.shape().ranks;
  if (o.placement.empty() && ranks > topology.ranks())
    return invalid(
        fmt::format("simulation: {} ranks do not fit a topology of {}", ranks, topology.ranks()));
  if (!o.placement.empty() && o.placement.size() != ranks)
    return invalid(fmt::format("simulation: a placement of {} ranks for a plan of {}",
                               o.placement.size(), ranks));
  for (size_t r = 0; r < o.placement.size(); ++r)
    if (o.placement[r] >= topology.ranks())
      return invalid(fmt::format("simulation: rank {} is placed on {} of {}", r, o.placement[r],
                                 topology.ranks()));
  if (!o.cpu_pools.empty() && o.cpu_pools.size() != ranks)
    return invalid(fmt::format("simulation: CPU pools of {} ranks for a plan of {}",
                               o.cpu_pools.size(), ranks));
  if (o.segments.empty()) return invalid("simulation: no segments");
  for (size_t i = 0; i < o.segments.size(); ++i) {
    if (!(o.segments[i].ready >= 0 && o.segments[i].ready <= 86400))
      return invalid(fmt::format("simulation: segment {} is ready at {:g} s; 0 to 86400 make sense",
                                 i, o.segments[i].ready));
    if (o.segments[i].bytes > uint64_t{1} << 50)
      return invalid(fmt::format("simulation: segment {} has {} bytes; 2^50 are the most", i,
                                 o.segments[i].bytes));
  }
  if (!valid(o.dtype) || !valid(o.op)) return invalid("simulation: no such type or operator");
  if (!(o.stop_after >= 0))
    return invalid(fmt::format("simulation: it stops after {:g} s", o.stop_after));
  if (o.most_rounds > 0 && (o.segments.size() > 1 || o.record))
    return invalid("simulation: most_rounds is for one segment, and none is recorded");
  if (!(o.jitter >= 0 && o.jitter <= 1000))
    return invalid(fmt::format("simulation: a jitter of {:g}; 0 to 1000 make sense", o.jitter));
  if (!(o.skew >= 0 && o.skew <= 3600))
    return invalid(fmt::format("simulation: a skew of {:g} s; 0 to 3600 make sense", o.skew));
  for (const auto& s : o.stragglers) {
    if (s.rank >= ranks)
      return invalid(fmt::format("simulation: straggler {} is not among {} ranks", s.rank, ranks));
    if (!(s.factor >= 1 && s.factor <= 1e6))
      return invalid(
          fmt::format("simulation: straggler {} is {:g} times slower; 1 to 1000000 make "
                      "sense",
                      s.rank, s.factor));
  }
  return {};
}

// Runs of the first rounds and of half as many; each of the others takes as long as one of those
// that the first run has more.
Result<SimReport> simulate_first_rounds(const PlanIndex& index, const Topology& topology,
                                        const Profile& profile, SimOptions options,
                                        const Layout& layout) {
  const uint32_t run = options.most_rounds, half = run / 2;
  options.most_rounds = std::max(half, 1u);
  Result<SimReport> fewer = Simulation(index, topology, profile, options).run();
  if (!fewer || !fewer->finished || run == 1) return fewer;
  options.most_rounds = run;
  if (options.most_work > 0) {
    if (options.most_work <= fewer->work) {
      fewer->finished = false;
      return fewer;
    }
    options.most_work -= fewer->work;
  }
  Result<SimReport> report = Simulation(index, topology, profile, options).run();
  if (!report) return report;
  report->work += fewer->work;
  if (!report->finished) return report;
  // The last round may be smaller.
  const double all = static_cast<double>(layout.block_bytes()) /
                     static_cast<double>(layout.scratch_bytes(index.shape().chunks));
  const double each = (report->seconds - fewer->seconds) / (run - half);
  const double more = each * (all - run), times = all / run;
  const double longer = (report->seconds + more) / report->seconds;
  report->seconds += more;
  for (double& end : report->rank_seconds) end += more;
  for (double& end : report->segment_seconds) end += more;
  for (SimLinkUse& use : report->links) {
    use.bytes *= times;
    use.utilisation *= times / longer;
  }
  return report;
}

}  // namespace

Result<SimReport> simulate(const Plan& plan, const Topology& topology, const Profile& profile,
                           const SimOptions& options) {
  TUTTI_RETURN_IF_ERROR(check(plan, topology, options));
  const PlanIndex index(plan);
  TUTTI_RETURN_IF_ERROR(index.structure());
  TUTTI_RETURN_IF_ERROR(index.matching());
  if (options.most_rounds > 0) {
    const size_t element = size_of(options.dtype);
    const Layout layout(plan.shape(), (options.segments[0].bytes + element - 1) / element, element,
                        options.max_chunk_bytes, options.min_chunk_bytes);
    if (layout.rounds() > options.most_rounds)
      return simulate_first_rounds(index, topology, profile, options, layout);
  }
  return Simulation(index, topology, profile, options).run();
}

std::string to_chrome_trace(const SimReport& report, const Plan& plan) {
  const uint32_t lanes = plan.shape().lanes;
  std::string text = "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n";
  for (Rank r = 0; r < plan.shape().ranks; ++r)
    text += fmt::format(
        "{{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":{0},\"args\":{{\"name\":\"rank "
        "{0}\"}}}},\n",
        r);
  for (size_t i = 0; i < report.trace.size(); ++i) {
    const SimMessage& m = report.trace[i];
    const auto span = [&](std::string_view what, double begin, double end) {
      text += fmt::format(
          "{{\"ph\":\"X\",\"name\":\"{} to {}\",\"cat\":\"{}\",\"pid\":{},\"tid\":{},\"ts\":{:.6f},"
          "\"dur\":{:.6f},\"args\":{{\"bytes\":{},\"step\":{}}}}},\n",
          what, m.to / lanes, what, m.from / lanes, m.from % lanes, begin * 1e6,
          (end - begin) * 1e6, m.bytes, m.step);
    };
    if (m.started > m.posted) span("queue", m.posted, m.started);
    span("send", m.started, m.left);
    // An arrow from the last byte to the arrival.
    text += fmt::format(
        "{{\"ph\":\"s\",\"name\":\"message\",\"cat\":\"message\",\"id\":{},\"pid\":{},\"tid\":{},"
        "\"ts\":{:.6f}}},\n",
        i, m.from / lanes, m.from % lanes, m.left * 1e6);
    text += fmt::format(
        "{{\"ph\":\"f\",\"bp\":\"e\",\"name\":\"message\",\"cat\":\"message\",\"id\":{},\"pid\":{},"
        "\"tid\":{},\"ts\":{:.6f}}},\n",
        i, m.to / lanes, m.to % lanes, m.arrived * 1e6);
  }
  if (text[text.size() - 2] == ',') text.erase(text.size() - 2, 1);
  return text + "]}\n";
}

}  // namespace tutti
