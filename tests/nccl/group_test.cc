// Groups: one thread drives many communicators, and nothing waits for itself.
#include <numeric>
#include <vector>

#include "tests/nccl/world.h"

namespace tutti::nccl_test {
namespace {

TEST(Group, OneThreadDrivesAllRanks) {
  constexpr int k_ranks = 8;
  World world(k_ranks);
  std::vector<std::vector<float>> data(k_ranks, std::vector<float>(1000, 1.0f));
  for (int turn = 0; turn < 3; ++turn) {
    ASSERT_NCCL(ncclGroupStart());
    for (int r = 0; r < k_ranks; ++r)
      ASSERT_NCCL(ncclAllReduce(data[r].data(), data[r].data(), 1000, ncclFloat, ncclSum, world[r],
                                nullptr));
    ASSERT_NCCL(ncclGroupEnd());
  }
  for (const auto& d : data)
    for (float x : d) ASSERT_EQ(x, 512.0f);
}

TEST(Group, NestedGroupsEndTogether) {
  World world(2);
  int in[2] = {1, 2}, out[2] = {0, 0};
  ASSERT_NCCL(ncclGroupStart());
  for (int r = 0; r < 2; ++r) {
    ASSERT_NCCL(ncclGroupStart());
    ASSERT_NCCL(ncclAllReduce(&in[r], &out[r], 1, ncclInt, ncclSum, world[r], nullptr));
    ASSERT_NCCL(ncclGroupEnd());
    EXPECT_EQ(out[r], 0) << "an inner end ran the group";
  }
  ASSERT_NCCL(ncclGroupEnd());
  EXPECT_EQ(out[0], 3);
  EXPECT_EQ(out[1], 3);
}

TEST(Group, JoiningInAGroup) {
  ncclUniqueId id;
  ASSERT_NCCL(ncclGetUniqueId(&id));
  ncclComm_t comms[3];
  ASSERT_NCCL(ncclGroupStart());
  for (int r = 0; r < 3; ++r) ASSERT_NCCL(ncclCommInitRank(&comms[r], 3, id, r));
  ASSERT_NCCL(ncclGroupEnd());
  int x[3] = {1, 2, 3};
  ASSERT_NCCL(ncclGroupStart());
  for (int r = 0; r < 3; ++r)
    ASSERT_NCCL(ncclAllReduce(&x[r], &x[r], 1, ncclInt, ncclMax, comms[r], nullptr));
  ASSERT_NCCL(ncclGroupEnd());
  for (int r = 0; r < 3; ++r) {
    int rank = -1, count = -1;
    EXPECT_EQ(x[r], 3);
    EXPECT_NCCL(ncclCommUserRank(comms[r], &rank));
    EXPECT_NCCL(ncclCommCount(comms[r], &count));
    EXPECT_EQ(rank, r);
    EXPECT_EQ(count, 3);
  }
  for (ncclComm_t comm : comms) EXPECT_NCCL(ncclCommDestroy(comm));
}

TEST(Group, OverlappingCommunicatorsInAnyOrder) {
  World one(3), two(3);
  one.on_every_rank([&](int rank, ncclComm_t comm) {
    for (int turn = 0; turn < 20; ++turn) {
      int a = 1, b = 2;
      const bool first = (rank + turn) % 2 == 0;
      EXPECT_NCCL(ncclGroupStart());
      if (first) {
        EXPECT_NCCL(ncclAllReduce(&a, &a, 1, ncclInt, ncclSum, comm, nullptr));
      }
      EXPECT_NCCL(ncclAllReduce(&b, &b, 1, ncclInt, ncclSum, two[rank], nullptr));
      if (!first) {
        EXPECT_NCCL(ncclAllReduce(&a, &a, 1, ncclInt, ncclSum, comm, nullptr));
      }
      EXPECT_NCCL(ncclGroupEnd());
      EXPECT_EQ(a, 3);
      EXPECT_EQ(b, 6);
    }
  });
}

TEST(Group, RingsAndAllToAllOfSendsAndReceives) {
  constexpr int k_ranks = 4;
  constexpr size_t k_large = 300000;  // more than any buffer between ranks
  World world(k_ranks);
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    for (size_t count : {size_t{0}, size_t{1}, k_large}) {
      std::vector<int> out(count, rank), in(count, -1);
      EXPECT_NCCL(ncclGroupStart());
      EXPECT_NCCL(ncclSend(out.data(), count, ncclInt, (rank + 1) % k_ranks, comm, nullptr));
      EXPECT_NCCL(
          ncclRecv(in.data(), count, ncclInt, (rank + k_ranks - 1) % k_ranks, comm, nullptr));
      EXPECT_NCCL(ncclGroupEnd());
      for (int x : in) ASSERT_EQ(x, (rank + k_ranks - 1) % k_ranks);
    }
    std::vector<int> out(k_ranks), in(k_ranks, -1);
    std::iota(out.begin(), out.end(), rank * 10);
    EXPECT_NCCL(ncclGroupStart());
    for (int p = 0; p < k_ranks; ++p) {
      EXPECT_NCCL(ncclRecv(&in[p], 1, ncclInt, p, comm, nullptr));
      EXPECT_NCCL(ncclSend(&out[p], 1, ncclInt, p, comm, nullptr));
    }
    EXPECT_NCCL(ncclGroupEnd());
    for (int p = 0; p < k_ranks; ++p) EXPECT_EQ(in[p], p * 10 + rank);
  });
}

// Each rank groups the same calls in another order; one does not group at all, collectives first.
TEST(Group, CollectivesAndTransfersMixed) {
  World world(3);
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    const int next = (rank + 1) % 3, previous = (rank + 2) % 3;
    int sum = rank, most = rank, out = rank, in = -1;
    EXPECT_NCCL(ncclGroupStart());
    if (rank == 0) {
      EXPECT_NCCL(ncclSend(&out, 1, ncclInt, next, comm, nullptr));
    }
    EXPECT_NCCL(ncclAllReduce(&sum, &sum, 1, ncclInt, ncclSum, comm, nullptr));
    if (rank != 0) {
      EXPECT_NCCL(ncclSend(&out, 1, ncclInt, next, comm, nullptr));
    }
    EXPECT_NCCL(ncclRecv(&in, 1, ncclInt, previous, comm, nullptr));
    EXPECT_NCCL(ncclAllReduce(&most, &most, 1, ncclInt, ncclMax, comm, nullptr));
    EXPECT_NCCL(ncclGroupEnd());
    EXPECT_EQ(sum, 3);
    EXPECT_EQ(most, 2);
    EXPECT_EQ(in, previous);
  });
}

TEST(Group, AnErrorInsideFailsTheEndAndRunsNothing) {
  World world(2);
  world.on_every_rank([&](int, ncclComm_t comm) {
    int x = 1, y = 0;
    EXPECT_NCCL(ncclGroupStart());
    EXPECT_NCCL(ncclAllReduce(&x, &y, 1, ncclInt, ncclSum, comm, nullptr));
    EXPECT_EQ(ncclAllReduce(&x, &y, 1, static_cast<ncclDataType_t>(99), ncclSum, comm, nullptr),
              ncclInvalidArgument);
    EXPECT_EQ(ncclGroupEnd(), ncclInvalidArgument);
    EXPECT_NE(std::string(ncclGetLastError(nullptr)).find("datatype 99"), std::string::npos)
        << ncclGetLastError(nullptr);
    EXPECT_EQ(y, 0);
    EXPECT_NCCL(ncclAllReduce(&x, &y, 1, ncclInt, ncclSum, comm, nullptr));
    EXPECT_EQ(y, 2);
  });
}

TEST(Group, EndWithoutStart) {
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
  ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;
  EXPECT_EQ(ncclGroupSimulateEnd(&info), ncclInvalidUsage);
  EXPECT_NCCL(ncclGroupStart());
  EXPECT_NCCL(ncclGroupEnd());
}

TEST(Group, SimulatedGroupsDoNotRun) {
  World world(2);
  int x = 1, y = 0;
  EXPECT_NCCL(ncclGroupStart());
  EXPECT_NCCL(ncclAllReduce(&x, &y, 1, ncclInt, ncclSum, world[0], nullptr));
  ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;
  EXPECT_NCCL(ncclGroupSimulateEnd(&info));
  EXPECT_EQ(y, 0);
  const float small = info.estimatedTime;
  EXPECT_GT(small, 0.01f);  // microseconds
  EXPECT_LT(small, 1e5f);
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage) << "the group is still open";

  // More bytes, more calls: more time.
  const size_t count = size_t{1} << 20;
  std::vector<int> in(count, 1), out(count, 0);
  EXPECT_NCCL(ncclGroupStart());
  EXPECT_NCCL(ncclAllReduce(in.data(), out.data(), count, ncclInt, ncclSum, world[0], nullptr));
  EXPECT_NCCL(ncclGroupSimulateEnd(&info));
  const float large = info.estimatedTime;
  EXPECT_GT(large, 10 * small);
  EXPECT_NCCL(ncclGroupStart());
  EXPECT_NCCL(ncclAllReduce(in.data(), out.data(), count, ncclInt, ncclSum, world[0], nullptr));
  EXPECT_NCCL(ncclSend(in.data(), count, ncclInt, 1, world[0], nullptr));
  EXPECT_NCCL(ncclGroupSimulateEnd(&info));
  EXPECT_GT(info.estimatedTime, large);
  EXPECT_EQ(out[0], 0);
}

TEST(Group, DestroyingInAGroupComesLast) {
  ncclComm_t comms[2];
  ASSERT_NCCL(ncclCommInitAll(comms, 2, nullptr));
  int x[2] = {1, 1};
  ASSERT_NCCL(ncclGroupStart());
  for (int r = 0; r < 2; ++r) {
    ASSERT_NCCL(ncclAllReduce(&x[r], &x[r], 1, ncclInt, ncclSum, comms[r], nullptr));
    ASSERT_NCCL(ncclCommDestroy(comms[r]));
  }
  ASSERT_NCCL(ncclGroupEnd());
  EXPECT_EQ(x[0], 2);
  EXPECT_EQ(ncclCommDestroy(comms[0]), ncclInvalidArgument);
}

}  // namespace
}  // namespace tutti::nccl_test
