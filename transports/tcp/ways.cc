#include "transports/tcp/ways.h"

#include <algorithm>
#include <numeric>
#include <string>

namespace tutti::tcp {
namespace {

// Addresses of each interface, in order.
std::vector<std::vector<Interface>> by_name(const std::vector<Interface>& interfaces) {
  std::vector<std::vector<Interface>> groups;
  for (const Interface& i : interfaces) {
    if (groups.empty() || groups.back().front().name != i.name) groups.emplace_back();
    groups.back().push_back(i);
  }
  return groups;
}

// The address on the interface from which `to` can be reached best; null: none of its family.
const Interface* source(const std::vector<Interface>& interface, const Address& to) {
  const Interface* best = nullptr;
  for (const Interface& i : interface) {
    if (i.address.family() != to.family() || i.address.is_link_local() != to.is_link_local())
      continue;
    if (best == nullptr || (!best->reaches(to) && i.reaches(to))) best = &i;
  }
  return best;
}

}  // namespace

std::vector<Way> ways_to(const Card& card, const std::vector<Interface>& mine, uint32_t stripe) {
  std::vector<Way> ways;
  const std::vector<std::vector<Interface>> own = by_name(mine);
  const uint32_t there = card.interfaces();
  if (own.size() > 1 || there > 1) {
    const std::vector<Interface>& here = own[stripe % own.size()];
    const auto near = [&](uint32_t k) {
      return std::any_of(card.addresses.begin(), card.addresses.end(), [&](const CardAddress& a) {
        const Interface* from = a.interface == k ? source(here, a.address) : nullptr;
        return from != nullptr && from->reaches(a.address);
      });
    };
    std::vector<uint32_t> order(there);
    std::iota(order.begin(), order.end(), 0u);
    std::rotate(order.begin(), order.begin() + stripe % there, order.end());
    std::stable_partition(order.begin(), order.end(), near);
    for (const uint32_t k : order)
      for (const CardAddress& a : card.addresses)
        if (const Interface* from = a.interface == k ? source(here, a.address) : nullptr)
          ways.push_back({a.address, from->address});
  }
  for (const CardAddress& a : card.addresses) ways.push_back({a.address, {}});
  return ways;
}

}  // namespace tutti::tcp
