#include "src/plan/braid.h"

#include <fmt/format.h>

#include <algorithm>

namespace tutti {
namespace {

Status invalid(std::string message) { return {Code::invalid_argument, "braid: " + message}; }

// Buffers that hold one block for each rank.
bool by_rank(Collective c, Buffer buffer) {
  const bool both =
      c == Collective::all_to_all || c == Collective::all_to_all_v || c == Collective::send_recv;
  if (buffer == Buffer::input)
    return both || c == Collective::reduce_scatter || c == Collective::scatter;
  return buffer == Buffer::output &&
         (both || c == Collective::all_gather || c == Collective::gather);
}

class Braid final : public Plan {
 public:
  struct Part {
    PlanPtr plan;
    std::vector<Rank> order, place;  // order[place[r]] == r
    Lane first_lane = 0;
    uint32_t first_chunk = 0;
  };

  Braid(std::string algorithm, Shape shape, std::vector<Part> parts)
      : Plan(std::move(algorithm), std::move(shape)), parts_(std::move(parts)) {
    for (uint32_t p = 0; p < parts_.size(); ++p)
      part_of_lane_.insert(part_of_lane_.end(), parts_[p].plan->shape().lanes, p);
  }

  uint32_t steps(Rank rank, Lane lane) const override {
    const Part& p = parts_[part_of_lane_[lane]];
    return p.plan->steps(p.place[rank], lane - p.first_lane);
  }

  Step step_at(Rank rank, Lane lane, uint32_t index) const override {
    const Part& p = parts_[part_of_lane_[lane]];
    Step s = p.plan->step_at(p.place[rank], lane - p.first_lane, index);
    if (s.op == Op::send || reads_message(s.op)) s.peer = p.order[s.peer];
    if (s.op == Op::signal || s.op == Op::wait) s.peer += p.first_lane;
    if (s.count == 0) return s;
    if (writes_dst(s.op)) s.dst = chunk(p, s.dst_buffer, s.dst);
    if (reads_src(s.op)) s.src = chunk(p, s.src_buffer, s.src);
    return s;
  }

  // Whether all of a step's ranges stay in one piece.
  bool keeps(const Part& p, const Step& s) const {
    auto whole = [&](Buffer buffer, uint32_t first) {
      const uint32_t c = p.plan->shape().chunks;
      if (first / c == (first + s.count - 1) / c) return true;
      return parts_.size() == 1 && !by_rank(shape().collective, buffer);
    };
    return s.count == 0 || ((!writes_dst(s.op) || whole(s.dst_buffer, s.dst)) &&
                            (!reads_src(s.op) || whole(s.src_buffer, s.src)));
  }

 private:
  uint32_t chunk(const Part& p, Buffer buffer, uint32_t old) const {
    const uint32_t c = p.plan->shape().chunks, block = old / c;
    const uint32_t moved = by_rank(shape().collective, buffer) ? p.order[block] : block;
    return moved * shape().chunks + p.first_chunk + old % c;
  }

  std::vector<Part> parts_;
  std::vector<uint32_t> part_of_lane_;
};

}  // namespace

bool is_rooted(Collective c) {
  return c == Collective::broadcast || c == Collective::reduce || c == Collective::gather ||
         c == Collective::scatter;
}

Result<PlanPtr> braid(std::string_view algorithm, std::vector<Strand> strands) {
  if (strands.empty()) return invalid("no strands");
  Shape shape = strands[0].plan->shape();
  shape.chunks = shape.lanes = 0;
  uint32_t scratch_rows = 0;
  uint64_t hash = 0xcbf29ce484222325ULL;
  std::vector<Braid::Part> parts;
  for (size_t i = 0; i < strands.size(); ++i) {
    const Shape& s = strands[i].plan->shape();
    Braid::Part part{strands[i].plan, std::move(strands[i].order), {}, shape.lanes, shape.chunks};
    part.place.assign(s.ranks, s.ranks);
    if (part.order.size() != s.ranks)
      return invalid(
          fmt::format("strand {}: an order of {} ranks for {}", i, part.order.size(), s.ranks));
    for (Rank v = 0; v < s.ranks; ++v) {
      const Rank r = part.order[v];
      if (r >= s.ranks || part.place[r] != s.ranks)
        return invalid(
            fmt::format("strand {}: rank {} of {} comes twice or is none", i, r, s.ranks));
      part.place[r] = v;
      hash = (hash ^ r) * 0x100000001b3ULL;
    }
    const Rank root = is_rooted(s.collective) ? part.order[s.root] : s.root;
    if (i == 0) shape.root = root;
    if (s.collective != shape.collective || s.ranks != shape.ranks ||
        s.in_place != shape.in_place || root != shape.root)
      return invalid(fmt::format("strand {} is for another call than strand 0", i));
    shape.chunks += s.chunks;
    shape.lanes += s.lanes;
    shape.credits = std::max(shape.credits, s.credits);
    shape.longest = std::max(shape.longest, s.longest);
    scratch_rows = std::max(scratch_rows, (s.scratch + s.chunks - 1) / std::max(1u, s.chunks));
    parts.push_back(std::move(part));
  }
  if (parts.size() > 1 &&
      (shape.collective == Collective::all_to_all_v || shape.collective == Collective::send_recv))
    return invalid(fmt::format("several strands of {}", name(shape.collective)));
  shape.scratch = parts.size() == 1 ? parts[0].plan->shape().scratch : scratch_rows * shape.chunks;
  for (auto& level : shape.hierarchy.level) {
    const std::vector<uint32_t> played = level;
    for (Rank v = 0; v < shape.ranks; ++v) level[parts[0].order[v]] = played[v];
  }
  auto plan = std::make_shared<Braid>(fmt::format("{}_on_{:016x}", algorithm, hash), shape, parts);
  for (const Braid::Part& p : parts)
    for (Rank v = 0; v < shape.ranks; ++v)
      for (Lane l = 0; l < p.plan->shape().lanes; ++l)
        for (uint32_t i = 0, n = p.plan->steps(v, l); i < n; ++i)
          if (!plan->keeps(p, p.plan->step_at(v, l, i)))
            return Status(Code::unsupported,
                          fmt::format("{} of {}: step {} of rank {}, lane {} reaches over several "
                                      "ranks' blocks, which another order tears apart",
                                      algorithm, name(shape.collective), i, v, l));
  return PlanPtr(std::move(plan));
}

}  // namespace tutti
