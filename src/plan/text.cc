#include "src/plan/text.h"

#include <fmt/format.h>

namespace tutti {
namespace {

std::string range(Buffer buffer, uint32_t first, uint32_t count) {
  return fmt::format("{}:{}+{}", name(buffer), first, count);
}

void append_header(const Plan& plan, std::string& out) {
  const Shape& s = plan.shape();
  auto to = std::back_inserter(out);
  fmt::format_to(to, "tutti plan {}\nalgorithm {}\ncollective {}\nranks {}\nchunks {}\nlanes {}\n",
                 k_plan_format, plan.algorithm(), name(s.collective), s.ranks, s.chunks, s.lanes);
  fmt::format_to(to, "root {}\nin_place {}\nscratch {}\ncredits {}\nlongest {}\n", s.root,
                 s.in_place, s.scratch, s.credits, s.longest);
  for (const auto& level : s.hierarchy.level) {
    out += "level";
    for (uint32_t group : level) fmt::format_to(to, " {}", group);
    out += '\n';
  }
}

}  // namespace

std::string to_text(const Step& step) {
  const std::string op(name(step.op));
  const std::string last = step.last ? " last" : "";
  switch (step.op) {
    case Op::send:
      if (step.count == 0) return fmt::format("{} {} token", op, step.peer);
      return fmt::format("{} {} {}", op, step.peer, range(step.src_buffer, step.src, step.count));
    case Op::recv:
      if (step.count == 0) return fmt::format("{} {} token", op, step.peer);
      return fmt::format("{} {} {}", op, step.peer, range(step.dst_buffer, step.dst, step.count));
    case Op::recv_reduce:
      return fmt::format("{} {} {} <- {}:{}{}", op, step.peer,
                         range(step.dst_buffer, step.dst, step.count), name(step.src_buffer),
                         step.src, last);
    case Op::copy:
    case Op::reduce:
      return fmt::format("{} {} <- {}:{}{}", op, range(step.dst_buffer, step.dst, step.count),
                         name(step.src_buffer), step.src, last);
    case Op::signal:
    case Op::wait:
      return fmt::format("{} {}", op, step.peer);
  }
  return "unknown op";
}

std::string to_text(const Plan& plan) {
  std::string out;
  append_header(plan, out);
  const Shape& shape = plan.shape();
  for (Rank r = 0; r < shape.ranks; ++r)
    for (Lane l = 0; l < shape.lanes; ++l) {
      const uint32_t steps = plan.steps(r, l);
      if (steps == 0) continue;
      fmt::format_to(std::back_inserter(out), "rank {} lane {}\n", r, l);
      for (uint32_t i = 0; i < steps; ++i) {
        out += "  ";
        out += to_text(plan.step_at(r, l, i));
        out += '\n';
      }
    }
  return out;
}

}  // namespace tutti
