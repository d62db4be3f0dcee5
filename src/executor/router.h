// Router: which transport reaches which peer, and the endpoints that plans' lanes use.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "transports/transport.h"

namespace tutti {

// Messages that every endpoint of a communicator may have in flight. Plans that need more are
// refused by bind(); none of the library's do.
inline constexpr uint32_t k_endpoint_credits = 4;
// Of small ones on the first lane, which plans for small blocks have: a root of broadcasts that
// need not wait for every fourth lets ranks that share CPUs take several at a turn (2 to 3 times,
// docs/performance.md). Their memory adds up among many.
inline constexpr uint32_t k_small_credits = 16;

// Up to this a copy into a slot costs less than waiting until the peer has read the memory; above
// it, and above a slot, peers read where it lies if they can. Slots of many ranks add up as well.
inline constexpr uint64_t k_pull_bytes = 64 << 10, k_pull_bytes_among_many = 4 << 10;
inline constexpr uint32_t k_many_ranks = 65;

// Lanes at and above this one carry point-to-point and vector transfers, not plans.
inline constexpr uint32_t k_exchange_lane = 0xffff;

class Router {
 public:
  // `transport_of[r]` is the index in `transports` of the one that reaches rank r.
  Router(Rank self, std::vector<std::unique_ptr<Transport>> transports,
         std::vector<uint8_t> transport_of, size_t slot_bytes)
      : self_(self),
        transports_(std::move(transports)),
        transport_of_(std::move(transport_of)),
        slot_bytes_(slot_bytes),
        pull_bytes_(std::min<uint64_t>(
            ranks() < k_many_ranks ? k_pull_bytes : k_pull_bytes_among_many, slot_bytes)) {
    for (const auto& t : transports_) capabilities_.push_back(t->capabilities());
  }

  Rank self() const { return self_; }
  uint32_t ranks() const { return static_cast<uint32_t>(transport_of_.size()); }
  size_t slot_bytes() const { return slot_bytes_; }
  const std::vector<std::unique_ptr<Transport>>& transports() const { return transports_; }
  Transport& transport(Rank peer) const { return *transports_[transport_of_[peer]]; }

  const Capabilities& capabilities(Rank peer) const { return capabilities_[transport_of_[peer]]; }
  // Whether the peer reads a message of so many bytes where it lies.
  bool pulls(Rank peer, uint64_t bytes) const {
    return capabilities(peer).pull && bytes > pull_bytes_;
  }
  bool same_transport(Rank a, Rank b) const { return transport_of_[a] == transport_of_[b]; }

  // Opened on first use; the pointer stays valid as long as the router.
  Result<Endpoint*> endpoint(Rank peer, uint32_t lane) {
    const uint64_t key = uint64_t{lane} << 32 | peer;
    if (auto it = endpoints_.find(key); it != endpoints_.end()) return it->second;
    const bool many_small = lane == 0 && ranks() < k_many_ranks;
    Result<Endpoint*> opened =
        transport(peer).open(peer, lane,
                             {.slot_bytes = slot_bytes_,
                              .credits = k_endpoint_credits,
                              .small_credits = many_small ? k_small_credits : 0});
    if (opened) endpoints_.emplace(key, *opened);
    return opened;
  }

 private:
  Rank self_;
  std::vector<std::unique_ptr<Transport>> transports_;
  std::vector<Capabilities> capabilities_;
  std::vector<uint8_t> transport_of_;
  size_t slot_bytes_;
  uint64_t pull_bytes_;
  std::unordered_map<uint64_t, Endpoint*> endpoints_;
};

}  // namespace tutti
