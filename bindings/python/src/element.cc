// The types of the buffer protocol, of DLPack and of ml_dtypes.
#include "bindings/python/src/element.h"

#include <cstring>

namespace tutti::python {
namespace {

Element number(DType dtype) { return {Element::Kind::number, dtype, 1, std::string(name(dtype))}; }

Element opaque(std::string what, size_t bytes) {
  return {Element::Kind::opaque, DType::uint8, bytes, std::move(what)};
}

// 16-bit integers are not among the library's types.
Element integer(bool is_signed, size_t bytes) {
  switch (bytes) {
    case 1:
      return number(is_signed ? DType::int8 : DType::uint8);
    case 4:
      return number(is_signed ? DType::int32 : DType::uint32);
    case 8:
      return number(is_signed ? DType::int64 : DType::uint64);
    default:
      return opaque((is_signed ? "int" : "uint") + std::to_string(8 * bytes), bytes);
  }
}

Element floating(size_t bytes) {
  switch (bytes) {
    case 2:
      return number(DType::float16);
    case 4:
      return number(DType::float32);
    case 8:
      return number(DType::float64);
    default:
      return opaque("float" + std::to_string(8 * bytes), bytes);
  }
}

Element complex(size_t bytes) {
  const std::string what = "complex" + std::to_string(8 * bytes);
  if (bytes != 8 && bytes != 16) return opaque(what, bytes);
  return {Element::Kind::complex, bytes == 8 ? DType::float32 : DType::float64, 2, what};
}

Element boolean() { return {Element::Kind::boolean, DType::uint8, 1, "bool"}; }

}  // namespace

bool element_from_format(const char* format, size_t item_bytes, Element* element) {
  if (format == nullptr) format = "B";
  const char* f = format;
  if (*f == '@' || *f == '=' || *f == '<' || *f == '|') ++f;
  if (*f == '>' || *f == '!') return item_bytes == 1 && element_from_format(f + 1, 1, element);
  if (std::strchr(f, 'O') != nullptr) return false;
  if (f[0] == 'Z' && f[1] != '\0' && f[2] == '\0') {
    *element = complex(item_bytes);
    return true;
  }
  if (f[0] != '\0' && f[1] == '\0') {
    if (std::strchr("bhilqn", *f) != nullptr) {
      *element = integer(true, item_bytes);
    } else if (std::strchr("BHILQNc", *f) != nullptr) {
      *element = integer(false, item_bytes);
    } else if (std::strchr("efdg", *f) != nullptr) {
      *element = floating(item_bytes);
    } else if (*f == '?') {
      *element = boolean();
    } else {
      *element = opaque(std::string("format '") + format + "'", item_bytes);
    }
    return true;
  }
  *element = opaque(std::string("format '") + format + "'", item_bytes);
  return true;
}

bool element_from_dlpack(unsigned code, unsigned bits, unsigned lanes, Element* element) {
  if (lanes != 1 || bits % 8 != 0) return false;
  const size_t bytes = bits / 8;
  switch (code) {
    case 0:
    case 1:
      *element = integer(code == 0, bytes);
      return true;
    case 2:
      *element = floating(bytes);
      return true;
    case 4:
      *element = bytes == 2 ? number(DType::bfloat16) : opaque("bfloat", bytes);
      return true;
    case 5:
      *element = complex(bytes);
      return true;
    case 6:
      *element = boolean();
      return bytes == 1;
    case 10:  // kDLFloat8_e4m3fn
      *element = number(DType::float8_e4m3);
      return true;
    case 12:  // kDLFloat8_e5m2
      *element = number(DType::float8_e5m2);
      return true;
    default:
      *element = opaque("DLPack type code " + std::to_string(code), bytes);
      return true;
  }
}

bool element_from_name(const std::string& name, size_t item_bytes, Element* element) {
  if (name == "bfloat16") {
    *element = number(DType::bfloat16);
  } else if (name == "float8_e4m3fn") {
    *element = number(DType::float8_e4m3);
  } else if (name == "float8_e5m2") {
    *element = number(DType::float8_e5m2);
  } else if (name.rfind("datetime64", 0) == 0 || name.rfind("timedelta64", 0) == 0 ||
             name.rfind("float", 0) == 0 || name.rfind("int", 0) == 0 ||
             name.rfind("uint", 0) == 0) {
    *element = opaque(name, item_bytes);
  } else {
    return false;
  }
  return true;
}

}  // namespace tutti::python
