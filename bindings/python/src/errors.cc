#include "errors.h"

#include <nanobind/stl/string.h>

#include <string>

namespace tutti::python {

namespace nb = nanobind;

nb::object make_exception(const Status& status) {
  return nb::module_::import_("tutti._errors")
      .attr("from_status")(std::string(name(status.code())), status.message());
}

void throw_status(const Status& status) {
  nb::object exception = make_exception(status);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
  throw nb::python_error();
}

}  // namespace tutti::python
