// local: ranks that are threads of one process. See README.md.
#pragma once

#include <memory>

#include "transports/transport.h"

namespace tutti {

// Errors: system_error when no address space is left for the rank's arena.
Result<std::unique_ptr<Transport>> make_local_transport(const TransportOptions& options);

}  // namespace tutti
