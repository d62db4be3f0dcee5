// Layout: [0,3) "tcp" [3] version [4,8) pid, little endian [8] addresses [9] length of the host's
// name [10..] name, then 37 bytes per address: which
// of the rank's interfaces it is on, and the address.
#include "transports/tcp/card.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "transports/tcp/frame.h"

namespace tutti::tcp {
namespace {

constexpr size_t k_fixed = 10;
constexpr size_t k_most_name = 64;
constexpr size_t k_entry = 1 + sizeof(PackedAddress);

Status bad_card(const std::string& why) {
  return Status(Code::invalid_argument, "unintelligible tcp card: " + why);
}

}  // namespace

uint32_t Card::interfaces() const {
  uint8_t last = 0;
  for (const CardAddress& a : addresses) last = std::max(last, a.interface);
  return last + uint32_t{1};
}

std::string encode_card(const Card& card) {
  const std::string name = card.host.substr(0, k_most_name);
  const size_t addresses = std::min(card.addresses.size(), k_most_addresses);
  std::string text = "tcp";
  text += static_cast<char>(k_frame_version);
  for (int i = 0; i < 4; ++i) text += static_cast<char>(card.pid >> (8 * i) & 0xff);
  text += static_cast<char>(addresses);
  text += static_cast<char>(name.size());
  text += name;
  for (size_t i = 0; i < addresses; ++i) {
    const PackedAddress packed = pack(card.addresses[i].address);
    text += static_cast<char>(card.addresses[i].interface);
    text.append(reinterpret_cast<const char*>(packed.data()), packed.size());
  }
  return text;
}

Result<Card> decode_card(std::string_view text, uint32_t fallback_scope) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  if (text.size() < k_fixed || text.substr(0, 3) != "tcp") return bad_card("not a tcp card");
  if (byte(3) != k_frame_version)
    return Status(Code::unsupported, fmt::format("it speaks tcp frames of version {}, here {}",
                                                 byte(3), k_frame_version));
  Card card;
  for (int i = 0; i < 4; ++i) card.pid |= uint32_t{byte(4 + i)} << (8 * i);
  const size_t addresses = byte(8);
  const size_t name = byte(9);
  if (addresses == 0 || addresses > k_most_addresses || name > k_most_name ||
      text.size() != k_fixed + name + addresses * k_entry)
    return bad_card(fmt::format("{} addresses in {} bytes", addresses, text.size()));
  card.host = text.substr(k_fixed, name);
  for (size_t i = 0; i < addresses; ++i) {
    const std::string_view entry = text.substr(k_fixed + name + i * k_entry, k_entry);
    const auto interface = static_cast<uint8_t>(entry[0]);
    PackedAddress packed;
    std::memcpy(packed.data(), entry.data() + 1, packed.size());
    Result<Address> address = unpack(packed, fallback_scope);
    if (!address.ok()) return address.status();
    if (!address->valid() || address->port() == 0) return bad_card("an address without a port");
    if (interface >= k_most_tcp_interfaces) return bad_card(fmt::format("interface {}", interface));
    card.addresses.push_back({*address, interface});
  }
  return card;
}

}  // namespace tutti::tcp
