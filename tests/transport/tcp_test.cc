// The tcp transport: the conformance suite over IPv4, IPv6 and striped connections, and what is its
// own: large and striped messages, options, ends of connections.
#include "transports/tcp/tcp.h"

#include <gtest/gtest.h>

#include <atomic>

#include "tests/transport/conformance.h"

namespace tutti::conformance {
namespace {

std::function<void(TransportOptions&)> with(std::string family, uint32_t connections) {
  return [=](TransportOptions& options) {
    options.interface = "lo";
    options.family = family;
    options.connections_per_peer = connections;
  };
}

INSTANTIATE_TEST_SUITE_P(
    tcp, TransportConformance,
    testing::Values(TransportFactory{"tcp", make_tcp_transport, with("AF_INET", 1)},
                    TransportFactory{"tcp6", make_tcp_transport, with("AF_INET6", 1)},
                    TransportFactory{"tcp_striped", make_tcp_transport, with("", 3)}),
    TransportFactory::test_name);

TransportFactory factory(uint32_t connections = 1) {
  return {"tcp", make_tcp_transport, with("AF_INET", connections)};
}

// Large messages both ways at once, received into pieces and through slots; sizes that no stripe
// divides. Slots are far larger than any socket buffer, so sends are partial all the time.
void exchange_large(Node& node) {
  constexpr size_t k_slot = 3 << 20;
  Endpoint* e = node.open(1 - node.rank, 0, {k_slot, 2});
  const std::vector<size_t> sizes{k_slot, (128 << 10) - 1, 128 << 10, 200003, 1, 2 * 1048576 + 17};
  size_t out = 0, in = 0;
  std::vector<std::byte> sending, a, b;
  const bool finished = until(*node.transport, [&] {
    if (out < sizes.size()) {
      if (sending.empty()) sending = make_payload(out + node.rank, sizes[out]);
      const size_t cut = sending.size() / 3;
      const iovec pieces[] = {{sending.data(), cut}, {sending.data() + cut, sending.size() - cut}};
      const Io io = e->send(out, pieces);
      EXPECT_NE(io, Io::failed) << e->status().to_string();
      if (io == Io::done) {
        sending.clear();
        ++out;
      }
    }
    if (in < sizes.size() && in % 2 == 0) {
      a.resize(sizes[in] / 2);
      b.resize(sizes[in] - sizes[in] / 2);
      const iovec pieces[] = {{a.data(), a.size()}, {b.data(), b.size()}};
      uint64_t signature = 0;
      size_t bytes = 0;
      const Io io = e->recv(pieces, &signature, &bytes);
      EXPECT_NE(io, Io::failed) << e->status().to_string();
      if (io == Io::done) {
        EXPECT_EQ(signature, in);
        a.insert(a.end(), b.begin(), b.end());
        EXPECT_TRUE(a == make_payload(in + 1 - node.rank, sizes[in])) << "message " << in;
        ++in;
      }
    } else if (Message message; in < sizes.size() && e->peek(&message) == Io::done) {
      node.expect(*e, in, in + 1 - node.rank, sizes[in]);
      ++in;
    }
    return out == sizes.size() && in == sizes.size();
  });
  EXPECT_TRUE(finished) << "sent " << out << ", received " << in;
}

TEST(Tcp, LargeMessages) { run_mesh(factory(1), 2, exchange_large); }
TEST(Tcp, LargeMessagesOverSeveralConnections) { run_mesh(factory(4), 2, exchange_large); }

// A receiver that looks at nothing holds the sender back, and finds everything in order later.
TEST(Tcp, SlowReaderHoldsTheSenderBack) {
  run_mesh(factory(), 2, [](Node& node) {
    constexpr size_t k_bytes = 8 << 20;
    constexpr uint32_t k_credits = 4;
    Endpoint* e = node.open(1 - node.rank, 0, {k_bytes, k_credits});
    if (node.rank == 0) {
      node.expect(*e, 0, 0, 0);  // connected; from now on the peer is silent
      const auto payload = make_payload(1, k_bytes);
      const iovec piece{const_cast<std::byte*>(payload.data()), payload.size()};
      uint32_t sent = 0;
      for (int i = 0; i < 2000; ++i) sent += e->send(sent, {&piece, 1}) == Io::done;
      EXPECT_LT(sent, k_credits) << "32 MiB disappeared into a socket that nobody reads";
      node.gate->arrive_and_wait();
      for (; sent < 2 * k_credits; ++sent) ASSERT_EQ(node.send(*e, sent, payload), Io::done);
    } else {
      ASSERT_EQ(node.send(*e, 0, {}), Io::done);
      node.gate->arrive_and_wait();
      for (uint32_t i = 0; i < 2 * k_credits; ++i) node.expect(*e, i, 1, k_bytes);
    }
  });
}

// What was sent before close() arrives, although the receiver is slow and the buffers are small.
TEST(Tcp, CloseFlushes) {
  run_mesh(factory(), 2, [](Node& node) {
    constexpr size_t k_bytes = 1 << 20;
    Endpoint* e = node.open(1 - node.rank, 0, {k_bytes, 8});
    if (node.rank == 0) {
      for (uint64_t i = 0; i < 8; ++i)
        ASSERT_EQ(node.send(*e, i, make_payload(i, k_bytes)), Io::done);
      node.transport->close(Clock::now() + k_patience);
      EXPECT_FALSE(e->status().ok());
    } else {
      for (uint64_t i = 0; i < 8; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        node.expect(*e, i, i, k_bytes);
      }
    }
  });
}

// An error gets through although the connection is stuck in the middle of a message.
TEST(Tcp, ErrorsOvertakeAStuckMessage) {
  std::atomic<bool> answered{false};
  run_mesh(factory(), 2, [&](Node& node) {
    constexpr size_t k_bytes = 64 << 20;
    Endpoint* e = node.open(1 - node.rank, 0, {k_bytes, 2});
    if (node.rank == 0) {
      node.expect(*e, 0, 0, 0);
      const std::vector<std::byte> payload(k_bytes);
      const iovec piece{const_cast<std::byte*>(payload.data()), payload.size()};
      EXPECT_EQ(e->send(1, {&piece, 1}), Io::again);
      node.transport->post_error({Code::timeout, 0, 1, "too late"});
      node.gate->arrive_and_wait();
      // The message is not sent any further; only the transport is driven.
      EXPECT_TRUE(until(*node.transport, [&] {
        const auto call = node.transport->peer_call(1);
        return call && call->sequence == 77;
      }));
      answered = true;
    } else {
      ASSERT_EQ(node.send(*e, 0, {}), Io::done);
      node.gate->arrive_and_wait();
      EXPECT_TRUE(
          until(*node.transport, [&] { return node.transport->posted_error().has_value(); }));
      EXPECT_EQ(node.transport->posted_error()->message, "too late");
      CallRecord call;
      call.sequence = 77;
      node.transport->announce(call);
      EXPECT_TRUE(until(*node.transport, [&] { return answered.load(); }));
    }
  });
}

// Ranks that disagree on a lane's options, or that open lanes nobody else knows.
TEST(Tcp, DifferentOptionsAreAnErrorThatNamesBoth) {
  run_mesh(factory(), 2, [](Node& node) {
    Endpoint* e = node.open(1 - node.rank, 0, {node.rank == 0 ? size_t{6400} : size_t{12800}, 2});
    if (node.rank == 1) {
      Message message;
      EXPECT_EQ(until_settled(*node.transport, [&] { return e->peek(&message); }), Io::failed);
      EXPECT_EQ(e->status().code(), Code::invalid_usage);
      EXPECT_NE(e->status().message().find("6400"), std::string::npos) << e->status().to_string();
      EXPECT_NE(e->status().message().find("12800"), std::string::npos);
      EXPECT_NE(e->status().message().find("rank 0"), std::string::npos);
    } else {
      EXPECT_TRUE(
          until(*node.transport, [&] { return node.transport->posted_error().has_value(); }));
      EXPECT_EQ(node.transport->posted_error()->reporter, 1u);
    }
  });
}

TEST(Tcp, CallOfAPeerIsKnownWithoutACommonLane) {
  run_mesh(factory(), 2, [](Node& node) {
    CallRecord call;
    call.sequence = 100 + node.rank;
    node.transport->announce(call);
    // Rank 1 has opened a lane that rank 0 never opens: no lane will ever be connected.
    if (node.rank == 1) node.open(0, 3);
    std::optional<CallRecord> seen;
    EXPECT_TRUE(until(*node.transport, [&] {
      return (seen = node.transport->peer_call(1 - node.rank)).has_value();
    }));
    EXPECT_EQ(seen->sequence, 101 - node.rank);
    const auto both = [&] { return node.transport->peer_call(1 - node.rank).has_value(); };
    EXPECT_TRUE(until(*node.transport, both));
    node.gate->arrive_and_wait();
  });
}

TEST(Tcp, BadOptionsAreNamed) {
  const auto status_of = [](const std::function<void(TransportOptions&)>& change) {
    TransportOptions options = options_of(factory(), 0, 2);
    change(options);
    return make_tcp_transport(options).status();
  };
  Status s = status_of([](auto& o) { o.interface = "nosuch9"; });
  EXPECT_EQ(s.code(), Code::invalid_argument);
  EXPECT_NE(s.message().find("nosuch9"), std::string::npos) << s.to_string();
  s = status_of([](auto& o) { o.family = "AF_UNIX"; });
  EXPECT_EQ(s.code(), Code::invalid_argument);
  EXPECT_NE(s.message().find("AF_UNIX"), std::string::npos);
  EXPECT_EQ(status_of([](auto& o) { o.key.clear(); }).code(), Code::invalid_argument);
  EXPECT_EQ(status_of([](auto& o) { o.rank = 2; }).code(), Code::invalid_argument);
  EXPECT_EQ(status_of([](auto& o) { o.connections_per_peer = 0; }).code(), Code::invalid_argument);
  EXPECT_EQ(status_of([](auto& o) { o.connections_per_peer = 99; }).code(), Code::invalid_argument);
  EXPECT_EQ(status_of([](auto& o) { o.interfaces = 0; }).code(), Code::invalid_argument);
  EXPECT_EQ(status_of([](auto& o) { o.interfaces = k_most_tcp_interfaces + 1; }).code(),
            Code::invalid_argument);
  EXPECT_TRUE(status_of([](auto& o) { o.interfaces = k_most_tcp_interfaces; }).ok());  // at most
}

}  // namespace
}  // namespace tutti::conformance
