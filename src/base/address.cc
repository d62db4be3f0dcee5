// Parsing, printing and packing of addresses; see address.h.
#include "src/base/address.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netdb.h>

#include <charconv>
#include <cstring>

namespace tutti {
namespace {

Status bad_address(std::string_view text, const std::string& why) {
  return Status(Code::invalid_argument, "bad address \"" + std::string(text) + "\": " + why);
}

// "eth0" or "2" to an interface index; 0 when there is no such interface.
uint32_t scope_of(const std::string& text) {
  if (uint32_t index = if_nametoindex(text.c_str())) return index;
  uint32_t index = 0;
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, index);
  return error == std::errc() && stop == end ? index : 0;
}

bool parse_port(std::string_view text, uint16_t* port) {
  auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), *port);
  return error == std::errc() && stop == text.data() + text.size();
}

}  // namespace

Address::Address(const sockaddr* address, socklen_t length) {
  std::memcpy(&storage_, address, std::min<size_t>(length, sizeof storage_));
}

Result<Address> Address::parse(std::string_view text) {
  std::string_view host = text;
  std::string_view port_text;
  if (!text.empty() && text.front() == '[') {
    size_t close = text.find(']');
    if (close == std::string_view::npos) return bad_address(text, "no closing ]");
    host = text.substr(1, close - 1);
    std::string_view rest = text.substr(close + 1);
    if (!rest.empty() && rest.front() != ':') return bad_address(text, "expected :port after ]");
    if (rest.size() == 1) return bad_address(text, "empty port");
    if (!rest.empty()) port_text = rest.substr(1);
  } else if (size_t colon = text.find(':');
             colon != std::string_view::npos && colon == text.rfind(':')) {
    host = text.substr(0, colon);
    port_text = text.substr(colon + 1);
    if (port_text.empty()) return bad_address(text, "empty port");
  }
  uint16_t port = 0;
  if (!port_text.empty() && !parse_port(port_text, &port)) {
    return bad_address(text, "port must be 0..65535");
  }
  Address address;
  std::string name(host.substr(0, host.find('%')));
  if (inet_pton(AF_INET, name.c_str(), &address.storage_.v4.sin_addr) == 1 && name == host) {
    address.storage_.v4.sin_family = AF_INET;
    return address.with_port(port);
  }
  if (inet_pton(AF_INET6, name.c_str(), &address.storage_.v6.sin6_addr) != 1) {
    return bad_address(text, "neither an IPv4 nor an IPv6 address");
  }
  address.storage_.v6.sin6_family = AF_INET6;
  if (name.size() != host.size()) {
    std::string scope(host.substr(name.size() + 1));
    address.storage_.v6.sin6_scope_id = scope_of(scope);
    if (address.scope_id() == 0) return bad_address(text, "no interface \"" + scope + "\" here");
  }
  return address.with_port(port);
}

Result<Address> Address::resolve(const std::string& host, uint16_t port, int family) {
  addrinfo hints{};
  hints.ai_family = family;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (int error = getaddrinfo(host.c_str(), nullptr, &hints, &found)) {
    return Status(Code::system_error,
                  "cannot resolve host \"" + host + "\": " + gai_strerror(error));
  }
  Address address;
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    Address one(entry->ai_addr, entry->ai_addrlen);
    if (!address.valid() || (one.family() == AF_INET && address.family() == AF_INET6)) {
      address = one;
    }
  }
  freeaddrinfo(found);
  if (!address.valid())
    return Status(Code::system_error, "host \"" + host + "\" has no IP address");
  return address.with_port(port);
}

uint16_t Address::port() const {
  if (family() == AF_INET) return ntohs(storage_.v4.sin_port);
  return family() == AF_INET6 ? ntohs(storage_.v6.sin6_port) : 0;
}

Address Address::with_port(uint16_t port) const {
  Address copy = *this;
  if (family() == AF_INET) copy.storage_.v4.sin_port = htons(port);
  if (family() == AF_INET6) copy.storage_.v6.sin6_port = htons(port);
  return copy;
}

uint32_t Address::scope_id() const { return family() == AF_INET6 ? storage_.v6.sin6_scope_id : 0; }

bool Address::is_any() const {
  if (family() == AF_INET) return storage_.v4.sin_addr.s_addr == INADDR_ANY;
  return family() == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&storage_.v6.sin6_addr);
}

bool Address::is_loopback() const {
  if (family() == AF_INET) return (ntohl(storage_.v4.sin_addr.s_addr) >> 24) == 127;
  return family() == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&storage_.v6.sin6_addr);
}

bool Address::is_link_local() const {
  if (family() == AF_INET) return (ntohl(storage_.v4.sin_addr.s_addr) >> 16) == 0xa9fe;
  return family() == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&storage_.v6.sin6_addr);
}

bool Address::same_host(const Address& other) const {
  if (family() != other.family()) return false;
  if (family() == AF_INET) {
    return storage_.v4.sin_addr.s_addr == other.storage_.v4.sin_addr.s_addr;
  }
  return family() != AF_INET6 ||
         (scope_id() == other.scope_id() &&
          std::memcmp(&storage_.v6.sin6_addr, &other.storage_.v6.sin6_addr, 16) == 0);
}

socklen_t Address::size() const {
  if (family() == AF_INET) return sizeof(sockaddr_in);
  return family() == AF_INET6 ? sizeof(sockaddr_in6) : 0;
}

std::string Address::to_string() const {
  char text[INET6_ADDRSTRLEN] = "";
  if (family() == AF_INET) {
    inet_ntop(AF_INET, &storage_.v4.sin_addr, text, sizeof text);
    return std::string(text) + ":" + std::to_string(port());
  }
  if (family() != AF_INET6) return "(no address)";
  inet_ntop(AF_INET6, &storage_.v6.sin6_addr, text, sizeof text);
  std::string scope;
  if (uint32_t index = scope_id()) {
    char name[IF_NAMESIZE];
    scope = "%" + (if_indextoname(index, name) ? std::string(name) : std::to_string(index));
  }
  return "[" + std::string(text) + scope + "]:" + std::to_string(port());
}

PackedAddress pack(const Address& address) {
  PackedAddress packed{};
  packed[2] = std::byte(address.port() & 0xff);
  packed[3] = std::byte(address.port() >> 8);
  if (address.family() == AF_INET) {
    packed[0] = std::byte{4};
    std::memcpy(&packed[4], &reinterpret_cast<const sockaddr_in*>(address.data())->sin_addr, 4);
  } else if (address.family() == AF_INET6) {
    packed[0] = std::byte{6};
    std::memcpy(&packed[4], &reinterpret_cast<const sockaddr_in6*>(address.data())->sin6_addr, 16);
    char name[IF_NAMESIZE] = "";
    if (address.scope_id() != 0 && if_indextoname(address.scope_id(), name)) {
      std::memcpy(&packed[20], name, strnlen(name, IF_NAMESIZE));
    }
  }
  return packed;
}

Result<Address> unpack(const PackedAddress& packed, uint32_t fallback_scope) {
  int version = std::to_integer<int>(packed[0]);
  uint16_t port = static_cast<uint16_t>(std::to_integer<unsigned>(packed[2]) |
                                        std::to_integer<unsigned>(packed[3]) << 8);
  if (version == 0) return Address();
  if (version == 4) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    std::memcpy(&v4.sin_addr, &packed[4], 4);
    return Address(reinterpret_cast<sockaddr*>(&v4), sizeof v4).with_port(port);
  }
  if (version != 6) {
    return Status(Code::invalid_argument,
                  "packed address has IP version " + std::to_string(version));
  }
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  std::memcpy(&v6.sin6_addr, &packed[4], 16);
  char name[IF_NAMESIZE + 1] = "";
  std::memcpy(name, &packed[20], IF_NAMESIZE);
  if (name[0] != '\0') {
    uint32_t index = if_nametoindex(name);
    v6.sin6_scope_id = index != 0 ? index : fallback_scope;
  }
  return Address(reinterpret_cast<sockaddr*>(&v6), sizeof v6).with_port(port);
}

}  // namespace tutti
