// The reading half of text.h: a line-by-line recursive-descent parser without recursion.
#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "src/plan/text.h"

namespace tutti {
namespace {

class Parser {
 public:
  explicit Parser(std::string_view text) : rest_(text) {}

  Result<PlanPtr> parse() {
    TUTTI_RETURN_IF_ERROR(header());
    TUTTI_RETURN_IF_ERROR(sections());
    return PlanPtr(std::make_shared<TablePlan>(algorithm_, shape_, std::move(table_)));
  }

 private:
  // Moves to the next line that holds something besides a comment; false at the end.
  bool next_line() {
    while (!rest_.empty()) {
      ++number_;
      const size_t end = std::min(rest_.find('\n'), rest_.size());
      line_ = rest_.substr(0, end);
      rest_.remove_prefix(std::min(end + 1, rest_.size()));
      line_ = line_.substr(0, line_.find('#'));
      skip_space();
      if (!line_.empty()) return true;
    }
    line_ = {};
    return false;
  }
  void skip_space() {
    while (!line_.empty() &&
           (line_.front() == ' ' || line_.front() == '\t' || line_.front() == '\r'))
      line_.remove_prefix(1);
  }
  // The next word, up to a space or one of the separators ":+"; separators are words of their own.
  std::string_view word() {
    skip_space();
    size_t n = 0;
    auto separator = [](char c) { return c == ':' || c == '+'; };
    auto space = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
    while (n < line_.size() && !space(line_[n]) && !separator(line_[n])) ++n;
    if (n == 0 && !line_.empty()) n = 1;
    const std::string_view w = line_.substr(0, n);
    line_.remove_prefix(n);
    return w;
  }

  Status expected(std::string_view what, std::string_view got) const {
    const std::string_view shown = got.substr(0, 40);
    return Status(Code::invalid_argument,
                  fmt::format("plan text line {}: expected {}, got {}", number_, what,
                              got.empty() ? "the end of the line" : fmt::format("'{}'", shown)));
  }
  Status keyword(std::string_view wanted) {
    const std::string_view w = word();
    return w == wanted ? Status() : expected(fmt::format("'{}'", wanted), w);
  }
  Status number(std::string_view what, uint32_t& value, uint32_t max = ~uint32_t{0}) {
    const std::string_view w = word();
    const auto [end, error] = std::from_chars(w.data(), w.data() + w.size(), value);
    const bool plain = w.size() == 1 || (w.size() > 1 && w.front() != '0');
    if (error != std::errc() || end != w.data() + w.size() || !plain)
      return expected(fmt::format("{} (a number)", what), w);
    if (value > max) return expected(fmt::format("{} of at most {}", what, max), w);
    return {};
  }
  Status end_of_line() {
    const std::string_view w = word();
    return w.empty() ? Status() : expected("the end of the line", w);
  }
  // A line "key number".
  Status field(std::string_view key, uint32_t& value, uint32_t max = ~uint32_t{0}) {
    next_line();
    TUTTI_RETURN_IF_ERROR(keyword(key));
    TUTTI_RETURN_IF_ERROR(number(key, value, max));
    return end_of_line();
  }

  Status header() {
    next_line();
    TUTTI_RETURN_IF_ERROR(keyword("tutti"));
    TUTTI_RETURN_IF_ERROR(keyword("plan"));
    const std::string_view format = word();
    if (format != fmt::format("{}", k_plan_format))
      return expected(fmt::format("plan format {}", k_plan_format), format);
    TUTTI_RETURN_IF_ERROR(end_of_line());
    TUTTI_RETURN_IF_ERROR(algorithm());
    TUTTI_RETURN_IF_ERROR(collective());
    TUTTI_RETURN_IF_ERROR(field("ranks", shape_.ranks, k_text_max_ranks));
    TUTTI_RETURN_IF_ERROR(field("chunks", shape_.chunks));
    TUTTI_RETURN_IF_ERROR(field("lanes", shape_.lanes, k_text_max_lanes));
    if (uint64_t{shape_.ranks} * shape_.lanes > k_text_max_sections)
      return expected(fmt::format("at most {} lanes in all", k_text_max_sections),
                      fmt::format("{} ranks of {}", shape_.ranks, shape_.lanes));
    TUTTI_RETURN_IF_ERROR(field("root", shape_.root));
    TUTTI_RETURN_IF_ERROR(in_place());
    TUTTI_RETURN_IF_ERROR(field("scratch", shape_.scratch));
    TUTTI_RETURN_IF_ERROR(field("credits", shape_.credits));
    return field("longest", shape_.longest);
  }
  Status algorithm() {
    next_line();
    TUTTI_RETURN_IF_ERROR(keyword("algorithm"));
    skip_space();  // a name may hold anything but a line end or a '#'
    while (!line_.empty() && (line_.back() == ' ' || line_.back() == '\r' || line_.back() == '\t'))
      line_.remove_suffix(1);
    algorithm_ = line_;
    return algorithm_.empty() ? expected("an algorithm's name", "") : Status();
  }
  Status collective() {
    next_line();
    TUTTI_RETURN_IF_ERROR(keyword("collective"));
    const std::string_view w = word();
    const std::optional<Collective> found = parse_collective(w);
    if (!found) return expected("a collective's name", w);
    shape_.collective = *found;
    return end_of_line();
  }
  Status in_place() {
    next_line();
    TUTTI_RETURN_IF_ERROR(keyword("in_place"));
    const std::string_view w = word();
    if (w != "true" && w != "false") return expected("'true' or 'false'", w);
    shape_.in_place = w == "true";
    return end_of_line();
  }
  Status level() {
    std::vector<uint32_t> groups;
    while (groups.size() < shape_.ranks) {
      groups.emplace_back();
      TUTTI_RETURN_IF_ERROR(number("a group for every rank", groups.back()));
    }
    shape_.hierarchy.level.push_back(std::move(groups));
    return end_of_line();
  }

  Status sections() {
    std::vector<Step>* lane = nullptr;
    while (next_line()) {
      const std::string_view first = word();
      if (first == "level" && lane == nullptr) {
        TUTTI_RETURN_IF_ERROR(level());
      } else if (first == "rank") {
        TUTTI_RETURN_IF_ERROR(section(lane));
      } else {
        if (lane == nullptr) return expected("'rank' or 'level'", first);
        lane->emplace_back();
        TUTTI_RETURN_IF_ERROR(step(first, lane->back()));
      }
    }
    return {};
  }
  // "rank R lane L": sections come in order, each at most once.
  Status section(std::vector<Step>*& lane) {
    uint32_t rank = 0, index = 0;
    if (shape_.ranks == 0 || shape_.lanes == 0)
      return expected("no sections (no ranks or lanes)", "rank");
    TUTTI_RETURN_IF_ERROR(number("a rank", rank, shape_.ranks - 1));
    TUTTI_RETURN_IF_ERROR(keyword("lane"));
    TUTTI_RETURN_IF_ERROR(number("a lane", index, shape_.lanes - 1));
    const uint64_t position = uint64_t{rank} * shape_.lanes + index + 1;
    if (position <= position_)
      return expected("ranks and lanes in ascending order",
                      fmt::format("rank {} lane {}", rank, index));
    position_ = position;
    table_.resize(rank + 1);
    table_[rank].resize(index + 1);
    lane = &table_[rank][index];
    return end_of_line();
  }

  Status step(std::string_view op, Step& step) {
    TUTTI_RETURN_IF_ERROR(operation(op, step));
    const bool local = step.op == Op::signal || step.op == Op::wait;
    if (local || step.op == Op::send || reads_message(step.op))
      TUTTI_RETURN_IF_ERROR(number(local ? "a lane" : "a rank", step.peer));
    if (local) return end_of_line();
    if (writes_dst(step.op)) {
      TUTTI_RETURN_IF_ERROR(range(step, step.dst_buffer, step.dst));
      if (step.op == Op::recv) return end_of_line();
      TUTTI_RETURN_IF_ERROR(keyword("<-"));
      TUTTI_RETURN_IF_ERROR(buffer(word(), step.src_buffer));
      TUTTI_RETURN_IF_ERROR(keyword(":"));
      TUTTI_RETURN_IF_ERROR(number("a chunk", step.src));
      return mark(step);
    }
    TUTTI_RETURN_IF_ERROR(range(step, step.src_buffer, step.src));
    return end_of_line();
  }
  Status operation(std::string_view w, Step& step) const {
    for (int i = 0; i < k_ops; ++i)
      if (w == name(static_cast<Op>(i))) {
        step.op = static_cast<Op>(i);
        return {};
      }
    return expected("a step or 'rank'", w);
  }
  Status buffer(std::string_view w, Buffer& result) const {
    for (int i = 0; i < k_buffers; ++i)
      if (w == name(static_cast<Buffer>(i))) {
        result = static_cast<Buffer>(i);
        return {};
      }
    return expected("a buffer (input, output or scratch)", w);
  }
  // "output:2+1", or "token" where the step may be one.
  Status range(Step& step, Buffer& result, uint32_t& first) {
    const std::string_view w = word();
    if (w == "token" && (step.op == Op::send || step.op == Op::recv)) return {};
    TUTTI_RETURN_IF_ERROR(buffer(w, result));
    TUTTI_RETURN_IF_ERROR(keyword(":"));
    TUTTI_RETURN_IF_ERROR(number("a chunk", first));
    TUTTI_RETURN_IF_ERROR(keyword("+"));
    return number("a count of chunks", step.count);
  }
  Status mark(Step& step) {
    const std::string_view w = word();
    if (w.empty()) return {};
    if (w != "last") return expected("'last' or the end of the line", w);
    step.last = true;
    return end_of_line();
  }

  std::string_view rest_, line_;
  size_t number_ = 0;
  std::string algorithm_;
  Shape shape_;
  TablePlan::Table table_;
  uint64_t position_ = 0;
};

}  // namespace

Result<PlanPtr> parse_text(std::string_view text) { return Parser(text).parse(); }

}  // namespace tutti
