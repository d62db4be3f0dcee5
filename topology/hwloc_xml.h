// hwloc's XML (lstopo file.xml, hwloc_topology_export_xml), versions 1 and 2: packages, NUMA nodes,
// cores, PCI bridges, GPUs and NICs, and NVLink and xGMI where hwloc has their matrix of
// bandwidths, to a parts list. hwloc does not know the speed of NICs.
#pragma once

#include <string_view>

#include "topology/machine.h"
#include "topology/xml.h"

namespace tutti {

// Errors: invalid_argument "line L, column C: expected ..., found ...": malformed XML, a root other
// than <topology>, a version that is not known, values that make no sense, a matrix of another
// size.
Result<Machine> parse_hwloc_xml(std::string_view text);
// The same for a document that was read already.
Result<Machine> read_hwloc_xml(const XmlElement& topology);

}  // namespace tutti
