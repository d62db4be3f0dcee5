// link: tutti_bootstrap
// Fuzzes text that users and other ranks give: addresses, interface lists, ids, packed addresses.
// (Settings themselves live above the bootstrap room; their parsers are these and number readers.)
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "src/base/address.h"
#include "src/communicator/bootstrap/id.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  std::string text(reinterpret_cast<const char*>(data), size);
  if (Result<Address> address = Address::parse(text); address.ok()) {
    // What is printed means the same.
    Result<Address> again = Address::parse(address->to_string());
    if (!again.ok() || !(*again == *address)) __builtin_trap();
  }
  Interface one{"eth0", 2, Address::parse("10.0.0.1").value(), false};
  (void)select_interfaces({one}, text, "");
  (void)id_from_hex(text);
  if (size >= sizeof(PackedAddress)) {
    PackedAddress packed;
    std::memcpy(packed.data(), data, packed.size());
    if (Result<Address> address = unpack(packed); address.ok()) (void)address->to_string();
  }
  if (size >= sizeof(UniqueId::bytes)) {
    UniqueId id;
    std::memcpy(id.bytes.data(), data, id.bytes.size());
    (void)id.to_string();
  }
  return 0;
}
