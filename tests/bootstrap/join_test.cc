// Joining and telling each other things: small and large jobs, every shape of the tree.
#include <chrono>

#include "tests/bootstrap/harness.h"

namespace tutti {
namespace {

void expect_all_cards(Bootstrap& bootstrap, Rank rank, uint32_t ranks, size_t bytes = 128) {
  auto all = bootstrap.all_gather(blob_of(rank, bytes), in_seconds(60));
  ASSERT_TRUE(all.ok()) << "rank " << rank << ": " << all.status().to_string();
  ASSERT_EQ(all->size(), ranks);
  for (Rank r = 0; r < ranks; ++r) ASSERT_EQ((*all)[r], blob_of(r, bytes)) << r;
}

class JoinSizes : public testing::TestWithParam<uint32_t> {};

TEST_P(JoinSizes, all_gather_and_barrier) {
  uint32_t ranks = GetParam();
  on_joined(loopback_id(), ranks, [&](Rank rank, Bootstrap& bootstrap) {
    expect_all_cards(bootstrap, rank, ranks);
    Status met = bootstrap.barrier(in_seconds(60));
    EXPECT_TRUE(met.ok()) << met.to_string();
    expect_all_cards(bootstrap, rank, ranks, 21);
    EXPECT_TRUE(bootstrap.progress().ok());
    EXPECT_FALSE(bootstrap.posted_error().has_value());
  });
}
INSTANTIATE_TEST_SUITE_P(Ranks, JoinSizes, testing::Values(1, 2, 3, 8, 9, 10, 33, 74));

TEST(Join, blobs_of_different_and_zero_length_and_the_largest) {
  on_joined(loopback_id(), 12, [&](Rank rank, Bootstrap& bootstrap) {
    std::string mine(rank == 5 ? 64 * 1024 : rank, static_cast<char>('A' + rank));
    auto all = bootstrap.all_gather(mine, in_seconds(60));
    ASSERT_TRUE(all.ok()) << all.status().to_string();
    for (Rank r = 0; r < 12; ++r) {
      EXPECT_EQ((*all)[r], std::string(r == 5 ? 64 * 1024 : r, static_cast<char>('A' + r)));
    }
    EXPECT_EQ(bootstrap.all_gather(std::string(64 * 1024 + 1, 'x'), in_seconds(1)).status().code(),
              Code::invalid_argument);
  });
}

// The issue asks for 1024 ranks in 3 s on two cores; the figure is printed, not asserted.
void join_and_gather(uint32_t ranks, size_t bytes) {
  UniqueId id = loopback_id();
  auto start = SocketClock::now();
  on_joined(id, ranks, [&](Rank rank, Bootstrap& bootstrap) {
    auto all = bootstrap.all_gather(blob_of(rank, bytes), in_seconds(60));
    ASSERT_TRUE(all.ok()) << all.status().to_string();
    for (Rank r = rank % 64; r < ranks; r += 64) ASSERT_EQ((*all)[r], blob_of(r, bytes));
    if (rank == 0) {
      std::chrono::duration<double> took = SocketClock::now() - start;
      printf("%u ranks joined and gathered after %.2f s\n", ranks, took.count());
    }
  });
}

TEST(Join, ranks_1024_as_threads) { join_and_gather(1024, 128); }

TEST(Join, ranks_2048_as_threads) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "too many threads for the thread sanitizer";
#endif
  join_and_gather(2048, 15);
}

TEST(Join, several_jobs_at_once) {
  UniqueId first = loopback_id();
  UniqueId second = loopback_id();
  EXPECT_NE(first, second);
  on_ranks(20, [&](Rank thread) {
    const UniqueId& id = thread % 2 ? first : second;
    Rank rank = thread / 2;
    Joined joined = Bootstrap::join(id, rank_of(rank, 10));
    ASSERT_TRUE(joined.ok()) << joined.status().to_string();
    auto all = (*joined)->all_gather(std::to_string(thread), in_seconds(60));
    ASSERT_TRUE(all.ok());
    for (Rank r = 0; r < 10; ++r) EXPECT_EQ((*all)[r], std::to_string(2 * r + thread % 2));
  });
}

TEST(Join, a_known_address_served_by_rank_0_again_and_again) {
  Fd probe = std::move(listen_on(Address::parse("127.0.0.1:0").value())).value();
  std::string address = local_address(probe.get())->to_string();
  probe.reset();
  UniqueId id = UniqueId::from_address(address, "a secret").value();
  for (int job = 0; job < 3; ++job) {
    on_ranks(5, [&](Rank rank) {
      // Rank 0 comes last: the others knock until somebody opens.
      if (rank == 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      Joined joined = Bootstrap::join(id, rank_of(rank, 5));
      ASSERT_TRUE(joined.ok()) << joined.status().to_string();
      expect_all_cards(**joined, rank, 5);
    });
  }
}

TEST(Join, ipv6_and_link_local_roots) {
  auto interfaces = list_interfaces();
  ASSERT_TRUE(interfaces.ok());
  int used = 0;
  for (const Interface& interface : *interfaces) {
    if (interface.address.family() != AF_INET6) continue;
    IdOptions options;
    options.address = interface.address.to_string();
    auto id = create_id(options);
    ASSERT_TRUE(id.ok()) << id.status().to_string();
    on_joined(*id, 11,
              [&](Rank rank, Bootstrap& bootstrap) { expect_all_cards(bootstrap, rank, 11); });
    ++used;
  }
  if (used == 0) GTEST_SKIP() << "no IPv6 address on this host";
}

TEST(Local, all_gather_and_barrier_among_threads) {
  for (uint32_t ranks : {1u, 2u, 7u, 64u}) {
    auto all = Bootstrap::local(ranks);
    on_ranks(ranks, [&](Rank rank) {
      for (int i = 0; i < 3; ++i) {
        expect_all_cards(*all[rank], rank, ranks, 20 + i);
        EXPECT_TRUE(all[rank]->barrier(in_seconds(60)).ok());
      }
    });
  }
}

TEST(Local, errors_reach_all_and_release_those_who_wait) {
  auto all = Bootstrap::local(4);
  on_ranks(4, [&](Rank rank) {
    if (rank == 2) return all[rank]->post_error("rank 2 is unhappy");
    Status status = all[rank]->barrier(in_seconds(60));
    EXPECT_TRUE(mentions(status, "rank 2 is unhappy"));
  });
  for (auto& one : all) EXPECT_EQ(one->posted_error(), "rank 2 is unhappy");
}

TEST(Local, who_is_late_and_who_left_are_named) {
  auto late = Bootstrap::local(3);
  EXPECT_TRUE(mentions(late[0]->barrier(in_seconds(0.02)), "1, 2"));
  auto left = Bootstrap::local(2);
  std::thread waiting(
      [&] { EXPECT_TRUE(mentions(left[0]->barrier(in_seconds(60)), "rank 1 has left")); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  left[1].reset();
  waiting.join();
}

}  // namespace
}  // namespace tutti
