// Makes transports by name, and takes apart what ranks tell each other about theirs.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "transports/transport.h"

namespace tutti {

// `name`: local, shm or tcp. `fault`: a specification for transports/faulty, or empty.
// Errors: invalid_argument for an unknown name or a bad fault specification; the transport's own.
Result<std::unique_ptr<Transport>> make_transport(std::string_view name,
                                                  const TransportOptions& options,
                                                  const std::string& fault);

// `cards`: any number of "NAME LENGTH CARD", one after the other. The card of `name`, or an empty
// one where there is none. Errors: remote_error when the text is malformed.
Result<std::string> find_card(std::string_view cards, std::string_view name);

}  // namespace tutti
