// One-sided calls: puts and signals among threads and processes, over every transport; and what
// happens to those who use them wrongly, or whose peers die.
#include <time.h>

#include <random>

#include "tests/nccl/processes.h"

namespace tutti::nccl_test {
namespace {

constexpr size_t k_page = 4096;

// What every process of a job, or thread of a world, runs; "" when all is well.
using Program = std::function<std::string(ncclComm_t comm, int rank, int ranks)>;

// Sets a variable for what is made meanwhile.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() { ::unsetenv(name_); }

 private:
  const char* name_;
};

// Memory as windows want it: shared by ncclMemAlloc, or private.
class Memory {
 public:
  Memory(size_t bytes, bool shared) : bytes_((bytes + k_page - 1) / k_page * k_page) {
    if (shared) {
      EXPECT_NCCL(ncclMemAlloc(&data_, bytes_));
    } else {
      data_ = std::aligned_alloc(k_page, bytes_);
    }
    std::memset(data_, 0, bytes_);
    shared_ = shared;
  }
  ~Memory() {
    if (shared_) {
      EXPECT_NCCL(ncclMemFree(data_));
    } else {
      std::free(data_);
    }
  }
  Memory(const Memory&) = delete;
  template <class T = unsigned char>
  T* at(size_t byte = 0) {
    return reinterpret_cast<T*>(static_cast<unsigned char*>(data_) + byte);
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_;
  void* data_ = nullptr;
  bool shared_ = false;
};

std::string wait_for(ncclComm_t comm, int peer, int count) {
  ncclWaitSignalDesc_t wait{count, peer, 0, 0};
  TELL(ncclWaitSignal(1, &wait, comm, nullptr));
  return {};
}

std::string join_world(Board& board, int rank, int ranks, const Program& program) {
  ncclComm_t comm = nullptr;
  if (std::string trouble = join(board, rank, ranks, &comm); !trouble.empty()) return trouble;
  std::string trouble = program(comm, rank, ranks);
  if (trouble.empty()) TELL(ncclCommDestroy(comm));
  return trouble;
}

void run_threads(int ranks, const Program& program) {
  World world(ranks);
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    EXPECT_EQ(program(comm, rank, ranks), "") << "rank " << rank << " of " << ranks;
    EXPECT_NCCL(ncclCommDestroy(comm));  // as a process does, whatever the others still do
    world[rank] = nullptr;
  });
}

void run_processes(int ranks, const Program& program) {
  Job job(ranks, [&](int rank, Board& board) { return join_world(board, rank, ranks, program); });
  for (int r = 0; r < ranks; ++r) job.expect_well(r);
}

// "local": threads of this process; "threads tcp": threads that talk through sockets.
class Way : public testing::TestWithParam<const char*> {
 protected:
  void run(int ranks, const Program& program) {
    const std::string way = GetParam();
    if (way == "local") return run_threads(ranks, program);
    const bool threads = way.rfind("threads ", 0) == 0;
    Variable transports("TUTTI_TRANSPORTS", threads ? way.substr(8) : way);
    threads ? run_threads(ranks, program) : run_processes(ranks, program);
  }
};
INSTANTIATE_TEST_SUITE_P(OneSided, Way, testing::Values("local", "threads tcp", "shm", "tcp"),
                         [](const auto& way) {
                           std::string name = way.param;
                           for (char& c : name)
                             if (c == ' ') c = '_';
                           return name;
                         });

// --- what works

// A ring whose ranks exchange the edges of what they own. A neighbour may be a step ahead, so the
// halos are there twice.
std::string exchange_halos(ncclComm_t comm, int rank, int ranks, size_t cells, int steps) {
  const size_t bytes = cells * sizeof(int);
  Memory halo(4 * bytes, rank % 2 == 0);
  ncclWindow_t window = nullptr;
  TELL(ncclCommWindowRegister(comm, halo.at(), halo.bytes(), &window, NCCL_WIN_COLL_SYMMETRIC));
  const int left = (rank + ranks - 1) % ranks, right = (rank + 1) % ranks;
  std::vector<int> edge(cells);
  for (int step = 0; step < steps; ++step) {
    for (size_t i = 0; i < cells; ++i) edge[i] = rank * 1000003 + step * 101 + static_cast<int>(i);
    const size_t base = step % 2 * 2 * bytes;
    // This rank is the right neighbour of its left one.
    TELL(ncclPutSignal(edge.data(), cells, ncclInt, left, window, base + bytes, 0, 0, 0, comm,
                       nullptr));
    TELL(ncclPutSignal(edge.data(), cells, ncclInt, right, window, base, 0, 0, 0, comm, nullptr));
    std::fill(edge.begin(), edge.end(), -1);  // it may be reused
    ncclWaitSignalDesc_t waits[2] = {{1, left, 0, 0}, {1, right, 0, 0}};
    TELL(ncclWaitSignal(2, waits, comm, nullptr));
    for (size_t i = 0; i < cells; ++i) {
      const int expected = step * 101 + static_cast<int>(i);
      if (halo.at<int>(base)[i] != left * 1000003 + expected)
        return "step " + std::to_string(step) + ": the left halo is wrong at " + std::to_string(i);
      if (halo.at<int>(base + bytes)[i] != right * 1000003 + expected)
        return "step " + std::to_string(step) + ": the right halo is wrong at " + std::to_string(i);
    }
  }
  TELL(ncclCommWindowDeregister(comm, window));
  return {};
}

TEST_P(Way, HaloExchange) {
  for (int ranks : {2, 3, 5})
    run(ranks, [](ncclComm_t comm, int rank, int n) {
      for (size_t cells : {1, 100, 5000})
        if (std::string trouble = exchange_halos(comm, rank, n, cells, 12); !trouble.empty())
          return std::to_string(cells) + " cells: " + trouble;
      return std::string();
    });
}

// Several MiB to odd places; the bytes around them stay.
TEST_P(Way, LargePutsToOddPlaces) {
  run(3, [](ncclComm_t comm, int rank, int ranks) -> std::string {
    constexpr size_t k_bytes = (5 << 20) + 7, k_offset = 13;
    Memory target(k_bytes + 4 * k_page, rank == 1);
    Memory source(k_bytes + k_page, rank == 2);
    for (size_t i = 0; i < target.bytes(); ++i) target.at()[i] = 0xee;
    for (size_t i = 0; i < k_bytes; ++i)
      source.at(3)[i] = static_cast<unsigned char>(i * 31 + i / 4099 + static_cast<size_t>(rank));
    ncclWindow_t window = nullptr;
    TELL(ncclCommWindowRegister(comm, target.at(), target.bytes(), &window, 0));
    const int next = (rank + 1) % ranks, before = (rank + ranks - 1) % ranks;
    TELL(ncclPutSignal(source.at(3), k_bytes, ncclUint8, next, window, k_offset, 0, 0, 0, comm,
                       nullptr));
    if (std::string trouble = wait_for(comm, before, 1); !trouble.empty()) return trouble;
    for (size_t i = 0; i < k_bytes; ++i)
      if (target.at(k_offset)[i] !=
          static_cast<unsigned char>(i * 31 + i / 4099 + static_cast<size_t>(before)))
        return "byte " + std::to_string(i) + " is wrong";
    for (size_t i = 0; i < k_offset; ++i)
      if (target.at()[i] != 0xee) return "a byte before was written";
    for (size_t i = k_offset + k_bytes; i < target.bytes(); ++i)
      if (target.at()[i] != 0xee) return "a byte behind was written";
    return {};
  });
}

// What one origin puts and signals takes place in its order.
TEST_P(Way, ManySignalsInOrder) {
  run(2, [](ncclComm_t comm, int rank, int) -> std::string {
    constexpr int k_puts = 1500;
    Memory cell(k_page, false);
    ncclWindow_t window = nullptr;
    TELL(ncclCommWindowRegister(comm, cell.at(), k_page, &window, 0));
    if (rank == 0) {
      for (int64_t i = 1; i <= k_puts; ++i)
        TELL(ncclPutSignal(&i, 1, ncclInt64, 1, window, 8, 0, 0, 0, comm, nullptr));
      for (int i = 0; i < k_puts; ++i) TELL(ncclSignal(1, 0, 0, 0, comm, nullptr));
      return wait_for(comm, 1, 1);
    }
    for (int i = 1; i <= k_puts; ++i) {
      if (std::string trouble = wait_for(comm, 0, 1); !trouble.empty()) return trouble;
      if (i == k_puts && *cell.at<int64_t>(8) != k_puts) return "the last put is not in place";
    }
    ncclWaitSignalDesc_t all[2] = {{k_puts - 7, 0, 0, 0}, {7, 0, 0, 0}};
    TELL(ncclWaitSignal(2, all, comm, nullptr));
    TELL(ncclWaitSignal(0, nullptr, comm, nullptr));
    TELL(ncclSignal(0, 0, 0, 0, comm, nullptr));
    return {};
  });
}

// Everybody puts random pieces into its own part of everybody's window, its own too.
TEST_P(Way, RandomTraffic) {
  run(4, [](ncclComm_t comm, int rank, int ranks) -> std::string {
    constexpr size_t k_part = 300000;
    constexpr int k_turns = 60;
    Memory target(k_part * static_cast<size_t>(ranks), rank % 2 == 1);
    ncclWindow_t window = nullptr;
    TELL(ncclCommWindowRegister(comm, target.at(), target.bytes(), &window, 0));
    // What `origin` does, by its seed: the same here and there.
    const auto traffic = [&](int origin, auto&& put) -> std::string {
      std::mt19937 random(static_cast<unsigned>(origin) + 1);
      for (int turn = 0; turn < k_turns; ++turn) {
        const int peer = static_cast<int>(random() % static_cast<unsigned>(ranks));
        const size_t most = size_t{1} << (random() % 19);
        const size_t bytes = random() % std::min(most + 1, k_part);
        const size_t offset = random() % (k_part - bytes + 1);
        std::vector<unsigned char> data(bytes);
        for (unsigned char& byte : data) byte = static_cast<unsigned char>(random());
        if (std::string trouble = put(peer, offset, data); !trouble.empty()) return trouble;
      }
      return {};
    };
    const std::string trouble =
        traffic(rank, [&](int peer, size_t offset, const std::vector<unsigned char>& data) {
          TELL(ncclPutSignal(data.data(), data.size(), ncclUint8, peer, window,
                             k_part * static_cast<size_t>(rank) + offset, 0, 0, 0, comm, nullptr));
          return std::string();
        });
    if (!trouble.empty()) return trouble;
    std::vector<unsigned char> expected(target.bytes());
    std::vector<ncclWaitSignalDesc_t> waits(static_cast<size_t>(ranks));
    for (int origin = 0; origin < ranks; ++origin) {
      waits[static_cast<size_t>(origin)] = {0, origin, 0, 0};
      static_cast<void>(
          traffic(origin, [&](int peer, size_t offset, const std::vector<unsigned char>& data) {
            if (peer != rank) return std::string();
            ++waits[static_cast<size_t>(origin)].opCnt;
            std::copy(
                data.begin(), data.end(),
                expected.begin() + static_cast<long>(k_part) * origin + static_cast<long>(offset));
            return std::string();
          }));
    }
    TELL(ncclWaitSignal(ranks, waits.data(), comm, nullptr));
    if (std::memcmp(expected.data(), target.at(), expected.size()) != 0) return "bytes differ";
    // Nobody leaves while others still put.
    int x = 1;
    TELL(ncclAllReduce(&x, &x, 1, ncclInt, ncclSum, comm, nullptr));
    return {};
  });
}

// While the origin puts, its target waits in a call of another communicator.
TEST_P(Way, TheTargetTakesPartWithoutACall) {
  run(2, [](ncclComm_t comm, int rank, int) -> std::string {
    constexpr size_t k_bytes = 3 << 20;
    Memory target(k_bytes, true);
    ncclWindow_t window = nullptr;
    ncclComm_t other = nullptr;
    TELL(ncclCommWindowRegister(comm, target.at(), k_bytes, &window, 0));
    TELL(ncclCommSplit(comm, 0, rank, &other, nullptr));
    std::vector<unsigned char> data(k_bytes, 7);
    if (rank == 0)
      for (int i = 0; i < 5; ++i)
        TELL(ncclPutSignal(data.data(), k_bytes, ncclUint8, 1, window, 0, 0, 0, 0, comm, nullptr));
    int x = 1;
    TELL(ncclAllReduce(&x, &x, 1, ncclInt, ncclSum, other, nullptr));
    if (rank == 1) {
      if (std::string trouble = wait_for(comm, 0, 5); !trouble.empty()) return trouble;
      if (std::memcmp(target.at(), data.data(), k_bytes) != 0) return "bytes differ";
    }
    TELL(ncclCommDestroy(other));
    return {};
  });
}

// What was put before its origin destroyed its communicator arrives.
TEST_P(Way, TheOriginMayLeaveAtOnce) {
  run(2, [](ncclComm_t comm, int rank, int) -> std::string {
    constexpr size_t k_bytes = 100000;
    Memory target(k_bytes, false);
    ncclWindow_t window = nullptr;
    TELL(ncclCommWindowRegister(comm, target.at(), target.bytes(), &window, 0));
    std::vector<unsigned char> data(k_bytes, 9);
    if (rank == 0) {
      for (size_t bytes : {size_t{5}, k_bytes})
        TELL(ncclPutSignal(data.data(), bytes, ncclUint8, 1, window, 0, 0, 0, 0, comm, nullptr));
      TELL(ncclSignal(1, 0, 0, 0, comm, nullptr));
      return {};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (std::string trouble = wait_for(comm, 0, 3); !trouble.empty()) return trouble;
    if (std::memcmp(target.at(), data.data(), k_bytes) != 0) return "bytes differ";
    // And then nothing more comes from there: an error, no hang.
    ncclWaitSignalDesc_t more{1, 0, 0, 0};
    if (ncclWaitSignal(1, &more, comm, nullptr) != ncclRemoteError)
      return "a signal of one who has left is no error";
    const std::string text = ncclGetLastError(comm);
    return text.find("0 of 1 signals") != std::string::npos ? "" : text;
  });
}

TEST(OneSided, OfASingleRank) {
  World world(1);
  Memory target(k_page, false);
  ncclWindow_t window = nullptr;
  ASSERT_NCCL(ncclCommWindowRegister(world[0], target.at(), k_page, &window, 0));
  const int value = 42;
  EXPECT_NCCL(ncclPutSignal(&value, 1, ncclInt, 0, window, 5, 0, 0, 0, world[0], nullptr));
  EXPECT_NCCL(ncclSignal(0, 0, 0, 0, world[0], nullptr));
  EXPECT_EQ(wait_for(world[0], 0, 2), "");
  EXPECT_EQ(std::memcmp(target.at(5), &value, sizeof value), 0);
  // Within itself, overlapping.
  EXPECT_NCCL(ncclPutSignal(target.at(5), 4, ncclUint8, 0, window, 6, 0, 0, 0, world[0], nullptr));
  EXPECT_EQ(std::memcmp(target.at(6), &value, sizeof value), 0);
  EXPECT_EQ(wait_for(world[0], 0, 1), "");
  ncclWaitSignalDesc_t never{1, 0, 0, 0};
  EXPECT_EQ(ncclWaitSignal(1, &never, world[0], nullptr), ncclInvalidUsage);
  EXPECT_NE(std::string(ncclGetLastError(nullptr)).find("has not raised"), std::string::npos);
  EXPECT_NCCL(ncclSignal(0, 0, 0, 0, world[0], nullptr));  // that was no harm
  EXPECT_EQ(wait_for(world[0], 0, 1), "");
}

// One thread drives all ranks: windows, waits before the puts that they wait for, and transfers and
// collectives, which come first whatever the order of the calls.
TEST(OneSided, InGroupsOfOneThread) {
  constexpr int k_ranks = 4;
  World world(k_ranks);
  std::vector<std::unique_ptr<Memory>> memory;
  ncclWindow_t windows[k_ranks] = {};
  int values[k_ranks], sums[k_ranks], passed[k_ranks];
  ASSERT_NCCL(ncclGroupStart());
  for (int r = 0; r < k_ranks; ++r) {
    memory.push_back(std::make_unique<Memory>(k_page, r % 2 == 0));
    ASSERT_NCCL(ncclCommWindowRegister(world[r], memory[r]->at(), k_page, &windows[r], 0));
  }
  ASSERT_NCCL(ncclGroupEnd());
  for (int turn = 0; turn < 20; ++turn) {
    ASSERT_NCCL(ncclGroupStart());
    for (int r = 0; r < k_ranks; ++r) {
      values[r] = turn * 10 + r;
      const int next = (r + 1) % k_ranks, before = (r + k_ranks - 1) % k_ranks;
      ncclWaitSignalDesc_t wait{1, before, 0, 0};
      if (r > 0) {  // who begins does not wait first
        ASSERT_NCCL(ncclWaitSignal(1, &wait, world[r], nullptr));
      }
      ASSERT_NCCL(ncclPutSignal(&values[r], 1, ncclInt, next, windows[r],
                                static_cast<size_t>(r) * 8, 0, 0, 0, world[r], nullptr));
      if (r == 0) {
        ASSERT_NCCL(ncclWaitSignal(1, &wait, world[r], nullptr));
      }
      ASSERT_NCCL(ncclSend(&values[r], 1, ncclInt, next, world[r], nullptr));
      ASSERT_NCCL(ncclRecv(&passed[r], 1, ncclInt, before, world[r], nullptr));
      ASSERT_NCCL(ncclAllReduce(&values[r], &sums[r], 1, ncclInt, ncclSum, world[r], nullptr));
    }
    ASSERT_NCCL(ncclGroupEnd());
    for (int r = 0; r < k_ranks; ++r) {
      const int before = (r + k_ranks - 1) % k_ranks;
      EXPECT_EQ(*memory[r]->at<int>(static_cast<size_t>(before) * 8), turn * 10 + before);
      EXPECT_EQ(passed[r], turn * 10 + before);
      EXPECT_EQ(sums[r], turn * 40 + 6);
    }
  }
}

TEST(OneSided, OfNonblockingCommunicators) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclUniqueId id;
  ASSERT_NCCL(ncclGetUniqueId(&id));
  ncclComm_t comms[2];
  ncclWindow_t windows[2] = {};
  Memory a(k_page, true), b(k_page, false);
  int value = 5;
  const auto ready = [](ncclComm_t comm) {
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) {
      EXPECT_NCCL(ncclCommGetAsyncError(comm, &state));
      std::this_thread::yield();
    }
    EXPECT_EQ(state, ncclSuccess) << ncclGetLastError(comm);
  };
  for (int r = 0; r < 2; ++r) {
    const ncclResult_t made = ncclCommInitRankConfig(&comms[r], 2, id, r, &config);
    EXPECT_TRUE(made == ncclSuccess || made == ncclInProgress);
  }
  for (ncclComm_t comm : comms) ready(comm);
  EXPECT_EQ(ncclCommWindowRegister(comms[0], a.at(), k_page, &windows[0], 0), ncclInProgress);
  EXPECT_EQ(ncclCommWindowRegister(comms[1], b.at(), k_page, &windows[1], 0), ncclInProgress);
  for (ncclComm_t comm : comms) ready(comm);
  ASSERT_NE(windows[0], nullptr);
  ASSERT_NE(windows[1], nullptr);
  // One thread: the wait is issued first, and must not block.
  ncclWaitSignalDesc_t wait{1, 0, 0, 0};
  EXPECT_EQ(ncclWaitSignal(1, &wait, comms[1], nullptr), ncclInProgress);
  ncclResult_t state;
  EXPECT_NCCL(ncclCommGetAsyncError(comms[1], &state));
  EXPECT_EQ(state, ncclInProgress);
  EXPECT_EQ(ncclPutSignal(&value, 1, ncclInt, 1, windows[0], 0, 0, 0, 0, comms[0], nullptr),
            ncclInProgress);
  for (ncclComm_t comm : comms) ready(comm);
  EXPECT_EQ(*b.at<int>(), 5);
  for (ncclComm_t comm : comms) EXPECT_NCCL(ncclCommDestroy(comm));
}

// Signals of several contexts and numbers are counted apart, also without any window.
TEST(OneSided, ContextsAndNumbersAndAnEagerStart) {
  ncclUniqueId id;
  ASSERT_NCCL(ncclGetUniqueId(&id));
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      config.numRmaCtx = 2;
      config.numRmaSig = 3;
      config.rmaEagerInit = 1;
      ncclComm_t comm = nullptr;
      ASSERT_NCCL(ncclCommInitRankConfig(&comm, 2, id, r, &config));
      for (int context = 0; r == 0 && context < 2; ++context)
        for (int index = 0; index < 3; ++index)
          for (int i = 0; i <= index + 10 * context; ++i)
            EXPECT_NCCL(ncclSignal(1, index, context, 0, comm, nullptr));
      for (int context = 1; r == 1 && context >= 0; --context)
        for (int index = 2; index >= 0; --index) {
          ncclWaitSignalDesc_t wait{index + 10 * context + 1, 0, index, context};
          EXPECT_NCCL(ncclWaitSignal(1, &wait, comm, nullptr));
        }
      EXPECT_EQ(ncclSignal(1, 3, 0, 0, comm, nullptr), ncclInvalidArgument);
      EXPECT_NE(std::string(ncclGetLastError(nullptr)).find("sigIdx is 3 of 3"), std::string::npos);
      EXPECT_EQ(ncclSignal(1, 0, 2, 0, comm, nullptr), ncclInvalidArgument);
      EXPECT_NE(std::string(ncclGetLastError(nullptr)).find("ctx is 2 of 2"), std::string::npos);
      EXPECT_NCCL(ncclCommDestroy(comm));
    });
  for (std::thread& t : threads) t.join();
}

// Ranks with windows that do nothing do not keep the CPUs busy.
TEST(OneSided, WhoIsIdleSleeps) {
  World world(4);
  std::vector<std::unique_ptr<Memory>> memory;
  ncclWindow_t windows[4];
  for (int r = 0; r < 4; ++r) memory.push_back(std::make_unique<Memory>(k_page, false));
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    EXPECT_NCCL(ncclCommWindowRegister(comm, memory[static_cast<size_t>(rank)]->at(), k_page,
                                       &windows[rank], 0));
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const auto used = [] {
    timespec time{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  };
  const double before = used();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_LT(used() - before, 0.15);  // seconds of half a second, four ranks together
}

TEST(OneSided, Estimates) {
  World world(2);
  Memory a(k_page, false), b(k_page, false);
  ncclWindow_t windows[2];
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    EXPECT_NCCL(
        ncclCommWindowRegister(comm, rank == 0 ? a.at() : b.at(), k_page, &windows[rank], 0));
  });
  ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;
  int x = 0;
  ASSERT_NCCL(ncclGroupStart());
  EXPECT_NCCL(ncclPutSignal(&x, 1, ncclInt, 1, windows[0], 0, 0, 0, 0, world[0], nullptr));
  EXPECT_NCCL(ncclGroupSimulateEnd(&info));
  EXPECT_GT(info.estimatedTime, 0);
}

// --- bad input

TEST(OneSided, BadArgumentsAreNamed) {
  World world(2), other(2);
  Memory a(k_page, false), b(2 * k_page, false), c(k_page, false), d(k_page, false);
  ncclWindow_t windows[2] = {}, foreign[2] = {};
  const auto says = [](const char* what) {
    const std::string text = ncclGetLastError(nullptr);
    EXPECT_NE(text.find(what), std::string::npos) << text;
  };
  EXPECT_EQ(ncclSignal(1, 0, 0, 0, world[0], nullptr), ncclInvalidUsage);
  says("before the first window");
  // The ranks' windows differ in size.
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    EXPECT_NCCL(ncclCommWindowRegister(comm, rank == 0 ? a.at() : b.at(), (1 + rank) * k_page,
                                       &windows[rank], 0));
  });
  other.on_every_rank([&](int rank, ncclComm_t comm) {
    EXPECT_NCCL(
        ncclCommWindowRegister(comm, rank == 0 ? c.at() : d.at(), k_page, &foreign[rank], 0));
  });
  int x = 1;
  const auto put = [&](const void* data, size_t count, int type, int peer, ncclWindow_t window,
                       size_t offset, int index = 0, int context = 0, unsigned flags = 0) {
    return ncclPutSignal(data, count, static_cast<ncclDataType_t>(type), peer, window, offset,
                         index, context, flags, world[0], nullptr);
  };
  EXPECT_EQ(put(&x, 1, ncclInt, 2, windows[0], 0), ncclInvalidArgument);
  says("peer 2 of 2");
  EXPECT_EQ(put(&x, 1, ncclInt, -1, windows[0], 0), ncclInvalidArgument);
  EXPECT_EQ(put(&x, 1, 99, 1, windows[0], 0), ncclInvalidArgument);
  says("datatype 99");
  EXPECT_EQ(put(&x, 1, ncclInt, 1, nullptr, 0), ncclInvalidArgument);
  says("window is null");
  EXPECT_EQ(put(&x, 1, ncclInt, 1, foreign[0], 0), ncclInvalidArgument);
  says("no window of this communicator");
  EXPECT_EQ(put(&x, 1, ncclInt, 1, windows[1], 0), ncclInvalidArgument);  // another rank's
  EXPECT_EQ(put(&x, 1, ncclInt, 1, reinterpret_cast<ncclWindow_t>(&x), 0), ncclInvalidArgument);
  EXPECT_EQ(put(&x, 1, ncclInt, 1, windows[0], 2 * k_page - 3), ncclInvalidArgument);
  says("which has 8192 bytes");
  EXPECT_EQ(put(&x, 1, ncclInt, 0, windows[0], k_page), ncclInvalidArgument);
  says("which has 4096 bytes");
  EXPECT_EQ(put(&x, 1, ncclInt, 1, windows[0], SIZE_MAX - 1), ncclInvalidArgument);
  EXPECT_EQ(put(&x, SIZE_MAX / 3, ncclInt, 1, windows[0], 0), ncclInvalidArgument);
  EXPECT_EQ(put(&x, SIZE_MAX, ncclUint8, 1, windows[0], 0), ncclInvalidArgument);
  says("overflows");
  EXPECT_EQ(put(nullptr, 1, ncclInt, 1, windows[0], 0), ncclInvalidArgument);
  says("buffer is null");
  EXPECT_EQ(put(reinterpret_cast<void*>(0x10), 1, ncclInt, 1, windows[0], 0), ncclInvalidArgument);
  EXPECT_EQ(put(&x, 1, ncclInt, 1, windows[0], 0, 1), ncclInvalidArgument);
  says("sigIdx is 1");
  EXPECT_EQ(put(&x, 1, ncclInt, 1, windows[0], 0, -1), ncclInvalidArgument);
  EXPECT_EQ(put(&x, 1, ncclInt, 1, windows[0], 0, 0, 1), ncclInvalidArgument);
  says("ctx is 1");
  EXPECT_EQ(put(&x, 1, ncclInt, 1, windows[0], 0, 0, 0, 1), ncclInvalidArgument);
  says("flags are 0x1");
  EXPECT_EQ(ncclSignal(7, 0, 0, 0, world[0], nullptr), ncclInvalidArgument);
  EXPECT_EQ(ncclSignal(1, 0, 0, 2, world[0], nullptr), ncclInvalidArgument);
  ncclWaitSignalDesc_t wait{1, 5, 0, 0};
  EXPECT_EQ(ncclWaitSignal(1, &wait, world[0], nullptr), ncclInvalidArgument);
  wait = {-1, 1, 0, 0};
  EXPECT_EQ(ncclWaitSignal(1, &wait, world[0], nullptr), ncclInvalidArgument);
  says("opCnt");
  wait = {1, 1, 4, 0};
  EXPECT_EQ(ncclWaitSignal(1, &wait, world[0], nullptr), ncclInvalidArgument);
  EXPECT_EQ(ncclWaitSignal(1, nullptr, world[0], nullptr), ncclInvalidArgument);
  says("descriptors is null");
  EXPECT_EQ(ncclWaitSignal(-1, &wait, world[0], nullptr), ncclInvalidArgument);
  // In a group the error is the group's, and nothing runs.
  ASSERT_NCCL(ncclGroupStart());
  EXPECT_NCCL(put(&x, 1, ncclInt, 1, windows[0], 0));
  EXPECT_EQ(put(&x, 1, ncclInt, 9, windows[0], 0), ncclInvalidArgument);
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidArgument);
  // After all that the communicator works; zero elements are a signal.
  EXPECT_NCCL(put(nullptr, 0, ncclInt, 1, windows[0], 2 * k_page));
  EXPECT_EQ(wait_for(world[1], 0, 1), "");
  EXPECT_EQ(*b.at<int>(), 0);
  // A window that this rank has deregistered.
  EXPECT_NCCL(ncclCommWindowDeregister(world[0], windows[0]));
  EXPECT_EQ(put(&x, 1, ncclInt, 1, windows[0], 0), ncclInvalidArgument);
  EXPECT_EQ(ncclCommWindowDeregister(world[0], windows[0]), ncclInvalidArgument);
  EXPECT_NCCL(ncclCommWindowDeregister(world[1], windows[1]));
  EXPECT_NCCL(ncclSignal(1, 0, 0, 0, world[0], nullptr));
  EXPECT_EQ(wait_for(world[1], 0, 1), "");
}

// A put into a window that its owner has deregistered: an error on both, which names them.
TEST_P(Way, IntoADeregisteredWindow) {
  run(2, [](ncclComm_t comm, int rank, int) -> std::string {
    Memory target(k_page, false);
    ncclWindow_t window = nullptr;
    TELL(ncclCommWindowRegister(comm, target.at(), k_page, &window, 0));
    if (rank == 1) TELL(ncclCommWindowDeregister(comm, window));
    int x = 1;
    TELL(ncclAllReduce(&x, &x, 1, ncclInt, ncclSum, comm, nullptr));
    // The origin may be through before its target sees it; then it learns from the reply to it.
    if (rank == 0 &&
        ncclPutSignal(&x, 1, ncclInt, 1, window, 0, 0, 0, 0, comm, nullptr) != ncclSuccess)
      return "the put was refused before the target could see it";
    ncclWaitSignalDesc_t wait{1, 1 - rank, 0, 0};
    if (ncclWaitSignal(1, &wait, comm, nullptr) != ncclInvalidUsage) return "that is no error";
    const std::string text = ncclGetLastError(comm);
    const bool named =
        text.find("rank 0 puts 4 bytes into window 1 of rank 1") != std::string::npos;
    return named && *target.at<int>() == 0 ? "" : text;
  });
}

TEST(OneSided, CommunicatorsWithoutContextsRefuse) {
  ncclUniqueId id;
  ASSERT_NCCL(ncclGetUniqueId(&id));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.numRmaCtx = 0;
  ncclComm_t comm = nullptr;
  ASSERT_NCCL(ncclCommInitRankConfig(&comm, 1, id, 0, &config));
  ncclCommProperties_t properties = NCCL_COMM_PROPERTIES_INITIALIZER;
  EXPECT_NCCL(ncclCommQueryProperties(comm, &properties));
  EXPECT_FALSE(properties.hostRmaSupport);
  Memory target(k_page, false);
  ncclWindow_t window = nullptr;
  EXPECT_NCCL(ncclCommWindowRegister(comm, target.at(), k_page, &window, 0));
  EXPECT_EQ(ncclSignal(0, 0, 0, 0, comm, nullptr), ncclInvalidUsage);
  EXPECT_NE(std::string(ncclGetLastError(nullptr)).find("numRmaCtx"), std::string::npos);
  EXPECT_NCCL(ncclCommDestroy(comm));
}

// --- the world breaks

// Registers a page on every rank; the calls of the others need it.
std::string with_window(ncclComm_t comm, Memory& memory, ncclWindow_t* window) {
  TELL(ncclCommWindowRegister(comm, memory.at(), memory.bytes(), window, 0));
  return {};
}

TEST(OneSided, AbortEndsAWait) {
  World world(2);
  Memory a(k_page, false), b(k_page, false);
  ncclWindow_t windows[2];
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    EXPECT_EQ(with_window(comm, rank == 0 ? a : b, &windows[rank]), "");
  });
  std::atomic<bool> entered{false};
  std::thread waiter([&] {
    ncclWaitSignalDesc_t wait{1, 1, 0, 0};
    entered = true;
    EXPECT_NE(ncclWaitSignal(1, &wait, world[0], nullptr), ncclSuccess);
  });
  while (!entered) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_NCCL(ncclCommAbort(world[0]));
  waiter.join();
  world[0] = nullptr;
  // The other rank is told, in a wait too.
  ncclWaitSignalDesc_t wait{1, 0, 0, 0};
  EXPECT_EQ(ncclWaitSignal(1, &wait, world[1], nullptr), ncclRemoteError);
  EXPECT_NE(std::string(ncclGetLastError(world[1])).find("ncclCommAbort on rank 0"),
            std::string::npos)
      << ncclGetLastError(world[1]);
}

TEST_P(Way, RevokeEndsAWait) {
  run(3, [](ncclComm_t comm, int rank, int) -> std::string {
    Memory memory(k_page, false);
    ncclWindow_t window = nullptr;
    if (std::string trouble = with_window(comm, memory, &window); !trouble.empty()) return trouble;
    if (rank == 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
    } else {
      ncclWaitSignalDesc_t wait{1, 2, 0, 0};
      if (ncclWaitSignal(1, &wait, comm, nullptr) == ncclSuccess) return "there was no signal";
    }
    TELL(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
    if (ncclSignal(0, 0, 0, 0, comm, nullptr) != ncclInvalidUsage) return "revoked, but it signals";
    ncclComm_t healthy = nullptr;
    TELL(ncclCommSplit(comm, 0, rank, &healthy, nullptr));
    // One-sided calls work on it, by its own connections.
    ncclWindow_t again = nullptr;
    if (std::string trouble = with_window(healthy, memory, &again); !trouble.empty())
      return trouble;
    TELL(ncclSignal((rank + 1) % 3, 0, 0, 0, healthy, nullptr));
    if (std::string trouble = wait_for(healthy, (rank + 2) % 3, 1); !trouble.empty())
      return trouble;
    TELL(ncclCommDestroy(healthy));
    return {};
  });
}

// A put by reference ends where its target leaves, or has given up.
TEST_P(Way, TheTargetMayLeave) {
  // A window's memory outlives its communicator, which serves until it is destroyed.
  Memory first(1 << 20, false), second(1 << 20, false);
  run(2, [&](ncclComm_t comm, int rank, int) -> std::string {
    Memory& target = rank == 0 ? first : second;
    ncclWindow_t window = nullptr;
    if (std::string trouble = with_window(comm, target, &window); !trouble.empty()) return trouble;
    if (rank == 1) return {};  // destroys its communicator
    std::vector<unsigned char> data(1 << 20);
    for (int i = 0; i < 2000; ++i) {
      const ncclResult_t result =
          ncclPutSignal(data.data(), data.size(), ncclUint8, 1, window, 0, 0, 0, 0, comm, nullptr);
      if (result == ncclRemoteError) return {};
      TELL(result);
    }
    return "2000 MiB went to nobody";
  });
}

class Death : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(OneSided, Death, testing::Values("shm", "tcp"),
                         [](const auto& way) { return std::string(way.param); });

// One waits for the signal of a process that is killed; another one makes no call and asks.
TEST_P(Death, OfAPeerIsToldToThoseWhoWaitAndThoseWhoAsk) {
  Variable transports("TUTTI_TRANSPORTS", GetParam());
  Job job(3, [](int rank, Board& board) -> std::string {
    ncclComm_t comm = nullptr;
    if (std::string trouble = join(board, rank, 3, &comm); !trouble.empty()) return trouble;
    Memory memory(k_page, true);
    ncclWindow_t window = nullptr;
    if (std::string trouble = with_window(comm, memory, &window); !trouble.empty()) return trouble;
    if (rank == 2) {
      usleep(50000);
      kill(getpid(), SIGKILL);
    }
    ncclResult_t result = ncclSuccess;
    if (rank == 0) {
      ncclWaitSignalDesc_t wait{1, 2, 0, 0};
      result = ncclWaitSignal(1, &wait, comm, nullptr);
    } else {
      const auto deadline = Clock::now() + std::chrono::seconds(20);
      while (result == ncclSuccess && Clock::now() < deadline) {
        TELL(ncclCommGetAsyncError(comm, &result));
        usleep(1000);
      }
    }
    const std::string text = ncclGetLastError(comm);
    if (result != ncclRemoteError) return "the death is " + std::to_string(result) + ": " + text;
    if (text.find("rank 2") == std::string::npos && text.find("peer 2") == std::string::npos)
      return "it names nobody: " + text;
    // Whoever shrinks revokes, and that would be what the other one is told.
    ++board.rounds;
    while (board.rounds.load() < 2) usleep(200);
    int dead = 2, x = 1;
    ncclComm_t rest = nullptr;
    TELL(ncclCommShrink(comm, &dead, 1, &rest, nullptr, NCCL_SHRINK_ABORT));
    TELL(ncclAllReduce(&x, &x, 1, ncclInt, ncclSum, rest, nullptr));
    TELL(ncclCommDestroy(rest));
    TELL(ncclCommDestroy(comm));
    return x == 2 ? "" : "the sum is " + std::to_string(x);
  });
  job.expect_killed(2);
  for (int r : {0, 1}) job.expect_well(r);
}

TEST(OneSided, AForkedChildIsTold) {
  World world(2);
  Memory a(k_page, false), b(k_page, false);
  ncclWindow_t windows[2];
  world.on_every_rank([&](int rank, ncclComm_t comm) {
    EXPECT_EQ(with_window(comm, rank == 0 ? a : b, &windows[rank]), "");
  });
  Job job(1, [&](int, Board&) -> std::string {
    int x = 1;
    if (ncclPutSignal(&x, 1, ncclInt, 1, windows[0], 0, 0, 0, 0, world[0], nullptr) !=
        ncclInvalidUsage)
      return "the parent's communicator was taken";
    ncclWaitSignalDesc_t wait{1, 1, 0, 0};
    if (ncclWaitSignal(1, &wait, world[0], nullptr) != ncclInvalidUsage) return "and waited with";
    World own(1);
    ncclWindow_t window = nullptr;
    if (std::string trouble = with_window(own[0], a, &window); !trouble.empty()) return trouble;
    TELL(ncclSignal(0, 0, 0, 0, own[0], nullptr));
    return wait_for(own[0], 0, 1);
  });
  job.expect_well(0);
  int x = 3;
  EXPECT_NCCL(ncclPutSignal(&x, 1, ncclInt, 1, windows[0], 0, 0, 0, 0, world[0], nullptr));
  EXPECT_EQ(wait_for(world[1], 0, 1), "");
  EXPECT_EQ(*b.at<int>(), 3);
}

}  // namespace
}  // namespace tutti::nccl_test
