// UniqueId: 128 bytes that let ranks find each other: where the root listens, and a 32-byte secret.
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include "tutti/status.h"

namespace [[gnu::visibility("default")]] tutti {  // all else in libtutti.so is hidden

// Opaque to the program: create on one rank, hand to the others by any safe channel. It holds the
// job's secret: do not log it (to_string() redacts).
struct UniqueId {
  std::array<std::byte, 128> bytes{};

  // Opens a listening socket on the chosen interface (NCCL_SOCKET_IFNAME, TUTTI_SOCKET_IFNAME; by
  // default the first usable one, or loopback) and draws a secret. The socket is served by a root
  // service in this process until every rank has joined; no rank needs to be here.
  // Errors: system_error (no port, unknown interface: named).
  static Result<UniqueId> create();
  // For launchers and NCCL_COMM_ID: the root address ("10.0.0.1:5000", "[::1]:5000") and a 32-byte
  // secret are known to all ranks beforehand; rank 0 listens there.
  static Result<UniqueId> from_address(const std::string& address, const std::string& secret);
  std::string to_string() const;  // address and a fingerprint of the secret, never the secret
  bool operator==(const UniqueId&) const = default;
};

}  // namespace tutti
