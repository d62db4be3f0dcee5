#include "src/plan/step_check.h"

#include <fmt/format.h>

namespace tutti {
namespace {

bool shape_fits(const Shape& shape) {
  return shape.ranks > 0 && shape.chunks > 0 &&
         uint64_t{shape.ranks} * shape.chunks < (uint64_t{1} << 31) &&
         uint64_t{shape.ranks} * shape.lanes < (uint64_t{1} << 31);
}

// CellMap of a shape that has not been checked yet.
Shape safe(const Shape& shape) { return shape_fits(shape) ? shape : Shape{}; }

bool overlap(uint64_t a, uint64_t b, uint32_t count) { return a < b + count && b < a + count; }

}  // namespace

bool reduces(Collective collective) {
  return collective == Collective::all_reduce || collective == Collective::reduce ||
         collective == Collective::reduce_scatter;
}

bool has_pair_lengths(Collective collective) {
  return collective == Collective::all_to_all_v || collective == Collective::send_recv;
}

StepCheck::StepCheck(const Plan& plan)
    : shape_(plan.shape()),
      cells_(safe(plan.shape())),
      ranks_(shape_.ranks),
      chunks_(shape_.chunks),
      chunks_pow2_((shape_.chunks & (shape_.chunks - 1)) == 0),
      vector_(has_pair_lengths(shape_.collective)),
      reducing_(reduces(shape_.collective)) {}

Status StepCheck::check_shape() {
  auto bad = [](std::string text) { return Status(Code::invalid_argument, "shape: " + text); };
  const Shape& s = shape_;
  if (s.ranks == 0) return bad("no ranks");
  if (s.chunks == 0) return bad("no chunks");
  if (s.lanes == 0) return bad("no lanes");
  if (s.credits == 0) return bad("no credits: no message could ever be sent");
  if (!shape_fits(s))
    return bad(
        fmt::format("{} ranks of {} chunks and {} lanes are too many", s.ranks, s.chunks, s.lanes));
  if (s.root >= s.ranks) return bad(fmt::format("root {} of {} ranks", s.root, s.ranks));
  if (vector_ && (s.chunks != 1 || s.scratch != 0 || s.in_place))
    return bad(fmt::format("{} has one chunk per block, no scratch, and is never in place",
                           name(s.collective)));
  if (s.longest == 0) return bad("messages of no chunks");
  for (size_t l = 0; l < s.hierarchy.level.size(); ++l)
    if (s.hierarchy.level[l].size() != s.ranks)
      return bad(fmt::format("hierarchy level {} names {} of {} ranks", l,
                             s.hierarchy.level[l].size(), s.ranks));
  return {};
}

std::optional<std::string> StepCheck::check(Rank rank, Lane lane, const Step& step) const {
  if (static_cast<int>(step.op) >= k_ops || static_cast<int>(step.dst_buffer) >= k_buffers ||
      static_cast<int>(step.src_buffer) >= k_buffers)
    return "unknown op or buffer";
  if (auto problem = check_canonical(step)) return problem;
  if (auto problem = check_peer(rank, lane, step)) return problem;
  return check_ranges(rank, step);
}

// Unused fields are zero, so that equal meaning is equal text.
std::optional<std::string> StepCheck::check_canonical(const Step& step) const {
  const bool token = step.count == 0;
  const bool messages = step.op == Op::send || step.op == Op::recv;
  const bool local = step.op == Op::signal || step.op == Op::wait;
  if (token && !messages && !local) return "has no chunks";
  if (local && !token) return "carries chunks";
  if ((!writes_dst(step.op) || token) && (step.dst != 0 || step.dst_buffer != Buffer::input))
    return "has a destination, which this step does not use";
  if ((!reads_src(step.op) || token) || step.op == Op::recv) {
    if (step.src != 0 || step.src_buffer != Buffer::input)
      return "has a source, which this step does not use";
  }
  if ((step.op == Op::copy || step.op == Op::reduce) && step.peer != 0)
    return "has a peer, which this step does not use";
  if (step.last) {
    const bool reducing_op = step.op == Op::recv_reduce || step.op == Op::reduce;
    if (!reducing_op) return "is marked last, but does not reduce";
    if (!reducing_) return "is marked last, but this collective does not reduce";
  }
  return std::nullopt;
}

std::optional<std::string> StepCheck::check_peer(Rank rank, Lane lane, const Step& step) const {
  if (step.op == Op::signal || step.op == Op::wait) {
    if (step.peer >= shape_.lanes)
      return fmt::format("names lane {} of {}", step.peer, shape_.lanes);
    if (step.peer == lane) return "names its own lane";
  } else if (step.op == Op::send || reads_message(step.op)) {
    if (step.count > shape_.longest)
      return fmt::format("has a message of {} chunks, the longest declared has {}", step.count,
                         shape_.longest);
    if (step.peer >= ranks_) return fmt::format("names rank {} of {}", step.peer, ranks_);
    if (step.peer == rank) return "names its own rank";
  }
  return std::nullopt;
}

uint64_t StepCheck::limit(Rank rank, Buffer buffer) const {
  switch (buffer) {
    case Buffer::input:
      return shape_.input_chunks(rank);
    case Buffer::output:
      return shape_.output_chunks(rank);
    case Buffer::scratch:
      return shape_.scratch;
  }
  return 0;
}

std::optional<std::string> StepCheck::check_range(Rank rank, Buffer buffer, uint32_t first,
                                                  uint32_t count, const char* what) const {
  const uint64_t have = limit(rank, buffer);
  if (uint64_t{first} + count <= have) return std::nullopt;
  return fmt::format("{} {}:{}+{} is out of range: rank {} has {} {} chunks", what, name(buffer),
                     first, count, rank, have, name(buffer));
}

std::optional<std::string> StepCheck::check_ranges(Rank rank, const Step& step) const {
  if (step.count == 0) return std::nullopt;
  if (vector_ && step.count != 1) return "spans chunks of unrelated lengths";
  if (reads_src(step.op)) {
    if (auto p = check_range(rank, step.src_buffer, step.src, step.count, "source")) return p;
  }
  if (!writes_dst(step.op)) return std::nullopt;
  if (auto p = check_range(rank, step.dst_buffer, step.dst, step.count, "destination")) return p;
  if (step.dst_buffer == Buffer::input)
    for (uint32_t i = 0; i < step.count; ++i)
      if (!cells_.input_is_output(shape_, rank, step.dst + i)) return "writes the input";
  if (!reads_src(step.op)) return std::nullopt;
  if (length_class(rank, step.dst_buffer, step.dst) !=
      length_class(rank, step.src_buffer, step.src))
    return "source and destination chunks have different lengths";
  const uint64_t dst = cells_.cell(rank, step.dst_buffer, step.dst);
  const uint64_t src = cells_.cell(rank, step.src_buffer, step.src);
  const bool same_allowed = step.op != Op::reduce;  // reading what the pass is writing
  if (overlap(dst, src, step.count) && !(same_allowed && dst == src))
    return "source and destination overlap";
  return std::nullopt;
}

}  // namespace tutti
