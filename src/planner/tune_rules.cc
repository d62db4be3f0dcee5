// Parser of Config::tune, the one-line override of the planner's choice.
#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "src/algorithms/algorithms.h"
#include "src/planner/planner.h"

namespace tutti {
namespace {

// A cursor over the text that knows where it is, for messages.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}
  bool done() const { return at_ == text_.size(); }
  bool take(char c) {
    if (done() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::string_view until(std::string_view stops) {
    const size_t end = std::min(text_.find_first_of(stops, at_), text_.size());
    const std::string_view word = text_.substr(at_, end - at_);
    at_ = end;
    return word;
  }
  bool rest_has_before(char c, std::string_view stops) const {
    const size_t found = text_.find(c, at_), stop = text_.find_first_of(stops, at_);
    return found != std::string_view::npos && found < stop;
  }
  Status error(std::string_view expected) const {
    return Status(Code::invalid_argument,
                  fmt::format("tune: expected {} at position {} of \"{}\"", expected, at_, text_));
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

// "64K", "1M", "inf": bytes, binary multiples.
std::optional<uint64_t> parse_size(std::string_view text) {
  if (text == "inf") return UINT64_MAX;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  const std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  int shift = 0;
  if (unit == "K" || unit == "k")
    shift = 10;
  else if (unit == "M" || unit == "m")
    shift = 20;
  else if (unit == "G" || unit == "g")
    shift = 30;
  else if (!unit.empty())
    return std::nullopt;
  if (value > (UINT64_MAX >> shift)) return std::nullopt;
  return value << shift;
}

Status parse_rule(Cursor& cursor, TuneRule* rule, bool* named) {
  // A collective stands before the range when there are two colons to come in this rule.
  if (!*named || !cursor.rest_has_before('-', ":;")) {
    const std::string_view word = cursor.until(":;");
    const std::optional<Collective> collective = parse_collective(word);
    if (!collective || !cursor.take(':')) return cursor.error("COLLECTIVE:FROM-TO:ALGORITHM");
    rule->collective = *collective;
    *named = true;
  }
  const std::optional<uint64_t> from = parse_size(cursor.until("-:;"));
  if (!from || !cursor.take('-')) return cursor.error("a size and '-'");
  const std::optional<uint64_t> to = parse_size(cursor.until(":;"));
  if (!to || !cursor.take(':')) return cursor.error("a size and ':'");
  if (*to <= *from) return cursor.error("a range that is not empty");
  rule->from = *from;
  rule->to = *to;
  rule->algorithm = std::string(cursor.until("@/;"));
  if (rule->chooses() && find_algorithm(rule->algorithm) == nullptr) {
    std::string known;
    for (const Algorithm& a : algorithms()) known += fmt::format(" {}", a.name);
    return Status(Code::invalid_argument,
                  fmt::format("tune: no algorithm \"{}\"; there are:{}", rule->algorithm, known));
  }
  rule->chunks = 0;
  if (cursor.take('@')) {
    const std::optional<uint64_t> chunks = parse_size(cursor.until("/;"));
    if (!chunks || *chunks == 0 || *chunks > k_most_chunks)
      return cursor.error(fmt::format("1 to {} chunks", k_most_chunks));
    rule->chunks = static_cast<uint32_t>(*chunks);
  }
  rule->protocol.reset();
  if (cursor.take('/')) {
    const std::string_view word = cursor.until(";");
    for (WireProtocol p : {WireProtocol::packets, WireProtocol::slots})
      if (word == name(p)) rule->protocol = p;
    if (!rule->protocol) return cursor.error("/packets or /slots");
  }
  return {};
}

}  // namespace

std::string_view name(WireProtocol protocol) {
  return protocol == WireProtocol::packets ? "packets" : "slots";
}

Result<std::vector<TuneRule>> parse_tune(std::string_view text) {
  std::vector<TuneRule> rules;
  Cursor cursor(text);
  TuneRule rule;
  bool named = false;
  while (!cursor.done()) {
    TUTTI_RETURN_IF_ERROR(parse_rule(cursor, &rule, &named));
    rules.push_back(rule);
    if (!cursor.done() && !cursor.take(';')) return cursor.error("';'");
  }
  return rules;
}

}  // namespace tutti
