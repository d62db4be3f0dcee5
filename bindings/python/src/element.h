// Element: what an array holds, in the words of the program (numpy, DLPack) and of the library.
#pragma once

#include <string>

#include "tutti/types.h"

namespace tutti::python {

struct Element {
  enum class Kind : unsigned char {
    number,   // one of the library's element types
    boolean,  // bytes of 0 and 1: min and max reduce them
    complex,  // two floats: sum and avg reduce them
    opaque,   // any other bytes: can be moved, not reduced
  };
  Kind kind = Kind::opaque;
  DType wire = DType::uint8;  // what goes over the wire
  size_t per_item = 1;        // of those, for each item of the array
  std::string name;           // "float32", "bool", "format 'T{...}'"

  size_t bytes() const { return size_of(wire) * per_item; }
  bool operator==(const Element& o) const { return name == o.name && per_item == o.per_item; }
};

// From a format of the buffer protocol (null: bytes). False when it holds references to objects or
// has the other byte order.
bool element_from_format(const char* format, size_t item_bytes, Element* element);
// From DLPack's type code, bits and lanes.
bool element_from_dlpack(unsigned code, unsigned bits, unsigned lanes, Element* element);
// From the name of a numpy extension type (ml_dtypes); false when it is none that can be sent.
bool element_from_name(const std::string& name, size_t item_bytes, Element* element);

}  // namespace tutti::python
