// From Status to the exceptions of tutti._errors.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>

#include "tutti/status.h"
#include "tutti/types.h"

namespace tutti::python {

// The exception object for a status that `rank` got, where one is concerned (needs the GIL).
nanobind::object make_exception(const Status& status, std::optional<Rank> rank = {});
[[noreturn]] void throw_status(const Status& status, std::optional<Rank> rank = {});
inline void throw_if_error(const Status& status, std::optional<Rank> rank = {}) {
  if (!status.ok()) throw_status(status, rank);
}

}  // namespace tutti::python
