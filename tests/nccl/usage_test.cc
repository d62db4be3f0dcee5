// Memory, parameters, bad buffers, mismatched calls, and random sequences of calls.
#include <sys/mman.h>

#include <fstream>
#include <random>
#include <set>
#include <sstream>

#include "tests/nccl/world.h"

namespace tutti::nccl_test {
namespace {

std::string last_error() { return ncclGetLastError(nullptr); }

TEST(Buffers, AddressesThatAreNobodysAreErrors) {
  World world(1);
  float x = 1;
  auto* device_like = reinterpret_cast<float*>(0x7f8000000000 - 0x200000);
  auto* noncanonical = reinterpret_cast<float*>(0xdead000000000000);
  auto* hidden =
      static_cast<float*>(mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  auto* constant =
      static_cast<float*>(mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (float* bad : {device_like, noncanonical, hidden}) {
    EXPECT_EQ(ncclAllReduce(bad, &x, 1, ncclFloat, ncclSum, world[0], nullptr),
              ncclInvalidArgument);
    EXPECT_NE(last_error().find("send buffer"), std::string::npos) << last_error();
    EXPECT_EQ(ncclAllReduce(&x, bad, 1, ncclFloat, ncclSum, world[0], nullptr),
              ncclInvalidArgument);
    EXPECT_NE(last_error().find("receive buffer"), std::string::npos) << last_error();
  }
  EXPECT_NCCL(ncclAllReduce(constant, &x, 1, ncclFloat, ncclSum, world[0], nullptr));
  EXPECT_EQ(ncclAllReduce(&x, constant, 1, ncclFloat, ncclSum, world[0], nullptr),
            ncclInvalidArgument);
  EXPECT_EQ(ncclAllReduce(nullptr, &x, 1, ncclFloat, ncclSum, world[0], nullptr),
            ncclInvalidArgument);
  EXPECT_NE(last_error().find("null"), std::string::npos) << last_error();
  EXPECT_NCCL(ncclAllReduce(nullptr, nullptr, 0, ncclFloat, ncclSum, world[0], nullptr));
  EXPECT_EQ(ncclAllReduce(&x, &x, SIZE_MAX, ncclFloat, ncclSum, world[0], nullptr),
            ncclInvalidArgument);
  EXPECT_EQ(
      ncclAllReduce(reinterpret_cast<char*>(&x) + 1, &x, 1, ncclFloat, ncclSum, world[0], nullptr),
      ncclInvalidArgument);
  munmap(hidden, 4096);
  munmap(constant, 4096);
}

TEST(Arguments, AreNamed) {
  World world(2);
  int x = 1;
  EXPECT_EQ(ncclBroadcast(&x, &x, 1, ncclInt, 2, world[0], nullptr), ncclInvalidArgument);
  EXPECT_NE(last_error().find("root 2 of 2"), std::string::npos) << last_error();
  EXPECT_EQ(ncclBroadcast(&x, &x, 1, ncclInt, -1, world[0], nullptr), ncclInvalidArgument);
  EXPECT_EQ(ncclSend(&x, 1, ncclInt, 7, world[0], nullptr), ncclInvalidArgument);
  EXPECT_NE(last_error().find("peer 7"), std::string::npos) << last_error();
  EXPECT_EQ(ncclAllReduce(&x, &x, 1, static_cast<ncclDataType_t>(-1), ncclSum, world[0], nullptr),
            ncclInvalidArgument);
  EXPECT_EQ(ncclAllReduce(&x, &x, 1, ncclInt, static_cast<ncclRedOp_t>(77), world[0], nullptr),
            ncclInvalidArgument);
  EXPECT_NE(last_error().find("op 77"), std::string::npos) << last_error();
  EXPECT_EQ(last_error().rfind("ncclAllReduce: ", 0), 0u) << last_error();
}

TEST(Mismatch, OfCountsNamesBothSides) {
  World world(2);
  world.on_every_rank([](int rank, ncclComm_t comm) {
    std::vector<int> x(8, 1), y(8);
    EXPECT_EQ(ncclAllReduce(x.data(), y.data(), 4 + rank, ncclInt, ncclSum, comm, nullptr),
              ncclInvalidUsage);
    const std::string text = ncclGetLastError(comm);
    EXPECT_NE(text.find("rank 0"), std::string::npos) << text;
    EXPECT_NE(text.find("rank 1"), std::string::npos) << text;
  });
}

TEST(Memory, AllocatedRegisteredAndWindowed) {
  World world(2);
  world.on_every_rank([](int rank, ncclComm_t comm) {
    void *memory = nullptr, *handle = nullptr, *user = nullptr;
    ncclWindow_t window = nullptr;
    constexpr size_t k_bytes = 1 << 16;
    ASSERT_NCCL(ncclMemAlloc(&memory, k_bytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % 4096, 0u);
    for (size_t i = 0; i < k_bytes; i += 997) EXPECT_EQ(static_cast<char*>(memory)[i], 0);
    EXPECT_NCCL(ncclCommRegister(comm, memory, k_bytes, &handle));
    EXPECT_NE(handle, nullptr);
    EXPECT_NCCL(ncclCommWindowRegister(comm, memory, k_bytes, &window, NCCL_WIN_COLL_SYMMETRIC));
    EXPECT_NCCL(ncclWinGetUserPtr(comm, window, &user));
    EXPECT_EQ(user, memory);
    auto* x = static_cast<int*>(memory);
    x[0] = rank + 1;
    EXPECT_NCCL(ncclAllReduce(x, x, 1, ncclInt, ncclSum, comm, nullptr));
    EXPECT_EQ(x[0], 3);
    EXPECT_EQ(ncclCommDeregister(comm, window), ncclInvalidArgument);
    EXPECT_EQ(ncclCommWindowDeregister(comm, static_cast<ncclWindow_t>(handle)),
              ncclInvalidArgument);
    EXPECT_NCCL(ncclCommDeregister(comm, handle));
    EXPECT_EQ(ncclCommDeregister(comm, handle), ncclInvalidArgument);
    EXPECT_NCCL(ncclCommWindowDeregister(comm, window));
    EXPECT_EQ(ncclWinGetUserPtr(comm, window, &user), ncclInvalidArgument);
    EXPECT_EQ(ncclCommWindowRegister(comm, x + 1, 64, &window, 0), ncclInvalidArgument);
    EXPECT_EQ(ncclCommWindowRegister(comm, memory, 64, &window, 0x100), ncclInvalidArgument);
    EXPECT_EQ(ncclCommRegister(comm, nullptr, 64, &handle), ncclInvalidArgument);
    EXPECT_NCCL(ncclMemFree(memory));
    EXPECT_EQ(ncclMemFree(&rank), ncclInvalidArgument);
    EXPECT_NCCL(ncclMemFree(nullptr));
    EXPECT_EQ(ncclMemAlloc(nullptr, 8), ncclInvalidArgument);
    EXPECT_EQ(ncclMemAlloc(&memory, SIZE_MAX / 2), ncclSystemError);
  });
}

TEST(DeviceApi, IsRefusedWithAReasonAndTeamsAreReal) {
  World world(3);
  ncclCommProperties_t properties = NCCL_COMM_PROPERTIES_INITIALIZER;
  EXPECT_NCCL(ncclCommQueryProperties(world[1], &properties));
  EXPECT_EQ(properties.rank, 1);
  EXPECT_EQ(properties.nRanks, 3);
  EXPECT_FALSE(properties.deviceApiSupport);
  EXPECT_TRUE(properties.hostRmaSupport);
  properties.magic = 0;
  EXPECT_EQ(ncclCommQueryProperties(world[1], &properties), ncclInvalidArgument);
  EXPECT_EQ(ncclDevCommCreate(world[0], nullptr, nullptr), ncclInvalidUsage);
  EXPECT_NE(last_error().find("device API"), std::string::npos) << last_error();
  const ncclTeam_t everybody = ncclTeamWorld(world[2]);
  EXPECT_EQ(everybody.nRanks, 3);
  EXPECT_EQ(everybody.rank, 2);
  EXPECT_EQ(everybody.stride, 1);
  EXPECT_EQ(ncclTeamLsa(world[2]).nRanks, 1);
  EXPECT_EQ(ncclTeamRankToWorld(world[2], everybody, 0), 0);
  EXPECT_EQ(ncclTeamRankToWorld(world[2], ncclTeamLsa(world[2]), 0), 2);
  EXPECT_EQ(ncclLLA2ACalcSlots(10, 12), 20);
}

TEST(Library, VersionErrorsAndEncryption) {
  int version = 0;
  EXPECT_NCCL(ncclGetVersion(&version));
  EXPECT_EQ(version, 22809);
  EXPECT_EQ(ncclGetVersion(nullptr), ncclInvalidArgument);
  std::set<std::string> texts;
  for (int r = 0; r < ncclNumResults; ++r)
    texts.insert(ncclGetErrorString(static_cast<ncclResult_t>(r)));
  EXPECT_EQ(texts.size(), static_cast<size_t>(ncclNumResults));
  EXPECT_STREQ(ncclGetErrorString(static_cast<ncclResult_t>(1234)), "unknown result code");
  ncclEncryptionConfig_t encryption = NCCL_ENCRYPTION_CONFIG_INITIALIZER;
  EXPECT_NCCL(ncclSetEncryption(&encryption));
  encryption.mode = NCCL_ENCRYPTION_MODE_PSK;
  EXPECT_EQ(ncclSetEncryption(&encryption), ncclInvalidUsage);
  ncclResetDebugInit();
}

TEST(Parameters, AreTheVariablesOfThisProcess) {
  ::setenv("NCCL_SOCKET_NTHREADS", "3", 1);
  ncclParamHandle_t handle = nullptr;
  ASSERT_NCCL(ncclParamBind(&handle, "NCCL_SOCKET_NTHREADS"));
  int8_t small = 0;
  uint64_t large = 0;
  const char* text = nullptr;
  int length = 0;
  char room[8];
  EXPECT_NCCL(ncclParamGetI8(handle, &small));
  EXPECT_NCCL(ncclParamGetU64(handle, &large));
  EXPECT_NCCL(ncclParamGetStr(handle, &text));
  EXPECT_EQ(small, 3);
  EXPECT_EQ(large, 3u);
  EXPECT_STREQ(text, "3");
  EXPECT_NCCL(ncclParamGet(handle, room, sizeof room, &length));
  EXPECT_EQ(length, 1);
  EXPECT_EQ(ncclParamGet(handle, room, 0, &length), ncclInvalidArgument);
  EXPECT_NCCL(ncclParamGetParameter("NCCL_SOCKET_NTHREADS", &text, &length));
  EXPECT_STREQ(text, "3");
  ::setenv("NCCL_SOCKET_NTHREADS", "300", 1);
  EXPECT_EQ(ncclParamGetI8(handle, &small), ncclInvalidArgument);
  ::unsetenv("NCCL_SOCKET_NTHREADS");
  EXPECT_EQ(ncclParamGetU64(handle, &large), ncclInvalidArgument);
  EXPECT_EQ(ncclParamBind(&handle, "NCCL_NO_SUCH_THING"), ncclInvalidArgument);
  EXPECT_EQ(ncclParamGetStr(reinterpret_cast<ncclParamHandle_t>(&small), &text),
            ncclInvalidArgument);
}

// docs/nccl.md shows every variable, says of each what ncclParamDumpAll says, and each that is
// honoured is read by the code.
TEST(Parameters, AreDocumentedAndRead) {
  auto read = [](const std::string& path) {
    std::ifstream file(std::string(TUTTI_SOURCE_DIR) + "/" + path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string docs = read("docs/nccl.md");
  std::string code;
  for (const char* path : {"src/communicator/config.cc", "src/nccl/config.cc", "src/nccl/log.cc",
                           "src/nccl/parameters.cc"})
    code += read(path);
  const std::string table = read("src/nccl/variables.cc");
  code += table.substr(table.find("void report()"));
  const char** keys = nullptr;
  int count = 0;
  ASSERT_NCCL(ncclParamGetAllParameterKeys(&keys, &count));
  ASSERT_GT(count, 100);
  for (int i = 0; i < count; ++i) {
    const std::string key = keys[i];
    const size_t row = table.find("{\"" + key + "\", ");
    ASSERT_NE(row, std::string::npos) << key;
    const bool honoured = table.compare(row + key.size() + 5, 4, "true") == 0;
    const std::string expected = "| `" + key + "` | " + (honoured ? "yes" : "no") + " |";
    EXPECT_NE(docs.find(expected), std::string::npos) << "docs/nccl.md has no row " << expected;
    EXPECT_EQ(code.find("\"" + key + "\"") != std::string::npos, honoured) << key;
  }
}

// Random calls, right and wrong: nothing crashes or hangs, and right ones succeed.
TEST(Random, SequencesOfCalls) {
  for (unsigned seed = 1; seed <= 6; ++seed) {
    std::mt19937 random(seed);
    auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    World world(2);
    ncclComm_t lone = nullptr, stale = nullptr;
    ASSERT_NCCL(ncclCommInitAll(&lone, 1, nullptr));
    ASSERT_NCCL(ncclCommInitAll(&stale, 1, nullptr));
    ASSERT_NCCL(ncclCommDestroy(stale));
    std::vector<double> a(256, 1), b(256, 1);
    for (int turn = 0; turn < 400; ++turn) {
      const auto type = static_cast<ncclDataType_t>(pick(14) - 1);
      const auto op = static_cast<ncclRedOp_t>(pick(8) - 1);
      const size_t count = pick(12) == 0 ? SIZE_MAX / 3 : static_cast<size_t>(pick(20));
      const int root = pick(4) - 1;
      const int which = pick(7);
      const bool halved = which == 2 || which == 3 || which == 5 || which == 6;
      const size_t used = halved ? count / 2 : count;
      void* send = pick(10) == 0 ? nullptr : a.data();
      void* recv = pick(10) == 0 ? nullptr : b.data();
      const bool well = type >= 0 && type < ncclNumTypes && count < 100 &&
                        (used == 0 || (send != nullptr && recv != nullptr));
      auto call = [&](ncclComm_t comm, void* s, void* r) {
        switch (which) {
          case 0:
            return ncclAllReduce(s, r, count, type, op, comm, nullptr);
          case 1:
            return ncclBroadcast(s, r, count, type, root, comm, nullptr);
          case 2:
            return ncclAllGather(s, r, count / 2, type, comm, nullptr);
          case 3:
            return ncclReduceScatter(s, r, count / 2, type, op, comm, nullptr);
          case 4:
            return ncclReduce(s, r, count, type, op, root, comm, nullptr);
          case 5:
            return ncclAlltoAll(s, r, count / 2, type, comm, nullptr);
          default:
            return ncclGather(s, r, count / 2, type, root, comm, nullptr);
        }
      };
      const bool reduces = which == 0 || which == 3 || which == 4;
      const bool rooted = which == 1 || which == 4 || which == 6;
      const bool fine = well && (!reduces || (op >= 0 && op < ncclNumOps));
      switch (pick(6)) {
        case 0:
          EXPECT_EQ(call(stale, send, recv), ncclInvalidArgument);
          break;
        case 1: {
          const ncclResult_t result = call(lone, send, recv);
          EXPECT_EQ(result == ncclSuccess, fine && (!rooted || root == 0))
              << which << " type " << type << " op " << op << " count " << count << " root " << root
              << ": " << last_error();
          break;
        }
        case 2:  // to itself: a lone send cannot meet a receive
          EXPECT_NE(ncclSend(a.data(), 1, ncclInt8, pick(3) - 1, lone, nullptr), ncclSuccess);
          ASSERT_NCCL(ncclCommDestroy(lone));
          ASSERT_NCCL(ncclCommInitAll(&lone, 1, nullptr));
          break;
        case 3: {
          void* handle = nullptr;
          const ncclResult_t result = ncclCommRegister(lone, send, count, &handle);
          if (result == ncclSuccess) {
            EXPECT_NCCL(ncclCommDeregister(lone, handle));
          }
          break;
        }
        default: {  // both ranks in a group; errors are found before anything runs
          std::vector<double> c(256, 1), d(256, 1);
          ASSERT_NCCL(ncclGroupStart());
          const ncclResult_t first = call(world[0], send, recv);
          const ncclResult_t second = call(world[1], send == nullptr ? nullptr : c.data(),
                                           recv == nullptr ? nullptr : d.data());
          const bool started = first == ncclSuccess && second == ncclSuccess;
          EXPECT_EQ(ncclGroupEnd() == ncclSuccess, started) << last_error();
          break;
        }
      }
    }
    EXPECT_NCCL(ncclCommDestroy(lone));
  }
}

}  // namespace
}  // namespace tutti::nccl_test
