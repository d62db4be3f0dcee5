// The tests of the conformance suite; conformance.h says how a transport joins.
#include "tests/transport/conformance.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <random>

namespace tutti::conformance {
namespace {

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TransportConformance);

constexpr EndpointOptions k_plain{4096, 4};

std::vector<size_t> interesting_sizes(size_t slot_bytes) {
  std::vector<size_t> sizes{0,  1,  2,  3,  4,  7,  8,  15,  16,  17,   31,   32,
                            33, 47, 48, 49, 63, 64, 65, 100, 127, 1000, 1023, 4095};
  std::erase_if(sizes, [&](size_t s) { return s > slot_bytes; });
  sizes.push_back(slot_bytes - 1);
  sizes.push_back(slot_bytes);
  return sizes;
}

// Tells every peer that this rank has got so far, and waits for the same from them.
void token_barrier(Node& node, uint32_t lane) {
  for (Rank p = 0; p < node.ranks; ++p) {
    if (p == node.rank) continue;
    Endpoint* e = node.open(p, lane);
    ASSERT_EQ(node.send(*e, 99, {}), Io::done);
  }
  for (Rank p = 0; p < node.ranks; ++p) {
    if (p == node.rank) continue;
    node.expect(*node.open(p, lane), 99, 0, 0);
  }
}

TEST_P(TransportConformance, EveryRankReachesEveryOther) {
  for (const uint32_t ranks : {2u, 3u, 8u}) {
    run(ranks, [](Node& node) {
      EXPECT_FALSE(node.transport->name().empty());
      EXPECT_LE(node.transport->card().size(), 512u);
      for (Rank p = 0; p < node.ranks; ++p) {
        EXPECT_EQ(node.transport->reaches(p), p != node.rank) << p;
      }
      EXPECT_FALSE(node.transport->reaches(node.ranks));
      token_barrier(node, 0);
    });
  }
}

TEST_P(TransportConformance, SizesFromTokenToSlotArriveInOrder) {
  for (const size_t slot : {size_t{4096}, size_t{100001}}) {
    run(2, [&](Node& node) {
      Endpoint* e = node.open(1 - node.rank, 3, {slot, 2});
      uint64_t signature = 1;
      for (int round = 0; round < 3; ++round) {
        for (const size_t bytes : interesting_sizes(slot)) {
          ++signature;
          // Alternate who speaks first, so that both directions are in flight at times.
          if (signature % 2 == node.rank) {
            ASSERT_EQ(node.send(*e, signature, make_payload(signature, bytes)), Io::done);
            node.expect(*e, signature << 32, signature + 1, bytes);
          } else {
            node.expect(*e, signature, signature, bytes);
            ASSERT_EQ(node.send(*e, signature << 32, make_payload(signature + 1, bytes)), Io::done);
          }
        }
      }
      EXPECT_EQ(e->sent(), signature - 1);
    });
  }
}

TEST_P(TransportConformance, GathersPieces) {
  run(2, [](Node& node) {
    Endpoint* e = node.open(1 - node.rank, 0, k_plain);
    const std::vector<std::vector<size_t>> lists{{0, 4, 0, 3},    {20, 28}, {20, 29},
                                                 {1, 1000, 0, 7}, {},       {2048, 2048}};
    for (size_t i = 0; i < lists.size(); ++i) {
      size_t total = 0;
      for (const size_t part : lists[i]) total += part;
      if (node.rank == 0) {
        const auto payload = make_payload(i, total);
        std::vector<iovec> pieces;
        size_t at = 0;
        for (const size_t part : lists[i]) {
          pieces.push_back({const_cast<std::byte*>(payload.data()) + at, part});
          at += part;
        }
        ASSERT_EQ(until_settled(*node.transport, [&] { return e->send(i, pieces); }), Io::done);
      } else {
        node.expect(*e, i, i, total);
      }
    }
  });
}

TEST_P(TransportConformance, BackPressureHoldsAtCreditsAndResumes) {
  for (const uint32_t credits : {1u, 2u, 3u, 5u}) {
    for (const size_t bytes : {size_t{4}, size_t{3000}}) {
      run(2, [&](Node& node) {
        Endpoint* e = node.open(1 - node.rank, 0, {4096, credits});
        if (node.rank == 0) {
          for (uint32_t i = 0; i < credits; ++i) {
            ASSERT_EQ(node.send(*e, i, make_payload(i, bytes)), Io::done);
          }
          EXPECT_EQ(e->sent(), credits);
          const auto extra = make_payload(credits, bytes);
          const iovec piece{const_cast<std::byte*>(extra.data()), extra.size()};
          for (int i = 0; i < 200; ++i) {
            ASSERT_EQ(e->send(credits, {&piece, 1}), Io::again) << "more than the credits";
            ASSERT_TRUE(node.transport->progress().ok());
          }
          EXPECT_EQ(e->consumed(), 0u);
          node.gate->arrive_and_wait();
          ASSERT_EQ(node.send(*e, credits, extra), Io::done);
          EXPECT_TRUE(until(*node.transport, [&] { return e->consumed() == credits + 1; }));
        } else {
          Message message;
          EXPECT_EQ(until_settled(*node.transport, [&] { return e->peek(&message); }), Io::done);
          node.gate->arrive_and_wait();
          for (uint32_t i = 0; i <= credits; ++i) node.expect(*e, i, i, bytes);
          EXPECT_EQ(e->peek(&message), Io::again);
          // What was released must get back to the sender without further sends from here.
          for (int i = 0; i < 50; ++i) {
            (void)node.transport->progress();
            std::this_thread::yield();
          }
        }
        token_barrier(node, 9);
      });
    }
  }
}

// Small messages may have credits of their own; larger ones keep to theirs, whatever is in flight.
TEST_P(TransportConformance, SmallMessagesMayHaveMoreCredits) {
  for (const size_t bytes : {size_t{4}, k_small_message})
    run(2, [&](Node& node) {
      Endpoint* e = node.open(1 - node.rank, 0, {4096, 2, 6});
      const auto try_send = [&](uint64_t number, size_t size) {
        const auto payload = make_payload(number, size);
        const iovec piece{const_cast<std::byte*>(payload.data()), size};
        Io io = Io::again;
        for (int i = 0; i < 200 && io == Io::again; ++i) {
          io = e->send(number, {&piece, 1});
          EXPECT_TRUE(node.transport->progress().ok());
        }
        return io;
      };
      uint64_t sent = 0;
      if (node.rank == 0) {
        for (; sent < 2; ++sent)
          ASSERT_EQ(node.send(*e, sent, make_payload(sent, bytes)), Io::done);
        while (sent < 7 && try_send(sent, bytes) == Io::done) ++sent;
        const bool lines = node.transport->name() == "local" || node.transport->name() == "shm";
        EXPECT_GE(sent, lines ? 6u : 2u);
        EXPECT_LE(sent, 6u);
        EXPECT_EQ(try_send(sent, k_small_message + 1), Io::again);
      } else {
        Message message;
        EXPECT_EQ(until_settled(*node.transport, [&] { return e->peek(&message); }), Io::done);
      }
      node.gate->arrive_and_wait();
      std::mt19937 random(7);  // the same on both sides
      for (uint64_t i = 0; i < 300; ++i) {
        const bool first = i < 6;
        const size_t size = first               ? bytes
                            : random() % 3 == 0 ? 1025 + random() % 3000
                                                : random() % 1025;
        if (node.rank == 1) {
          node.expect(*e, i, i, size);
        } else if (i >= sent) {
          ASSERT_EQ(node.send(*e, i, make_payload(i, size)), Io::done);
        }
      }
      token_barrier(node, 9);
    });
}

TEST_P(TransportConformance, PeeksBeyondTheHead) {
  run(2, [](Node& node) {
    Endpoint* e = node.open(1 - node.rank, 0, k_plain);
    if (node.rank == 0) {
      for (uint64_t i = 0; i < 4; ++i) {
        ASSERT_EQ(node.send(*e, i, make_payload(i, 40 * (i + 1))), Io::done);
      }
      token_barrier(node, 1);
      return;
    }
    Message message;
    ASSERT_EQ(until_settled(*node.transport, [&] { return e->peek_at(3, &message); }), Io::done);
    EXPECT_EQ(message.signature, 3u);
    EXPECT_EQ(message.bytes, 160u);
    EXPECT_EQ(e->peek_at(4, &message), Io::again);
    for (uint64_t i = 0; i < 4; ++i) node.expect(*e, i, i, 40 * (i + 1));
    EXPECT_EQ(e->peek_at(0, &message), Io::again);
    token_barrier(node, 1);
  });
}

TEST_P(TransportConformance, FetchesParts) {
  run(2, [](Node& node) {
    Endpoint* e = node.open(1 - node.rank, 0, k_plain);
    const auto payload = make_payload(7, 3001);
    if (node.rank == 0) {
      ASSERT_EQ(node.send(*e, 5, payload), Io::done);
    } else {
      Message message;
      ASSERT_EQ(until_settled(*node.transport, [&] { return e->peek(&message); }), Io::done);
      std::vector<std::byte> part(1000);
      ASSERT_TRUE(e->fetch(2001, part).ok());
      EXPECT_TRUE(std::equal(part.begin(), part.end(), payload.begin() + 2001));
      EXPECT_TRUE(e->fetch(3001, {}).ok());
      EXPECT_FALSE(e->fetch(2002, part).ok()) << "past the end of the message";
      node.expect(*e, 5, 7, 3001);
    }
    token_barrier(node, 1);
  });
}

TEST_P(TransportConformance, ReceivesIntoPieces) {
  run(2, [](Node& node) {
    Endpoint* e = node.open(1 - node.rank, 0, k_plain);
    const std::vector<size_t> sizes{0, 4, 48, 49, 1500, 4096};
    if (node.rank == 0) {
      for (const size_t bytes : sizes) {
        ASSERT_EQ(node.send(*e, bytes, make_payload(bytes, bytes)), Io::done);
      }
      token_barrier(node, 1);
      return;
    }
    for (const size_t bytes : sizes) {
      std::vector<std::byte> a(bytes / 3 + 1), b(4096);
      uint64_t signature = 0;
      size_t got = 0;
      if (bytes == 1500) {  // too long for what is offered: stays where it is
        const iovec small{b.data(), 1499};
        EXPECT_EQ(until_settled(*node.transport,
                                [&] {
                                  return e->recv({&small, 1}, &signature, &got);
                                }),
                  Io::failed);
        EXPECT_EQ(got, 1500u);
      }
      const std::array pieces{iovec{a.data(), a.size()}, iovec{b.data(), b.size()}};
      ASSERT_EQ(until_settled(*node.transport, [&] { return e->recv(pieces, &signature, &got); }),
                Io::done)
          << e->status().to_string();
      EXPECT_EQ(signature, bytes);
      ASSERT_EQ(got, bytes);
      a.insert(a.end(), b.begin(), b.end());
      a.resize(bytes);
      EXPECT_TRUE(a == make_payload(bytes, bytes)) << bytes;
    }
    token_barrier(node, 1);
  });
}

TEST_P(TransportConformance, ReserveAndCommit) {
  run(2, [](Node& node) {
    Endpoint* e = node.open(1 - node.rank, 0, k_plain);
    if (!e->supports_reserve()) return token_barrier(node, 1);
    const std::vector<size_t> sizes{0, 5, 48, 49, 4096, 17, 300, 4096, 64, 8};
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (node.rank == 1) {
        node.expect(*e, i, i, sizes[i]);
        continue;
      }
      const auto payload = make_payload(i, sizes[i]);
      std::byte* memory = nullptr;
      // Reserve more than is committed, as a producer that does not know the length would.
      const size_t room = std::min<size_t>(4096, sizes[i] + i % 2 * 100);
      ASSERT_TRUE(until(*node.transport, [&] { return (memory = e->reserve(room)) != nullptr; }))
          << e->status().to_string();
      std::copy(payload.begin(), payload.end(), memory);
      e->commit(i, sizes[i]);
    }
    token_barrier(node, 1);
  });
}

TEST_P(TransportConformance, SharesOneMessageWithManyReaders) {
  run(4, [](Node& node) {
    const EndpointOptions options{2048, 2};
    if (node.rank != 0) {
      Endpoint* e = node.open(0, 0, options);
      if (!e->supports_share()) return token_barrier(node, 1);
      for (uint64_t i = 0; i < 24; ++i) {
        // Readers are unequally slow, so slots are held for different times.
        for (Rank spin = 0; spin < node.rank; ++spin) std::this_thread::yield();
        node.expect(*e, i * 10 + node.rank, i, i % 3 == 0 ? 24 : 1000 + i);
      }
      return token_barrier(node, 1);
    }
    std::vector<Endpoint*> e;
    for (Rank p = 1; p < 4; ++p) e.push_back(node.open(p, 0, options));
    if (!e[0]->supports_share()) return token_barrier(node, 1);
    for (uint64_t i = 0; i < 24; ++i) {
      const auto payload = make_payload(i, i % 3 == 0 ? 24 : 1000 + i);
      std::byte* memory = nullptr;
      ASSERT_TRUE(until(*node.transport,
                        [&] { return (memory = e[0]->reserve(payload.size())) != nullptr; }));
      std::copy(payload.begin(), payload.end(), memory);
      e[0]->commit(i * 10 + 1, payload.size());
      // The third reader gets it through the second: sharing what was shared.
      ASSERT_EQ(until_settled(*node.transport, [&] { return e[1]->share(i * 10 + 2, *e[0]); }),
                Io::done);
      ASSERT_EQ(until_settled(*node.transport, [&] { return e[2]->share(i * 10 + 3, *e[1]); }),
                Io::done);
    }
    token_barrier(node, 1);
  });
}

TEST_P(TransportConformance, ReadsTheSendersMemoryInPlace) {
  run(2, [](Node& node) {
    Endpoint* e = node.open(1 - node.rank, 0, {64, 2});
    if (!node.transport->capabilities().pull) return token_barrier(node, 1);
    const std::vector<size_t> sizes{1, 48, 4096, 1 << 20, 3000001};
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (node.rank == 1) {
        node.expect(*e, i, i, sizes[i]);
        continue;
      }
      auto memory = make_payload(i, sizes[i]);
      ASSERT_EQ(until_settled(*node.transport,
                              [&] { return e->send_ref(i, memory.data(), memory.size()); }),
                Io::done);
      const uint64_t goal = e->sent();
      ASSERT_TRUE(until(*node.transport, [&] { return e->consumed() >= goal; }));
      std::fill(memory.begin(), memory.end(), std::byte{0xee});  // now it may change
    }
    token_barrier(node, 1);
  });
}

TEST_P(TransportConformance, ManyLanesOpenedInAnyOrder) {
  run(3, [](Node& node) {
    constexpr uint32_t k_lanes = 20;
    // Even ranks open and send first to last, odd ones last to first: nobody waits for an open().
    for (uint32_t i = 0; i < k_lanes; ++i) {
      const uint32_t lane = node.rank % 2 == 0 ? i : k_lanes - 1 - i;
      for (Rank p = 0; p < node.ranks; ++p) {
        if (p == node.rank) continue;
        Endpoint* e = node.open(p, lane, k_plain);
        EXPECT_EQ(e, node.open(p, lane, k_plain)) << "open() twice is one endpoint";
        EXPECT_EQ(e->peer(), p);
        EXPECT_EQ(e->lane(), lane);
        ASSERT_EQ(node.send(*e, lane, make_payload(lane * 10 + node.rank, 100)), Io::done);
      }
    }
    for (uint32_t lane = 0; lane < k_lanes; ++lane) {
      for (Rank p = 0; p < node.ranks; ++p) {
        if (p != node.rank) node.expect(*node.open(p, lane, k_plain), lane, lane * 10 + p, 100);
      }
    }
    token_barrier(node, k_lanes);
  });
}

TEST_P(TransportConformance, OneSideOpensLate) {
  run(2, [](Node& node) {
    if (node.rank == 0) {
      Endpoint* e = node.open(1, 5, k_plain);
      Message message;
      EXPECT_EQ(e->peek(&message), Io::again);
      node.gate->arrive_and_wait();
      ASSERT_EQ(node.send(*e, 1, make_payload(1, 200)), Io::done);
      node.expect(*e, 2, 2, 3000);
    } else {
      node.gate->arrive_and_wait();
      Endpoint* e = node.open(0, 5, k_plain);
      node.expect(*e, 1, 1, 200);
      ASSERT_EQ(node.send(*e, 2, make_payload(2, 3000)), Io::done);
    }
    token_barrier(node, 1);
  });
}

// Everybody sends to everybody as fast as it can and receives when it cannot send.
TEST_P(TransportConformance, FloodInAllDirections) {
  run(4, [](Node& node) {
    constexpr uint64_t k_messages = 400;
    auto size_of_message = [](uint64_t i) { return i % 5 == 0 ? size_t{2000} : i % 40; };
    std::vector<Endpoint*> e(node.ranks, nullptr);
    std::vector<uint64_t> out(node.ranks, 0), in(node.ranks, 0);
    for (Rank p = 0; p < node.ranks; ++p) {
      if (p != node.rank) e[p] = node.open(p, 0, {2048, 3});
    }
    uint64_t left = 2 * k_messages * (node.ranks - 1);
    const bool finished = until(*node.transport, [&] {
      for (Rank p = 0; p < node.ranks; ++p) {
        if (p == node.rank) continue;
        if (out[p] < k_messages) {
          const auto payload = make_payload(out[p] + node.rank, size_of_message(out[p]));
          const iovec piece{const_cast<std::byte*>(payload.data()), payload.size()};
          const Io io = e[p]->send(out[p], {&piece, 1});
          EXPECT_NE(io, Io::failed);
          if (io == Io::done) ++out[p], --left;
        }
        Message message;
        if (in[p] < k_messages && e[p]->peek(&message) == Io::done) {
          node.expect(*e[p], in[p], in[p] + p, size_of_message(in[p]));
          ++in[p], --left;
        }
      }
      return left == 0;
    });
    EXPECT_TRUE(finished) << left << " messages left";
    token_barrier(node, 1);
  });
}

TEST_P(TransportConformance, LateReaderFindsWhatAClosedPeerSent) {
  run(2, [](Node& node) {
    Endpoint* e = node.open(1 - node.rank, 0, k_plain);
    if (node.rank == 0) {
      for (uint64_t i = 0; i < 4; ++i) {
        ASSERT_EQ(node.send(*e, i, make_payload(i, i == 3 ? 4000 : 10)), Io::done);
      }
      token_barrier(node, 1);
      node.transport->close(Clock::now() + std::chrono::seconds(5));
      node.gate->arrive_and_wait();
      return;
    }
    token_barrier(node, 1);
    node.gate->arrive_and_wait();
    for (uint64_t i = 0; i < 4; ++i) node.expect(*e, i, i, i == 3 ? 4000 : 10);
    Message message;
    EXPECT_EQ(until_settled(*node.transport, [&] { return e->peek(&message); }), Io::failed);
    EXPECT_FALSE(e->status().ok());
    EXPECT_NE(e->status().message().find("rank 0"), std::string::npos) << e->status().to_string();
    EXPECT_TRUE(node.transport->progress().ok()) << "a goodbye is not a death";
  });
}

TEST_P(TransportConformance, DeathIsNamedAndWhatArrivedStaysReadable) {
  if (!GetParam().notices_death) GTEST_SKIP();
  run(3, [](Node& node) {
    if (node.rank == 1) {
      for (const Rank p : {0u, 2u}) {
        ASSERT_EQ(node.send(*node.open(p), 1, make_payload(1, 30)), Io::done);
        node.expect(*node.open(p), 2, 2, 8);  // so that it is certain to be on its way
      }
      node.transport.reset();  // no close(): as if it died
      node.gate->arrive_and_wait();
      return;
    }
    Endpoint* e = node.open(1);
    ASSERT_EQ(node.send(*e, 2, make_payload(2, 8)), Io::done);
    node.gate->arrive_and_wait();
    node.expect(*e, 1, 1, 30);
    Message message;
    EXPECT_EQ(until_settled(*node.transport, [&] { return e->peek(&message); }), Io::failed);
    EXPECT_NE(e->status().message().find("rank 1"), std::string::npos) << e->status().to_string();
    EXPECT_EQ(until_settled(*node.transport,
                            [&] { return node.transport->progress().ok() ? Io::again : Io::done; }),
              Io::done);
    EXPECT_NE(node.transport->progress().message().find("rank 1"), std::string::npos);
    // Sending to the dead fails after at most the credits.
    EXPECT_EQ(until_settled(*node.transport,
                            [&] {
                              const Io io = e->send(3, {});
                              return io == Io::done ? Io::again : io;
                            }),
              Io::failed);
    // The living still talk.
    Endpoint* other = node.open(2 - node.rank, 4);
    ASSERT_EQ(node.send(*other, 7, make_payload(7, 100)), Io::done);
    node.expect(*other, 7, 7, 100);
  });
}

TEST_P(TransportConformance, CallsAreAnnounced) {
  run(3, [](Node& node) {
    const Rank next = (node.rank + 1) % node.ranks;
    token_barrier(node, 0);
    for (uint64_t i = 1; i <= 50; ++i) {
      CallRecord record;
      record.sequence = i;
      record.signature = i * 1000 + node.rank;
      record.count = i << 33;
      record.collective = Collective::all_gather;
      record.dtype = DType::bfloat16;
      record.op = ReduceOp::max;
      record.root = node.rank;
      node.transport->announce(record);
    }
    std::optional<CallRecord> seen;
    ASSERT_TRUE(until(*node.transport, [&] {
      seen = node.transport->peer_call(next);
      return seen && seen->sequence == 50;
    }));
    EXPECT_EQ(seen->signature, 50000u + next);
    EXPECT_EQ(seen->count, uint64_t{50} << 33);
    EXPECT_EQ(seen->collective, Collective::all_gather);
    EXPECT_EQ(seen->dtype, DType::bfloat16);
    EXPECT_EQ(seen->op, ReduceOp::max);
    EXPECT_EQ(seen->root, next);
    EXPECT_EQ(seen->finished, 0);
    token_barrier(node, 1);
  });
}

TEST_P(TransportConformance, ErrorsReachEveryPeer) {
  run(4, [](Node& node) {
    token_barrier(node, 0);
    if (node.rank == 2) {
      ErrorRecord record{Code::invalid_usage, 2, 3, "rank 3 called all_gather instead"};
      node.transport->post_error(record);
      record.message = "a later error";
      node.transport->post_error(record);
    } else {
      std::optional<ErrorRecord> seen;
      ASSERT_TRUE(until(*node.transport, [&] {
        seen = node.transport->posted_error();
        return seen.has_value();
      }));
      EXPECT_EQ(seen->code, Code::invalid_usage);
      EXPECT_EQ(seen->reporter, 2u);
      EXPECT_EQ(seen->culprit, 3u);
      EXPECT_EQ(seen->message, "rank 3 called all_gather instead");
    }
    token_barrier(node, 1);
  });
}

TEST_P(TransportConformance, CapabilitiesAreTrue) {
  std::array<Capabilities, 3> all;
  run(3, [&](Node& node) {
    const Capabilities c = node.transport->capabilities();
    all[node.rank] = c;
    std::vector<uint64_t> memory(16, 100 + node.rank);
    std::vector<MemoryRef> refs(3);
    auto ref = node.transport->describe(memory.data(), memory.size() * 8);
    static std::array<MemoryRef, 3> published;
    if (ref.ok()) published[node.rank] = *ref;
    node.gate->arrive_and_wait();
    const Rank p = (node.rank + 1) % 3;
    if (c.map_private) {
      ASSERT_TRUE(ref.ok());
      auto mapped = node.transport->map(p, published[p], 128);
      ASSERT_TRUE(mapped.ok()) << mapped.status().to_string();
      ASSERT_NE(*mapped, nullptr);
      EXPECT_EQ(static_cast<uint64_t*>(*mapped)[15], 100u + p);
    }
    if (c.remote_memory) {
      ASSERT_TRUE(ref.ok());
      ASSERT_EQ(published[p].segment, 0u);
      uint64_t got[2] = {};
      ASSERT_TRUE(
          node.transport
              ->remote_read(p, published[p].offset + 8, std::as_writable_bytes(std::span(got)))
              .ok());
      EXPECT_EQ(got[1], 100u + p);
      node.gate->arrive_and_wait();  // all have read
      const uint64_t put = 1000 + node.rank;
      ASSERT_TRUE(node.transport
                      ->remote_write(p, published[p].offset + 24, std::as_bytes(std::span(&put, 1)))
                      .ok());
      node.gate->arrive_and_wait();
      EXPECT_EQ(memory[3], 1000u + (node.rank + 2) % 3);
      EXPECT_EQ(memory[2], 100u + node.rank);
    } else {
      uint64_t got = 0;
      EXPECT_FALSE(
          node.transport->remote_read(p, 4096, std::as_writable_bytes(std::span(&got, 1))).ok());
    }
    if (c.window) {
      auto* mine = reinterpret_cast<std::atomic<uint64_t>*>(node.transport->window(node.rank));
      ASSERT_NE(mine, nullptr);
      const size_t last = k_window_bytes / 8 - 1;
      EXPECT_EQ(mine[last].load(), 0u);
      mine[last].store(node.rank + 1);
      node.gate->arrive_and_wait();
      for (Rank q = 0; q < 3; ++q) {
        auto* theirs = reinterpret_cast<std::atomic<uint64_t>*>(node.transport->window(q));
        ASSERT_NE(theirs, nullptr);
        EXPECT_EQ(theirs[last].load(), q + 1);
        EXPECT_EQ(theirs[0].load(), 0u);
      }
    } else {
      EXPECT_EQ(node.transport->window(p), nullptr);
    }
    node.gate->arrive_and_wait();
    token_barrier(node, 0);
  });
  for (const Capabilities& c : all) {
    EXPECT_EQ(c.pull, all[0].pull);
    EXPECT_EQ(c.remote_memory, all[0].remote_memory);
    EXPECT_EQ(c.map_segments, all[0].map_segments);
    EXPECT_EQ(c.window, all[0].window);
    EXPECT_EQ(c.inline_bytes, all[0].inline_bytes);
  }
}

TEST_P(TransportConformance, WaitReturnsWhenSomethingArrives) {
  run(2, [](Node& node) {
    Endpoint* e = node.open(1 - node.rank, 0, k_plain);
    // Ping-pong in which the receiver always blocks first; a hang would end in k_patience.
    for (uint64_t i = 0; i < 50; ++i) {
      if (i % 2 == node.rank) {
        ASSERT_EQ(node.send(*e, i, make_payload(i, 20)), Io::done);
        continue;
      }
      Message message;
      ASSERT_EQ(until_settled(*node.transport,
                              [&] {
                                const Io io = e->peek(&message);
                                if (io == Io::again) {
                                  node.transport->wait(std::chrono::milliseconds(100));
                                }
                                return io;
                              }),
                Io::done);
      node.expect(*e, i, i, 20);
    }
    token_barrier(node, 1);
  });
}

TEST_P(TransportConformance, RefusesWhatCannotBe) {
  run(2, [](Node& node) {
    EXPECT_FALSE(node.transport->open(2, 0, k_plain).ok()) << "no such rank";
    EXPECT_FALSE(node.transport->open(node.rank, 0, k_plain).ok()) << "itself";
    EXPECT_FALSE(node.transport->open(1 - node.rank, 0, {64, 0}).ok()) << "no credits";
    Endpoint* e = node.open(1 - node.rank, 1, {100, 2});
    token_barrier(node, 0);
    const auto payload = make_payload(0, 5000);
    const iovec piece{const_cast<std::byte*>(payload.data()), payload.size()};
    EXPECT_EQ(until_settled(*node.transport,
                            [&] {
                              return e->send(1, {&piece, 1});
                            }),
              Io::failed)
        << "more than slot_bytes";
    token_barrier(node, 0);
    node.transport->close(Clock::now() + std::chrono::seconds(1));
    EXPECT_FALSE(node.transport->open(1 - node.rank, 7, k_plain).ok()) << "after close()";
  });
}

}  // namespace
}  // namespace tutti::conformance
