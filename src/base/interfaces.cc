// Which network interfaces there are and which one to use; see address.h for the order.
#include <ifaddrs.h>
#include <net/if.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <span>

#include "src/base/address.h"
#include "src/base/socket.h"

namespace tutti {
namespace {

struct Filter {
  bool exclude = false;
  bool exact = false;
  std::vector<std::string> names;

  // Position of the first name that matches, names.size() if none does.
  size_t match(const std::string& interface) const {
    for (size_t i = 0; i < names.size(); ++i) {
      if (exact ? interface == names[i] : interface.starts_with(names[i])) return i;
    }
    return names.size();
  }
};

Filter parse_filter(std::string_view spec) {
  Filter filter;
  while (!spec.empty() && (spec.front() == '^' || spec.front() == '=')) {
    (spec.front() == '^' ? filter.exclude : filter.exact) = true;
    spec.remove_prefix(1);
  }
  while (!spec.empty()) {
    std::string_view name = spec.substr(0, spec.find(','));
    if (!name.empty()) filter.names.emplace_back(name);
    spec.remove_prefix(std::min(spec.size(), name.size() + 1));
  }
  return filter;
}

bool looks_virtual(const std::string& name) {
  constexpr std::array<std::string_view, 8> k_prefixes = {"docker", "br-",     "veth", "virbr",
                                                          "cni",    "flannel", "cali", "tailscale"};
  return std::any_of(k_prefixes.begin(), k_prefixes.end(),
                     [&](std::string_view prefix) { return name.starts_with(prefix); });
}

std::string describe(const std::vector<Interface>& interfaces) {
  std::string text;
  for (const Interface& interface : interfaces) {
    std::string address = interface.address.to_string();
    text += (text.empty() ? "" : ", ") + interface.name + " (" +
            address.substr(0, address.rfind(':')) + ")";
  }
  return text.empty() ? "none at all" : text;
}

Result<int> parse_family(std::string_view family) {
  if (family.empty()) return static_cast<int>(AF_UNSPEC);
  if (family == "AF_INET") return static_cast<int>(AF_INET);
  if (family == "AF_INET6") return static_cast<int>(AF_INET6);
  return Status(Code::invalid_argument,
                "socket family \"" + std::string(family) + "\" is neither AF_INET nor AF_INET6");
}

Status nothing_found(const std::vector<Interface>& from, std::string_view spec,
                     std::string_view family) {
  std::string what = "no usable network interface";
  if (!spec.empty()) what = "no network interface matches \"" + std::string(spec) + "\"";
  if (!family.empty()) what += " with an " + std::string(family) + " address";
  return Status(Code::invalid_argument, what + "; this host has: " + describe(from));
}

// The bits of an address, the most significant first.
std::span<const uint8_t> bytes_of(const sockaddr* address) {
  if (address->sa_family == AF_INET)
    return {
        reinterpret_cast<const uint8_t*>(&reinterpret_cast<const sockaddr_in*>(address)->sin_addr),
        4};
  return {
      reinterpret_cast<const uint8_t*>(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr),
      16};
}

uint8_t prefix_of(const sockaddr* mask, int family) {
  if (mask == nullptr || mask->sa_family != family) return 0;
  uint8_t bits = 0;
  for (const uint8_t byte : bytes_of(mask)) bits += static_cast<uint8_t>(std::popcount(byte));
  return bits;
}

struct Candidate {
  std::array<size_t, 4> badness;
  Interface interface;
};

}  // namespace

bool Interface::reaches(const Address& other) const {
  if (prefix == 0 || address.family() != other.family() || !address.valid() ||
      address.is_link_local() || other.is_link_local())
    return false;
  const std::span<const uint8_t> a = bytes_of(address.data()), b = bytes_of(other.data());
  for (size_t bit = 0; bit < prefix && bit / 8 < a.size(); bit += 8) {
    const int left = std::min(8, prefix - static_cast<int>(bit));
    if ((a[bit / 8] ^ b[bit / 8]) >> (8 - left) != 0) return false;
  }
  return true;
}

Result<std::vector<Interface>> list_interfaces() {
  ifaddrs* head = nullptr;
  if (getifaddrs(&head) != 0) {
    return Status(Code::system_error, "cannot list network interfaces: " + errno_text(errno));
  }
  std::vector<Interface> found;
  for (const ifaddrs* entry = head; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || !(entry->ifa_flags & IFF_UP)) continue;
    int family = entry->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    found.push_back({entry->ifa_name, if_nametoindex(entry->ifa_name),
                     Address(entry->ifa_addr, size), (entry->ifa_flags & IFF_LOOPBACK) != 0,
                     prefix_of(entry->ifa_netmask, family)});
  }
  freeifaddrs(head);
  return found;
}

Result<std::vector<Interface>> select_interfaces(const std::vector<Interface>& from,
                                                 std::string_view spec, std::string_view family) {
  Result<int> wanted = parse_family(family);
  if (!wanted.ok()) return wanted.status();
  Filter filter = parse_filter(spec);
  bool named = !filter.exclude && !filter.names.empty();
  std::vector<Candidate> candidates;
  for (const Interface& interface : from) {
    if (*wanted != AF_UNSPEC && interface.address.family() != *wanted) continue;
    size_t position = filter.match(interface.name);
    bool matches = position < filter.names.size();
    if (filter.exclude ? matches : named && !matches) continue;
    size_t kind = interface.loopback ? 2 : looks_virtual(interface.name) ? 1 : 0;
    candidates.push_back({{named ? position : 0, kind, interface.address.family() == AF_INET6,
                           interface.address.is_link_local()},
                          interface});
  }
  if (candidates.empty()) return nothing_found(from, spec, family);
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.badness < b.badness; });
  std::vector<Interface> selected;
  for (Candidate& candidate : candidates) {
    bool spare_loopback =
        candidate.interface.loopback && !named && !selected.empty() && !selected.front().loopback;
    if (!spare_loopback) selected.push_back(std::move(candidate.interface));
  }
  return selected;
}

Result<std::vector<Interface>> select_interfaces(std::string_view spec, std::string_view family) {
  Result<std::vector<Interface>> all = list_interfaces();
  if (!all.ok()) return all.status();
  return select_interfaces(*all, spec, family);
}

Result<Interface> select_interface(std::string_view spec, std::string_view family) {
  Result<std::vector<Interface>> usable = select_interfaces(spec, family);
  if (!usable.ok()) return usable.status();
  return usable->front();
}

}  // namespace tutti
