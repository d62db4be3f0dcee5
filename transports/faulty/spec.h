// The specification of faults: text to data.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "tutti/status.h"
#include "tutti/types.h"

namespace tutti::faulty {

enum class Kind : uint8_t { delay, reorder, again, corrupt, drop, reset, die };

struct Fault {
  Kind kind = Kind::delay;
  std::optional<Rank> rank;  // where it happens; none: on every rank
  std::optional<Rank> peer;  // on connections to this peer only
  std::optional<uint32_t> lane;
  uint64_t amount = 0;   // us, window, percent, message, after or op, as the kind has it
  bool by_call = false;  // die: `amount` counts calls (announce), not messages
  bool thread = false;   // die: only the transport dies, not the process
};

struct Spec {
  std::vector<Fault> faults;
  uint64_t seed = 1;
};

// Errors: invalid_argument with the token and its position (0-based).
Result<Spec> parse_spec(std::string_view text);

}  // namespace tutti::faulty
