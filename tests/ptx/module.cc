#include "tests/ptx/module.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

namespace tutti::ptx {
namespace {

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%' ||
         c == '.';
}

std::string_view trim(std::string_view s) {
  while (!s.empty() && std::isspace(static_cast<unsigned char>(s.front()))) s.remove_prefix(1);
  while (!s.empty() && std::isspace(static_cast<unsigned char>(s.back()))) s.remove_suffix(1);
  return s;
}

std::vector<std::string> split(std::string_view s, char by) {
  std::vector<std::string> parts;
  while (true) {
    const size_t at = s.find(by);
    parts.emplace_back(trim(s.substr(0, at)));
    if (at == std::string_view::npos) return parts;
    s.remove_prefix(at + 1);
  }
}

uint64_t bytes_of(std::string_view type) {
  if (type == "pred") return 1;
  return std::strtoull(type.data() + 1, nullptr, 10) / 8;
}

// ".param .align 8 .b8 name[48]", without what follows.
std::optional<Variable> parse_variable(std::string_view text) {
  Variable v;
  std::string_view rest = trim(text);
  uint64_t element = 0;
  while (!rest.empty() && rest.front() == '.') {
    const size_t end = std::min(rest.find_first_of(" \t\n"), rest.size());
    const std::string_view word = rest.substr(1, end - 1);
    rest = trim(rest.substr(end));
    if (word == "align") {
      v.align = std::strtoull(std::string(rest).c_str(), nullptr, 10);
      rest = trim(rest.substr(std::min(rest.find_first_of(" \t"), rest.size())));
    } else if (word == "param") {
      v.space = Space::param;
    } else if (word == "local") {
      v.space = Space::local;
    } else if (word == "shared") {
      v.space = Space::shared;
    } else if (word == "global") {
      v.space = Space::global;
    } else if (!word.empty() && std::string_view("bsuf").find(word[0]) != std::string_view::npos) {
      element = bytes_of(word);
    } else if (word != "visible" && word != "ptr" && word != "extern") {
      return std::nullopt;
    }
  }
  const size_t bracket = rest.find('[');
  v.name = trim(rest.substr(0, bracket));
  v.bytes = element;
  if (bracket != std::string_view::npos)
    v.bytes *= std::strtoull(std::string(rest.substr(bracket + 1)).c_str(), nullptr, 10);
  v.align = std::max(v.align, element);
  if (v.name.empty() || v.bytes == 0 || v.name.find_first_of(" =") != std::string::npos)
    return std::nullopt;
  return v;
}

// The body of one function.
class Reader {
 public:
  Reader(std::string_view text, uint32_t line) : text_(text), line_(line) {}

  Result<Function> read() {
    head();
    if (error_.empty()) body();
    for (const Instruction& i : function_.code)
      for (const Operand& o : i.operands)
        if (o.kind == Operand::Kind::label && !function_.labels.contains(o.name))
          error_ = "no label " + o.name;
    if (!error_.empty())
      return Status(Code::unsupported, "PTX line " + std::to_string(at_line_) + ": " + error_);
    return std::move(function_);
  }

 private:
  struct Scope {
    std::map<std::string, uint32_t, std::less<>> one;
    std::map<std::string, std::pair<uint32_t, uint32_t>, std::less<>> ranges;  // first, count
  };

  void fail(const std::string& what) {
    if (error_.empty()) error_ = what;
  }

  // "(...)" at the current place, without the brackets.
  std::string_view parentheses() {
    const size_t begin = text_.find('(', at_), end = text_.find(')', begin);
    for (size_t i = at_; i < end; ++i) line_ += text_[i] == '\n';
    at_ = end + 1;
    return text_.substr(begin + 1, end - begin - 1);
  }
  void declare(std::string_view list, std::vector<Variable>& to) {
    if (trim(list).empty()) return;
    uint64_t offset = 0;
    for (const std::string& one : split(list, ',')) {
      auto v = parse_variable(one);
      if (!v) return fail("what is the parameter " + one);
      v->offset = offset = (offset + v->align - 1) / v->align * v->align;
      offset += v->bytes;
      to.push_back(std::move(*v));
    }
  }
  void head() {
    at_line_ = line_;
    function_.entry = text_.starts_with(".entry");
    at_ = function_.entry ? 6 : 5;
    const size_t name = text_.find_first_not_of(" \t\n", at_);
    if (text_[name] == '(') declare(parentheses(), function_.results);
    const size_t begin = text_.find_first_not_of(" \t\n", at_);
    size_t end = begin;
    while (end < text_.size() && is_word(text_[end])) ++end;
    function_.name = text_.substr(begin, end - begin);
    at_ = end;
    declare(parentheses(), function_.parameters);
    const size_t brace = text_.find('{', at_);
    const std::string_view between = text_.substr(at_, brace - at_);
    if (const size_t most = between.find(".maxntid"); most != std::string_view::npos)
      function_.max_threads = static_cast<uint32_t>(
          std::strtoul(std::string(between.substr(most + 8)).c_str(), nullptr, 10));
    line_ += static_cast<uint32_t>(std::count(between.begin(), between.end(), '\n'));
    at_ = brace;
  }

  void body() {
    std::string statement;
    int vector = 0;
    for (; at_ < text_.size() && error_.empty(); ++at_) {
      const char c = text_[at_];
      if (c == '\n') ++line_;
      if (c == '/' && text_.substr(at_, 2) == "//") {
        at_ = text_.find('\n', at_) - 1;
      } else if (std::isspace(static_cast<unsigned char>(c)) != 0) {
        if (!statement.empty()) statement += ' ';
      } else if (c == '{' && statement.empty()) {
        scopes_.emplace_back();
      } else if (c == '}' && statement.empty()) {
        scopes_.pop_back();
      } else if (c == ';') {
        take(statement);
        statement.clear();
      } else if (c == ':' && vector == 0) {
        function_.labels[std::string(trim(statement))] =
            static_cast<uint32_t>(function_.code.size());
        statement.clear();
      } else {
        if (statement.empty()) at_line_ = line_;
        vector += c == '{' ? 1 : c == '}' ? -1 : 0;
        statement += c;
      }
    }
  }

  void take(std::string_view s) {
    s = trim(s);
    if (s.empty()) return;
    if (s.starts_with(".reg")) return registers(s.substr(4));
    if (s.starts_with(".pragma") || s.starts_with(".loc ")) return;
    if (s.front() == '.') {
      auto v = parse_variable(s);
      if (!v) return fail("what is " + std::string(s));
      // nvcc names the temporaries of every call alike: one place, as large as the largest.
      std::erase_if(function_.variables, [&](const Variable& old) {
        if (old.name == v->name) v->bytes = std::max(v->bytes, old.bytes);
        return old.name == v->name;
      });
      uint64_t& used = used_[v->space];
      v->offset = used = (used + v->align - 1) / v->align * v->align;
      used += v->bytes;
      function_.variables.push_back(std::move(*v));
      return;
    }
    instruction(s);
  }

  void registers(std::string_view s) {
    s = trim(s);
    s = trim(s.substr(s.find_first_of(" \t")));  // behind the type
    for (const std::string& one : split(s, ',')) {
      const size_t angle = one.find('<');
      if (angle == std::string::npos) {
        scopes_.back().one[one] = function_.registers++;
      } else {
        const auto count =
            static_cast<uint32_t>(std::strtoul(one.c_str() + angle + 1, nullptr, 10));
        scopes_.back().ranges[one.substr(0, angle)] = {function_.registers, count};
        function_.registers += count;
      }
    }
  }
  std::optional<uint32_t> find_register(std::string_view name) const {
    const size_t digits = name.find_last_not_of("0123456789") + 1;
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (auto one = scope->one.find(name); one != scope->one.end()) return one->second;
      auto range = scope->ranges.find(name.substr(0, digits));
      if (range == scope->ranges.end() || digits == name.size()) continue;
      const auto index = static_cast<uint32_t>(
          std::strtoul(std::string(name.substr(digits)).c_str(), nullptr, 10));
      if (index < range->second.second) return range->second.first + index;
    }
    return std::nullopt;
  }

  Operand operand(std::string_view s) {
    Operand o;
    s = trim(s);
    if (s == "_") return o;
    if (s.starts_with("[")) {
      o.kind = Operand::Kind::address;
      s = trim(s.substr(1, s.size() - 2));
      const size_t sign = s.find_first_of("+-", 1);
      if (sign != std::string_view::npos) {
        o.value = std::strtoll(
            std::string(s.substr(s[sign] == '+' && s[sign + 1] == '-' ? sign + 1 : sign)).c_str(),
            nullptr, 0);
        s = trim(s.substr(0, sign));
      }
      if (auto reg = find_register(s)) {
        o.reg = *reg;
        o.based = true;
      } else {
        o.name = s;
      }
      return o;
    }
    if (auto reg = find_register(s)) {
      o.kind = Operand::Kind::reg;
      o.reg = *reg;
      return o;
    }
    if (s.front() == '%') {
      o.kind = Operand::Kind::special;
      o.name = s;
      return o;
    }
    if (s.starts_with("0f") || s.starts_with("0F") || s.starts_with("0d") || s.starts_with("0D")) {
      o.kind = Operand::Kind::immediate;
      o.value = static_cast<int64_t>(std::strtoull(std::string(s.substr(2)).c_str(), nullptr, 16));
      return o;
    }
    if (std::isdigit(static_cast<unsigned char>(s.front())) != 0 || s.front() == '-') {
      o.kind = Operand::Kind::immediate;
      o.value = s.front() == '-'
                    ? std::strtoll(std::string(s).c_str(), nullptr, 0)
                    : static_cast<int64_t>(std::strtoull(std::string(s).c_str(), nullptr, 0));
      return o;
    }
    if (s.front() == '$') {
      o.kind = Operand::Kind::label;
      o.name = s;
      return o;
    }
    o.kind = Operand::Kind::symbol;
    const size_t plus = s.find('+');
    o.name = trim(s.substr(0, plus));
    if (plus != std::string_view::npos)
      o.value = std::strtoll(std::string(s.substr(plus + 1)).c_str(), nullptr, 0);
    return o;
  }

  void instruction(std::string_view s) {
    Instruction i;
    i.line = at_line_;
    if (s.front() == '@') {
      i.negated = s[1] == '!';
      const size_t end = s.find(' ');
      i.guard = find_register(s.substr(i.negated ? 2 : 1, end - (i.negated ? 2 : 1)));
      if (!i.guard) return fail("what guards " + std::string(s));
      s = trim(s.substr(end));
    }
    const size_t end = std::min(s.find(' '), s.size());
    i.opcode = split(s.substr(0, end), '.');
    s = trim(s.substr(end));
    if (i.opcode[0] == "call") {
      call(s, i);
    } else {
      operands(s, i);
    }
    function_.code.push_back(std::move(i));
  }
  void operands(std::string_view s, Instruction& i) {
    i.taken_apart = i.opcode[0] == "mov" && s.starts_with("{");
    while (!s.empty()) {
      size_t end = s.front() == '{' ? s.find('}') + 1 : s.find(',');
      end = std::min(end, s.size());
      const std::string_view one = trim(s.substr(0, end));
      if (one.front() == '{') {
        for (const std::string& part : split(one.substr(1, one.size() - 2), ','))
          i.operands.push_back(operand(part));
      } else {
        i.operands.push_back(operand(one));
      }
      s = trim(s.substr(end));
      if (!s.empty() && s.front() == ',') s = trim(s.substr(1));
    }
  }
  // (result), name, (argument, ...)
  void call(std::string_view s, Instruction& i) {
    if (s.starts_with("(")) {
      i.results = split(s.substr(1, s.find(')') - 1), ',');
      s = trim(s.substr(s.find(')') + 1));
      if (s.starts_with(",")) s = trim(s.substr(1));
    }
    const size_t comma = std::min(s.find(','), s.size());
    Operand callee;
    callee.kind = Operand::Kind::symbol;
    callee.name = trim(s.substr(0, comma));
    i.operands.push_back(std::move(callee));
    const size_t open = s.find('(', comma);
    if (open == std::string_view::npos) return;
    const std::string_view list = trim(s.substr(open + 1, s.find(')', open) - open - 1));
    if (!list.empty()) i.arguments = split(list, ',');
  }

  std::string_view text_;
  size_t at_ = 0;
  uint32_t line_, at_line_ = 0;
  Function function_;
  std::vector<Scope> scopes_;
  std::map<Space, uint64_t> used_;
  std::string error_;
};

}  // namespace

const Variable* Function::variable(const std::string& wanted) const {
  for (const auto* list : {&variables, &parameters, &results})
    for (const Variable& v : *list)
      if (v.name == wanted) return &v;
  return nullptr;
}

Result<Module> Module::parse(std::string text) {
  Module module;
  module.text_ = std::move(text);
  const std::string_view all = module.text_;
  uint32_t line = 1;
  for (size_t at = 0; at < all.size();) {
    const size_t end = std::min(all.find('\n', at), all.size());
    const std::string_view row = trim(all.substr(at, end - at));
    const size_t name = std::min(row.find(".entry"), row.find(".func"));
    if (row.starts_with(".target")) {
      module.target_ = trim(row.substr(7));
    } else if (row.starts_with(".global") || row.starts_with(".visible .global")) {
      auto v = parse_variable(row.substr(0, row.find(';')));
      if (!v || row.find('=') != std::string_view::npos)
        return Status(Code::unsupported,
                      "PTX line " + std::to_string(line) + ": what is " + std::string(row));
      module.globals_.push_back(std::move(*v));
    } else if (name != std::string_view::npos && !row.starts_with("//")) {
      // Up to the closing brace of the body, which stands at the beginning of a row; a declaration
      // ends in a semicolon before any brace.
      const size_t begin = at + all.substr(at, end - at).find(row.substr(name, 5));
      const size_t brace = all.find('{', begin);
      const size_t declared = all.find(';', begin);
      const bool has_body = brace < declared;
      const size_t close = has_body ? all.find("\n}", brace) : declared;
      if (close == std::string_view::npos)
        return Status(Code::unsupported,
                      "PTX line " + std::to_string(line) + ": a function without an end");
      if (has_body) {
        Reader reader(all.substr(begin, brace + 1 - begin), line);
        auto head = reader.read();
        if (!head) return head.status();
        module.bodies_[head->name] = {begin, close + 2, line, head->entry};
      }
      line += static_cast<uint32_t>(std::count(all.begin() + static_cast<ptrdiff_t>(at),
                                               all.begin() + static_cast<ptrdiff_t>(close), '\n'));
      at = close + 1;
      if (has_body) ++at, ++line;
      continue;
    }
    at = end + 1;
    ++line;
  }
  if (module.bodies_.empty()) return Status(Code::invalid_argument, "no function in this PTX");
  return module;
}

std::vector<std::string> Module::names(bool entries) const {
  std::vector<std::string> names;
  for (const auto& [name, body] : bodies_)
    if (body.entry || !entries) names.push_back(name);
  return names;
}

Result<const Function*> Module::function(const std::string& name) {
  if (auto found = read_.find(name); found != read_.end()) return &found->second;
  const auto body = bodies_.find(name);
  if (body == bodies_.end())
    return Status(Code::invalid_argument, "no function " + name + " in this PTX");
  Reader reader(
      std::string_view(text_).substr(body->second.begin, body->second.end - body->second.begin),
      body->second.line);
  auto function = reader.read();
  if (!function) return function.status();
  return &(read_[name] = std::move(*function));
}

}  // namespace tutti::ptx
