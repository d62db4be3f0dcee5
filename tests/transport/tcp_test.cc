// The tcp transport: the conformance suite over IPv4, IPv6 and striped connections, and what is its
// own: who may connect, what strangers can do, how ends of connections show.
#include <gtest/gtest.h>

#include "tests/transport/conformance.h"
#include "transports/tcp/tcp.h"

namespace tutti {
namespace {

using conformance::Node;

Result<std::unique_ptr<Transport>> make_tcp(const TransportOptions& options) {
  return make_tcp_transport(options);
}

std::function<void(TransportOptions&)> with(std::string family, uint32_t connections) {
  return [=](TransportOptions& options) {
    options.interface = "lo";
    options.family = family;
    options.connections_per_peer = connections;
  };
}

INSTANTIATE_TEST_SUITE_P(tcp, TransportConformance,
                         testing::Values(TransportFactory{"tcp", make_tcp, with("AF_INET", 1)},
                                         TransportFactory{"tcp6", make_tcp, with("AF_INET6", 1)},
                                         TransportFactory{"tcp_striped", make_tcp, with("", 3)}),
                         TransportFactory::test_name);

}  // namespace
}  // namespace tutti
