// shm: ranks that are processes of one host. See README.md.
#pragma once

#include <memory>

#include "transports/transport.h"

namespace tutti {

// Errors: invalid_argument (the key is not 32 bytes), unsupported (no /proc), system_error (no
// memory, descriptors or sockets; says which).
Result<std::unique_ptr<Transport>> make_shm_transport(const TransportOptions& options);

}  // namespace tutti
