// Who shares a host: what a shm card says, and how two cards compare.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "tutti/status.h"

namespace tutti::shm {

// Travels between ranks; fixed layout, checked by magic and version.
struct Card {
  std::array<char, 8> magic{'t', 't', 'u', 't', 't', 's', 'h', 'm'};
  uint32_t wire_version = 2;  // of cards, frames and arenas
  uint32_t pid = 0;           // as the rank itself sees it; for messages only
  std::array<char, 40> boot_id{};
  uint64_t netns_device = 0;  // abstract sockets live in a network namespace
  uint64_t netns_inode = 0;
  std::array<char, 48> host_id{};   // TransportOptions::host_id; a digest of it where it is longer
  std::array<char, 48> hostname{};  // for messages
  std::array<char, 32> socket{};    // random abstract socket name, without the leading zero
};
static_assert(sizeof(Card) <= 256);

// This process's card with a fresh socket name.
Result<Card> make_card(const std::string& host_id);
std::string encode(const Card& card);
// Nothing when `bytes` is not a card of this version.
std::optional<Card> decode(const std::string& bytes);
// "" when the two may share memory, else what differs.
std::string difference(const Card& a, const Card& b);

}  // namespace tutti::shm
