// The root service: the first thing a rank talks to. It places ranks in the tree and knows who has
// come, so that it can tell who has not.
//
// It runs on one detached thread of the process that made the id, owns its listening socket and
// itself, and ends by itself: when all ranks are linked, when the job failed and every deadline has
// passed, or when nobody came for idle_timeout. Nothing global refers to it (decision 0004).
#pragma once

#include <cstdint>

#include "src/base/auth.h"
#include "src/communicator/bootstrap/channel.h"

namespace tutti {

inline constexpr uint32_t k_tree_arity = 8;
inline constexpr uint32_t k_max_ranks = 1u << 16;
// The longest frame before the tree stands.
inline constexpr size_t k_small_frame = 8192;

// Which kind of bootstrap connection this is: data[0] of the hello.
enum class Meeting : uint8_t { root = 1, tree = 2, council = 3 };

struct JoinRequest {
  uint32_t ranks = 0;
  uint32_t remaining_ms = 0;  // until the rank's deadline
  uint32_t plan_format = 0;
  PackedAddress listens{};
};
struct Placement {
  uint32_t index = 0;     // order of arrival; the parent is (index - 1) / k_tree_arity
  uint32_t children = 0;  // to expect
  uint32_t parent_rank = 0;
  PackedAddress parent{};
};

Key bootstrap_key(const Key& secret);

// `persistent`: serves the next job when one is complete, and never gives up waiting for it.
Status start_root_service(Fd listener, const Key& secret, SocketClock::duration idle_timeout,
                          bool persistent = false);

}  // namespace tutti
