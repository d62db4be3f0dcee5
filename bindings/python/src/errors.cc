#include "bindings/python/src/errors.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <string>

namespace tutti::python {

namespace nb = nanobind;

nb::object make_exception(const Status& status, std::optional<Rank> rank) {
  return nb::module_::import_("tutti._errors")
      .attr("from_status")(std::string(name(status.code())), status.message(), rank);
}

void throw_status(const Status& status, std::optional<Rank> rank) {
  nb::object exception = make_exception(status, rank);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
  throw nb::python_error();
}

}  // namespace tutti::python
