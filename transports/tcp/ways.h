// Ways: over which of its interfaces a rank reaches a peer. A rank that uses several spreads the
// connections of a lane over them, the k-th by its k-th interface.
#pragma once

#include <cstdint>
#include <vector>

#include "src/base/address.h"
#include "transports/tcp/card.h"

namespace tutti::tcp {

struct Way {
  Address to;
  Address from;  // nothing: the kernel chooses
};

// The ways to a peer for connection `stripe` of a lane, the best first. `mine`: the interfaces that
// this rank uses, all addresses of one after those of the other.
//
// Where both ends use one interface: the peer's addresses in order. Else from the stripe's own
// interface, first to the peer's interfaces on the same network, then to the others, each stripe
// beginning with another one; in the end whatever way the kernel knows.
std::vector<Way> ways_to(const Card& card, const std::vector<Interface>& mine, uint32_t stripe);

}  // namespace tutti::tcp
