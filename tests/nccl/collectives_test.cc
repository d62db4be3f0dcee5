// Every collective with every type, operator, in place and not, against a plain reference, bit for
// bit: the numbers are small enough to be exact in every type and order.
#include <numeric>
#include <tuple>

#include "tests/nccl/world.h"

namespace tutti::nccl_test {
namespace {

constexpr int k_ranks = 4;
constexpr size_t k_counts[] = {0, 1, 7, 1000};
enum : int { premul = ncclNumOps };  // stands for an operator made in the test

// What rank r has at element i. With four ranks sums are at most 8, products 16, and sums divide
// by 4.
uint64_t input(int rank, size_t i) { return (static_cast<size_t>(rank) + i) % 2 + i % 3 % 2; }
uint64_t scalar(int rank) { return 1 + static_cast<uint64_t>(rank) % 2; }

uint64_t reduced(int op, size_t i) {
  uint64_t result = op == premul ? scalar(0) * input(0, i) : input(0, i);
  for (int r = 1; r < k_ranks; ++r) {
    const uint64_t x = op == premul ? scalar(r) * input(r, i) : input(r, i);
    if (op == ncclProd) result *= x;
    if (op == ncclMax) result = std::max(result, x);
    if (op == ncclMin) result = std::min(result, x);
    if (op == ncclSum || op == ncclAvg || op == premul) result += x;
  }
  return result;
}

// avg of inputs that are 0..2 is not whole; so for avg every rank's input is the same there.
uint64_t given(int op, int rank, size_t i) { return op == ncclAvg ? input(0, i) : input(rank, i); }
uint64_t expected(int op, size_t i) { return op == ncclAvg ? input(0, i) : reduced(op, i); }

class Reductions : public testing::TestWithParam<std::tuple<int, int>> {
 protected:
  // The operator to pass, and how to be rid of it.
  static ncclRedOp_t make(int op, int datatype, int rank, ncclComm_t comm) {
    if (op != premul) return static_cast<ncclRedOp_t>(op);
    uint64_t bits = bits_of(datatype, scalar(rank));
    ncclRedOp_t made = ncclSum;
    EXPECT_NCCL(ncclRedOpCreatePreMulSum(&made, &bits, static_cast<ncclDataType_t>(datatype),
                                         ncclScalarHostImmediate, comm));
    EXPECT_GE(static_cast<int>(made), static_cast<int>(ncclNumOps));
    return made;
  }
  static void drop(int op, ncclRedOp_t made, ncclComm_t comm) {
    if (op == premul) {
      EXPECT_NCCL(ncclRedOpDestroy(made, comm));
    }
  }
};

TEST_P(Reductions, AreExactInPlaceAndNot) {
  const auto [datatype, op] = GetParam();
  const auto type = static_cast<ncclDataType_t>(datatype);
  World world(k_ranks);
  world.on_every_rank([&, datatype = datatype, op = op](int rank, ncclComm_t comm) {
    const ncclRedOp_t with = make(op, datatype, rank, comm);
    for (size_t count : k_counts)
      for (bool in_place : {false, true}) {
        const size_t all = count * k_ranks;
        auto fill = [&](Data& data, size_t n) {
          for (size_t i = 0; i < n; ++i) data.set(i, given(op, rank, i));
        };
        const std::string what = std::to_string(count) + (in_place ? " in place" : " out of place");
        auto want = [&](size_t i) { return expected(op, i); };

        Data send(datatype, all), recv(datatype, all);
        Data& into = in_place ? send : recv;
        fill(send, count);
        EXPECT_NCCL(ncclAllReduce(send.at(), into.at(), count, type, with, comm, nullptr));
        EXPECT_EQ(into.differs(0, count, want), "") << "all_reduce " << what;

        for (int root : {0, k_ranks - 1}) {
          fill(send, count);
          EXPECT_NCCL(ncclReduce(send.at(), into.at(), count, type, with, root, comm, nullptr));
          if (rank == root) {
            EXPECT_EQ(into.differs(0, count, want), "") << "reduce " << what;
          }
        }

        fill(send, all);
        void* block = in_place ? send.at(rank * count) : recv.at();
        EXPECT_NCCL(ncclReduceScatter(send.at(), block, count, type, with, comm, nullptr));
        EXPECT_EQ(into.differs(in_place ? rank * count : 0, count,
                               [&](size_t i) { return want(rank * count + i); }),
                  "")
            << "reduce_scatter " << what;
      }
    drop(op, with, comm);
  });
}

INSTANTIATE_TEST_SUITE_P(TypesAndOperators, Reductions,
                         testing::Combine(testing::Range(0, static_cast<int>(ncclNumTypes)),
                                          testing::Range(0, static_cast<int>(premul) + 1)));

class Moves : public testing::TestWithParam<int> {};

TEST_P(Moves, AreExactInPlaceAndNot) {
  const int datatype = GetParam();
  const auto type = static_cast<ncclDataType_t>(datatype);
  World world(k_ranks);
  // Element i of what rank `from` has for everybody.
  auto value = [](int from, size_t i) { return (static_cast<size_t>(from) * 3 + i) % 7; };
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    for (size_t count : k_counts)
      for (bool in_place : {false, true}) {
        const size_t all = count * k_ranks;
        const std::string what = std::to_string(count) + (in_place ? " in place" : " out of place");
        Data a(datatype, all), b(datatype, all);
        auto fill = [&](Data& data, size_t first, size_t n) {
          for (size_t i = 0; i < n; ++i) data.set(first + i, value(rank, i));
        };
        auto gathered = [&](size_t i) { return value(static_cast<int>(i / count), i % count); };

        fill(in_place ? b : a, in_place ? rank * count : 0, count);
        const void* mine = in_place ? b.at(rank * count) : a.at();
        EXPECT_NCCL(ncclAllGather(mine, b.at(), count, type, comm, nullptr));
        EXPECT_EQ(b.differs(0, all, gathered), "") << "all_gather " << what;

        for (int root : {0, 2}) {
          Data from(datatype, all), to(datatype, all);
          Data& gather_into = in_place ? from : to;
          fill(from, in_place ? rank * count : 0, count);
          EXPECT_NCCL(ncclGather(from.at(in_place ? rank * count : 0), gather_into.at(), count,
                                 type, root, comm, nullptr));
          if (rank == root) {
            EXPECT_EQ(gather_into.differs(0, all, gathered), "") << "gather " << what;
          }

          fill(from, 0, all);
          void* out = in_place && rank == root ? from.at(rank * count) : to.at();
          EXPECT_NCCL(ncclScatter(from.at(), out, count, type, root, comm, nullptr));
          Data& scattered = in_place && rank == root ? from : to;
          EXPECT_EQ(scattered.differs(in_place && rank == root ? rank * count : 0, count,
                                      [&](size_t i) { return value(root, rank * count + i); }),
                    "")
              << "scatter " << what;

          fill(from, 0, count);
          Data& broadcast_into = in_place ? from : to;
          EXPECT_NCCL(
              ncclBroadcast(from.at(), broadcast_into.at(), count, type, root, comm, nullptr));
          EXPECT_EQ(broadcast_into.differs(0, count, [&](size_t i) { return value(root, i); }), "")
              << "broadcast " << what;
          fill(from, 0, count);
          EXPECT_NCCL(ncclBcast(from.at(), count, type, root, comm, nullptr));
          EXPECT_EQ(from.differs(0, count, [&](size_t i) { return value(root, i); }), "")
              << "bcast";
        }

        Data from(datatype, all), to(datatype, all);
        fill(from, 0, all);
        Data& exchanged = in_place ? from : to;
        EXPECT_NCCL(ncclAlltoAll(from.at(), exchanged.at(), count, type, comm, nullptr));
        auto from_everybody = [&](size_t i) {
          return value(static_cast<int>(i / count), rank * count + i % count);
        };
        EXPECT_EQ(exchanged.differs(0, all, from_everybody), "") << "alltoall " << what;
        fill(from, 0, all);
        EXPECT_NCCL(ncclAllToAll(from.at(), to.at(), count, type, comm, nullptr));
        EXPECT_EQ(to.differs(0, all, from_everybody), "") << "RCCL's alltoall " << what;
      }
  });
}

INSTANTIATE_TEST_SUITE_P(Types, Moves, testing::Range(0, static_cast<int>(ncclNumTypes)));

TEST(Vector, AllToAllGivesEveryPairItsOwnCount) {
  World world(3);
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    // Rank a sends b + 1 elements to rank b, but nothing to itself when a == 1.
    auto count = [](int a, int b) -> size_t { return a == 1 && b == 1 ? 0 : b + 1; };
    std::vector<size_t> sends, receives, from, to;
    size_t out = 0, in = 0;
    for (int p = 0; p < 3; ++p) {
      sends.push_back(count(rank, p));
      receives.push_back(count(p, rank));
      from.push_back(std::exchange(out, out + sends.back()));
      to.push_back(std::exchange(in, in + receives.back()));
    }
    std::vector<int32_t> send(out + 1), recv(in + 1, -1);
    for (int p = 0; p < 3; ++p)
      for (size_t i = 0; i < sends[p]; ++i) send[from[p] + i] = rank * 100 + p * 10 + int(i);
    EXPECT_NCCL(ncclAllToAllv(send.data(), sends.data(), from.data(), recv.data(), receives.data(),
                              to.data(), ncclInt32, comm, nullptr));
    for (int p = 0; p < 3; ++p)
      for (size_t i = 0; i < receives[p]; ++i)
        EXPECT_EQ(recv[to[p] + i], p * 100 + rank * 10 + int(i));
    EXPECT_EQ(recv[in], -1);
  });
}

TEST(Config, CollectivesWithSettings) {
  World world(2);
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    ncclCollConfig_t config = NCCL_COLLCONFIG_INITIALIZER;
    ncclConfigExt_t foreign{};
    foreign.key.vendorId = 4711;
    config.ext = &foreign;
    float x = 1.0f + static_cast<float>(rank), sum = 0, both[2] = {}, four[4] = {1, 2, 3, 4};
    EXPECT_NCCL(ncclAllReduceConfig(&x, &sum, 1, ncclFloat, ncclSum, comm, nullptr, &config));
    EXPECT_EQ(sum, 3.0f);
    EXPECT_NCCL(ncclAllGatherConfig(&x, both, 1, ncclFloat, comm, nullptr, &config));
    EXPECT_EQ(both[1], 2.0f);
    EXPECT_NCCL(ncclBroadcastConfig(&x, &sum, 1, ncclFloat, 1, comm, nullptr, nullptr));
    EXPECT_EQ(sum, 2.0f);
    EXPECT_NCCL(ncclReduceConfig(&x, &sum, 1, ncclFloat, ncclMax, 0, comm, nullptr, &config));
    EXPECT_NCCL(ncclReduceScatterConfig(four, both, 2, ncclFloat, ncclSum, comm, nullptr, &config));
    EXPECT_EQ(both[0], rank == 0 ? 2.0f : 6.0f);
    EXPECT_NCCL(ncclAlltoAllConfig(both, four, 1, ncclFloat, comm, nullptr, &config));
    EXPECT_NCCL(ncclGatherConfig(&x, both, 1, ncclFloat, 0, comm, nullptr, &config));
    EXPECT_NCCL(ncclScatterConfig(four, both, 1, ncclFloat, 0, comm, nullptr, &config));

    config.algSelection = "ring";
    EXPECT_EQ(ncclAllReduceConfig(&x, &sum, 1, ncclFloat, ncclSum, comm, nullptr, &config),
              ncclInvalidUsage);
    EXPECT_NE(std::string(ncclGetLastError(comm)).find("ring"), std::string::npos);
    config.forceAlgSelection = 0;
    EXPECT_NCCL(ncclAllReduceConfig(&x, &sum, 1, ncclFloat, ncclSum, comm, nullptr, &config));
    config.magic = 1;
    EXPECT_EQ(ncclAllReduceConfig(&x, &sum, 1, ncclFloat, ncclSum, comm, nullptr, &config),
              ncclInvalidArgument);
  });
}

TEST(Operators, DeviceScalarsAreReadWhenTheOperationRuns) {
  World world(2);
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    float scalar = 100, x = 1, y = 0;
    ncclRedOp_t op;
    ASSERT_NCCL(ncclRedOpCreatePreMulSum(&op, &scalar, ncclFloat, ncclScalarDevice, comm));
    scalar = static_cast<float>(rank + 1);
    EXPECT_NCCL(ncclAllReduce(&x, &y, 1, ncclFloat, op, comm, nullptr));
    EXPECT_EQ(y, 3.0f);
    double d = 1, e = 0;
    EXPECT_EQ(ncclAllReduce(&d, &e, 1, ncclDouble, op, comm, nullptr), ncclInvalidArgument);
    EXPECT_NCCL(ncclRedOpDestroy(op, comm));
    EXPECT_EQ(ncclAllReduce(&x, &y, 1, ncclFloat, op, comm, nullptr), ncclInvalidArgument);
    EXPECT_EQ(ncclRedOpDestroy(op, comm), ncclInvalidArgument);
    EXPECT_EQ(ncclRedOpDestroy(ncclSum, comm), ncclInvalidArgument);
  });
}

}  // namespace
}  // namespace tutti::nccl_test
