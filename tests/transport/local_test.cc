// local: the conformance suite, and what is special about ranks that are threads.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>

#include "tests/transport/conformance.h"
#include "transports/local/local_transport.h"

namespace tutti::conformance {
namespace {

INSTANTIATE_TEST_SUITE_P(local, TransportConformance,
                         testing::Values(TransportFactory{"local", make_local_transport, {}, true}),
                         TransportFactory::test_name);

TransportFactory factory() { return {"local", make_local_transport, {}, true}; }

TEST(Local, ForeignCardsAreNotReached) {
  auto t = make_local_transport(options_of(factory(), 0, 4));
  ASSERT_TRUE(t.ok());
  std::string altered = (*t)->card();
  altered[12] = static_cast<char>(altered[12] + 1);  // another process's nonce
  const std::array<std::string, 4> cards{(*t)->card(), altered, std::string(), "garbage"};
  ASSERT_TRUE((*t)->connect(cards, Clock::now()).ok());
  for (Rank p = 1; p < 4; ++p) EXPECT_FALSE((*t)->reaches(p)) << p;
  EXPECT_FALSE((*t)->open(1, 0, {64, 1}).ok());
}

TEST(Local, RankThatLeftBeforeConnectIsNamed) {
  auto a = make_local_transport(options_of(factory(), 0, 2));
  auto b = make_local_transport(options_of(factory(), 1, 2));
  ASSERT_TRUE(a.ok() && b.ok());
  const std::array<std::string, 2> cards{(*a)->card(), (*b)->card()};
  b->reset();
  const Status s = (*a)->connect(cards, Clock::now());
  ASSERT_FALSE(s.ok());
  EXPECT_NE(s.message().find("rank 1"), std::string::npos) << s.to_string();
}

TEST(Local, DifferentOptionsAreAnErrorThatNamesBoth) {
  run_mesh(factory(), 2, [](Node& node) {
    Endpoint* e = node.open(1 - node.rank, 0, {node.rank == 0 ? size_t{64} : size_t{128}, 2});
    node.gate->arrive_and_wait();
    Message message;
    EXPECT_EQ(until_settled(*node.transport, [&] { return e->peek(&message); }), Io::failed);
    EXPECT_EQ(e->status().code(), Code::invalid_usage);
    EXPECT_NE(e->status().message().find("128"), std::string::npos) << e->status().to_string();
    EXPECT_NE(e->status().message().find("64"), std::string::npos);
  });
}

// The child of a fork must not speak for its parent.
TEST(Local, ForkedChildGetsAnError) {
  auto t = make_local_transport(options_of(factory(), 0, 1));
  ASSERT_TRUE(t.ok());
  const std::array<std::string, 1> cards{(*t)->card()};
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const Status s = (*t)->connect(cards, Clock::now());
    ::_exit(s.code() == Code::invalid_usage && s.message().find("forked") != std::string::npos ? 0
                                                                                               : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_TRUE((*t)->connect(cards, Clock::now()).ok());
}

// Thousands of ranks in one process: what is not opened must cost next to nothing.
TEST(Local, ManyRanksAreSmall) {
  constexpr uint32_t k_ranks = 512;
  std::vector<std::unique_ptr<Transport>> ranks;
  std::vector<std::string> cards;
  for (Rank r = 0; r < k_ranks; ++r) {
    auto t = make_local_transport(options_of(factory(), r, k_ranks));
    ASSERT_TRUE(t.ok()) << t.status().to_string();
    cards.push_back((*t)->card());
    ranks.push_back(std::move(*t));
  }
  for (auto& t : ranks) ASSERT_TRUE(t->connect(cards, Clock::now()).ok());
  // A ring of tokens through everybody, driven by this one thread.
  for (Rank r = 0; r < k_ranks; ++r) {
    auto out = ranks[r]->open((r + 1) % k_ranks, 0, {1 << 20, 2});
    ASSERT_TRUE(out.ok());
    const uint64_t value = r;
    const iovec piece{const_cast<uint64_t*>(&value), sizeof value};
    ASSERT_EQ((*out)->send(r, {&piece, 1}), Io::done);
  }
  for (Rank r = 0; r < k_ranks; ++r) {
    const Rank from = (r + k_ranks - 1) % k_ranks;
    auto in = ranks[r]->open(from, 0, {1 << 20, 2});
    Message message;
    ASSERT_EQ((*in)->peek(&message), Io::done);
    EXPECT_EQ(message.signature, from);
    (*in)->release();
  }
}

TEST(Local, OffsetsBeyondFourGigabytes) {
  // 80 lanes of 64 MiB slots: the arena's offsets pass 4 GiB while only touched pages cost memory.
  run_mesh(factory(), 2, [](Node& node) {
    const EndpointOptions options{size_t{32} << 20, 2};
    for (uint32_t lane = 0; lane < 80; ++lane) {
      Endpoint* e = node.open(1 - node.rank, lane, options);
      ASSERT_NE(e, nullptr);
      if (node.rank == 0) {
        ASSERT_EQ(node.send(*e, lane, make_payload(lane, 2000)), Io::done);
        ASSERT_EQ(node.send(*e, lane, make_payload(lane + 1, 2001)), Io::done);
      } else {
        node.expect(*e, lane, lane, 2000);
        node.expect(*e, lane, lane + 1, 2001);
      }
    }
  });
}

}  // namespace
}  // namespace tutti::conformance
