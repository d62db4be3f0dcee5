// Communicators from a communicator: split against a model, grow, and what both refuse.
#include <algorithm>
#include <chrono>
#include <mutex>
#include <random>

#include "tests/collective/world.h"

namespace tutti::testing_world {
namespace {

// The world rank of every rank of `c`, gathered over `c`.
std::vector<int> members_of(Communicator& c, int world_rank) {
  std::vector<int> all(c.ranks(), -1);
  const Status s = c.all_gather(&world_rank, all.data(), 1, DType::int32);
  EXPECT_TRUE(s.ok()) << s.to_string();
  return all;
}

std::vector<int> model_of(const std::vector<int>& colors, const std::vector<int>& keys, int color) {
  std::vector<int> members;
  for (size_t r = 0; r < colors.size(); ++r)
    if (colors[r] == color) members.push_back(static_cast<int>(r));
  std::stable_sort(members.begin(), members.end(), [&](int a, int b) {
    return keys[static_cast<size_t>(a)] < keys[static_cast<size_t>(b)];
  });
  return members;
}

// Every rank splits by its color and key; members and order must be the model's.
void check_split(Communicators& world, const std::vector<int>& colors,
                 const std::vector<int>& keys) {
  on_every_rank(world, [&](Communicator& c) {
    const Rank me = c.rank();
    auto child = c.split(colors[me], keys[me]);
    ASSERT_TRUE(child.ok()) << child.status().to_string();
    if (colors[me] == Communicator::k_no_color) {
      EXPECT_EQ(*child, nullptr);
      return;
    }
    ASSERT_NE(*child, nullptr);
    const std::vector<int> expected = model_of(colors, keys, colors[me]);
    EXPECT_EQ(members_of(**child, static_cast<int>(me)), expected);
    EXPECT_EQ((*child)->ranks(), expected.size());
    EXPECT_EQ(expected[(*child)->rank()], static_cast<int>(me));
  });
}

TEST(Split, ByColorAndKeyWithTiesNegativeKeysAndNoColor) {
  Communicators world = make_world(7);
  check_split(world, {0, 1, 0, 1, 0, -1, 2}, {0, 0, 0, 0, 0, 0, 0});
  check_split(world, {5, 5, 5, 5, 5, 5, 5}, {3, -1, 3, -1, -2147483647 - 1, 2147483647, 0});
  check_split(world, {-1, -1, -1, -1, -1, -1, -1}, {0, 1, 2, 3, 4, 5, 6});
  check_split(world, {0, 1, 2, 3, 4, 5, 2147483647}, {0, 0, 0, 0, 0, 0, 0});
}

TEST(Split, RandomColorsAndKeysAsTheModelSays) {
  std::mt19937 random(20240607);
  for (uint32_t ranks : {1u, 2u, 5u, 12u}) {
    Communicators world = make_world(ranks);
    for (int round = 0; round < 6; ++round) {
      std::vector<int> colors, keys;
      for (uint32_t r = 0; r < ranks; ++r) {
        colors.push_back(static_cast<int>(random() % 4) - 1);
        keys.push_back(static_cast<int>(random() % 5) - 2);
      }
      check_split(world, colors, keys);
    }
  }
}

TEST(Split, OfASplitAndAllUsedAtOnceByDifferentThreads) {
  Communicators world = make_world(8);
  on_every_rank(world, [](Communicator& c) {
    const int me = static_cast<int>(c.rank());
    auto half = c.split(me / 4, me);
    ASSERT_TRUE(half.ok()) << half.status().to_string();
    auto quarter = (*half)->split(me % 4 / 2, -me);
    ASSERT_TRUE(quarter.ok()) << quarter.status().to_string();
    EXPECT_EQ((*quarter)->ranks(), 2u);
    auto sums = [me](Communicator& comm, int expected) {
      for (int i = 0; i < 200; ++i) {
        int x = me, y = -1;
        ASSERT_TRUE(comm.all_reduce(&x, &y, 1, DType::int32, ReduceOp::sum).ok());
        ASSERT_EQ(y, expected);
      }
    };
    const int first = me / 4 * 4, pair = me / 2 * 2;
    std::thread a([&] { sums(c, 28); });
    std::thread b([&] { sums(**half, 4 * first + 6); });
    sums(**quarter, 2 * pair + 1);
    a.join();
    b.join();
  });
}

TEST(Split, QueuesBehindAsynchronousWork) {
  Communicators world = make_world(4);
  on_every_rank(world, [](Communicator& c) {
    std::vector<int> x(1 << 16, static_cast<int>(c.rank()) + 1), y(x.size());
    std::vector<Work> works;
    for (int i = 0; i < 20; ++i)
      works.push_back(
          c.all_reduce_async(x.data(), y.data(), x.size(), DType::int32, ReduceOp::sum));
    auto child = c.split(static_cast<int>(c.rank()) % 2, 0);
    ASSERT_TRUE(child.ok()) << child.status().to_string();
    for (Work& w : works) EXPECT_TRUE(w.done());
    EXPECT_EQ(y.back(), 10);
    EXPECT_EQ((*child)->ranks(), 2u);
    // From the progress thread itself, too.
    Work inner = c.submit([](Communicator& comm) -> Status {
      auto again = comm.split(0, 0);
      return again ? (*again)->barrier() : again.status();
    });
    const Status s = inner.wait();
    EXPECT_TRUE(s.ok()) << s.to_string();
  });
}

TEST(Split, OutlivesItsParent) {
  Communicators world = make_world(3);
  std::vector<std::unique_ptr<Communicator>> children(3);
  on_every_rank(world, [&](Communicator& c) {
    auto child = c.split(0, -static_cast<int>(c.rank()));
    ASSERT_TRUE(child.ok()) << child.status().to_string();
    children[c.rank()] = std::move(*child);
  });
  world.clear();
  on_every_rank(children, [](Communicator& c) { EXPECT_TRUE(c.barrier().ok()); });
}

TEST(Split, ABadColorIsNamedOnEveryRankAndHarmsNobody) {
  Communicators world = make_world(3);
  on_every_rank(world, [](Communicator& c) {
    auto child = c.split(c.rank() == 1 ? -7 : 0, 0);
    EXPECT_EQ(child.status().code(), Code::invalid_argument);
    EXPECT_NE(child.status().message().find("rank 1 passes color -7"), std::string::npos)
        << child.status().to_string();
    EXPECT_TRUE(c.barrier().ok());
  });
}

TEST(Split, InsideOfAGroupIsRefused) {
  Communicators world = make_world(1);
  EXPECT_TRUE(world[0]->group_start().ok());
  EXPECT_EQ(world[0]->split(0, 0).status().code(), Code::invalid_usage);
  EXPECT_TRUE(world[0]->group_end().ok());
}

TEST(Split, AgainstAnotherCollectiveNamesBothSides) {
  Communicators world = make_world(2);
  on_every_rank(world, [](Communicator& c) {
    Status s;
    if (c.rank() == 0) {
      s = c.split(0, 0).status();
    } else {
      float x = 1;
      s = c.all_reduce(&x, &x, 1, DType::float32, ReduceOp::sum);
    }
    EXPECT_EQ(s.code(), Code::invalid_usage) << s.to_string();
    EXPECT_NE(s.message().find("all_gather"), std::string::npos) << s.to_string();
    EXPECT_NE(s.message().find("all_reduce"), std::string::npos) << s.to_string();
  });
}

TEST(Split, SettingsAreInheritedUnlessGiven) {
  Config config;
  config.timeout = 0.5;
  config.init_timeout = 20;
  Communicators world = make_world(2, config);
  on_every_rank(world, [](Communicator& c) {
    auto child = c.split(0, 0);
    ASSERT_TRUE(child.ok());
    Config patient;
    patient.timeout = 0;
    auto other = c.split(0, 0, &patient);
    ASSERT_TRUE(other.ok());
    if (c.rank() == 0) {
      EXPECT_EQ((*child)->barrier().code(), Code::timeout);
      EXPECT_TRUE((*other)->barrier().ok());
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(900));
      EXPECT_TRUE((*other)->barrier().ok());
    }
  });
}

TEST(Split, AThousandThreadsIntoThirtyTwoGroups) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "too many threads for the thread sanitizer";
#endif
  constexpr uint32_t k_ranks = 1024, k_groups = 32;
  Communicators world = make_world(k_ranks);
  std::vector<std::unique_ptr<Communicator>> children(k_ranks);
  const auto start = std::chrono::steady_clock::now();
  on_every_rank(world, [&](Communicator& c) {
    auto child = c.split(static_cast<int>(c.rank() % k_groups), 0);
    ASSERT_TRUE(child.ok()) << child.status().to_string();
    ASSERT_EQ((*child)->ranks(), k_ranks / k_groups);
    ASSERT_EQ((*child)->rank(), c.rank() / k_groups);
    children[c.rank()] = std::move(*child);
  });
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  ASSERT_FALSE(HasFailure());
  std::printf("1024 threads split into 32 groups in %.2f s\n", seconds);
  on_every_rank(children, [](Communicator& c) {
    int x = 1;
    EXPECT_TRUE(c.all_reduce(&x, &x, 1, DType::int32, ReduceOp::sum).ok());
    EXPECT_EQ(x, 32);
  });
}

// --- grow

// Newcomers as further threads.
struct Growing {
  UniqueId id;
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::vector<Status> statuses;

  void add(Rank rank, uint32_t ranks, const std::function<void(Communicator&)>& body) {
    threads.emplace_back([this, rank, ranks, body] {
      Config config;
      config.init_timeout = 20;
      auto made = Communicator::create(id, rank, ranks, config);
      if (made) body(**made);
      std::lock_guard lock(mutex);
      statuses.push_back(made.status());
    });
  }
  void join() {
    for (std::thread& t : threads) t.join();
    for (const Status& s : statuses) EXPECT_TRUE(s.ok()) << s.to_string();
  }
};

TEST(Grow, NewcomersFillUpAndTheOthersKeepTheirNumbers) {
  for (uint32_t before : {1u, 3u}) {
    Config config;
    config.init_timeout = 20;
    Communicators world = make_world(before, config);
    const uint32_t after = before + 2;
    Growing growing;
    Result<UniqueId> id = world[before - 1]->grow_id();
    ASSERT_TRUE(id.ok()) << id.status().to_string();
    growing.id = *id;
    auto check = [&](Communicator& c) {
      std::vector<int> all = members_of(c, static_cast<int>(c.rank()));
      for (uint32_t r = 0; r < after; ++r) EXPECT_EQ(all[r], static_cast<int>(r));
      EXPECT_EQ(c.ranks(), after);
    };
    for (Rank r = before; r < after; ++r) growing.add(r, after, check);
    on_every_rank(world, [&](Communicator& c) {
      auto grown = c.grow(after, c.rank() == before - 1 ? &growing.id : nullptr);
      ASSERT_TRUE(grown.ok()) << grown.status().to_string();
      EXPECT_EQ((*grown)->rank(), c.rank());
      check(**grown);
      EXPECT_TRUE(c.barrier().ok());  // the parent goes on
    });
    growing.join();
  }
}

TEST(Grow, RefusesWhatCannotBeOnEveryRank) {
  Communicators world = make_world(2);
  Result<UniqueId> id = world[0]->grow_id();
  ASSERT_TRUE(id.ok());
  struct Case {
    uint32_t ranks[2];
    bool id[2];
    const char* says;
    Code code;
  };
  const Case cases[] = {
      {{2, 2}, {true, false}, "to 2 ranks from 2", Code::invalid_argument},
      {{1, 1}, {true, false}, "to 1 ranks from 2", Code::invalid_argument},
      {{3, 4}, {true, false}, "rank 1 asks for 4 ranks, rank 0 for 3", Code::invalid_usage},
      {{3, 3}, {true, true}, "ranks 0 and 1 both pass an id", Code::invalid_usage},
      {{3, 3}, {false, false}, "no rank passes an id", Code::invalid_usage},
  };
  for (const Case& bad : cases)
    on_every_rank(world, [&](Communicator& c) {
      const Status s = c.grow(bad.ranks[c.rank()], bad.id[c.rank()] ? &*id : nullptr).status();
      EXPECT_EQ(s.code(), bad.code) << s.to_string();
      EXPECT_NE(s.message().find(bad.says), std::string::npos) << s.to_string();
      EXPECT_TRUE(c.barrier().ok());
    });
  const UniqueId noise;
  on_every_rank(world, [&](Communicator& c) {
    const Status s = c.grow(3, c.rank() == 1 ? &noise : nullptr).status();
    EXPECT_EQ(s.code(), Code::invalid_argument) << s.to_string();
    EXPECT_NE(s.message().find("id of rank 1"), std::string::npos) << s.to_string();
  });
}

TEST(Grow, NamesTheNewcomerThatDoesNotCome) {
  Config config;
  config.init_timeout = 3;  // the root needs a part of it to tell everybody
  Communicators world = make_world(2, config);
  Result<UniqueId> id = world[0]->grow_id();
  ASSERT_TRUE(id.ok());
  on_every_rank(world, [&](Communicator& c) {
    const Status s = c.grow(3, c.rank() == 0 ? &*id : nullptr).status();
    EXPECT_EQ(s.code(), Code::timeout) << s.to_string();
    EXPECT_NE(s.message().find("have not joined in time: 2"), std::string::npos) << s.to_string();
    EXPECT_TRUE(c.barrier().ok());
  });
}

}  // namespace
}  // namespace tutti::testing_world
