#include "src/plan/timeline.h"

#include <algorithm>

#include "src/plan/kahn.h"

namespace tutti {
namespace {

// Which piece of the collective's data an input chunk is. Contributions to one reduced chunk are
// one piece.
uint32_t piece(const Shape& s, Rank rank, uint32_t chunk) {
  switch (s.collective) {
    case Collective::all_gather:
    case Collective::gather:
      return rank * s.chunks + chunk;
    case Collective::all_to_all:
    case Collective::all_to_all_v:
    case Collective::send_recv:
      return rank;
    default:
      return chunk;
  }
}

class Timing {
 public:
  Timing(const PlanIndex& index, const KahnLayout& layout, Timeline& result)
      : shape_(index.shape()),
        map_(shape_),
        cells_(map_.cells(), Timeline::k_unknown),
        now_(index.lanes()),
        messages_(layout.slots()),
        result_(result) {
    for (Rank r = 0; r < shape_.ranks; ++r)
      for (uint32_t c = 0; c < shape_.input_chunks(r); ++c) {
        const uint32_t p = piece(shape_, r, c);
        cells_[map_.cell(r, Buffer::input, c)] = p;
        result_.kinds = std::max(result_.kinds, p + 1);
      }
  }

  void send(const At& at, const Step& step, uint32_t, uint64_t slot) {
    Timeline::Box& box = add(at, step, now_[at.lane_id]);
    read(at, step.src_buffer, step.src, step.count, box.data);
    messages_[slot] = {last(), box.end + 1, box.data};
    if (step.op == Op::signal) messages_[slot].arrival = box.end;
  }
  void recv(const At& at, const Step& step, uint32_t, uint64_t slot) {
    Message& m = messages_[slot];
    Timeline::Box& box = add(at, step, std::max(now_[at.lane_id], m.arrival));
    box.data = std::move(m.data);
    write(at, step.dst_buffer, step.dst, box.data);
    result_.arrows.push_back({m.box, last(), step.count == 0});
  }
  void copy(const At& at, const Step& step) {
    Timeline::Box& box = add(at, step, now_[at.lane_id]);
    read(at, step.src_buffer, step.src, step.count, box.data);
    write(at, step.dst_buffer, step.dst, box.data);
  }
  void pass(const At& at, std::span<const Step> steps, std::span<const Arrival> arrivals) {
    double start = now_[at.lane_id];
    for (const Arrival& a : arrivals) start = std::max(start, messages_[a.slot].arrival);
    Timeline::Box& box = add(at, steps.back(), start);
    box.operands = static_cast<uint32_t>(steps.size()) + 1;
    const Step& first = steps.front();
    if (first.op == Op::recv_reduce)
      read(at, first.src_buffer, first.src, first.count, box.data);
    else
      read(at, first.dst_buffer, first.dst, first.count, box.data);
    write(at, first.dst_buffer, first.dst, box.data);
    for (const Arrival& a : arrivals)
      result_.arrows.push_back({messages_[a.slot].box, last(), false});
  }

 private:
  struct Message {
    uint32_t box = 0;
    double arrival = 0;
    std::vector<uint32_t> data;
  };

  uint32_t last() const { return static_cast<uint32_t>(result_.boxes.size() - 1); }
  Timeline::Box& add(const At& at, const Step& step, double start) {
    Timeline::Box box;
    box.lane_id = at.lane_id;
    box.index = at.index;
    box.start = start;
    box.end = start + 1;
    box.step = step;
    now_[at.lane_id] = box.end;
    result_.end = std::max(result_.end, box.end);
    result_.boxes.push_back(std::move(box));
    return result_.boxes.back();
  }
  void read(const At& at, Buffer buffer, uint32_t first, uint32_t count,
            std::vector<uint32_t>& data) const {
    for (uint32_t k = 0; k < count; ++k)
      data.push_back(cells_[map_.cell(at.rank, buffer, first + k)]);
  }
  void write(const At& at, Buffer buffer, uint32_t first, const std::vector<uint32_t>& data) {
    for (uint32_t k = 0; k < data.size(); ++k)
      cells_[map_.cell(at.rank, buffer, first + k)] = data[k];
  }

  const Shape& shape_;
  CellMap map_;
  std::vector<uint32_t> cells_;
  std::vector<double> now_;
  std::vector<Message> messages_;
  Timeline& result_;
};

}  // namespace

Result<Timeline> make_timeline(const Plan& plan) {
  const PlanIndex index(plan);
  TUTTI_RETURN_IF_ERROR(index.structure());
  TUTTI_RETURN_IF_ERROR(index.matching());
  constexpr uint64_t k_most = uint64_t{1} << 24;
  if (CellMap(plan.shape()).cells() > k_most)
    return Status(Code::invalid_argument, "too many chunks for a timeline");
  Timeline result;
  const RunLimits limits{plan.shape().credits, 1, true, false};
  Timing timing(index, KahnLayout(index, limits), result);
  KahnRunner<Timing> runner(index, timing, limits);
  if (!runner.run()) {
    const auto stuck = runner.stuck();
    const uint32_t lanes = plan.shape().lanes;
    return Status(Code::invalid_argument,
                  describe_step(plan, stuck.lane_id / lanes, stuck.lane_id % lanes, stuck.index) +
                      " waits for ever");
  }
  return result;
}

}  // namespace tutti
