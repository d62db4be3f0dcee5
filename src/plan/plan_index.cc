#include "src/plan/plan_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "src/plan/step_check.h"
#include "src/plan/text.h"

namespace tutti {

std::string describe_step(const Plan& plan, Rank rank, Lane lane, uint32_t index) {
  return fmt::format("rank {} lane {} step {} ({})", rank, lane, index,
                     to_text(plan.step_at(rank, lane, index)));
}

// What one end of a channel says: how many messages, and a hash of their lengths in order.
struct PlanIndex::Flow {
  uint32_t key = 0;
  uint32_t messages = 0;
  uint32_t max_count = 0;
  uint64_t hash = 0;

  void add(uint32_t count, uint64_t length_class) {
    ++messages;
    max_count = std::max(max_count, count);
    uint64_t x = hash ^ (length_class * 0x9e3779b97f4a7c15ULL + count + 1);
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ULL;
    hash = x ^ (x >> 29);
  }
};

class PlanIndex::Scan {
 public:
  explicit Scan(PlanIndex& index) : index_(index), shape_(index.shape()), checker_(index.plan()) {}

  void run() {
    index_.structure_ = checker_.check_shape();
    if (!index_.structure_.ok()) return;
    slot_[0].resize(shape_.ranks + shape_.lanes, {0, 0});
    slot_[1] = slot_[0];
    index_.out_.begin.assign(1, 0);
    index_.in_.begin.assign(1, 0);
    for (Rank r = 0; r < shape_.ranks; ++r) {
      for (Lane l = 0; l < shape_.lanes; ++l) {
        if (!scan_lane(r, l)) return;
      }
    }
    keep_keys(out_, index_.out_);
    keep_keys(in_, index_.in_);
    match();
  }

 private:
  bool scan_lane(Rank rank, Lane lane) {
    const Plan& plan = index_.plan();
    const uint32_t steps = plan.steps(rank, lane);
    ++stamp_;
    Step previous;
    bool has_previous = false;
    for (uint32_t i = 0; i < steps; ++i) {
      const Step step = plan.step_at(rank, lane, i);
      std::optional<std::string> problem = checker_.check(rank, lane, step);
      if (!problem && has_previous && previous.last && continues_pass(previous, step))
        problem = "continues a pass whose earlier step is marked last";
      if (problem) {
        index_.structure_ =
            Status(Code::invalid_argument, describe_step(plan, rank, lane, i) + ": " + *problem);
        return false;
      }
      if (has_previous && continues_publish(previous, step)) index_.publishes_ = true;
      account(rank, lane, step);
      previous = step;
      has_previous = true;
    }
    index_.steps_ += steps;
    finish_lane(out_, index_.out_);
    finish_lane(in_, index_.in_);
    return true;
  }

  void account(Rank rank, Lane, const Step& step) {
    switch (step.op) {
      case Op::send:
        flow(0, step).add(step.count,
                          step.count ? checker_.length_class(rank, step.src_buffer, step.src) : 0);
        break;
      case Op::recv:
      case Op::recv_reduce:
        flow(1, step).add(step.count,
                          step.count ? checker_.length_class(rank, step.dst_buffer, step.dst) : 0);
        break;
      case Op::signal:
        flow(0, step).add(0, 0);
        break;
      case Op::wait:
        flow(1, step).add(0, 0);
        break;
      case Op::copy:
      case Op::reduce:
        break;
    }
  }

  // The flow of the step's peer in the current lane; side 0 sends, 1 receives.
  Flow& flow(int side, const Step& step) {
    std::vector<Flow>& flows = side == 0 ? out_ : in_;
    const uint32_t key = index_.peer_key(step);
    auto& [stamp, position] = slot_[side][key];
    if (stamp != stamp_) {
      stamp = stamp_;
      position = static_cast<uint32_t>(flows.size());
      flows.emplace_back();
      flows.back().key = key;
    }
    return flows[position];
  }

  static void finish_lane(std::vector<Flow>& flows, Peers& peers) {
    std::sort(flows.begin() + peers.begin.back(), flows.end(),
              [](const Flow& a, const Flow& b) { return a.key < b.key; });
    peers.begin.push_back(static_cast<uint32_t>(flows.size()));
  }

  static void keep_keys(const std::vector<Flow>& flows, Peers& peers) {
    peers.key.reserve(flows.size());
    for (const Flow& f : flows) peers.key.push_back(f.key);
  }

  void match() {
    index_.channels_.resize(out_.size());
    index_.in_channel_.assign(in_.size(), k_none);
    const uint32_t lanes = index_.lanes();
    for (uint32_t lane = 0; lane < lanes; ++lane)
      for (uint32_t o = index_.out_.begin[lane]; o < index_.out_.begin[lane + 1]; ++o) {
        Channel& c = index_.channels_[o];
        c.from = lane;
        c.to = partner(lane, out_[o].key);
        c.messages = out_[o].messages;
        c.max_count = out_[o].max_count;
        c.signal = out_[o].key >= shape_.ranks;
        uint32_t hint = 0;
        const uint32_t i = find(index_.in_, c.to, key_of(lane, c.signal), hint);
        if (i == k_none || in_[i].hash != out_[o].hash || in_[i].messages != out_[o].messages)
          return mismatch(c);
        index_.in_channel_[i] = o;
      }
    for (uint32_t lane = 0; lane < lanes; ++lane)
      for (uint32_t i = index_.in_.begin[lane]; i < index_.in_.begin[lane + 1]; ++i)
        if (index_.in_channel_[i] == k_none) {
          Channel c;
          c.from = partner(lane, in_[i].key);
          c.to = lane;
          c.signal = in_[i].key >= shape_.ranks;
          return mismatch(c);
        }
  }

  // The lane at the other end, and the key under which that end knows `lane`.
  uint32_t partner(uint32_t lane, uint32_t key) const {
    const uint32_t in_rank = lane % shape_.lanes;
    if (key >= shape_.ranks) return lane - in_rank + (key - shape_.ranks);
    return key * shape_.lanes + in_rank;
  }
  uint32_t key_of(uint32_t lane, bool signal) const {
    return signal ? shape_.ranks + lane % shape_.lanes : lane / shape_.lanes;
  }

  // Index of the next step of `lane` from `from` on that uses the channel to `key`, or steps().
  uint32_t next_use(uint32_t lane, uint32_t key, bool sending, uint32_t from) const {
    const Rank rank = lane / shape_.lanes;
    const Lane in_rank = lane % shape_.lanes;
    const uint32_t steps = index_.plan().steps(rank, in_rank);
    for (uint32_t i = from; i < steps; ++i) {
      const Step s = index_.plan().step_at(rank, in_rank, i);
      const bool sends = s.op == Op::send || s.op == Op::signal;
      const bool receives = reads_message(s.op) || s.op == Op::wait;
      if ((sending ? sends : receives) && index_.peer_key(s) == key) return i;
    }
    return steps;
  }

  void mismatch(const Channel& c) {
    const Plan& plan = index_.plan();
    const Rank from = c.from / shape_.lanes, to = c.to / shape_.lanes;
    const Lane from_lane = c.from % shape_.lanes, to_lane = c.to % shape_.lanes;
    const uint32_t sends = plan.steps(from, from_lane), recvs = plan.steps(to, to_lane);
    const uint32_t to_key = key_of(c.to, c.signal), from_key = key_of(c.from, c.signal);
    uint32_t s = 0, r = 0;
    for (uint32_t k = 0;; ++k, ++s, ++r) {
      s = next_use(c.from, to_key, true, s);
      r = next_use(c.to, from_key, false, r);
      if (s == sends && r == recvs) return;  // cannot happen: the hashes differed
      if (r == recvs)
        return fail(
            fmt::format("{} has no receive: message {} from rank {} to rank {} is left over",
                        describe_step(plan, from, from_lane, s), k, from, to));
      if (s == sends)
        return fail(fmt::format("{} waits for message {} of rank {} lane {}, which sends only {}",
                                describe_step(plan, to, to_lane, r), k, from, from_lane, k));
      const Step a = plan.step_at(from, from_lane, s), b = plan.step_at(to, to_lane, r);
      if (a.count != b.count)
        return fail(fmt::format("{} sends {} chunks, but {} takes {}",
                                describe_step(plan, from, from_lane, s), a.count,
                                describe_step(plan, to, to_lane, r), b.count));
      if (a.count > 0 && checker_.length_class(from, a.src_buffer, a.src) !=
                             checker_.length_class(to, b.dst_buffer, b.dst))
        return fail(fmt::format("{} and {}: chunks of different lengths",
                                describe_step(plan, from, from_lane, s),
                                describe_step(plan, to, to_lane, r)));
    }
  }

  void fail(std::string problem) {
    index_.matching_ = Status(Code::invalid_argument, std::move(problem));
  }

  PlanIndex& index_;
  const Shape& shape_;
  StepCheck checker_;
  std::vector<Flow> out_, in_;
  std::vector<std::pair<uint32_t, uint32_t>> slot_[2];  // key -> (stamp of the lane, flow)
  uint32_t stamp_ = 0;
};

PlanIndex::PlanIndex(const Plan& plan) : plan_(&plan) { Scan(*this).run(); }

uint32_t PlanIndex::search(const Peers& peers, uint32_t lane, uint32_t key, uint32_t& hint) {
  const auto begin = peers.key.begin() + peers.begin[lane];
  const auto end = peers.key.begin() + peers.begin[lane + 1];
  const auto at = std::lower_bound(begin, end, key);
  if (at == end || *at != key) return k_none;
  hint = static_cast<uint32_t>(at - begin);
  return static_cast<uint32_t>(at - peers.key.begin());
}

}  // namespace tutti
