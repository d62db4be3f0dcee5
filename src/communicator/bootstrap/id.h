// What the 128 bytes of a UniqueId mean.
//
// [0,6) "tuttid"  [6] version  [7] who listens  [8,44) packed root address  [44,76) secret
// [76,120) zero  [120,128) checksum (catches ids that were cut or mangled on their way; it is no
// protection against anybody)
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "src/base/auth.h"
#include "tutti/unique_id.h"

namespace tutti {

struct IdFields {
  // Whether rank 0 opens the root's listener when it joins (ids made from an address), or the
  // process that created the id serves it already.
  bool rank_0_listens = false;
  PackedAddress root{};
  Key secret{};
};

UniqueId encode_id(const IdFields& fields);
// Errors: invalid_argument when these are not the bytes of a unique id.
Result<IdFields> decode_id(const UniqueId& id);

struct IdOptions {
  std::string interface;  // NCCL_SOCKET_IFNAME syntax
  std::string family;
  // The root service gives up when no rank has come for so long. Once ranks have come, their own
  // deadlines count.
  std::chrono::steady_clock::duration idle_timeout = std::chrono::hours(1);
  // Serve one job after the other, until the process ends: `tutti run`, whose ranks may call
  // from_environment() more than once.
  bool persistent = false;
  // Where to listen, "10.0.0.1:5000"; empty: any free port of the chosen interface.
  std::string address;
  // Drawn at random when there is none.
  std::optional<Key> secret;
};

// UniqueId::create() with explicit options: opens the listener and starts the root service.
Result<UniqueId> create_id(const IdOptions& options);

// 256 hexadecimal digits and back, for files, pipes and the environment of a child. Secret.
std::string id_to_hex(const UniqueId& id);
Result<UniqueId> id_from_hex(std::string_view hex);

}  // namespace tutti
