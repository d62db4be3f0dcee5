// From Status to the exceptions of tutti._errors.
#pragma once

#include <nanobind/nanobind.h>

#include "tutti/status.h"

namespace tutti::python {

// The exception object for a status (needs the GIL).
nanobind::object make_exception(const Status& status);
[[noreturn]] void throw_status(const Status& status);
inline void throw_if_error(const Status& status) {
  if (!status.ok()) throw_status(status);
}

}  // namespace tutti::python
