// A small XML reader for machine descriptions: elements, attributes, text and where they stand.
// Comments, processing instructions, CDATA (skipped) and a DOCTYPE without declarations are
// allowed. Anything may be fed to it: size, depth and count are capped.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tutti/status.h"

namespace tutti {

struct XmlPlace {
  uint32_t line = 1, column = 1;  // of the first character, counted in bytes
};

struct XmlAttribute {
  std::string name, value;
  XmlPlace place;  // of the value
};

struct XmlElement {
  std::string name;
  XmlPlace place;
  std::vector<XmlAttribute> attributes;
  std::vector<XmlElement> children;
  std::string text;  // its own, from the first character that is no space; references as they stand

  const XmlAttribute* find(std::string_view attribute) const;
  // The attribute's value; empty where there is none.
  std::string_view get(std::string_view attribute) const;
};

inline constexpr size_t k_max_xml_bytes = size_t{16} << 20;
inline constexpr uint32_t k_max_xml_depth = 64;
inline constexpr uint32_t k_max_xml_elements = 1u << 16;
inline constexpr size_t k_max_xml_attributes = 256;  // of one element

// The root element. Errors: invalid_argument "line 3, column 17: expected ..., found ...".
Result<XmlElement> parse_xml(std::string_view text);
// The same kind of error, for readers of what the elements mean.
Status xml_error(const XmlPlace& place, std::string_view expected, std::string_view found);

// Text made fit to stand between quotes.
std::string xml_escape(std::string_view text);

}  // namespace tutti
