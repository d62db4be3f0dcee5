#include "topology/xml.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace tutti {
namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool starts_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == ':' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool in_name(char c) { return starts_name(c) || (c >= '0' && c <= '9') || c == '-' || c == '.'; }

// A short piece of what was met, in printable characters.
std::string shown(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, 24)) {
    if (c == '\n' || c == '\r') break;
    out += c >= ' ' && c <= '~' ? c : '?';
  }
  return out;
}

void append_utf8(std::string* out, uint32_t c) {
  auto put = [&](uint32_t byte) { *out += static_cast<char>(byte); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xc0 | c >> 6);
  } else {
    if (c < 0x10000) {
      put(0xe0 | c >> 12);
    } else {
      put(0xf0 | c >> 18);
      put(0x80 | (c >> 12 & 63));
    }
    put(0x80 | (c >> 6 & 63));
  }
  put(0x80 | (c & 63));
}

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  Result<XmlElement> document() {
    if (text_.size() > k_max_xml_bytes)
      return xml_error({}, fmt::format("at most {} bytes", k_max_xml_bytes),
                       fmt::format("{} bytes", text_.size()));
    eat("\xef\xbb\xbf");  // a byte order mark
    XmlElement root;
    TUTTI_RETURN_IF_ERROR(between(nullptr));
    if (!next_is("<")) return fail("an element");
    TUTTI_RETURN_IF_ERROR(element(&root, 1));
    TUTTI_RETURN_IF_ERROR(between(nullptr));
    if (at_ < text_.size()) return fail("the end after </" + root.name + ">");
    return root;
  }

 private:
  Status fail(std::string_view expected) { return fail(expected, at_); }
  Status fail(std::string_view expected, size_t at) {
    const std::string rest = shown(text_.substr(std::min(at, text_.size())));
    return xml_error(place(at), expected,
                     at >= text_.size() ? "the end"
                     : rest.empty()     ? "the end of the line"
                                        : "'" + rest + "'");
  }

  // Places are asked for in rising order, but for errors.
  XmlPlace place(size_t at) {
    at = std::min(at, text_.size());
    if (at < counted_) {
      counted_ = line_begin_ = 0;
      line_ = 1;
    }
    for (; counted_ < at; ++counted_)
      if (text_[counted_] == '\n') {
        ++line_;
        line_begin_ = counted_ + 1;
      }
    return {line_, static_cast<uint32_t>(at - line_begin_ + 1)};
  }

  bool next_is(std::string_view token) const { return text_.substr(at_).starts_with(token); }
  bool eat(std::string_view token) {
    if (!next_is(token)) return false;
    at_ += token.size();
    return true;
  }
  void spaces() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  }
  Status skip_past(std::string_view end, size_t begin, std::string_view what) {
    const size_t found = text_.find(end, at_);
    if (found == std::string_view::npos)
      return fail(fmt::format("'{}' at the end of the {}", end, what), begin);
    at_ = found + end.size();
    return {};
  }

  // What may stand between elements; characters only inside of one, whose text they are.
  Status between(std::string* inside) {
    for (;;) {
      spaces();
      const size_t begin = at_;
      if (eat("<!--")) {
        TUTTI_RETURN_IF_ERROR(skip_past("-->", begin, "comment"));
      } else if (eat("<?")) {
        TUTTI_RETURN_IF_ERROR(skip_past("?>", begin, "processing instruction"));
      } else if (inside != nullptr && eat("<![CDATA[")) {
        TUTTI_RETURN_IF_ERROR(skip_past("]]>", begin, "CDATA section"));
      } else if (inside == nullptr && eat("<!DOCTYPE")) {
        const size_t end = text_.find_first_of("[>", at_);
        if (end == std::string_view::npos || text_[end] == '[')
          return fail("a DOCTYPE without declarations", begin);
        at_ = end + 1;
      } else if (inside != nullptr && at_ < text_.size() && text_[at_] != '<' &&
                 text_[at_] != '\0') {
        at_ = std::min(text_.find_first_of(k_ends_text, at_), text_.size());
        *inside += text_.substr(begin, at_ - begin);
      } else {
        return {};
      }
    }
  }

  Status name(std::string_view what, std::string* out) {
    if (at_ == text_.size() || !starts_name(text_[at_])) return fail(what);
    const size_t begin = at_;
    while (at_ < text_.size() && in_name(text_[at_])) ++at_;
    *out = text_.substr(begin, at_ - begin);
    return {};
  }

  Status reference(std::string* out) {
    const size_t begin = at_++;
    const size_t end = text_.find(';', at_);
    const std::string_view word =
        end == std::string_view::npos || end - at_ > 10 ? "" : text_.substr(at_, end - at_);
    constexpr std::pair<std::string_view, char> k_named[] = {
        {"lt", '<'}, {"gt", '>'}, {"amp", '&'}, {"quot", '"'}, {"apos", '\''}};
    for (const auto& [entity, c] : k_named)
      if (word == entity) {
        *out += c;
        at_ = end + 1;
        return {};
      }
    if (word.starts_with('#')) {
      const bool hex = word.starts_with("#x");
      uint32_t code = 0;
      const std::string_view digits = word.substr(hex ? 2 : 1);
      const auto [stop, error] =
          std::from_chars(digits.data(), digits.data() + digits.size(), code, hex ? 16 : 10);
      if (!digits.empty() && error == std::errc() && stop == digits.data() + digits.size() &&
          code > 0 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff)) {
        append_utf8(out, code);
        at_ = end + 1;
        return {};
      }
    }
    return fail("&lt; &gt; &amp; &quot; &apos; or a character's number", begin);
  }

  Status attribute(XmlElement* element) {
    XmlAttribute a;
    const size_t begin = at_;
    TUTTI_RETURN_IF_ERROR(name("an attribute, '>' or '/>'", &a.name));
    if (element->attributes.size() == k_max_xml_attributes)
      return fail(fmt::format("no more than {} attributes", k_max_xml_attributes), begin);
    if (element->find(a.name) != nullptr)
      return fail(fmt::format("no second attribute {} of <{}>", a.name, element->name), begin);
    spaces();
    if (!eat("=")) return fail("'=' after the attribute " + a.name);
    spaces();
    if (!next_is("\"") && !next_is("'"))
      return fail(fmt::format("a value in quotes for the attribute {}", a.name));
    const char quote = text_[at_++];
    a.place = place(at_);
    const size_t value_begin = at_;
    while (at_ < text_.size() && text_[at_] != quote) {
      const char c = text_[at_];
      if (c == '<' || c == '\0')
        return fail(fmt::format("{} at the end of the value of {}", quote, a.name));
      if (c == '&') {
        TUTTI_RETURN_IF_ERROR(reference(&a.value));
        continue;
      }
      a.value += c;
      ++at_;
    }
    if (at_ == text_.size())
      return fail(fmt::format("{} at the end of the value of {}", quote, a.name), value_begin);
    ++at_;
    element->attributes.push_back(std::move(a));
    return {};
  }

  Status element(XmlElement* e, uint32_t depth) {
    const size_t begin = at_;
    if (depth > k_max_xml_depth)
      return fail(fmt::format("no more than {} elements within one another", k_max_xml_depth));
    if (++elements_ > k_max_xml_elements)
      return fail(fmt::format("no more than {} elements", k_max_xml_elements));
    e->place = place(at_);
    ++at_;  // <
    TUTTI_RETURN_IF_ERROR(name("the name of an element", &e->name));
    for (;;) {
      const size_t before = at_;
      spaces();
      if (eat("/>")) return {};
      if (eat(">")) break;
      if (at_ == text_.size()) return fail(fmt::format("'>' at the end of <{}>", e->name), begin);
      if (before == at_) return fail("a space, '>' or '/>'");
      TUTTI_RETURN_IF_ERROR(attribute(e));
    }
    for (;;) {
      TUTTI_RETURN_IF_ERROR(between(&e->text));
      if (at_ == text_.size())
        return fail(fmt::format("</{}> for <{}> of line {}", e->name, e->name, e->place.line));
      const size_t end_tag = at_;
      if (eat("</")) {
        std::string closed;
        TUTTI_RETURN_IF_ERROR(name("the name of an element", &closed));
        if (closed != e->name)
          return fail(fmt::format("</{}> for <{}> of line {}", e->name, e->name, e->place.line),
                      end_tag);
        spaces();
        if (!eat(">")) return fail("'>' after </" + closed);
        return {};
      }
      if (!next_is("<")) return fail("an element");
      e->children.emplace_back();
      TUTTI_RETURN_IF_ERROR(element(&e->children.back(), depth + 1));
    }
  }

  static constexpr std::string_view k_ends_text{"<\0", 2};

  std::string_view text_;
  size_t at_ = 0;
  uint32_t elements_ = 0;
  // How far place() has counted.
  size_t counted_ = 0, line_begin_ = 0;
  uint32_t line_ = 1;
};

}  // namespace

const XmlAttribute* XmlElement::find(std::string_view attribute) const {
  const auto found = std::find_if(attributes.begin(), attributes.end(),
                                  [&](const XmlAttribute& a) { return a.name == attribute; });
  return found == attributes.end() ? nullptr : &*found;
}

std::string_view XmlElement::get(std::string_view attribute) const {
  const XmlAttribute* a = find(attribute);
  return a == nullptr ? std::string_view() : a->value;
}

Result<XmlElement> parse_xml(std::string_view text) { return Reader(text).document(); }

Status xml_error(const XmlPlace& place, std::string_view expected, std::string_view found) {
  return {Code::invalid_argument, fmt::format("line {}, column {}: expected {}, found {}",
                                              place.line, place.column, expected, found)};
}

std::string xml_escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20)
          out += fmt::format("&#{};", static_cast<int>(c));
        else
          out += c;
    }
  }
  return out;
}

}  // namespace tutti
