// tcp: the transport between hosts. See README.md for its wire format, limits and measured choices.
#pragma once

#include <cstdint>
#include <memory>

#include "transports/transport.h"
#include "tutti/status.h"

namespace tutti {

// Of a lane's connections to one peer, and of the interfaces that they are spread over.
inline constexpr uint32_t k_most_tcp_connections = 16, k_most_tcp_interfaces = 8;

// Opens the listening sockets of one rank on the chosen interface and gets its card ready.
// Errors: invalid_argument (interface, family, key), system_error (sockets, ports, descriptors).
Result<std::unique_ptr<Transport>> make_tcp_transport(const TransportOptions& options);

}  // namespace tutti
