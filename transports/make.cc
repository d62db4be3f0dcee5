#include "transports/make.h"

#include <fmt/format.h>

#include <charconv>

#include "transports/faulty/faulty.h"
#include "transports/local/local_transport.h"
#include "transports/shm/shm_transport.h"
#include "transports/tcp/tcp.h"

namespace tutti {

Result<std::unique_ptr<Transport>> make_transport(std::string_view name,
                                                  const TransportOptions& options,
                                                  const std::string& fault) {
  Result<std::unique_ptr<Transport>> made =
      Status(Code::invalid_argument,
             fmt::format("no transport \"{}\"; there are local, shm and tcp", name));
  if (name == "local") made = make_local_transport(options);
  if (name == "shm") made = make_shm_transport(options);
  if (name == "tcp") made = make_tcp_transport(options);
  if (!made || fault.empty()) return made;
  return make_faulty_transport(std::move(*made), fault, options.rank);
}

Result<std::string> find_card(std::string_view cards, std::string_view name) {
  auto malformed = [] { return Status(Code::remote_error, "the list of transports is malformed"); };
  while (!cards.empty()) {
    const size_t after_name = cards.find(' ');
    if (after_name == std::string_view::npos) return malformed();
    const std::string_view this_name = cards.substr(0, after_name);
    cards.remove_prefix(after_name + 1);
    size_t length = 0;
    const auto [end, error] = std::from_chars(cards.data(), cards.data() + cards.size(), length);
    const size_t digits = static_cast<size_t>(end - cards.data());
    if (error != std::errc() || digits >= cards.size() || cards[digits] != ' ') return malformed();
    cards.remove_prefix(digits + 1);
    if (length > cards.size()) return malformed();
    if (this_name == name) return std::string(cards.substr(0, length));
    cards.remove_prefix(length);
  }
  return std::string();
}

}  // namespace tutti
