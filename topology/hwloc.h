// hwloc, where the library is there: it is loaded, asked for the machine it sees, and what it says
// is read as hwloc's XML is.
#pragma once

#include "topology/machine.h"
#include "tutti/status.h"

namespace tutti {

// The functions that are used, so that tests can give their own. hwloc 2 (libhwloc.so.15).
struct HwlocDriver {
  int (*init)(void**) = nullptr;
  int (*set_io_filter)(void*, int) = nullptr;  // hwloc_topology_set_io_types_filter
  int (*load)(void*) = nullptr;
  int (*export_xml)(void*, char**, int*, unsigned long) = nullptr;  // ..._export_xmlbuffer
  void (*free_xml)(void*, char*) = nullptr;
  void (*destroy)(void*) = nullptr;

  // Errors: unsupported, with what the loader said.
  static Result<HwlocDriver> load_library();
};

// Errors: unsupported when hwloc fails, and those of parse_hwloc_xml().
Result<Machine> ask_hwloc(const HwlocDriver& driver);

}  // namespace tutti
