// Encoding, checking and printing of unique ids; see id.h.
#include "src/communicator/bootstrap/id.h"

#include <sodium.h>

#include <cstring>

#include "src/communicator/bootstrap/root_service.h"

namespace tutti {
namespace {

constexpr std::string_view k_magic = "tuttid";
constexpr std::byte k_id_version{1};
constexpr size_t k_address_at = 8;
constexpr size_t k_secret_at = 44;
constexpr size_t k_checksum_at = 120;
constexpr size_t k_checksum = 8;

Mac checksum(const UniqueId& id) {
  return hmac_sha256({}, {std::span(id.bytes).first(k_checksum_at)});
}

}  // namespace

UniqueId encode_id(const IdFields& fields) {
  UniqueId id;
  std::memcpy(id.bytes.data(), k_magic.data(), k_magic.size());
  id.bytes[6] = k_id_version;
  id.bytes[7] = std::byte{fields.rank_0_listens};
  std::memcpy(&id.bytes[k_address_at], fields.root.data(), fields.root.size());
  std::memcpy(&id.bytes[k_secret_at], fields.secret.data(), fields.secret.size());
  std::memcpy(&id.bytes[k_checksum_at], checksum(id).data(), k_checksum);
  return id;
}

Result<IdFields> decode_id(const UniqueId& id) {
  if (std::memcmp(id.bytes.data(), k_magic.data(), k_magic.size()) != 0) {
    return Status(Code::invalid_argument, "not a unique id of tutti");
  }
  if (id.bytes[6] != k_id_version) {
    return Status(Code::invalid_argument, "unique id of format " +
                                              std::to_string(std::to_integer<int>(id.bytes[6])) +
                                              ", this library reads format " +
                                              std::to_string(std::to_integer<int>(k_id_version)));
  }
  if (std::memcmp(&id.bytes[k_checksum_at], checksum(id).data(), k_checksum) != 0) {
    return Status(Code::invalid_argument, "the unique id was damaged on its way (checksum)");
  }
  IdFields fields;
  fields.rank_0_listens = id.bytes[7] != std::byte{0};
  std::memcpy(fields.root.data(), &id.bytes[k_address_at], fields.root.size());
  std::memcpy(fields.secret.data(), &id.bytes[k_secret_at], fields.secret.size());
  return fields;
}

Result<UniqueId> create_id(const IdOptions& options) {
  Result<Address> address = Address();
  if (!options.address.empty()) {
    address = Address::parse(options.address);
  } else {
    Result<Interface> interface = select_interface(options.interface, options.family);
    address = interface.ok() ? Result<Address>(interface->address) : interface.status();
  }
  if (!address.ok()) return address.status();
  Result<Fd> listener = listen_on(*address);
  if (!listener.ok()) return listener.status();
  Result<Address> at = local_address(listener->get());
  if (!at.ok()) return at.status();
  IdFields fields;
  fields.root = pack(*at);
  if (options.secret) {
    fields.secret = *options.secret;
  } else {
    fill_random(fields.secret);
  }
  TUTTI_RETURN_IF_ERROR(start_root_service(std::move(*listener), fields.secret,
                                           options.idle_timeout, options.persistent));
  return encode_id(fields);
}

Result<UniqueId> UniqueId::from_address(const std::string& address, const std::string& secret) {
  if (secret.empty()) return Status(Code::invalid_argument, "the job's secret is empty");
  Result<Address> root = Address::parse(address);
  if (!root.ok()) return root.status();
  if (root->port() == 0 || root->is_any()) {
    return Status(Code::invalid_argument,
                  "root address \"" + address + "\" needs a port and one host");
  }
  IdFields fields;
  fields.rank_0_listens = true;
  fields.root = pack(*root);
  fields.secret = derive_key(std::as_bytes(std::span(secret.data(), secret.size())), "unique id");
  return encode_id(fields);
}

std::string UniqueId::to_string() const {
  Result<IdFields> fields = decode_id(*this);
  if (!fields.ok()) return "(" + fields.status().message() + ")";
  Result<Address> root = unpack(fields->root);
  Key print = derive_key(fields->secret, "fingerprint");
  char text[9];
  sodium_bin2hex(text, sizeof text, reinterpret_cast<const unsigned char*>(print.data()), 4);
  return (root.ok() ? root->to_string() : "(bad address)") + " secret #" + text;
}

std::string id_to_hex(const UniqueId& id) {
  std::string text(2 * id.bytes.size() + 1, '\0');
  sodium_bin2hex(text.data(), text.size(), reinterpret_cast<const unsigned char*>(id.bytes.data()),
                 id.bytes.size());
  text.pop_back();
  return text;
}

Result<UniqueId> id_from_hex(std::string_view hex) {
  UniqueId id;
  size_t bytes = 0;
  int error = sodium_hex2bin(reinterpret_cast<unsigned char*>(id.bytes.data()), id.bytes.size(),
                             hex.data(), hex.size(), nullptr, &bytes, nullptr);
  if (error != 0 || bytes != id.bytes.size() || hex.size() != 2 * bytes) {
    return Status(Code::invalid_argument, "a unique id is 256 hexadecimal digits");
  }
  Result<IdFields> fields = decode_id(id);
  return fields.ok() ? Result<UniqueId>(id) : fields.status();
}

}  // namespace tutti
