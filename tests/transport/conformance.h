// The conformance suite of the transport contract: what every transport must do, told to N threads
// that each own one connected transport. A transport joins the suite from its own test file:
//
//   INSTANTIATE_TEST_SUITE_P(tcp, TransportConformance, testing::Values(TransportFactory{"tcp",
//   make_tcp}),
//                            TransportFactory::test_name);
//
// The tests themselves are in conformance_test.cc (one definition for all transports of the
// binary). Loops have a generous deadline so that a hang becomes a failure; nothing asserts on
// speed.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "transports/transport.h"

namespace tutti::conformance {

inline constexpr std::chrono::seconds k_patience{30};

// How the suite makes a transport, and what it may expect where the contract leaves a choice.
struct TransportFactory {
  std::string name;
  std::function<Result<std::unique_ptr<Transport>>(const TransportOptions&)> make;
  // Last word on the options of a rank (interface, process_vm, ...); may be empty.
  std::function<void(TransportOptions&)> tweak;
  // False where dropping a transport without close() cannot be told from close().
  bool notices_death = true;
  static std::string test_name(const testing::TestParamInfo<TransportFactory>& info) {
    return info.param.name;
  }
};
inline void PrintTo(const TransportFactory& factory, std::ostream* out) { *out << factory.name; }

// A barrier whose waiters give up (and fail the test) instead of hanging when one is missing.
class Gate {
 public:
  explicit Gate(uint32_t count) : count_(count) {}
  void arrive_and_wait() {
    std::unique_lock lock(mutex_);
    const uint64_t turn = turn_;
    if (++arrived_ == count_) {
      arrived_ = 0;
      ++turn_;
      changed_.notify_all();
      return;
    }
    if (!changed_.wait_for(lock, 2 * k_patience, [&] { return turn_ != turn; })) {
      ADD_FAILURE() << "a rank did not reach the barrier";
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint32_t count_;
  uint32_t arrived_ = 0;
  uint64_t turn_ = 0;
};

// Calls `attempt` (-> Io) until it is not `again`, driving the transport; failed after k_patience.
template <class F>
Io until_settled(Transport& transport, F&& attempt) {
  const Deadline deadline = Clock::now() + k_patience;
  while (true) {
    const Io io = attempt();
    if (io != Io::again) return io;
    // A dead peer must not hide what is still readable, so the status is not looked at here.
    (void)transport.progress();
    std::this_thread::yield();
    if (Clock::now() > deadline) {
      ADD_FAILURE() << "still 'again' after " << k_patience.count() << " s";
      return Io::failed;
    }
  }
}

// Drives the transport until `condition` holds; false (and a test failure) after k_patience.
template <class F>
bool until(Transport& transport, F&& condition) {
  return until_settled(transport, [&] { return condition() ? Io::done : Io::again; }) == Io::done;
}

// Byte `i` of test message `seed`.
inline std::byte pattern(uint64_t seed, size_t i) {
  return static_cast<std::byte>((seed * 0x9E3779B97F4A7C15ull + i * 131 + (i >> 8) * 7) >> 3);
}
inline std::vector<std::byte> make_payload(uint64_t seed, size_t bytes) {
  std::vector<std::byte> payload(bytes);
  for (size_t i = 0; i < bytes; ++i) payload[i] = pattern(seed, i);
  return payload;
}

// One rank of the mesh, as its thread sees it.
struct Node {
  Rank rank = 0;
  uint32_t ranks = 0;
  Gate* gate = nullptr;
  std::unique_ptr<Transport> transport;

  Endpoint* open(Rank peer, uint32_t lane = 0, EndpointOptions options = {4096, 4}) {
    auto endpoint = transport->open(peer, lane, options);
    EXPECT_TRUE(endpoint.ok()) << endpoint.status().to_string();
    return endpoint.ok() ? *endpoint : nullptr;
  }
  Io send(Endpoint& to, uint64_t signature, std::span<const std::byte> bytes) {
    const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
    return until_settled(*transport, [&] { return to.send(signature, {&piece, 1}); });
  }
  // Waits for the head message, copies it (through data or fetch()) and releases it.
  Io receive(Endpoint& from, uint64_t* signature, std::vector<std::byte>* bytes) {
    Message message;
    const Io io = until_settled(*transport, [&] { return from.peek(&message); });
    if (io != Io::done) return io;
    *signature = message.signature;
    bytes->resize(message.bytes);
    if (message.data != nullptr) {
      bytes->assign(message.data, message.data + message.bytes);
    } else if (const Status s = from.fetch(0, *bytes); !s.ok()) {
      ADD_FAILURE() << s.to_string();
      return Io::failed;
    }
    from.release();
    return Io::done;
  }
  // Expects the next message to be make_payload(seed, bytes) under `signature`.
  void expect(Endpoint& from, uint64_t signature, uint64_t seed, size_t bytes) {
    uint64_t got = 0;
    std::vector<std::byte> payload;
    ASSERT_EQ(receive(from, &got, &payload), Io::done) << from.status().to_string();
    EXPECT_EQ(got, signature);
    ASSERT_EQ(payload.size(), bytes);
    EXPECT_TRUE(payload == make_payload(seed, bytes)) << "payload differs, seed " << seed;
  }
};

inline TransportOptions options_of(const TransportFactory& factory, Rank rank, uint32_t ranks) {
  TransportOptions options;
  options.rank = rank;
  options.ranks = ranks;
  options.job = "conformance";
  options.key.assign(32, std::byte{0x5a});
  if (factory.tweak) factory.tweak(options);
  return options;
}

// Runs `body` on `ranks` threads, each with a connected transport, and closes what is left of them.
// Call it from the test's main thread. A body may drop its transport.
inline void run_mesh(const TransportFactory& factory, uint32_t ranks,
                     const std::function<void(Node&)>& body) {
  Gate gate(ranks);
  std::vector<std::string> cards(ranks);
  std::vector<std::thread> threads;
  auto rank_main = [&](Rank rank) {
    Node node{rank, ranks, &gate, nullptr};
    auto made = factory.make(options_of(factory, rank, ranks));
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    if (made.ok()) {
      node.transport = std::move(*made);
      cards[rank] = node.transport->card();
    }
    gate.arrive_and_wait();
    Status connected(Code::internal_error, "not made");
    if (node.transport) {
      connected = node.transport->connect(cards, Clock::now() + k_patience);
      EXPECT_TRUE(connected.ok()) << connected.to_string();
    }
    gate.arrive_and_wait();
    if (connected.ok()) body(node);
    if (node.transport) node.transport->close(Clock::now() + std::chrono::seconds(5));
    gate.arrive_and_wait();
  };
  for (Rank rank = 0; rank < ranks; ++rank) threads.emplace_back(rank_main, rank);
  for (auto& thread : threads) thread.join();
}

class TransportConformance : public testing::TestWithParam<TransportFactory> {
 protected:
  void run(uint32_t ranks, const std::function<void(Node&)>& body) {
    run_mesh(GetParam(), ranks, body);
  }
};

}  // namespace tutti::conformance

using tutti::conformance::TransportConformance;
using tutti::conformance::TransportFactory;
