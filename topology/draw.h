// A topology as a picture: hosts, sockets and switches as boxes in one another, GPUs and NICs as
// chips (a GPU has the colour of the NIC it uses), NVLink as arcs whose width is the bandwidth.
#pragma once

#include <string>

#include "topology/topology.h"

namespace tutti {

// SVG. Large clusters show the first hosts and say how many there are. The topology must be
// finished.
std::string to_svg(const Topology& topology, const std::string& title, uint32_t most_hosts = 4);

// "31.5 GB/s", "400 Gb/s": networks in bits.
std::string rate_text(double bytes_per_second, LinkClass link_class);

}  // namespace tutti
