// The life of communicators: configs of all versions, nonblocking ones, aborts, stale handles.
#include <atomic>
#include <chrono>
#include <set>

#include "tests/nccl/world.h"

namespace tutti::nccl_test {
namespace {

using Clock = std::chrono::steady_clock;

ncclResult_t wait_for(ncclComm_t comm) {
  ncclResult_t state = ncclInProgress;
  const auto deadline = Clock::now() + std::chrono::seconds(30);
  while (state == ncclInProgress && Clock::now() < deadline) {
    EXPECT_NCCL(ncclCommGetAsyncError(comm, &state));
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return state;
}

bool last_error_has(ncclComm_t comm, const std::string& text) {
  const std::string error = ncclGetLastError(comm);
  if (error.find(text) != std::string::npos) return true;
  ADD_FAILURE() << "\"" << error << "\" does not say \"" << text << "\"";
  return false;
}

// A world whose ranks joined by id with `config`, each from a thread.
std::vector<ncclComm_t> join(int ranks, ncclConfig_t* config) {
  ncclUniqueId id;
  EXPECT_NCCL(ncclGetUniqueId(&id));
  std::vector<ncclComm_t> comms(ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      ncclResult_t result = ncclCommInitRankConfig(&comms[r], ranks, id, r, config);
      if (result == ncclInProgress) result = wait_for(comms[r]);
      EXPECT_EQ(result, ncclSuccess) << ncclGetLastError(comms[r]);
    });
  for (std::thread& t : threads) t.join();
  return comms;
}

TEST(Init, FiveWays) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  for (ncclComm_t comm : join(2, &config)) EXPECT_NCCL(ncclCommDestroy(comm));
  for (ncclComm_t comm : join(2, nullptr)) EXPECT_NCCL(ncclCommDestroy(comm));

  ncclUniqueId ids[2];
  for (ncclUniqueId& id : ids) ASSERT_NCCL(ncclGetUniqueId(&id));
  ncclComm_t comms[2];
  std::thread other(
      [&] { EXPECT_NCCL(ncclCommInitRankScalable(&comms[1], 2, 1, 2, ids, &config)); });
  EXPECT_NCCL(ncclCommInitRankScalable(&comms[0], 2, 0, 2, ids, &config));
  other.join();
  for (ncclComm_t comm : comms) EXPECT_NCCL(ncclCommDestroy(comm));

  ncclUniqueId id;
  ASSERT_NCCL(ncclGetUniqueId(&id));
  ncclComm_t lone = nullptr;
  ASSERT_NCCL(ncclCommInitRank(&lone, 1, id, 0));
  double x = 2, y = 0;
  EXPECT_NCCL(ncclAllReduce(&x, &y, 1, ncclDouble, ncclAvg, lone, nullptr));
  EXPECT_EQ(y, 2);
  EXPECT_NCCL(ncclCommDestroy(lone));

  ncclComm_t all[2];
  const int devices[2] = {5, 3};
  ASSERT_NCCL(ncclCommInitAll(all, 2, devices));
  int device = -1;
  EXPECT_NCCL(ncclCommCuDevice(all[1], &device));
  EXPECT_EQ(device, 3);
  for (ncclComm_t comm : all) EXPECT_NCCL(ncclCommDestroy(comm));
  const int twice[2] = {1, 1};
  EXPECT_EQ(ncclCommInitAll(all, 2, twice), ncclInvalidUsage);
  last_error_has(nullptr, "device 1 is twice");
}

TEST(Init, BadArgumentsAreNamed) {
  ncclUniqueId id;
  ASSERT_NCCL(ncclGetUniqueId(&id));
  ncclComm_t comm = nullptr;
  EXPECT_EQ(ncclCommInitRank(nullptr, 1, id, 0), ncclInvalidArgument);
  EXPECT_EQ(ncclCommInitRank(&comm, 0, id, 0), ncclInvalidArgument);
  EXPECT_EQ(ncclCommInitRank(&comm, 2, id, 2), ncclInvalidArgument);
  last_error_has(nullptr, "rank 2 of 2");
  EXPECT_EQ(ncclCommInitRank(&comm, 2, id, -1), ncclInvalidArgument);
  EXPECT_EQ(ncclCommInitRankScalable(&comm, 2, 0, 0, &id, nullptr), ncclInvalidArgument);
  EXPECT_EQ(ncclCommInitRankScalable(&comm, 2, 0, 3, &id, nullptr), ncclInvalidArgument);
  EXPECT_EQ(ncclCommInitRankScalable(&comm, 2, 0, 1, nullptr, nullptr), ncclInvalidArgument);
  EXPECT_EQ(ncclCommInitAll(nullptr, 2, nullptr), ncclInvalidArgument);
  EXPECT_EQ(ncclCommInitAll(&comm, 0, nullptr), ncclInvalidArgument);
  EXPECT_EQ(ncclGetUniqueId(nullptr), ncclInvalidArgument);
  ncclUniqueId zero{};
  EXPECT_NE(ncclCommInitRank(&comm, 2, zero, 0), ncclSuccess);
  EXPECT_EQ(comm, nullptr);
}

TEST(Config, OlderAndNewerLayoutsAreUnderstood) {
  for (size_t size : {24, 48, 64, 80, 88, 96, 112, 120, 4096}) {
    std::vector<unsigned char> room(std::max(size, sizeof(ncclConfig_t)), 0x7f);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    std::memcpy(room.data(), &config, sizeof config);
    auto* given = reinterpret_cast<ncclConfig_t*>(room.data());
    given->size = size;
    given->version = size <= 48 ? 21805 : size <= 80 ? 22809 : 23203;
    for (ncclComm_t comm : join(1, given)) EXPECT_NCCL(ncclCommDestroy(comm));
  }
}

TEST(Config, FieldsNewerThanItsVersionAreNotRead) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.version = 21805;
  config.CTAPolicy = 12345;  // no such attribute in 2.18
  for (ncclComm_t comm : join(1, &config)) EXPECT_NCCL(ncclCommDestroy(comm));
  config.version = 22809;
  ncclUniqueId id;
  ASSERT_NCCL(ncclGetUniqueId(&id));
  ncclComm_t comm;
  EXPECT_EQ(ncclCommInitRankConfig(&comm, 1, id, 0, &config), ncclInvalidArgument);
  last_error_has(nullptr, "CTAPolicy");
}

TEST(Config, MistakesAreNamed) {
  ncclUniqueId id;
  ASSERT_NCCL(ncclGetUniqueId(&id));
  ncclComm_t comm;
  auto refused = [&](const std::function<void(ncclConfig_t&)>& spoil, const char* what) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    spoil(config);
    EXPECT_EQ(ncclCommInitRankConfig(&comm, 1, id, 0, &config), ncclInvalidArgument) << what;
    last_error_has(nullptr, what);
  };
  refused([](ncclConfig_t& c) { c.magic = 0xdeadbeef; }, "magic");
  refused([](ncclConfig_t& c) { c.size = 0; }, "size");
  refused([](ncclConfig_t& c) { c.size = 1 << 30; }, "size");
  refused([](ncclConfig_t& c) { c.blocking = 2; }, "blocking");
  refused([](ncclConfig_t& c) { c.minCTAs = 0; }, "minCTAs");
  refused([](ncclConfig_t& c) { c.minCTAs = 4, c.maxCTAs = 2; }, "maxCTAs");
  refused([](ncclConfig_t& c) { c.splitShare = 7; }, "splitShare");
}

TEST(Nonblocking, OperationsAreDoneWhenTheStateSaysSo) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  config.commName = "nonblocking";
  ncclUniqueId id;
  ASSERT_NCCL(ncclGetUniqueId(&id));
  ncclComm_t comms[3];
  // One thread makes all three: nothing may wait.
  for (int r = 0; r < 3; ++r)
    ASSERT_EQ(ncclCommInitRankConfig(&comms[r], 3, id, r, &config), ncclInProgress);
  for (ncclComm_t comm : comms) ASSERT_EQ(wait_for(comm), ncclSuccess);
  std::vector<std::vector<int>> data(3, std::vector<int>(5000, 1));
  for (int turn = 0; turn < 3; ++turn)
    for (int r = 0; r < 3; ++r) {
      const ncclResult_t result =
          ncclAllReduce(data[r].data(), data[r].data(), 5000, ncclInt, ncclSum, comms[r], nullptr);
      EXPECT_TRUE(result == ncclInProgress || result == ncclSuccess);
    }
  for (ncclComm_t comm : comms) ASSERT_EQ(wait_for(comm), ncclSuccess);
  for (const auto& d : data) EXPECT_EQ(d, std::vector<int>(5000, 27));

  ASSERT_NCCL(ncclGroupStart());
  for (int r = 0; r < 3; ++r)
    EXPECT_NCCL(ncclBcast(data[r].data(), 5000, ncclInt, 1, comms[r], nullptr));
  EXPECT_EQ(ncclGroupEnd(), ncclInProgress);
  for (ncclComm_t comm : comms) {
    ASSERT_EQ(wait_for(comm), ncclSuccess);
    EXPECT_EQ(ncclCommFinalize(comm), ncclInProgress);
  }
  for (ncclComm_t comm : comms) ASSERT_EQ(wait_for(comm), ncclSuccess);
  for (ncclComm_t comm : comms) EXPECT_NCCL(ncclCommDestroy(comm));
}

TEST(Nonblocking, AnInitThatNobodyJoinsIsAbortedAtOnce) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclUniqueId id;
  ASSERT_NCCL(ncclGetUniqueId(&id));
  ncclComm_t comm;
  ASSERT_EQ(ncclCommInitRankConfig(&comm, 2, id, 0, &config), ncclInProgress);
  ncclResult_t state = ncclSuccess;
  EXPECT_NCCL(ncclCommGetAsyncError(comm, &state));
  EXPECT_EQ(state, ncclInProgress);
  const auto begin = Clock::now();
  EXPECT_NCCL(ncclCommAbort(comm));
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(2));
  EXPECT_EQ(ncclCommGetAsyncError(comm, &state), ncclInvalidArgument);
}

TEST(Nonblocking, ErrorsShowInTheState) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  std::vector<ncclComm_t> comms = join(2, &config);
  int x = 1, y[2] = {};
  // Ranks disagree about the count.
  EXPECT_EQ(ncclAllReduce(&x, y, 1, ncclInt, ncclSum, comms[0], nullptr), ncclInProgress);
  EXPECT_EQ(ncclAllReduce(y, y, 2, ncclInt, ncclSum, comms[1], nullptr), ncclInProgress);
  for (ncclComm_t comm : comms) {
    EXPECT_EQ(wait_for(comm), ncclInvalidUsage);
    last_error_has(comm, "all_reduce");
    EXPECT_NCCL(ncclCommAbort(comm));
  }
}

TEST(Abort, FromAnotherThreadWhileAnOperationRuns) {
  World world(2);
  std::atomic<bool> entered{false};
  ncclResult_t result = ncclSuccess;
  std::thread stuck([&] {
    int x = 1, y = 0;
    entered = true;
    result = ncclAllReduce(&x, &y, 1, ncclInt, ncclSum, world[0], nullptr);
  });
  while (!entered) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  const auto begin = Clock::now();
  EXPECT_NCCL(ncclCommAbort(world[0]));
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(5));
  stuck.join();
  EXPECT_NE(result, ncclSuccess);
  // What the peer calls now may find all it needs, sent before the abort; then it learns of it, and
  // is told that it was not its own doing.
  int x = 1, y = 0;
  result = ncclAllReduce(&x, &y, 1, ncclInt, ncclSum, world[1], nullptr);
  if (result == ncclSuccess) {
    EXPECT_EQ(y, 2);
    result = ncclAllReduce(&x, &y, 1, ncclInt, ncclSum, world[1], nullptr);
  }
  EXPECT_EQ(result, ncclRemoteError);
  EXPECT_NE(std::string(ncclGetLastError(world[1])).find("ncclCommAbort on rank 0"),
            std::string::npos)
      << ncclGetLastError(world[1]);
  ncclResult_t state = ncclSuccess;
  EXPECT_NCCL(ncclCommGetAsyncError(world[1], &state));
  EXPECT_EQ(state, ncclRemoteError);
  world[0] = nullptr;
}

// A rank that makes no call learns by asking: of an abort, and of a revocation.
TEST(Idle, LearnsByAsking) {
  for (const bool abort : {true, false}) {
    World world(2);
    ncclResult_t state = ncclInProgress;
    EXPECT_NCCL(ncclCommGetAsyncError(world[1], &state));
    EXPECT_EQ(state, ncclSuccess);
    if (abort) {
      EXPECT_NCCL(ncclCommAbort(world[0]));
      world[0] = nullptr;
    } else {
      EXPECT_NCCL(ncclCommRevoke(world[0], NCCL_REVOKE_DEFAULT));
    }
    const auto deadline = Clock::now() + std::chrono::seconds(20);
    while (state == ncclSuccess && Clock::now() < deadline) {
      EXPECT_NCCL(ncclCommGetAsyncError(world[1], &state));
      std::this_thread::yield();
    }
    EXPECT_EQ(state, ncclRemoteError);
    last_error_has(world[1], abort ? "ncclCommAbort on rank 0" : "revoked by rank 0");
  }
}

// A watchdog that asks all the time gets in no call's way, and one that has left is no error.
TEST(Idle, AskingDisturbsNobody) {
  World world(2);
  std::atomic<bool> done{false};
  std::thread watchdog([&] {
    while (!done) {
      for (int r = 0; r < 2; ++r) {
        ncclResult_t state = ncclSystemError;
        EXPECT_NCCL(ncclCommGetAsyncError(world[r], &state));
        EXPECT_EQ(state, ncclSuccess) << ncclGetLastError(world[r]);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  });
  world.on_every_rank([](int, ncclComm_t comm) {
    for (int i = 0; i < 1000; ++i) {
      int x = 1;
      ASSERT_NCCL(ncclAllReduce(&x, &x, 1, ncclInt, ncclSum, comm, nullptr));
      ASSERT_EQ(x, 2);
    }
  });
  done = true;
  watchdog.join();
  EXPECT_NCCL(ncclCommDestroy(world[0]));
  world[0] = nullptr;
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  ncclResult_t state = ncclSystemError;
  for (int i = 0; i < 100; ++i) {
    EXPECT_NCCL(ncclCommGetAsyncError(world[1], &state));
    EXPECT_EQ(state, ncclSuccess) << ncclGetLastError(world[1]);
  }
}

TEST(Destroy, WhileBusyWaitsForTheOperation) {
  ncclComm_t comms[2];
  ASSERT_NCCL(ncclCommInitAll(comms, 2, nullptr));
  std::atomic<bool> entered{false};
  int x[2] = {1, 1}, y[2] = {0, 0};
  std::thread busy([&] {
    entered = true;
    EXPECT_NCCL(ncclAllReduce(&x[0], &y[0], 1, ncclInt, ncclSum, comms[0], nullptr));
  });
  while (!entered) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  std::thread destroyer([&] { EXPECT_NCCL(ncclCommDestroy(comms[0])); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_NCCL(ncclAllReduce(&x[1], &y[1], 1, ncclInt, ncclSum, comms[1], nullptr));
  busy.join();
  destroyer.join();
  EXPECT_EQ(y[0], 2);
  EXPECT_NCCL(ncclCommDestroy(comms[1]));
}

TEST(Stale, HandlesAreRefusedEverywhere) {
  ncclComm_t comm;
  ASSERT_NCCL(ncclCommInitAll(&comm, 1, nullptr));
  ASSERT_NCCL(ncclCommDestroy(comm));
  int number = 0;
  void* pointer = nullptr;
  ncclWindow_t window = nullptr;
  ncclResult_t state;
  ncclUniqueId id;
  uint64_t value;
  ncclRedOp_t op;
  int stack = 0;
  for (ncclComm_t bad :
       {comm, static_cast<ncclComm_t>(nullptr), reinterpret_cast<ncclComm_t>(&stack),
        reinterpret_cast<ncclComm_t>(uintptr_t{1}), reinterpret_cast<ncclComm_t>(~uintptr_t{0})}) {
    EXPECT_EQ(ncclAllReduce(&number, &number, 1, ncclInt, ncclSum, bad, nullptr),
              ncclInvalidArgument);
    EXPECT_EQ(ncclSend(&number, 1, ncclInt, 0, bad, nullptr), ncclInvalidArgument);
    EXPECT_EQ(ncclCommCount(bad, &number), ncclInvalidArgument);
    EXPECT_EQ(ncclCommUserRank(bad, &number), ncclInvalidArgument);
    EXPECT_EQ(ncclCommCuDevice(bad, &number), ncclInvalidArgument);
    EXPECT_EQ(ncclCommGetAsyncError(bad, &state), ncclInvalidArgument);
    EXPECT_EQ(ncclCommFinalize(bad), ncclInvalidArgument);
    EXPECT_EQ(ncclCommRegister(bad, &number, 4, &pointer), ncclInvalidArgument);
    EXPECT_EQ(ncclCommWindowRegister(bad, &number, 4, &window, 0), ncclInvalidArgument);
    EXPECT_EQ(ncclCommSplit(bad, 0, 0, &comm, nullptr), ncclInvalidArgument);
    EXPECT_EQ(ncclCommShrink(bad, &number, 1, &comm, nullptr, 0), ncclInvalidArgument);
    EXPECT_EQ(ncclCommRevoke(bad, 0), ncclInvalidArgument);
    EXPECT_EQ(ncclCommSuspend(bad, 1), ncclInvalidArgument);
    EXPECT_EQ(ncclCommResume(bad), ncclInvalidArgument);
    EXPECT_EQ(ncclCommMemStats(bad, ncclStatGpuMemTotal, &value), ncclInvalidArgument);
    EXPECT_EQ(ncclCommGetUniqueId(bad, &id), ncclInvalidArgument);
    EXPECT_EQ(ncclRedOpCreatePreMulSum(&op, &number, ncclInt, ncclScalarHostImmediate, bad),
              ncclInvalidArgument);
    EXPECT_EQ(ncclDevCommCreate(bad, nullptr, nullptr), ncclInvalidArgument);
    EXPECT_EQ(ncclTeamWorld(bad).nRanks, 0);
    if (bad != nullptr) {
      EXPECT_EQ(ncclCommDestroy(bad), ncclInvalidArgument);
      EXPECT_EQ(ncclCommAbort(bad), ncclInvalidArgument);
      last_error_has(bad, "destroyed");
    }
  }
  EXPECT_NCCL(ncclCommDestroy(nullptr));
  EXPECT_NCCL(ncclCommAbort(nullptr));
}

TEST(Finalize, EndsOperationsButNotQueries) {
  World world(2);
  world.on_every_rank([](int rank, ncclComm_t comm) {
    EXPECT_NCCL(ncclCommFinalize(comm));
    int x = 1, count = 0;
    EXPECT_EQ(ncclAllReduce(&x, &x, 1, ncclInt, ncclSum, comm, nullptr), ncclInvalidUsage);
    EXPECT_EQ(ncclCommFinalize(comm), ncclInvalidUsage);
    EXPECT_NCCL(ncclCommCount(comm, &count));
    EXPECT_EQ(count, 2) << rank;
  });
}

TEST(Finalize, ManyInAGroupOfOneThread) {
  World world(3);
  ASSERT_NCCL(ncclGroupStart());
  for (int r = 0; r < 3; ++r) EXPECT_NCCL(ncclCommFinalize(world[r]));
  EXPECT_NCCL(ncclGroupEnd());
  EXPECT_EQ(ncclCommFinalize(world[1]), ncclInvalidUsage);
}

TEST(Suspend, StopsOperationsUntilResume) {
  World world(2);
  world.on_every_rank([](int, ncclComm_t comm) {
    int x = 1;
    uint64_t suspended = 7;
    EXPECT_EQ(ncclCommResume(comm), ncclInvalidUsage);
    EXPECT_EQ(ncclCommSuspend(comm, 0), ncclInvalidArgument);
    EXPECT_NCCL(ncclCommSuspend(comm, NCCL_SUSPEND_MEM));
    EXPECT_NCCL(ncclCommMemStats(comm, ncclStatGpuMemSuspended, &suspended));
    EXPECT_EQ(suspended, 1u);
    EXPECT_EQ(ncclAllReduce(&x, &x, 1, ncclInt, ncclSum, comm, nullptr), ncclInvalidUsage);
    EXPECT_NCCL(ncclCommResume(comm));
    EXPECT_NCCL(ncclCommMemStats(comm, ncclStatGpuMemSuspended, &suspended));
    EXPECT_EQ(suspended, 0u);
    EXPECT_EQ(ncclCommMemStats(comm, static_cast<ncclCommMemStat_t>(9), &suspended),
              ncclInvalidArgument);
    EXPECT_NCCL(ncclAllReduce(&x, &x, 1, ncclInt, ncclSum, comm, nullptr));
    EXPECT_EQ(x, 2);
  });
}

TEST(Split, ByColorAndKey) {
  World world(4);
  world.on_every_rank([](int rank, ncclComm_t comm) {
    ncclComm_t half = nullptr;
    // Even and odd ranks, in reverse order.
    ASSERT_NCCL(ncclCommSplit(comm, rank % 2, -rank, &half, nullptr));
    int size = 0, place = -1, sum = rank;
    EXPECT_NCCL(ncclCommCount(half, &size));
    EXPECT_NCCL(ncclCommUserRank(half, &place));
    EXPECT_EQ(size, 2);
    EXPECT_EQ(place, rank < 2 ? 1 : 0);
    EXPECT_NCCL(ncclAllReduce(&sum, &sum, 1, ncclInt, ncclSum, half, nullptr));
    EXPECT_EQ(sum, rank % 2 == 0 ? 2 : 4);
    ncclComm_t part = half;
    ASSERT_NCCL(ncclCommSplit(comm, rank == 3 ? NCCL_SPLIT_NOCOLOR : 7, 0, &part, nullptr));
    EXPECT_EQ(part == nullptr, rank == 3);
    EXPECT_NCCL(ncclCommDestroy(part));
    EXPECT_NCCL(ncclCommDestroy(half));
    EXPECT_EQ(ncclCommSplit(comm, -2, 0, &part, nullptr), ncclInvalidArgument);
  });
}

TEST(Split, ByOneThreadInAGroup) {
  World world(4);
  ncclComm_t halves[4];
  ASSERT_NCCL(ncclGroupStart());
  for (int r = 0; r < 4; ++r) ASSERT_NCCL(ncclCommSplit(world[r], r / 2, r, &halves[r], nullptr));
  ASSERT_NCCL(ncclGroupEnd());
  int x[4] = {1, 2, 3, 4};
  ASSERT_NCCL(ncclGroupStart());
  for (int r = 0; r < 4; ++r)
    ASSERT_NCCL(ncclAllReduce(&x[r], &x[r], 1, ncclInt, ncclSum, halves[r], nullptr));
  ASSERT_NCCL(ncclGroupEnd());
  EXPECT_EQ(x[0], 3);
  EXPECT_EQ(x[3], 7);
  for (ncclComm_t comm : halves) EXPECT_NCCL(ncclCommDestroy(comm));
}

TEST(Split, OfANonblockingParent) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  std::vector<ncclComm_t> comms = join(2, &config);
  ncclComm_t children[2] = {};
  for (int r = 0; r < 2; ++r)
    EXPECT_EQ(ncclCommSplit(comms[r], 0, r, &children[r], nullptr), ncclInProgress);
  for (ncclComm_t child : children) {
    int count = 0;
    EXPECT_EQ(wait_for(child), ncclSuccess);
    EXPECT_NCCL(ncclCommCount(child, &count));
    EXPECT_EQ(count, 2);
    EXPECT_NCCL(ncclCommDestroy(child));
  }
  for (ncclComm_t comm : comms) EXPECT_NCCL(ncclCommDestroy(comm));
}

TEST(Grow, NewRanksEnterByTheParentsId) {
  World world(2);
  ncclUniqueId id;
  ASSERT_NCCL(ncclCommGetUniqueId(world[0], &id));
  std::vector<std::thread> threads;
  for (int r = 0; r < 3; ++r)
    threads.emplace_back([&, r] {
      ncclComm_t grown = nullptr;
      const bool old = r < 2;
      ASSERT_NCCL(ncclCommGrow(old ? world[r] : nullptr, 3, r == 1 ? nullptr : &id, old ? -1 : r,
                               &grown, nullptr));
      int x = r + 1, rank = -1;
      EXPECT_NCCL(ncclAllReduce(&x, &x, 1, ncclInt, ncclSum, grown, nullptr));
      EXPECT_NCCL(ncclCommUserRank(grown, &rank));
      EXPECT_EQ(x, 6);
      EXPECT_EQ(rank, r);
      EXPECT_NCCL(ncclCommDestroy(grown));
    });
  for (std::thread& t : threads) t.join();
  ncclComm_t none;
  EXPECT_EQ(ncclCommGrow(world[0], 2, nullptr, -1, &none, nullptr), ncclInvalidArgument);
  EXPECT_EQ(ncclCommGrow(world[0], 3, nullptr, 0, &none, nullptr), ncclInvalidArgument);
  EXPECT_EQ(ncclCommGrow(nullptr, 3, nullptr, 2, &none, nullptr), ncclInvalidArgument);
}

}  // namespace
}  // namespace tutti::nccl_test
