// A parser that remembers where in the text it is.
#include "transports/faulty/spec.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

namespace tutti::faulty {
namespace {

struct KindName {
  std::string_view name;
  Kind kind;
  std::string_view amount;  // the key that must be given
};
constexpr std::array<KindName, 7> k_kinds{{{"delay", Kind::delay, "us"},
                                           {"reorder", Kind::reorder, "window"},
                                           {"again", Kind::again, "percent"},
                                           {"corrupt", Kind::corrupt, "message"},
                                           {"drop", Kind::drop, "after"},
                                           {"reset", Kind::reset, "after"},
                                           {"die", Kind::die, "op"}}};

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<Spec> parse() {
    Spec spec;
    while (at_ < text_.size()) {
      TUTTI_RETURN_IF_ERROR(clause(&spec));
      if (at_ < text_.size()) ++at_;  // the ';'
    }
    return spec;
  }

 private:
  Status error(const std::string& what, std::string_view token, size_t position) const {
    return Status(
        Code::invalid_argument,
        fmt::format("fault specification: {} \"{}\" at position {}", what, token, position));
  }

  std::string_view word() {
    const size_t from = at_;
    while (at_ < text_.size() && text_.find_first_of(":;,=", at_) != at_) ++at_;
    return text_.substr(from, at_ - from);
  }
  bool take(char c) {
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  Status at_end_of_clause() const {
    if (at_ == text_.size() || text_[at_] == ';') return {};
    return error("unexpected", text_.substr(at_, 1), at_);
  }

  Status number(uint64_t* value) {
    const size_t position = at_;
    const std::string_view token = word();
    const auto [end, failed] = std::from_chars(token.data(), token.data() + token.size(), *value);
    if (failed != std::errc() || end != token.data() + token.size())
      return error("expected a number, got", token, position);
    return {};
  }

  Status clause(Spec* spec) {
    const size_t position = at_;
    const std::string_view name = word();
    if (name == "seed") {
      if (!take('=')) return error("expected = after", name, position);
      TUTTI_RETURN_IF_ERROR(number(&spec->seed));
      return at_end_of_clause();
    }
    for (const KindName& kind : k_kinds) {
      if (kind.name != name) continue;
      Fault fault;
      fault.kind = kind.kind;
      bool has_amount = false;
      if (take(':')) TUTTI_RETURN_IF_ERROR(pairs(kind, &fault, &has_amount));
      if (!has_amount) return error(fmt::format("no {}= for", kind.amount), name, position);
      spec->faults.push_back(fault);
      return at_end_of_clause();
    }
    return error("unknown fault", name, position);
  }

  Status pairs(const KindName& kind, Fault* fault, bool* has_amount) {
    do {
      const size_t position = at_;
      const std::string_view key = word();
      if (!take('=')) return error("expected = after", key, position);
      const size_t value_position = at_;
      uint64_t value = 0;
      TUTTI_RETURN_IF_ERROR(number(&value));
      const bool call = kind.kind == Kind::die && key == "call";
      if (key == kind.amount || call) {
        fault->amount = value;
        fault->by_call = call;
        *has_amount = true;
        if (kind.kind == Kind::again && value > 99)
          return error("percent must be below 100, not", std::to_string(value), value_position);
      } else if (key == "rank") {
        fault->rank = static_cast<Rank>(value);
      } else if (key == "peer" && kind.kind != Kind::die) {
        fault->peer = static_cast<Rank>(value);
      } else if (key == "lane" && kind.kind != Kind::die) {
        fault->lane = static_cast<uint32_t>(value);
      } else if (key == "thread" && kind.kind == Kind::die) {
        fault->thread = value != 0;
      } else {
        return error(fmt::format("{} has no", kind.name), key, position);
      }
    } while (take(','));
    return {};
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

Result<Spec> parse_spec(std::string_view text) { return Parser(text).parse(); }

}  // namespace tutti::faulty
