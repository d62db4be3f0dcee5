// faulty: wraps any transport and makes it misbehave as a specification says. See README.md.
#pragma once

#include <memory>
#include <string>

#include "transports/transport.h"
#include "tutti/status.h"

namespace tutti {

// `rank`: the rank that owns `inner`; faults of other ranks are left out.
// Errors: invalid_argument that quotes the token and its position in `spec`.
Result<std::unique_ptr<Transport>> make_faulty_transport(std::unique_ptr<Transport> inner,
                                                         const std::string& spec, Rank rank);

}  // namespace tutti
