// The card of a rank: where it listens and how messages call it. At most 512 bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/address.h"
#include "transports/tcp/tcp.h"
#include "tutti/status.h"

namespace tutti::tcp {

inline constexpr size_t k_most_addresses = k_most_tcp_interfaces;

struct CardAddress {
  Address address;
  uint8_t interface = 0;  // which of the rank's interfaces, of those that it uses
};

struct Card {
  std::string host;
  uint32_t pid = 0;
  std::vector<CardAddress> addresses;  // 1 to k_most_addresses, best first

  uint32_t interfaces() const;  // how many they are on
};

std::string encode_card(const Card& card);
// A link-local address whose interface this host lacks gets `fallback_scope`, the interface that
// this rank uses. Errors: unsupported (another wire version, named), invalid_argument.
Result<Card> decode_card(std::string_view text, uint32_t fallback_scope);

}  // namespace tutti::tcp
