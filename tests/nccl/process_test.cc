// Ranks as processes: exits without destroy, exits in the middle, fork, death and recovery.
#include "tests/nccl/processes.h"

namespace tutti::nccl_test {
namespace {

std::string sum_is(ncclComm_t comm, int mine, int expected) {
  int sum = mine;
  TELL(ncclAllReduce(&sum, &sum, 1, ncclInt, ncclSum, comm, nullptr));
  return sum == expected ? "" : "the sum is " + std::to_string(sum);
}

TEST(Processes, ExitWithoutDestroy) {
  Job job(4, [](int rank, Board& board) {
    ncclComm_t comm = nullptr;
    std::string trouble = join(board, rank, 4, &comm);
    for (int i = 0; i < 20 && trouble.empty(); ++i) trouble = sum_is(comm, rank, 6);
    return trouble;
  });
  for (int r = 0; r < 4; ++r) job.expect_well(r);
}

TEST(Processes, ExitDuringAnOperation) {
  Job job(2, [](int rank, Board& board) -> std::string {
    ncclComm_t comm = nullptr;
    if (std::string trouble = join(board, rank, 2, &comm); !trouble.empty()) return trouble;
    if (rank == 1) {
      while (board.rounds.load() == 0) usleep(200);
      return "";
    }
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t child = nullptr;
    std::thread([comm] { sum_is(comm, 1, 2); }).detach();  // nobody else comes
    static_cast<void>(ncclCommInitRankConfig(&child, 2, board.id[0], 0, &config));
    usleep(20000);
    board.rounds.store(1);
    return "";
  });
  for (int r = 0; r < 2; ++r) job.expect_well(r);
}

TEST(Processes, AForkedChildIsToldAndCanMakeItsOwn) {
  World world(2);
  Job job(1, [&](int, Board&) -> std::string {
    int x = 1;
    if (ncclAllReduce(&x, &x, 1, ncclInt, ncclSum, world[0], nullptr) != ncclInvalidUsage)
      return "the parent's communicator was taken";
    if (std::string(ncclGetLastError(world[0])).find("fork") == std::string::npos)
      return ncclGetLastError(world[0]);
    if (ncclCommDestroy(world[0]) != ncclInvalidUsage) return "and destroyed";
    ncclComm_t own = nullptr;
    TELL(ncclCommInitAll(&own, 1, nullptr));
    if (std::string trouble = sum_is(own, 5, 5); !trouble.empty()) return trouble;
    TELL(ncclCommDestroy(own));
    return "";
  });
  job.expect_well(0);
  world.on_every_rank([](int rank, ncclComm_t comm) { EXPECT_EQ(sum_is(comm, rank, 1), ""); });
}

// One of four is killed in the middle; the others shrink and go on; a new one grows in.
TEST(Processes, SurvivorsShrinkAndANewOneGrowsIn) {
  Job job(5, [](int rank, Board& board) -> std::string {
    ncclComm_t grown = nullptr;
    if (rank == 4) {
      const ncclUniqueId& id = shared_id(board, 1, false, nullptr);
      TELL(ncclCommGrow(nullptr, 4, &id, 3, &grown, nullptr));
      return sum_is(grown, 40, 40 + 0 + 1 + 2);
    }
    ncclComm_t comm = nullptr, rest = nullptr;
    if (std::string trouble = join(board, rank, 4, &comm); !trouble.empty()) return trouble;
    for (int i = 0; i < 50; ++i)
      if (std::string trouble = sum_is(comm, rank, 6); !trouble.empty()) return trouble;
    if (rank == 3) kill(getpid(), SIGKILL);
    int sum = 0;
    ncclResult_t result = ncclSuccess;
    while (result == ncclSuccess)
      result = ncclAllReduce(&rank, &sum, 1, ncclInt, ncclSum, comm, nullptr);
    if (result != ncclRemoteError)
      return "a death is " + std::to_string(result) + ": " + ncclGetLastError(comm);
    int dead = 3;
    TELL(ncclCommShrink(comm, &dead, 1, &rest, nullptr, NCCL_SHRINK_ABORT));
    if (std::string trouble = sum_is(rest, rank, 3); !trouble.empty()) return trouble;
    TELL(ncclCommDestroy(comm));
    const ncclUniqueId& id = shared_id(
        board, 1, rank == 0, [rest](ncclUniqueId* made) { ncclCommGetUniqueId(rest, made); });
    TELL(ncclCommGrow(rest, 4, rank == 0 ? &id : nullptr, -1, &grown, nullptr));
    if (std::string trouble = sum_is(grown, rank, 43); !trouble.empty()) return trouble;
    TELL(ncclCommDestroy(rest));
    TELL(ncclCommDestroy(grown));
    return "";
  });
  for (int r : {0, 1, 2, 4}) job.expect_well(r);
}

TEST(Revoke, StopsWhatRunsAndLeavesSplitAndShrink) {
  World world(3);
  std::atomic<int> stopped{0};
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    if (rank == 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      EXPECT_NCCL(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
    } else {
      int x = 1, y = 0;  // waits for rank 2, which never comes
      EXPECT_NE(ncclAllReduce(&x, &y, 1, ncclInt, ncclSum, comm, nullptr), ncclSuccess);
      EXPECT_NCCL(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
    }
    ++stopped;
    EXPECT_EQ(ncclCommRevoke(comm, 1), ncclInvalidArgument);
    EXPECT_EQ(ncclCommFinalize(comm), ncclInvalidUsage);
    int x = 1;
    EXPECT_EQ(ncclAllReduce(&x, &x, 1, ncclInt, ncclSum, comm, nullptr), ncclInvalidUsage);
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) EXPECT_NCCL(ncclCommGetAsyncError(comm, &state));
    EXPECT_EQ(state, ncclSuccess);
    ncclComm_t healthy = nullptr;
    ASSERT_NCCL(ncclCommSplit(comm, 0, rank, &healthy, nullptr));
    EXPECT_EQ(sum_is(healthy, rank, 3), "");
    EXPECT_NCCL(ncclCommDestroy(healthy));
  });
  EXPECT_EQ(stopped, 3);
}

TEST(Shrink, BadArgumentsAreNamed) {
  World world(3);
  ncclComm_t none = nullptr;
  int self = 0, far = 3, twice[2] = {1, 1}, one = 1;
  EXPECT_EQ(ncclCommShrink(world[0], &self, 1, &none, nullptr, 0), ncclInvalidArgument);
  EXPECT_EQ(ncclCommShrink(world[0], &far, 1, &none, nullptr, 0), ncclInvalidArgument);
  EXPECT_EQ(ncclCommShrink(world[0], twice, 2, &none, nullptr, 0), ncclInvalidArgument);
  EXPECT_EQ(ncclCommShrink(world[0], nullptr, 1, &none, nullptr, 0), ncclInvalidArgument);
  EXPECT_EQ(ncclCommShrink(world[0], &one, 1, nullptr, nullptr, 0), ncclInvalidArgument);
  EXPECT_EQ(ncclCommShrink(world[0], &one, 1, &none, nullptr, 2), ncclInvalidArgument);
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    if (rank == 1) return;
    ncclComm_t rest = nullptr;
    ASSERT_NCCL(ncclCommShrink(comm, &one, 1, &rest, nullptr, NCCL_SHRINK_DEFAULT));
    int place = -1;
    EXPECT_NCCL(ncclCommUserRank(rest, &place));
    EXPECT_EQ(place, rank / 2);
    EXPECT_EQ(sum_is(rest, rank, 2), "");
    EXPECT_NCCL(ncclCommDestroy(rest));
  });
}

}  // namespace
}  // namespace tutti::nccl_test
