// Life in the tree after joining: posted errors, deaths, goodbyes, disagreement.
#include "src/communicator/bootstrap/tree.h"

#include <sys/socket.h>

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "tests/bootstrap/harness.h"

namespace tutti {
namespace {

using std::chrono::milliseconds;

// Everybody waits here, outside the bootstrap.
class Gate {
 public:
  explicit Gate(uint32_t ranks) : ranks_(ranks) {}
  void pass() {
    std::unique_lock lock(mutex_);
    uint32_t round = count_ / ranks_;
    if (++count_ % ranks_ == 0) changed_.notify_all();
    changed_.wait(lock, [&] { return count_ / ranks_ > round; });
  }

 private:
  const uint32_t ranks_;
  std::mutex mutex_;
  std::condition_variable changed_;
  uint32_t count_ = 0;
};

class PostError : public testing::TestWithParam<Rank> {};

TEST_P(PostError, reaches_every_rank) {
  constexpr uint32_t k_ranks = 30;
  Gate gate(k_ranks);
  on_joined(loopback_id(), k_ranks, [&](Rank rank, Bootstrap& bootstrap) {
    if (rank == GetParam()) bootstrap.post_error("the disk is full");
    std::optional<std::string> posted;
    while (!(posted = bootstrap.posted_error())) std::this_thread::sleep_for(milliseconds(1));
    EXPECT_EQ(*posted, "the disk is full");
    EXPECT_TRUE(bootstrap.progress().ok());
    gate.pass();
  });
}
INSTANTIATE_TEST_SUITE_P(From, PostError, testing::Values(0, 13, 29));

TEST(Tree, a_posted_error_releases_a_blocked_collective) {
  on_joined(loopback_id(), 12, [&](Rank rank, Bootstrap& bootstrap) {
    if (rank == 7) {
      bootstrap.post_error("rank 7 gives up");
      // Stay, so that it is the record and not the goodbye that releases the others.
      while (bootstrap.progress().ok() && !bootstrap.posted_error()) {
      }
      std::this_thread::sleep_for(milliseconds(300));
      return;
    }
    Status status = bootstrap.barrier(in_seconds(60));
    EXPECT_TRUE(mentions(status, "rank 7")) << status.to_string();
  });
}

TEST(Tree, post_error_from_another_thread_while_blocked) {
  on_joined(loopback_id(), 3, [&](Rank rank, Bootstrap& bootstrap) {
    if (rank == 2) {
      EXPECT_FALSE(bootstrap.barrier(in_seconds(60)).ok());
      return;
    }
    if (rank == 1) {
      while (!bootstrap.posted_error()) std::this_thread::sleep_for(milliseconds(1));
      return;
    }
    std::thread other([&] {
      std::this_thread::sleep_for(milliseconds(20));
      bootstrap.post_error("aborted by another thread");
    });
    EXPECT_TRUE(mentions(bootstrap.barrier(in_seconds(60)), "aborted by another thread"));
    other.join();
  });
}

// A death is a closed socket without goodbye. The ranks on both sides of the gap name it.
TEST(Tree, a_lost_control_connection_names_the_rank_on_every_rank) {
  constexpr uint32_t k_ranks = 12;
  Gate gate(k_ranks);
  std::atomic<int> named{0};
  on_ranks(k_ranks, [&](Rank rank) {
    static UniqueId id;
    static std::once_flag once;
    std::call_once(once, [] { id = loopback_id(); });
    Joined joined = Bootstrap::join(id, rank_of(rank, k_ranks));
    ASSERT_TRUE(joined.ok()) << joined.status().to_string();
    gate.pass();
    if (rank == 5) {
      // As the kernel does for a killed process: its sockets are shut, nothing is said.
      std::vector<pollfd> polls;
      static_cast<Tree&>(**joined).append_polls(&polls);
      for (const pollfd& entry : polls) ::shutdown(entry.fd, SHUT_RDWR);
    } else {
      Status status;
      while ((status = (*joined)->progress()).ok()) std::this_thread::sleep_for(milliseconds(1));
      EXPECT_EQ(status.code(), Code::remote_error);
      EXPECT_TRUE(mentions(status, "rank 5 (127.0.0.1:")) << status.message();
      if (mentions(status, "lost the control connection to rank 5")) ++named;
      EXPECT_FALSE((*joined)->barrier(in_seconds(60)).ok());
    }
    gate.pass();
  });
  EXPECT_EQ(named, static_cast<int>(k_ranks) - 1);
}

TEST(Tree, an_orderly_end_raises_no_alarm) {
  constexpr uint32_t k_ranks = 20;
  Gate gate(k_ranks);
  UniqueId id = loopback_id();
  on_ranks(k_ranks, [&](Rank rank) {
    Joined joined = Bootstrap::join(id, rank_of(rank, k_ranks));
    ASSERT_TRUE(joined.ok()) << joined.status().to_string();
    gate.pass();
    if (rank % 2 == 0) joined->reset();  // half of them leave
    gate.pass();
    if (rank % 2 == 1) {
      for (int i = 0; i < 10; ++i) {
        Status status = (*joined)->progress();
        EXPECT_TRUE(status.ok()) << status.to_string();
      }
    }
    gate.pass();
  });
}

TEST(Tree, a_collective_with_somebody_who_left_is_an_error) {
  on_joined(loopback_id(), 2, [&](Rank rank, Bootstrap& bootstrap) {
    if (rank == 1) return;
    Status status = bootstrap.barrier(in_seconds(60));
    EXPECT_TRUE(mentions(status, "rank 1")) << status.to_string();
    EXPECT_TRUE(mentions(status, "left")) << status.to_string();
  });
}

TEST(Tree, ranks_in_different_calls_are_told) {
  on_joined(loopback_id(), 2, [&](Rank rank, Bootstrap& bootstrap) {
    Status status = rank == 0 ? bootstrap.barrier(in_seconds(5))
                              : bootstrap.all_gather("x", in_seconds(5)).status();
    EXPECT_FALSE(status.ok());
  });
}

TEST(Tree, a_late_rank_is_named_at_the_deadline) {
  Gate gate(3);
  on_joined(loopback_id(), 3, [&](Rank rank, Bootstrap& bootstrap) {
    if (rank != 2) {
      Status status = bootstrap.barrier(in_seconds(0.1));
      EXPECT_EQ(status.code(), Code::timeout);
    }
    gate.pass();
  });
}

}  // namespace
}  // namespace tutti
