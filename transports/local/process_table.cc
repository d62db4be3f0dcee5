// ProcessTable: see process_table.h.
#include "transports/local/process_table.h"

#include <unistd.h>

#include <cstring>

#include "src/base/auth.h"

namespace tutti {
namespace {

constexpr char k_magic[8] = {'t', 't', 'l', 'o', 'c', 'a', 'l', '1'};
constexpr size_t k_card = sizeof k_magic + sizeof(ProcessTable::Ticket);

}  // namespace

std::string ProcessTable::Ticket::card() const {
  std::string card(k_card, '\0');
  std::memcpy(card.data(), k_magic, sizeof k_magic);
  std::memcpy(card.data() + sizeof k_magic, this, sizeof *this);
  return card;
}

ProcessTable& ProcessTable::instance() {
  static ProcessTable table;
  return table;
}

ProcessTable::ProcessTable() { fill_random(nonce_); }

ProcessTable::Ticket ProcessTable::enter(std::shared_ptr<line::Arena> arena) {
  const std::lock_guard lock(mutex_);
  const Ticket ticket{nonce_, static_cast<uint32_t>(::getpid()), 0, next_++};
  arenas_.emplace(ticket.number, std::move(arena));
  return ticket;
}

void ProcessTable::leave(const Ticket& ticket) {
  const std::lock_guard lock(mutex_);
  arenas_.erase(ticket.number);
  std::erase_if(groups_, [](const auto& entry) { return entry.second.expired(); });
}

std::optional<uint64_t> ProcessTable::number_of(const std::string& card) const {
  Ticket ticket;
  if (card.size() != k_card || std::memcmp(card.data(), k_magic, sizeof k_magic) != 0) return {};
  std::memcpy(static_cast<void*>(&ticket), card.data() + sizeof k_magic, sizeof ticket);
  if (ticket.nonce != nonce_ || ticket.pid != static_cast<uint32_t>(::getpid())) return {};
  return ticket.number;
}

Result<std::shared_ptr<const ProcessTable::Group>> ProcessTable::group(
    std::span<const std::string> cards) {
  const std::lock_guard lock(mutex_);
  const std::vector<std::shared_ptr<line::Arena>> empty(cards.size());
  std::optional<uint64_t> key;
  for (size_t rank = 0; rank < cards.size() && !key; ++rank) key = number_of(cards[rank]);
  if (!key) return std::shared_ptr<const Group>(std::make_shared<Group>(Group{empty}));
  // The first local card tells communicators apart: a ticket serves one transport, once.
  if (auto known = groups_[*key].lock()) {
    if (known->members.size() == cards.size()) return known;
    return Status(Code::invalid_argument, "local: ranks were given different numbers of cards");
  }
  auto made = std::make_shared<Group>(Group{empty});
  for (size_t rank = 0; rank < cards.size(); ++rank) {
    const std::optional<uint64_t> number = number_of(cards[rank]);
    if (!number) continue;
    auto it = arenas_.find(*number);
    if (it == arenas_.end()) {
      return Status(Code::remote_error, "rank " + std::to_string(rank) +
                                            " (a thread of this process) left before it was "
                                            "connected to");
    }
    made->members[rank] = it->second;
  }
  groups_[*key] = made;
  return std::shared_ptr<const Group>(made);
}

}  // namespace tutti
