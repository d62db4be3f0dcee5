// Descendants of a tree: a ticket names the root service of a new tree. Its secret is derived at
// both ends from the key that they share and the ticket's nonce.
#include <cstring>

#include "src/communicator/bootstrap/id.h"
#include "src/communicator/bootstrap/tree.h"

namespace tutti {
namespace {

struct Ticket {
  PackedAddress root{};
  std::array<std::byte, 16> nonce{};
};
static_assert(std::is_trivially_copyable_v<Ticket>);

Key secret_of(const Ticket& ticket, const Key& key) {
  return hmac_sha256(key, {std::as_bytes(std::span("descendant", 10)), ticket.nonce});
}

}  // namespace

size_t Tree::ticket_bytes() const { return sizeof(Ticket); }

Result<std::string> Tree::found(const Key& key, const BootstrapOptions& options) {
  Ticket ticket;
  fill_random(ticket.nonce);
  IdOptions service;
  service.interface = options.interface;
  service.family = options.family;
  service.idle_timeout = options.deadline - SocketClock::now();
  service.secret = secret_of(ticket, key);
  Result<UniqueId> id = create_id(service);
  if (!id) return id.status();
  ticket.root = decode_id(*id)->root;
  std::string text;
  append(&text, ticket);
  return text;
}

Result<std::unique_ptr<Bootstrap>> Tree::enter(std::string_view text, const Key& key,
                                               const BootstrapOptions& options) {
  Ticket ticket;
  if (!take(&text, &ticket) || !text.empty())
    return Status(Code::internal_error, "a ticket of the wrong size");
  IdFields fields;
  fields.root = ticket.root;
  fields.secret = secret_of(ticket, key);
  return join(encode_id(fields), options);
}

}  // namespace tutti
