// Recovery among ranks that are threads: they cannot be killed, but they leave, abort, or their
// transport dies (faulty).
#include <chrono>

#include "tests/collective/world.h"

namespace tutti::testing_world {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

void expect_sum(Communicator& c, int mine, int expected) {
  int sum = 0;
  const Status s = c.all_reduce(&mine, &sum, 1, DType::int32, ReduceOp::sum);
  EXPECT_TRUE(s.ok()) << s.to_string();
  EXPECT_EQ(sum, expected);
}

TEST(Shrink, WithoutAnyFailureKeepsTheOrder) {
  Communicators world = make_world(5);
  on_every_rank(world, [](Communicator& c) {
    const Rank out[] = {3, 0, 3};
    if (c.rank() == 0 || c.rank() == 3) return;
    auto smaller = c.shrink(out);
    ASSERT_TRUE(smaller.ok()) << smaller.status().to_string();
    EXPECT_EQ((*smaller)->ranks(), 3u);
    EXPECT_EQ((*smaller)->rank(), c.rank() == 4 ? 2 : c.rank() - 1);
    expect_sum(**smaller, static_cast<int>(c.rank()), 7);
  });
  on_every_rank(world, [](Communicator& c) { EXPECT_TRUE(c.barrier().ok()); });
}

TEST(Shrink, RefusesWhatCannotBe) {
  Config config;
  config.init_timeout = 1;
  Communicators world = make_world(3, config);
  const Rank unknown[] = {3}, own[] = {1}, other[] = {0};
  EXPECT_EQ(world[1]->shrink(unknown).status().code(), Code::invalid_argument);
  EXPECT_NE(world[1]->shrink(unknown).status().message().find("rank 3 of 3"), std::string::npos);
  EXPECT_EQ(world[1]->shrink(own).status().code(), Code::invalid_argument);
  // Two sets: everybody is told, by name, at once.
  on_every_rank(world, [&](Communicator& c) {
    const Status s = c.shrink(c.rank() == 2 ? std::span(other) : std::span<const Rank>()).status();
    EXPECT_EQ(s.code(), Code::invalid_usage) << s.to_string();
    EXPECT_NE(s.message().find("rank 2 excludes {0}"), std::string::npos) << s.to_string();
  });
  // Nobody else comes.
  const Status late = world[0]->shrink({}).status();
  EXPECT_EQ(late.code(), Code::timeout);
  EXPECT_NE(late.message().find("peer 1 (host"), std::string::npos) << late.to_string();
  EXPECT_NE(late.message().find("peer 2 (host"), std::string::npos) << late.to_string();
  EXPECT_TRUE(world[0]->finalize().ok());
  EXPECT_EQ(world[0]->shrink({}).status().code(), Code::invalid_usage);
  EXPECT_EQ(world[0]->agree(0, seconds(1)).status().code(), Code::invalid_usage);
}

TEST(Agree, CombinesFlagsAndNamesWhoHasLeft) {
  Communicators world = make_world(6);
  world[2].reset();
  std::erase_if(world, [](const auto& c) { return c == nullptr; });
  on_every_rank(world, [](Communicator& c) {
    for (uint64_t round = 0; round < 50; ++round) {
      auto who = c.agree(~(uint64_t{1} << c.rank()) & ~(round << 32), seconds(20));
      ASSERT_TRUE(who.ok()) << who.status().to_string();
      EXPECT_EQ(who->failed, std::vector<Rank>{2});
      EXPECT_EQ(who->flags, ~(uint64_t{0b111011} | round << 32));
    }
    EXPECT_EQ(c.failed(), std::vector<Rank>{2});
    const Rank gone[] = {2};
    auto smaller = c.shrink(gone);
    ASSERT_TRUE(smaller.ok()) << smaller.status().to_string();
    expect_sum(**smaller, static_cast<int>(c.rank()), 13);
  });
}

TEST(Agree, NamesWhoDoesNotComeAndResumes) {
  Communicators world = make_world(3);
  for (Rank r : {0u, 2u}) {
    const Status s = world[r]->agree(3, milliseconds(50)).status();
    EXPECT_EQ(s.code(), Code::timeout);
    EXPECT_NE(s.message().find("peer 1 (host"), std::string::npos) << s.to_string();
  }
  on_every_rank(world, [](Communicator& c) {
    auto who = c.agree(c.rank() == 1 ? 6 : 15, seconds(10));
    ASSERT_TRUE(who.ok()) << who.status().to_string();
    EXPECT_EQ(who->flags, 2u);
  });
}

TEST(Revoke, StopsWhoeverWaitsAndEveryLaterCall) {
  Communicators world = make_world(4);
  on_every_rank(world, [](Communicator& c) {
    Status s;
    if (c.rank() == 1) {
      std::this_thread::sleep_for(milliseconds(30));
      c.revoke("for a reason");
      c.revoke("for another");
      s = c.barrier();
    } else {
      s = c.barrier();
    }
    for (int again = 0; again < 2; ++again, s = c.split(0, 0).status()) {
      EXPECT_EQ(s.code(), Code::aborted) << s.to_string();
      EXPECT_NE(s.message().find("rank 1: revoked: for a reason"), std::string::npos)
          << s.to_string();
    }
    auto who = c.agree(1, seconds(10));
    ASSERT_TRUE(who.ok()) << who.status().to_string();
    EXPECT_TRUE(who->failed.empty());
    auto again = c.shrink({});
    ASSERT_TRUE(again.ok()) << again.status().to_string();
    expect_sum(**again, 1, 4);
  });
}

// A call that would complete without waiting is stopped, too.
TEST(Revoke, IsKnownBeforeTheNextCall) {
  Communicators world = make_world(2);
  world[1]->revoke("early");
  float x = 1;
  const Status s = world[0]->broadcast(&x, &x, 1, DType::float32, 0);
  EXPECT_EQ(s.code(), Code::aborted) << s.to_string();
}

TEST(Recovery, AfterAnAbort) {
  Communicators world = make_world(3);
  on_every_rank(world, [](Communicator& c) {
    if (c.rank() == 2) c.abort("test");
    EXPECT_EQ(c.barrier().code(), Code::aborted);
    auto who = c.agree(1, seconds(10));
    ASSERT_TRUE(who.ok()) << who.status().to_string();
    auto again = c.shrink(who->failed);
    ASSERT_TRUE(again.ok()) << again.status().to_string();
    expect_sum(**again, 1, 3);
  });
}

TEST(Recovery, WhenATransportDiesAmongThreads) {
  for (const char* transport : {"local", "tcp"}) {
    SCOPED_TRACE(transport);
    Config config;
    config.transports = {transport};
    config.tune = "all_reduce:0-inf:ring";
    config.fault = "die:rank=2,op=40,thread=1";
    Communicators world = make_world(4, config);
    Config healthy;
    healthy.transports = {transport};
    std::vector<std::thread> threads;
    for (Rank r = 0; r < 4; ++r)
      threads.emplace_back([&, r] {
        Communicator& c = *world[r];
        Status s;
        int sum = 0, x = static_cast<int>(r);
        while (s.ok()) {
          s = c.all_reduce(&x, &sum, 1, DType::int32, ReduceOp::sum);
          if (s.ok()) {
            EXPECT_EQ(sum, 6);
          }
        }
        if (r == 2) {
          world[r].reset();
          return;
        }
        c.revoke("rank 2 seems to be dead");
        auto who = c.agree(1, seconds(20));
        while (who && who->failed.empty()) who = c.agree(1, seconds(20));
        ASSERT_TRUE(who.ok()) << who.status().to_string();
        ASSERT_EQ(who->failed, std::vector<Rank>{2});
        auto smaller = c.shrink(who->failed, &healthy);
        ASSERT_TRUE(smaller.ok()) << smaller.status().to_string();
        expect_sum(**smaller, static_cast<int>(r), 4);
      });
    for (std::thread& t : threads) t.join();
  }
}

}  // namespace
}  // namespace tutti::testing_world
