#include "src/planner/feedback.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <sstream>

namespace tutti {
namespace {

constexpr std::string_view k_title = "# tutti learnt 1\n";

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The text between two lines of the file that begin with '['.
struct Section {
  size_t begin = std::string_view::npos, body = 0, end = 0;
};
Section locate(std::string_view file, std::string_view placement) {
  const std::string head = fmt::format("[{}]\n", placement);
  Section s;
  for (size_t at = 0; at < file.size();) {
    if (file.substr(at).starts_with(head)) {
      s.begin = at;
      s.body = at + head.size();
      s.end = file.find("\n[", s.body - 1);
      s.end = s.end == std::string_view::npos ? file.size() : s.end + 1;
      return s;
    }
    const size_t line = file.find('\n', at);
    if (line == std::string_view::npos) break;
    at = line + 1;
  }
  return s;
}

}  // namespace

Trial::Trial(ShapeClass shape, uint64_t count, std::vector<Choice> choices)
    : shape_(shape), count_(count), choices_(std::move(choices)), samples_(choices_.size()) {}

bool Trial::add(double seconds) {
  if (++calls_ > k_warm_up) samples_[turn_].push_back(seconds);
  return samples_[turn_].size() >= k_samples;
}

bool Trial::next() {
  if (turn_ + 1 == choices_.size()) return false;
  ++turn_;
  calls_ = 0;
  return true;
}

std::vector<double> Trial::medians() const {
  std::vector<double> all;
  for (const auto& samples : samples_) all.push_back(median(samples));
  return all;
}

Trial* Feedback::trial_for(Planner& planner, const Planner::Call& call, uint64_t count) {
  const ShapeClass shape = ShapeClass::of(call.collective, call.bytes, call.dtype, call.op);
  const auto [it, made] = trials_.try_emplace(shape);
  if (made)
    if (std::vector<Choice> choices = planner.contenders(call); choices.size() > 1)
      it->second = std::make_unique<Trial>(shape, count, std::move(choices));
  return it->second != nullptr && it->second->count() == count ? it->second.get() : nullptr;
}

void Feedback::decide(Planner& planner, const Trial& trial, const std::vector<double>& worst) {
  const auto best = std::min_element(worst.begin(), worst.end()) - worst.begin();
  const ShapeClass shape = trial.shape();
  planner.learn(shape, trial.choices()[static_cast<size_t>(best)]);
  trials_[shape].reset();
}

std::string to_text(const std::map<ShapeClass, Choice>& learnt) {
  std::string text;
  for (const auto& [shape, choice] : learnt)
    text += fmt::format("{} {} {} {} {} {} {}\n", name(shape.collective), shape.bytes,
                        name(shape.dtype), name(shape.op), choice.algorithm, choice.chunks,
                        choice.mapping);
  return text;
}

Result<std::map<ShapeClass, Choice>> parse_learnt(std::string_view text) {
  std::map<ShapeClass, Choice> learnt;
  std::istringstream lines{std::string(text)};
  size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    std::string collective, dtype, op, rest;
    ShapeClass shape;
    Choice choice;
    words >> collective >> shape.bytes >> dtype >> op >> choice.algorithm >> choice.chunks >>
        choice.mapping;
    const auto c = parse_collective(collective);
    const auto d = parse_dtype(dtype);
    const auto o = parse_reduce_op(op);
    if (!words || words >> rest || !c || !d || !o || find_algorithm(choice.algorithm) == nullptr ||
        choice.chunks > k_most_chunks ||
        ShapeClass::of(*c, shape.bytes, *d, *o).bytes != shape.bytes)
      return Status(Code::invalid_argument,
                    fmt::format("learnt: line {} (\"{}\") is not COLLECTIVE BYTES DTYPE OP "
                                "ALGORITHM CHUNKS MAPPING",
                                number, line.substr(0, 80)));
    shape.collective = *c;
    shape.dtype = *d;
    shape.op = *o;
    learnt[shape] = choice;
  }
  return learnt;
}

std::string find_section(std::string_view file, std::string_view placement) {
  const Section s = locate(file, placement);
  return s.begin == std::string_view::npos ? std::string()
                                           : std::string(file.substr(s.body, s.end - s.body));
}

std::string find_sections(std::string_view file, std::string_view placement) {
  const std::string head = fmt::format("[{}", placement);
  std::string found;
  bool inside = false;
  while (!file.empty()) {
    const size_t end = file.find('\n');
    std::string_view line = file.substr(0, end);
    file.remove_prefix(end == std::string_view::npos ? file.size() : end + 1);
    if (line.starts_with('[')) {
      inside = line.starts_with(head) && line.ends_with(']');
      if (inside) line.remove_prefix(head.size());
      inside = inside && (line == "]" || line.starts_with("; "));
      if (inside && line != "]") line.remove_prefix(2);
      if (inside) found += '[';
    }
    if (inside) found += fmt::format("{}\n", line);
  }
  return found;
}

std::string replace_section(std::string_view file, std::string_view placement,
                            std::string_view lines) {
  std::string text(file.empty() ? k_title : file);
  if (text.back() != '\n') text += '\n';
  const Section s = locate(text, placement);
  if (s.begin == std::string_view::npos) return text + fmt::format("[{}]\n{}", placement, lines);
  return text.replace(s.body, s.end - s.body, lines);
}

}  // namespace tutti
