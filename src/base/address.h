// Address: an IPv4 or IPv6 endpoint, scope ids included; and the interfaces of this host.
//
// Scope ids are numbers of one host: a link-local address that travels to another host carries the
// interface's name instead (PackedAddress), which the receiver resolves on its own side.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tutti/status.h"

namespace tutti {

class Address {
 public:
  Address() = default;  // no address: family() is AF_UNSPEC
  Address(const sockaddr* address, socklen_t length);

  // "10.0.0.1:5000", "[::1]:5000", "[fe80::1%eth0]:5000", "[fe80::1%2]:5000"; without ":port" the
  // port is 0 (an IPv6 address then needs no brackets). Numeric only. Errors: invalid_argument with
  // the text and the reason, an unknown scope included.
  static Result<Address> parse(std::string_view text);
  // An address of `host`, a name or numeric (getaddrinfo; may block on DNS). IPv4 where there is a
  // choice, so that all ranks choose alike; `family` AF_INET or AF_INET6 narrows it.
  static Result<Address> resolve(const std::string& host, uint16_t port, int family = AF_UNSPEC);

  int family() const { return storage_.base.sa_family; }
  bool valid() const { return family() == AF_INET || family() == AF_INET6; }
  uint16_t port() const;
  Address with_port(uint16_t port) const;
  uint32_t scope_id() const;  // 0 but for IPv6 addresses with a scope
  bool is_any() const;
  bool is_loopback() const;
  bool is_link_local() const;
  bool same_host(const Address& other) const;  // equal but for the port

  const sockaddr* data() const { return &storage_.base; }
  socklen_t size() const;
  std::string to_string() const;  // what parse() takes

  bool operator==(const Address& other) const { return same_host(other) && port() == other.port(); }

 private:
  union {
    sockaddr base;
    sockaddr_in v4;
    sockaddr_in6 v6;
  } storage_{};
};

// An Address as it travels in frames and ids: 36 bytes without padding.
// [0] 4, 6 or 0 (none)  [2,4) port, little endian  [4,20) address  [20,36) interface of the scope.
using PackedAddress = std::array<std::byte, 36>;
PackedAddress pack(const Address& address);
// Errors: invalid_argument for bytes that pack() never makes. A scope whose interface this host
// lacks becomes `fallback_scope` (the index of the interface that this rank uses).
Result<Address> unpack(const PackedAddress& packed, uint32_t fallback_scope = 0);

struct Interface {
  std::string name;
  uint32_t index = 0;
  Address address;  // port 0
  bool loopback = false;
  uint8_t prefix = 0;  // bits of the address that name its network; 0: not known

  // Whether the address is on this interface's network. Link-local ones may be on any.
  bool reaches(const Address& other) const;
};

// Every (interface, address) of this host that is up, in the kernel's order.
Result<std::vector<Interface>> list_interfaces();

// What may be used, best first. `spec` in NCCL_SOCKET_IFNAME syntax: "eth,ib" names that begin
// with a prefix; "=eth0,ib1" exact names; "^docker,lo" all but names that begin so; "^=lo" (or
// "=^lo") all but exact names; "" no wish. `family`: "", "AF_INET" or "AF_INET6".
//
// Order: as named in the list; then physical-looking interfaces before bridges and containers'
// (docker*, br-*, veth*, virbr*, ...); then IPv4 before IPv6; then global before link-local
// addresses; then the kernel's order. Loopback comes last and only when nothing else is left,
// unless it is named.
//
// Errors: invalid_argument that quotes the name and lists the interfaces there are.
Result<std::vector<Interface>> select_interfaces(std::string_view spec, std::string_view family);
// The same on a given list, for tests.
Result<std::vector<Interface>> select_interfaces(const std::vector<Interface>& from,
                                                 std::string_view spec, std::string_view family);
// The first of select_interfaces().
Result<Interface> select_interface(std::string_view spec, std::string_view family);

}  // namespace tutti
