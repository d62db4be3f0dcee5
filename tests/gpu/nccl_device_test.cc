// The NCCL API on device buffers, through whatever libcuda.so.1 the process finds: a real driver
// (label gpu), or the fake one (tests/cuda/libcuda_shim.cc). Skipped where there is none.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <nccl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/gpu/device.h"

namespace tutti::cuda {
namespace {

class NcclOnDevice : public testing::Test {
 protected:
  void SetUp() override {
    setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 1);
    const FoundDevice found = find_device();
    if (found.device == nullptr) GTEST_SKIP() << found.missing;
    driver_ = found.driver;
    runtime_ = found.runtime;
    ASSERT_EQ(driver_->context_push(found.device->context()), 0);
    pushed_ = true;
  }
  void TearDown() override {
    for (Stream s : streams_) driver_->stream_synchronize(s);
    for (DevicePtr p : memory_) driver_->memory_free(p);
    for (Stream s : streams_) driver_->stream_destroy(s);
    Context old = nullptr;
    if (pushed_) driver_->context_pop(&old);
  }

  // Communicators of n ranks, all on device 0.
  std::vector<ncclComm_t> communicators(int n) {
    std::vector<ncclComm_t> comms(n);
    const std::vector<int> devices(n, 0);
    EXPECT_EQ(ncclCommInitAll(comms.data(), n, devices.data()), ncclSuccess)
        << ncclGetLastError(nullptr);
    return comms;
  }
  Stream stream() {
    Stream s = nullptr;
    EXPECT_EQ(driver_->stream_create(&s, k_stream_non_blocking), 0);
    streams_.push_back(s);
    return s;
  }
  float* floats(const std::vector<float>& values, Stream s) {
    DevicePtr p = 0;
    EXPECT_EQ(driver_->memory_alloc(&p, values.size() * 4), 0);
    memory_.push_back(p);
    EXPECT_EQ(driver_->copy_to_device(p, values.data(), values.size() * 4, s), 0);
    EXPECT_EQ(driver_->stream_synchronize(s), 0);
    return reinterpret_cast<float*>(p);
  }
  std::vector<float> read(const float* p, size_t n, Stream s) {
    std::vector<float> values(n);
    EXPECT_EQ(driver_->copy_to_host(values.data(), reinterpret_cast<DevicePtr>(p), n * 4, s), 0);
    EXPECT_EQ(driver_->stream_synchronize(s), 0);
    return values;
  }
  static cudaStream_t nccl(Stream s) { return reinterpret_cast<cudaStream_t>(s); }
  static void destroy(std::vector<ncclComm_t>& comms) {
    for (ncclComm_t c : comms) EXPECT_EQ(ncclCommDestroy(c), ncclSuccess);
  }

  std::shared_ptr<const Driver> driver_;
  std::shared_ptr<Runtime> runtime_;
  bool pushed_ = false;
  std::vector<Stream> streams_;
  std::vector<DevicePtr> memory_;
};

TEST_F(NcclOnDevice, OneThreadDrivesAllRanksOfAGroup) {
  constexpr int n = 4;
  constexpr size_t count = 10007;
  auto comms = communicators(n);
  std::vector<Stream> s;
  std::vector<float*> in, out;
  for (int r = 0; r < n; ++r) {
    s.push_back(stream());
    in.push_back(floats(std::vector<float>(count, static_cast<float>(r + 1)), s[r]));
    out.push_back(floats(std::vector<float>(count), s[r]));
  }
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (int r = 0; r < n; ++r)
    ASSERT_EQ(ncclAllReduce(in[r], out[r], count, ncclFloat, ncclSum, comms[r], nccl(s[r])),
              ncclSuccess);
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess) << ncclGetLastError(nullptr);
  for (int r = 0; r < n; ++r)
    EXPECT_EQ(read(out[r], count, s[r]), std::vector<float>(count, 10.0f)) << "rank " << r;
  destroy(comms);
}

TEST_F(NcclOnDevice, OneRankAlone) {
  auto comms = communicators(1);
  const Stream s = stream();
  float* in = floats({1, 2, 3}, s);
  float* out = floats({0, 0, 0}, s);
  ASSERT_EQ(ncclAllReduce(in, out, 3, ncclFloat, ncclSum, comms[0], nccl(s)), ncclSuccess)
      << ncclGetLastError(nullptr);
  EXPECT_EQ(read(out, 3, s), (std::vector<float>{1, 2, 3}));
  destroy(comms);
}

// Each rank in a thread of its own, with no group: through the host, in stream order.
TEST_F(NcclOnDevice, RanksInThreadsAreStaged) {
  constexpr int n = 3;
  auto comms = communicators(n);
  std::vector<Stream> s;
  std::vector<float*> in, out;
  for (int r = 0; r < n; ++r) {
    s.push_back(stream());
    in.push_back(floats(std::vector<float>(500, static_cast<float>(r)), s[r]));
    out.push_back(floats(std::vector<float>(500), s[r]));
  }
  std::vector<std::thread> threads;
  std::vector<ncclResult_t> results(n);
  for (int r = 0; r < n; ++r)
    threads.emplace_back([&, r] {
      for (int turn = 0; turn < 3; ++turn)
        if (ncclResult_t result =
                ncclAllReduce(in[r], out[r], 500, ncclFloat, ncclMax, comms[r], nccl(s[r]));
            result != ncclSuccess)
          results[r] = result;
    });
  for (auto& t : threads) t.join();
  for (int r = 0; r < n; ++r) {
    EXPECT_EQ(results[r], ncclSuccess);
    EXPECT_EQ(read(out[r], 500, s[r]), std::vector<float>(500, 2.0f));
    ncclResult_t error = ncclInternalError;
    EXPECT_EQ(ncclCommGetAsyncError(comms[r], &error), ncclSuccess);
    EXPECT_EQ(error, ncclSuccess);
  }
  destroy(comms);
}

TEST_F(NcclOnDevice, SendAndReceiveInAGroup) {
  auto comms = communicators(2);
  const Stream a = stream(), b = stream();
  float* from = floats({7, 8, 9}, a);
  float* to = floats({0, 0, 0}, b);
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  ASSERT_EQ(ncclSend(from, 3, ncclFloat, 1, comms[0], nccl(a)), ncclSuccess);
  ASSERT_EQ(ncclRecv(to, 3, ncclFloat, 0, comms[1], nccl(b)), ncclSuccess);
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess) << ncclGetLastError(nullptr);
  EXPECT_EQ(read(to, 3, b), (std::vector<float>{7, 8, 9}));
  destroy(comms);
}

TEST_F(NcclOnDevice, PreMultipliedSumWithItsScalarOnTheDevice) {
  auto comms = communicators(2);
  const Stream a = stream(), b = stream();
  float* scalar = floats({0.5f}, a);
  float* x = floats({2, 4}, a);
  float* y = floats({6, 8}, b);
  ncclRedOp_t ops[2];
  for (int r = 0; r < 2; ++r)
    ASSERT_EQ(ncclRedOpCreatePreMulSum(&ops[r], scalar, ncclFloat, ncclScalarDevice, comms[r]),
              ncclSuccess)
        << ncclGetLastError(nullptr);
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  ASSERT_EQ(ncclAllReduce(x, x, 2, ncclFloat, ops[0], comms[0], nccl(a)), ncclSuccess);
  ASSERT_EQ(ncclAllReduce(y, y, 2, ncclFloat, ops[1], comms[1], nccl(b)), ncclSuccess);
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess) << ncclGetLastError(nullptr);
  EXPECT_EQ(read(x, 2, a), (std::vector<float>{4, 6}));
  EXPECT_EQ(read(y, 2, b), (std::vector<float>{4, 6}));
  destroy(comms);
}

TEST_F(NcclOnDevice, BadInputIsAnErrorWithAReason) {
  auto comms = communicators(2);
  const Stream s = stream();
  float* device = floats({1, 2}, s);
  std::vector<float> host(2);
  EXPECT_EQ(ncclAllReduce(device, host.data(), 2, ncclFloat, ncclSum, comms[0], nccl(s)),
            ncclInvalidUsage);
  EXPECT_NE(std::string(ncclGetLastError(nullptr)).find("one call takes either"), std::string::npos)
      << ncclGetLastError(nullptr);
  EXPECT_EQ(ncclAllReduce(device, device, 1 << 20, ncclFloat, ncclSum, comms[0], nccl(s)),
            ncclInvalidArgument)
      << "more than the allocation has";
  // Ranks of a group that call different things.
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  ASSERT_EQ(ncclAllReduce(device, device, 2, ncclFloat, ncclSum, comms[0], nccl(s)), ncclSuccess);
  ASSERT_EQ(ncclAllReduce(device, device, 1, ncclFloat, ncclSum, comms[1], nccl(s)), ncclSuccess);
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
  EXPECT_NE(std::string(ncclGetLastError(nullptr)).find("rank 1 calls"), std::string::npos);
  // Host buffers go on working.
  std::vector<float> x{1}, y{2};
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  ASSERT_EQ(ncclAllReduce(x.data(), x.data(), 1, ncclFloat, ncclSum, comms[0], nullptr),
            ncclSuccess);
  ASSERT_EQ(ncclAllReduce(y.data(), y.data(), 1, ncclFloat, ncclSum, comms[1], nullptr),
            ncclSuccess);
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess) << ncclGetLastError(nullptr);
  EXPECT_EQ(x[0], 3);
  destroy(comms);
}

TEST_F(NcclOnDevice, DuplicateDevice) {
  auto comms = communicators(2);
  setenv("NCCL_MULTI_RANK_GPU_ENABLE", "0", 1);
  const Stream s = stream();
  float* x = floats({1, 2}, s);
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (ncclComm_t c : comms)
    ASSERT_EQ(ncclAllReduce(x, x, 2, ncclFloat, ncclSum, c, nccl(s)), ncclSuccess);
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
  EXPECT_NE(std::string(ncclGetLastError(nullptr)).find("duplicate GPU"), std::string::npos);
  destroy(comms);
}

// --- a device per rank

// How often the fake driver was asked for something; -1: this is a real one.
int fake_calls(const char* function) {
  void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return -1;
  const auto count = reinterpret_cast<int (*)(const char*)>(::dlsym(library, "fake_cuda_calls"));
  return count == nullptr ? -1 : count(function);
}

// One rank on the current device.
struct DeviceRank {
  const Driver& driver;
  ncclComm_t comm;
  int rank, ranks;
  Stream stream = nullptr;
  std::vector<DevicePtr> memory;

  DeviceRank(const Driver& d, ncclComm_t c, int r, int n) : driver(d), comm(c), rank(r), ranks(n) {
    EXPECT_EQ(driver.stream_create(&stream, k_stream_non_blocking), 0);
  }
  ~DeviceRank() {
    driver.stream_synchronize(stream);
    for (DevicePtr p : memory) driver.memory_free(p);
    driver.stream_destroy(stream);
  }
  cudaStream_t nccl() const { return reinterpret_cast<cudaStream_t>(stream); }
  int32_t* upload(const std::vector<int32_t>& values) {
    DevicePtr p = 0;
    EXPECT_EQ(driver.memory_alloc(&p, values.size() * 4), 0);
    memory.push_back(p);
    EXPECT_EQ(driver.copy_to_device(p, values.data(), values.size() * 4, stream), 0);
    EXPECT_EQ(driver.stream_synchronize(stream), 0);
    return reinterpret_cast<int32_t*>(p);
  }
  std::vector<int32_t> download(const int32_t* p, size_t n) const {
    std::vector<int32_t> values(n);
    EXPECT_EQ(driver.copy_to_host(values.data(), reinterpret_cast<DevicePtr>(p), n * 4, stream), 0);
    EXPECT_EQ(driver.stream_synchronize(stream), 0);
    return values;
  }
};

int32_t element(int rank, size_t i) { return rank * 1000003 + static_cast<int32_t>(i * 7919); }

// Every collective with `count` elements per block, in place and out; all ranks call it at the same
// time.
void every_collective(DeviceRank& me, size_t count) {
  using Values = std::vector<int32_t>;
  const int n = me.ranks, root = n / 2;
  const size_t all = count * static_cast<size_t>(n);
  const auto made = [](size_t size, const std::function<int32_t(size_t)>& f) {
    Values values(size);
    for (size_t i = 0; i < size; ++i) values[i] = f(i);
    return values;
  };
  const auto sum = [&](size_t i) {
    int32_t total = 0;
    for (int r = 0; r < n; ++r) total += element(r, i);
    return total;
  };
  const auto expect = [&](const char* what, ncclResult_t result, const int32_t* p,
                          const Values& want) {
    ASSERT_EQ(result, ncclSuccess) << what << ": " << ncclGetLastError(nullptr);
    ASSERT_EQ(me.download(p, want.size()), want)
        << what << " rank " << me.rank << " of " << n << " count " << count;
  };
  const auto block = [&](int r) { return static_cast<size_t>(r) * count; };
  const Values own = made(count, [&](size_t i) { return element(me.rank, i); });
  const Values mine = made(all, [&](size_t i) { return element(me.rank, i); });
  const Values gathered =
      made(all, [&](size_t i) { return element(static_cast<int>(i / count), i % count); });
  const Values exchanged = made(all, [&](size_t i) {
    return element(static_cast<int>(i / count), block(me.rank) + i % count);
  });
  const Values summed = made(count, sum),
               root_own = made(count, [&](size_t i) { return element(root, i); });
  const Values summed_block = made(count, [&](size_t i) { return sum(block(me.rank) + i); });
  const Values root_block =
      made(count, [&](size_t i) { return element(root, block(me.rank) + i); });
  for (bool in_place : {false, true}) {
    const auto out = [&](int32_t* in, size_t size) {
      return in_place ? in : me.upload(Values(size));
    };
    int32_t* x = me.upload(own);
    int32_t* y = out(x, count);
    expect("all_reduce", ncclAllReduce(x, y, count, ncclInt32, ncclSum, me.comm, me.nccl()), y,
           summed);
    x = me.upload(own), y = out(x, count);
    expect("reduce", ncclReduce(x, y, count, ncclInt32, ncclSum, root, me.comm, me.nccl()), y,
           me.rank == root ? summed : me.download(y, count));
    x = me.upload(own), y = out(x, count);
    expect("broadcast", ncclBroadcast(x, y, count, ncclInt32, root, me.comm, me.nccl()), y,
           root_own);
    y = me.upload(in_place ? mine : Values(all));
    x = in_place ? y + block(me.rank) : me.upload(own);
    if (in_place) {
      EXPECT_EQ(me.driver.copy_to_device(reinterpret_cast<DevicePtr>(x), own.data(), count * 4,
                                         me.stream),
                0);
    }
    expect("all_gather", ncclAllGather(x, y, count, ncclInt32, me.comm, me.nccl()), y, gathered);
    x = me.upload(mine), y = in_place ? x + block(me.rank) : out(x, count);
    expect("reduce_scatter", ncclReduceScatter(x, y, count, ncclInt32, ncclSum, me.comm, me.nccl()),
           y, summed_block);
    x = me.upload(mine), y = out(x, all);
    expect("all_to_all", ncclAlltoAll(x, y, count, ncclInt32, me.comm, me.nccl()), y, exchanged);
    x = me.upload(own), y = me.upload(Values(all));
    expect("gather", ncclGather(x, y, count, ncclInt32, root, me.comm, me.nccl()), y,
           me.rank == root ? gathered : Values(all));
    x = me.upload(mine), y = me.upload(Values(count));
    expect("scatter", ncclScatter(x, y, count, ncclInt32, root, me.comm, me.nccl()), y, root_block);
    if (testing::Test::HasFatalFailure()) return;
  }
  // A message between collectives.
  int32_t* x = me.upload(own);
  int32_t* y = me.upload(Values(count));
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  EXPECT_EQ(ncclSend(x, count, ncclInt32, (me.rank + 1) % n, me.comm, me.nccl()), ncclSuccess);
  EXPECT_EQ(ncclRecv(y, count, ncclInt32, (me.rank + n - 1) % n, me.comm, me.nccl()), ncclSuccess);
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess) << ncclGetLastError(nullptr);
  EXPECT_EQ(me.download(y, count),
            made(count, [&](size_t i) { return element((me.rank + n - 1) % n, i); }));
  expect("all_reduce", ncclAllReduce(x, x, count, ncclInt32, ncclSum, me.comm, me.nccl()), x,
         summed);
}

ncclResult_t async_error(ncclComm_t comm) {
  ncclResult_t error = ncclInternalError;
  EXPECT_EQ(ncclCommGetAsyncError(comm, &error), ncclSuccess);
  return error;
}

// The error of a communicator, once it has one; ncclSuccess: none came in 20 s.
ncclResult_t await_error(ncclComm_t comm) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  ncclResult_t error = async_error(comm);
  while ((error == ncclSuccess || error == ncclInProgress) &&
         std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    error = async_error(comm);
  }
  return error;
}

void all_reduce_well(DeviceRank& me) {
  int32_t* x = me.upload(std::vector<int32_t>(100, 1));
  ASSERT_EQ(ncclAllReduce(x, x, 100, ncclInt32, ncclSum, me.comm, me.nccl()), ncclSuccess)
      << ncclGetLastError(nullptr);
  ASSERT_EQ(me.download(x, 100), std::vector<int32_t>(100, me.ranks));
}

// Groups of messages with counts of their own, several for a pair, to self, on several streams;
// messages of two ranks alone; and one by one. `staged`: through the host.
void every_kind_of_message(DeviceRank& me, bool staged) {
  using Values = std::vector<int32_t>;
  const int n = me.ranks;
  const auto size = [&](int from, int to, int k) {
    return static_cast<size_t>((from * 7 + to * 3 + k * 5000) % 20011 * (from == to ? 1 : k));
  };
  const auto content = [&](int from, int to, int k) {
    Values values(size(from, to, k));
    for (size_t i = 0; i < values.size(); ++i) values[i] = element(from * 64 + to * 8 + k, i);
    return values;
  };
  Stream other = nullptr;
  ASSERT_EQ(me.driver.stream_create(&other, k_stream_non_blocking), 0);
  const int before = fake_calls("cuStreamBatchMemOp");
  std::vector<std::pair<int32_t*, Values>> received;
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (int k = 0; k < 3; ++k)
    for (int p = 0; p < n; ++p) {
      const int peer = (p + me.rank * 2) % n;
      const cudaStream_t stream = k == 1 ? reinterpret_cast<cudaStream_t>(other) : me.nccl();
      const Values mine = content(me.rank, peer, k), theirs = content(peer, me.rank, k);
      received.emplace_back(me.upload(Values(theirs.size() + 1)), theirs);
      EXPECT_EQ(ncclSend(me.upload(mine.empty() ? Values(1) : mine), mine.size(), ncclInt32, peer,
                         me.comm, stream),
                ncclSuccess);
      EXPECT_EQ(ncclRecv(received.back().first, theirs.size(), ncclInt32, peer, me.comm, stream),
                ncclSuccess);
    }
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess) << ncclGetLastError(nullptr);
  me.driver.stream_synchronize(other);
  for (const auto& [p, want] : received)
    ASSERT_EQ(me.download(p, want.size()), want) << "rank " << me.rank;
  // The others do not call.
  const Values pair = content(0, n - 1, 1);
  if (me.rank == 0 && n > 1) {
    EXPECT_EQ(ncclSend(me.upload(pair), pair.size(), ncclInt32, n - 1, me.comm, me.nccl()),
              ncclSuccess);
  }
  if (me.rank == n - 1 && n > 1) {
    int32_t* p = me.upload(Values(pair.size()));
    EXPECT_EQ(ncclRecv(p, pair.size(), ncclInt32, 0, me.comm, me.nccl()), ncclSuccess);
    EXPECT_EQ(me.download(p, pair.size()), pair);
  }
  // In a group with a collective, which comes first whatever the order of the calls.
  int32_t* x = me.upload(Values(100, me.rank + 1));
  int32_t* y = me.upload(Values(100));
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  EXPECT_EQ(ncclSend(x, 100, ncclInt32, (me.rank + 1) % n, me.comm, me.nccl()), ncclSuccess);
  EXPECT_EQ(ncclRecv(y, 100, ncclInt32, (me.rank + n - 1) % n, me.comm, me.nccl()), ncclSuccess);
  EXPECT_EQ(ncclAllReduce(x, x, 100, ncclInt32, ncclSum, me.comm, me.nccl()), ncclSuccess);
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess) << ncclGetLastError(nullptr);
  EXPECT_EQ(me.download(y, 100), Values(100, n * (n + 1) / 2));
  // Of this process: other ranks of it call at the same time.
  if (before >= 0 && !staged && n > 1) {
    EXPECT_EQ(fake_calls("cuStreamBatchMemOp"), before);
  }
  me.driver.stream_destroy(other);
}

TEST_F(NcclOnDevice, MessagesOfThreadsWithADeviceEach) {
  const int n = std::min(4, runtime_->devices());
  std::vector<ncclComm_t> comms(static_cast<size_t>(n));
  ASSERT_EQ(ncclCommInitAll(comms.data(), n, nullptr), ncclSuccess) << ncclGetLastError(nullptr);
  std::vector<std::thread> threads;
  for (int r = 0; r < n; ++r)
    threads.emplace_back([&, r] {
      Scope scope(*driver_, (*runtime_->device(r))->context());
      DeviceRank me(*driver_, comms[static_cast<size_t>(r)], r, n);
      all_reduce_well(me);
      every_kind_of_message(me, false);
    });
  for (std::thread& t : threads) t.join();
  destroy(comms);
}

// Pairs find each other; where devices may be shared they do not.
TEST_F(NcclOnDevice, MessagesBeforeAnyCollective) {
  const int n = std::min(4, runtime_->devices());
  for (const bool may_share : {false, true}) {
    setenv("NCCL_MULTI_RANK_GPU_ENABLE", may_share ? "1" : "0", 1);
    std::vector<ncclComm_t> comms(static_cast<size_t>(n));
    ASSERT_EQ(ncclCommInitAll(comms.data(), n, nullptr), ncclSuccess) << ncclGetLastError(nullptr);
    std::vector<std::thread> threads;
    for (int r = 0; r < n; ++r)
      threads.emplace_back([&, r] {
        Scope scope(*driver_, (*runtime_->device(r))->context());
        DeviceRank me(*driver_, comms[static_cast<size_t>(r)], r, n);
        every_kind_of_message(me, may_share);
        every_kind_of_message(me, may_share);
      });
    for (std::thread& t : threads) t.join();
    destroy(comms);
  }
}

// The error reaches both ranks, whoever finds it.
TEST_F(NcclOnDevice, MessagesThatDifferAreAnError) {
  if (runtime_->devices() < 2) GTEST_SKIP() << "needs two devices";
  std::vector<ncclComm_t> comms(2);
  ASSERT_EQ(ncclCommInitAll(comms.data(), 2, nullptr), ncclSuccess);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      Scope scope(*driver_, (*runtime_->device(r))->context());
      DeviceRank me(*driver_, comms[static_cast<size_t>(r)], r, 2);
      all_reduce_well(me);
      int32_t* x = me.upload(std::vector<int32_t>(100, 1));
      EXPECT_EQ(r == 0 ? ncclSend(x, 100, ncclInt32, 1, me.comm, me.nccl())
                       : ncclRecv(x, 99, ncclInt32, 0, me.comm, me.nccl()),
                ncclSuccess);
      EXPECT_EQ(me.driver.stream_synchronize(me.stream), 0);
      EXPECT_EQ(await_error(me.comm), ncclInvalidUsage);
      const std::string text = ncclGetLastError(me.comm);
      EXPECT_NE(text.find("different calls"), std::string::npos) << text;
    });
  for (std::thread& t : threads) t.join();
  for (ncclComm_t c : comms) EXPECT_EQ(ncclCommAbort(c), ncclSuccess);
}

// The first message of a pair finds out that one end is on the host.
TEST_F(NcclOnDevice, AFirstMessageFromTheDeviceToTheHostIsAnError) {
  const int n = std::min(3, runtime_->devices());
  if (n < 2) GTEST_SKIP() << "needs two devices";
  setenv("NCCL_MULTI_RANK_GPU_ENABLE", "0", 1);
  std::vector<ncclComm_t> comms(static_cast<size_t>(n));
  ASSERT_EQ(ncclCommInitAll(comms.data(), n, nullptr), ncclSuccess);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      Scope scope(*driver_, (*runtime_->device(r))->context());
      DeviceRank me(*driver_, comms[static_cast<size_t>(r)], r, n);
      int32_t* x = me.upload(std::vector<int32_t>(64, 1));
      std::vector<int32_t> y(64);
      const ncclResult_t result = r == 0 ? ncclSend(x, 64, ncclInt32, 1, me.comm, me.nccl())
                                         : ncclRecv(y.data(), 64, ncclInt32, 0, me.comm, nullptr);
      EXPECT_EQ(result, ncclInvalidUsage) << ncclGetLastError(nullptr);
    });
  for (std::thread& t : threads) t.join();
  for (ncclComm_t c : comms) EXPECT_EQ(ncclCommAbort(c), ncclSuccess);
}

// A rank that never comes: abort ends the kernel that waits for its message.
TEST_F(NcclOnDevice, AbortEndsAMessageThatWaits) {
  if (runtime_->devices() < 2) GTEST_SKIP() << "needs two devices";
  std::vector<ncclComm_t> comms(2);
  ASSERT_EQ(ncclCommInitAll(comms.data(), 2, nullptr), ncclSuccess);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      Scope scope(*driver_, (*runtime_->device(r))->context());
      DeviceRank me(*driver_, comms[static_cast<size_t>(r)], r, 2);
      all_reduce_well(me);
      if (r == 1) return;
      int32_t* x = me.upload(std::vector<int32_t>(100, 1));
      EXPECT_EQ(ncclRecv(x, 100, ncclInt32, 1, me.comm, me.nccl()), ncclSuccess);
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      EXPECT_EQ(driver_->stream_query(me.stream), k_not_ready);
      EXPECT_EQ(ncclCommAbort(me.comm), ncclSuccess);
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(ncclCommAbort(comms[1]), ncclSuccess);
}

TEST_F(NcclOnDevice, ThreadsWithADeviceEach) {
  const int n = std::min(3, runtime_->devices());
  std::vector<ncclComm_t> comms(static_cast<size_t>(n));
  ASSERT_EQ(ncclCommInitAll(comms.data(), n, nullptr), ncclSuccess) << ncclGetLastError(nullptr);
  const int before = fake_calls("cuLaunchCooperativeKernel");
  std::vector<std::thread> threads;
  for (int r = 0; r < n; ++r)
    threads.emplace_back([&, r] {
      Scope scope(*driver_, (*runtime_->device(r))->context());
      DeviceRank me(*driver_, comms[static_cast<size_t>(r)], r, n);
      for (size_t count : {5, 9000, 70001}) every_collective(me, count);
    });
  for (std::thread& t : threads) t.join();
  if (before >= 0 && n > 1) {
    EXPECT_GT(fake_calls("cuLaunchCooperativeKernel"), before + 10 * n);
  }
  destroy(comms);
}

// What a group's kernel does not serve, between devices: the plan interpreter, driven by one
// thread.
TEST_F(NcclOnDevice, OneThreadDrivesDevicesInPlace) {
  const int n = std::min(2, runtime_->devices());
  std::vector<ncclComm_t> comms(static_cast<size_t>(n));
  ASSERT_EQ(ncclCommInitAll(comms.data(), n, nullptr), ncclSuccess) << ncclGetLastError(nullptr);
  std::vector<std::unique_ptr<DeviceRank>> ranks;
  std::vector<int32_t*> buffers;
  for (int r = 0; r < n; ++r) {
    Scope scope(*driver_, (*runtime_->device(r))->context());
    ranks.push_back(std::make_unique<DeviceRank>(*driver_, comms[static_cast<size_t>(r)], r, n));
    std::vector<int32_t> values;
    for (int i = 0; i < n; ++i) values.push_back(10 * r + i);
    buffers.push_back(ranks.back()->upload(values));
  }
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (size_t r = 0; r < ranks.size(); ++r)
    ASSERT_EQ(ncclAlltoAll(buffers[r], buffers[r], 1, ncclInt32, comms[r], ranks[r]->nccl()),
              ncclSuccess);
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess) << ncclGetLastError(nullptr);
  for (int r = 0; r < n; ++r) {
    std::vector<int32_t> want;
    for (int i = 0; i < n; ++i) want.push_back(10 * i + r);
    EXPECT_EQ(ranks[static_cast<size_t>(r)]->download(buffers[static_cast<size_t>(r)], want.size()),
              want);
  }
  ranks.clear();
  destroy(comms);
}

// A rank that never comes: abort ends the kernel that waits for it.
TEST_F(NcclOnDevice, AbortEndsAKernelThatWaits) {
  if (runtime_->devices() < 2) GTEST_SKIP() << "needs two devices";
  std::vector<ncclComm_t> comms(2);
  ASSERT_EQ(ncclCommInitAll(comms.data(), 2, nullptr), ncclSuccess);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      Scope scope(*driver_, (*runtime_->device(r))->context());
      DeviceRank me(*driver_, comms[static_cast<size_t>(r)], r, 2);
      int32_t* x = me.upload(std::vector<int32_t>(100, 1));
      EXPECT_EQ(ncclAllReduce(x, x, 100, ncclInt32, ncclSum, me.comm, me.nccl()), ncclSuccess);
      EXPECT_EQ(me.download(x, 100), std::vector<int32_t>(100, 2));
      if (r == 1) return;
      EXPECT_EQ(ncclAllReduce(x, x, 100, ncclInt32, ncclSum, me.comm, me.nccl()), ncclSuccess);
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      EXPECT_EQ(driver_->stream_query(me.stream), k_not_ready);
      EXPECT_EQ(ncclCommAbort(me.comm), ncclSuccess);
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(ncclCommAbort(comms[1]), ncclSuccess);
}

// --- errors between ranks with a device each

// Rank 0 has device buffers where the others have host buffers; `met`: after a call that all made
// on device buffers. Every rank is told who had what.
void mix_buffers(DeviceRank& me, bool met) {
  if (met) all_reduce_well(me);
  if (testing::Test::HasFatalFailure()) return;
  if (me.rank == 0) {
    int32_t* x = me.upload(std::vector<int32_t>(64, 1));
    const ncclResult_t result = ncclAllReduce(x, x, 64, ncclInt32, ncclSum, me.comm, me.nccl());
    EXPECT_EQ(result, met ? ncclSuccess : ncclInvalidUsage) << ncclGetLastError(nullptr);
    EXPECT_EQ(await_error(me.comm), ncclInvalidUsage);
    EXPECT_EQ(me.driver.stream_synchronize(me.stream), 0);
    EXPECT_EQ(ncclAllReduce(x, x, 64, ncclInt32, ncclSum, me.comm, me.nccl()), ncclInvalidUsage);
  } else {
    std::vector<int32_t> x(64, 1);
    EXPECT_EQ(ncclAllReduce(x.data(), x.data(), 64, ncclInt32, ncclSum, me.comm, nullptr),
              ncclInvalidUsage);
    EXPECT_EQ(await_error(me.comm), ncclInvalidUsage);
  }
  const std::string text = ncclGetLastError(me.comm);
  EXPECT_NE(text.find("on host buffers"), std::string::npos) << text;
  EXPECT_NE(text.find("on device buffers"), std::string::npos) << text;
  EXPECT_NE(text.find("rank 0"), std::string::npos) << text;
}

TEST_F(NcclOnDevice, HostAndDeviceBuffersInOneCollective) {
  const int n = std::min(3, runtime_->devices());
  if (n < 2) GTEST_SKIP() << "needs two devices";
  for (bool met : {false, true}) {
    std::vector<ncclComm_t> comms(static_cast<size_t>(n));
    ASSERT_EQ(ncclCommInitAll(comms.data(), n, nullptr), ncclSuccess);
    std::vector<std::thread> threads;
    for (int r = 0; r < n; ++r)
      threads.emplace_back([&, r] {
        Scope scope(*driver_, (*runtime_->device(r))->context());
        DeviceRank me(*driver_, comms[static_cast<size_t>(r)], r, n);
        mix_buffers(me, met);
      });
    for (std::thread& t : threads) t.join();
    for (ncclComm_t c : comms) EXPECT_EQ(ncclCommAbort(c), ncclSuccess);
  }
}

// --- communicators with blocking = 0

ncclResult_t await_state(ncclComm_t comm) {
  ncclResult_t state = ncclInProgress;
  while (state == ncclInProgress) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    state = async_error(comm);
  }
  return state;
}

// The first collective waits for all ranks, but not in the caller's thread; what follows comes
// behind it.
TEST_F(NcclOnDevice, NonblockingCommunicatorsDoNotWaitInTheCaller) {
  const int n = std::min(2, runtime_->devices());
  if (n < 2) GTEST_SKIP() << "needs two devices";
  ncclUniqueId id;
  ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  std::vector<ncclComm_t> comms(2);
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (int r = 0; r < n; ++r) {
    Scope scope(*driver_, (*runtime_->device(r))->context());
    EXPECT_EQ(ncclCommInitRankConfig(&comms[static_cast<size_t>(r)], n, id, r, &config),
              ncclSuccess);
  }
  EXPECT_EQ(ncclGroupEnd(), ncclInProgress);
  for (ncclComm_t c : comms) ASSERT_EQ(await_state(c), ncclSuccess);
  std::vector<std::unique_ptr<DeviceRank>> ranks;
  std::vector<int32_t*> buffers;
  for (int r = 0; r < n; ++r) {
    Scope scope(*driver_, (*runtime_->device(r))->context());
    ranks.push_back(std::make_unique<DeviceRank>(*driver_, comms[static_cast<size_t>(r)], r, n));
    buffers.push_back(ranks.back()->upload(std::vector<int32_t>(50, r + 1)));
  }
  // Rank after rank, with no group: a blocking communicator would wait here for ever.
  for (size_t r = 0; r < 2; ++r)
    for (int turn = 0; turn < 3; ++turn) {
      const ncclResult_t result =
          ncclAllReduce(buffers[r], buffers[r], 50, ncclInt32, ncclSum, comms[r], ranks[r]->nccl());
      if (r == 0 || turn == 0) {
        EXPECT_EQ(result, ncclInProgress) << ncclGetLastError(nullptr);
      }
      EXPECT_TRUE(result == ncclSuccess || result == ncclInProgress) << ncclGetLastError(nullptr);
    }
  for (ncclComm_t c : comms) EXPECT_EQ(await_state(c), ncclSuccess) << ncclGetLastError(c);
  for (size_t r = 0; r < 2; ++r)
    EXPECT_EQ(ranks[r]->download(buffers[r], 50), std::vector<int32_t>(50, 12)) << "rank " << r;
  // In a group, on the way that is open now.
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (size_t r = 0; r < 2; ++r)
    EXPECT_EQ(ncclAlltoAll(buffers[r], buffers[r], 25, ncclInt32, comms[r], ranks[r]->nccl()),
              ncclSuccess);
  const ncclResult_t ended = ncclGroupEnd();
  EXPECT_TRUE(ended == ncclSuccess || ended == ncclInProgress) << ncclGetLastError(nullptr);
  for (ncclComm_t c : comms) EXPECT_EQ(await_state(c), ncclSuccess) << ncclGetLastError(c);
  EXPECT_EQ(ranks[1]->download(buffers[1], 50), std::vector<int32_t>(50, 12));
  ranks.clear();
  for (ncclComm_t c : comms) {
    EXPECT_EQ(ncclCommFinalize(c), ncclInProgress);
    EXPECT_EQ(await_state(c), ncclSuccess);
    EXPECT_EQ(ncclCommDestroy(c), ncclSuccess);
  }
}

// One thread drives two communicators of two ranks each, in groups that no kernel serves at once:
// every group waits for ranks that are in the other one, and for calls that were staged before.
TEST_F(NcclOnDevice, NonblockingGroupsOfSeveralCommunicators) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  std::vector<ncclComm_t> comms(4);  // rank r of world w at 2 * w + r
  for (int w = 0; w < 2; ++w) {
    ncclUniqueId id;
    ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
    ASSERT_EQ(ncclGroupStart(), ncclSuccess);
    for (int r = 0; r < 2; ++r)
      EXPECT_EQ(ncclCommInitRankConfig(&comms[static_cast<size_t>(2 * w + r)], 2, id, r, &config),
                ncclSuccess);
    EXPECT_EQ(ncclGroupEnd(), ncclInProgress);
  }
  for (ncclComm_t c : comms) ASSERT_EQ(await_state(c), ncclSuccess) << ncclGetLastError(c);
  std::vector<Stream> streams;
  std::vector<float*> buffers;
  for (size_t i = 0; i < 4; ++i) {
    streams.push_back(stream());
    buffers.push_back(floats(std::vector<float>(64, 1.0f), streams[i]));
  }
  // Rank 1 of the second world is late with a call that is staged.
  driver_->launch_host(
      streams[3], [](void*) { std::this_thread::sleep_for(std::chrono::milliseconds(100)); },
      nullptr);
  const auto fine = [](ncclResult_t result) {
    EXPECT_TRUE(result == ncclSuccess || result == ncclInProgress) << ncclGetLastError(nullptr);
  };
  fine(ncclSend(buffers[2], 64, ncclFloat, 1, comms[2], nccl(streams[2])));
  fine(ncclRecv(buffers[3], 64, ncclFloat, 0, comms[3], nccl(streams[3])));
  for (int turn = 0; turn < 3; ++turn)
    for (size_t r = 0; r < 2; ++r) {
      ASSERT_EQ(ncclGroupStart(), ncclSuccess);
      for (size_t i : {r, r + 2})
        fine(ncclAllReduce(buffers[i], buffers[i], 64, ncclFloat, ncclSum, comms[i],
                           nccl(streams[i])));
      fine(ncclGroupEnd());
    }
  for (ncclComm_t c : comms) EXPECT_EQ(await_state(c), ncclSuccess) << ncclGetLastError(c);
  for (size_t i = 0; i < 4; ++i)
    EXPECT_EQ(read(buffers[i], 64, streams[i]), std::vector<float>(64, 8.0f)) << i;
  for (ncclComm_t c : comms) {
    EXPECT_EQ(ncclCommFinalize(c), ncclInProgress);
    EXPECT_EQ(await_state(c), ncclSuccess);
    EXPECT_EQ(ncclCommDestroy(c), ncclSuccess);
  }
}

// --- processes

void serve_every_collective(DeviceRank& me) {
  for (size_t count : {5, 9000, 70001}) every_collective(me, count);
  every_kind_of_message(me, std::getenv("TUTTI_TEST_ONE_DEVICE") != nullptr);
  if (fake_calls("cuInit") > 0) {
    EXPECT_GT(fake_calls("cuLaunchCooperativeKernel"), 10);
    const char* hosts = std::getenv("TUTTI_TEST_HOSTS");
    const int here = me.ranks / (hosts == nullptr ? 1 : std::atoi(hosts));
    EXPECT_EQ(fake_calls("cuIpcOpenMemHandle"), here - 1);
  }
}

// One rank has no memory for its mirrors: all of them stage.
void serve_without_mirrors(DeviceRank& me) {
  using Fail = void (*)(const char*, int);
  if (me.rank == 1)
    reinterpret_cast<Fail>(::dlsym(::dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD),
                                   "fake_cuda_fail"))("cuMemHostAlloc", k_out_of_memory);
  for (size_t count : {5, 9000}) every_collective(me, count);
  EXPECT_EQ(fake_calls("cuLaunchCooperativeKernel"), 0);
}

// The last rank dies; the kernels of the others wait for it, in a collective or for a message.
void lose_a_rank(DeviceRank& me, bool message) {
  all_reduce_well(me);
  if (me.rank == me.ranks - 1) ::_exit(0);
  int32_t* x = me.upload(std::vector<int32_t>(100, 1));
  const ncclResult_t result =
      message ? ncclRecv(x, 100, ncclInt32, me.ranks - 1, me.comm, me.nccl())
              : ncclAllReduce(x, x, 100, ncclInt32, ncclSum, me.comm, me.nccl());
  // Who hears of it before the call is told by the call.
  EXPECT_TRUE(result == ncclSuccess || result == ncclRemoteError) << ncclGetLastError(nullptr);
  EXPECT_EQ(me.driver.stream_synchronize(me.stream), 0);
  EXPECT_EQ(await_error(me.comm), ncclRemoteError);
  const std::string text = ncclGetLastError(me.comm), who = std::to_string(me.ranks - 1);
  EXPECT_TRUE(text.find("peer " + who) != std::string::npos ||
              text.find("rank " + who) != std::string::npos)
      << text;
}

// There was no collective: rank 0 has had a message of the last rank, which dies, and waits for
// another.
void lose_a_pair(DeviceRank& me) {
  int32_t* x = me.upload(std::vector<int32_t>(100, me.rank));
  const int last = me.ranks - 1;
  if (me.rank == last) {
    EXPECT_EQ(ncclSend(x, 100, ncclInt32, 0, me.comm, me.nccl()), ncclSuccess);
    EXPECT_EQ(me.driver.stream_synchronize(me.stream), 0);
    ::_exit(0);
  }
  if (me.rank == 0) {
    ASSERT_EQ(ncclRecv(x, 100, ncclInt32, last, me.comm, me.nccl()), ncclSuccess);
    EXPECT_EQ(me.download(x, 100), std::vector<int32_t>(100, last));
    const ncclResult_t result = ncclRecv(x, 100, ncclInt32, last, me.comm, me.nccl());
    EXPECT_TRUE(result == ncclSuccess || result == ncclRemoteError) << ncclGetLastError(nullptr);
    EXPECT_EQ(me.driver.stream_synchronize(me.stream), 0);
  }
  EXPECT_EQ(await_error(me.comm), ncclRemoteError);
  const std::string text = ncclGetLastError(me.comm), who = std::to_string(last);
  EXPECT_TRUE(text.find("peer " + who) != std::string::npos ||
              text.find("rank " + who) != std::string::npos)
      << text;
}

// Of two ranks the first has a host buffer at one end of a message, after `before` well ones of
// both kinds, where the second has a device buffer. Both are told.
void mix_messages(DeviceRank& me, int before, bool host_sends) {
  const bool sends = (me.rank == 0) == host_sends;
  int32_t* x = me.upload(std::vector<int32_t>(100, me.rank));
  std::vector<int32_t> host(100);
  const auto message = [&](bool on_host) {
    int32_t* buffer = on_host ? host.data() : x;
    return sends ? ncclSend(buffer, 100, ncclInt32, 1 - me.rank, me.comm, me.nccl())
                 : ncclRecv(buffer, 100, ncclInt32, 1 - me.rank, me.comm, me.nccl());
  };
  for (int k = 0; k < before; ++k) {
    ASSERT_EQ(message(k % 2 == 1), ncclSuccess) << ncclGetLastError(nullptr);
    ASSERT_EQ(me.driver.stream_synchronize(me.stream), 0);
  }
  const ncclResult_t result = message(me.rank == 0);
  EXPECT_TRUE(result == ncclSuccess || result == ncclInvalidUsage) << ncclGetLastError(nullptr);
  EXPECT_EQ(await_error(me.comm), ncclInvalidUsage);
  EXPECT_EQ(me.driver.stream_synchronize(me.stream), 0);
  const std::string text = ncclGetLastError(me.comm);
  EXPECT_NE(text.find(" message " + std::to_string(before + 1) + " to rank"), std::string::npos)
      << text;
  EXPECT_NE(text.find(host_sends ? "from host memory" : "from device memory"), std::string::npos)
      << text;
}

// One rank of the tests below.
TEST_F(NcclOnDevice, DISABLED_OneOfSeveralProcesses) {
  const auto number = [](const char* name) { return std::atoi(std::getenv(name)); };
  const int rank = number("TUTTI_TEST_RANK"), n = number("TUTTI_TEST_RANKS");
  ncclUniqueId id;
  const std::string text = std::getenv("TUTTI_TEST_ID"), what = std::getenv("TUTTI_TEST_WHAT");
  ASSERT_EQ(text.size(), 2 * sizeof id.internal);
  for (size_t i = 0; i < sizeof id.internal; ++i)
    id.internal[i] = static_cast<char>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  const bool shared = std::getenv("TUTTI_TEST_ONE_DEVICE") != nullptr;
  const int device = shared ? 0 : rank % runtime_->devices();
  Scope scope(*driver_, (*runtime_->device(device))->context());
  ncclComm_t comm = nullptr;
  ASSERT_EQ(ncclCommInitRank(&comm, n, id, rank), ncclSuccess) << ncclGetLastError(nullptr);
  {
    DeviceRank me(*driver_, comm, rank, n);
    if (what == "collectives") serve_every_collective(me);
    if (what == "messages") {
      setenv("NCCL_MULTI_RANK_GPU_ENABLE", "0", 1);
      for (int turn = 0; turn < 2; ++turn)
        every_kind_of_message(me, std::getenv("TUTTI_HOST_ID") != nullptr);
    }
    if (what == "without mirrors") serve_without_mirrors(me);
    if (what == "mixed at first") mix_buffers(me, false);
    if (what == "mixed later") mix_buffers(me, true);
    if (what.starts_with("mixed message")) {
      setenv("NCCL_MULTI_RANK_GPU_ENABLE", "0", 1);
      mix_messages(me, what.find("later") != std::string::npos ? 9 : 1,
                   what.find("sends") != std::string::npos);
    }
    if (what == "death") lose_a_rank(me, false);
    if (what == "death of a sender") lose_a_rank(me, true);
    if (what == "death in a pair") {
      setenv("NCCL_MULTI_RANK_GPU_ENABLE", "0", 1);
      lose_a_pair(me);
    }
  }
  const bool well = what == "collectives" || what == "without mirrors" || what == "messages";
  EXPECT_EQ(well ? ncclCommDestroy(comm) : ncclCommAbort(comm), ncclSuccess);
}

// `n` processes, each the test above; `hosts` have equal shares of them.
void run_processes(int n, const char* what, int hosts = 1) {
  ncclUniqueId id;
  ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess) << ncclGetLastError(nullptr);
  std::string text;
  for (char c : id.internal) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned char>(c));
    text += digits;
  }
  setenv("TUTTI_TEST_ID", text.c_str(), 1);
  setenv("TUTTI_TEST_WHAT", what, 1);
  setenv("TUTTI_TEST_RANKS", std::to_string(n).c_str(), 1);
  setenv("TUTTI_TEST_HOSTS", std::to_string(hosts).c_str(), 1);
  std::string program = "/proc/self/exe", filter = "--gtest_filter=*DISABLED_OneOfSeveralProcesses",
              all = "--gtest_also_run_disabled_tests", brief = "--gtest_brief=1";
  char* arguments[] = {program.data(), filter.data(), all.data(), brief.data(), nullptr};
  std::vector<pid_t> children;
  for (int r = 0; r < n; ++r) {
    setenv("TUTTI_TEST_RANK", std::to_string(r).c_str(), 1);
    if (hosts > 1) setenv("TUTTI_HOST_ID", ("host " + std::to_string(r * hosts / n)).c_str(), 1);
    pid_t child = 0;
    ASSERT_EQ(::posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments, environ), 0);
    children.push_back(child);
  }
  unsetenv("TUTTI_HOST_ID");
  for (pid_t child : children) {
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
}

// All of them on the first device, which takes turns between them: calls run in ranges of steps.
void run_processes_on_one_device(int n, const char* what) {
  const std::string slices =
      testing::TempDir() + "tutti-slices-" + std::to_string(::getpid()) + "-";
  setenv("TUTTI_TEST_ONE_DEVICE", "1", 1);
  setenv("FAKE_CUDA_TIME_SLICES", slices.c_str(), 1);
  run_processes(n, what);
  unsetenv("TUTTI_TEST_ONE_DEVICE");
  unsetenv("FAKE_CUDA_TIME_SLICES");
  ::unlink((slices + "0").c_str());
}

TEST_F(NcclOnDevice, ProcessesOnOneDevice) { run_processes_on_one_device(3, "collectives"); }

TEST_F(NcclOnDevice, ProcessesOnOneDeviceWithHostAndDeviceBuffers) {
  run_processes_on_one_device(2, "mixed at first");
  run_processes_on_one_device(2, "mixed later");
}

TEST_F(NcclOnDevice, DeathOfAProcessEndsTheStreamsThatWaitForIt) {
  run_processes_on_one_device(3, "death");
}

// No shared memory: ranks hear of each other's calls by letters.
TEST_F(NcclOnDevice, ProcessesWithMixedBuffersOverTcp) {
  if (runtime_->devices() < 3) GTEST_SKIP() << "needs three devices";
  setenv("NCCL_SHM_DISABLE", "1", 1);
  run_processes(3, "mixed at first");
  run_processes(3, "mixed later");
  unsetenv("NCCL_SHM_DISABLE");
}

// Of a pair that has met alone; without shared memory by letters.
TEST_F(NcclOnDevice, ProcessesWithMixedBuffersAtTheEndsOfAMessage) {
  if (runtime_->devices() < 2) GTEST_SKIP() << "needs two devices";
  for (const char* what : {"mixed message, host sends", "mixed message, host receives",
                           "mixed message later, host sends", "mixed message later, host receives"})
    run_processes(2, what);
  setenv("NCCL_SHM_DISABLE", "1", 1);
  run_processes(2, "mixed message, host receives");
  run_processes(2, "mixed message later, host receives");
  unsetenv("NCCL_SHM_DISABLE");
}

// Windows over CUDA IPC where every process has a device; ranges where they share one.
TEST_F(NcclOnDevice, ProcessesWithADeviceEach) { run_processes(3, "collectives"); }

// Windows between the pairs of each host; across, the host until all have met.
TEST_F(NcclOnDevice, MessagesOfProcessesBeforeAnyCollective) {
  if (runtime_->devices() < 4) GTEST_SKIP() << "needs four devices";
  run_processes(3, "messages");
  run_processes(4, "messages", 2);
}

// The fake's devices are those of a DGX A100: plans by price, and by rules (one of which needs the
// input copied first).
TEST_F(NcclOnDevice, ProcessesWithPlansOfThePlannersChoice) {
  if (fake_calls("cuInit") < 0) GTEST_SKIP() << "needs the fake's devices";
  setenv("TUTTI_TOPO", "dgx-a100", 1);
  run_processes(3, "collectives");
  setenv("TUTTI_TUNE",
         "all_reduce:0-1K:ring/packets;1K-inf:recursive_doubling/slots;"
         "broadcast:0-inf:double_binary_tree",
         1);
  run_processes(3, "collectives");
  unsetenv("TUTTI_TUNE");
  unsetenv("TUTTI_TOPO");
}

TEST_F(NcclOnDevice, ProcessesWithHostAndDeviceBuffers) {
  if (runtime_->devices() < 3) GTEST_SKIP() << "needs three devices";
  run_processes(3, "mixed at first");
  run_processes(3, "mixed later");
}

TEST_F(NcclOnDevice, DeathOfAProcessEndsTheKernelsThatWaitForIt) {
  run_processes(3, "death");
  run_processes(3, "death of a sender");
  run_processes(3, "death in a pair");
}

// Windows between two ranks, mirrors and proxies to the others.
TEST_F(NcclOnDevice, ProcessesOnSeveralHosts) {
  if (runtime_->devices() < 4) GTEST_SKIP() << "needs four devices";
  run_processes(4, "collectives", 2);
}

TEST_F(NcclOnDevice, ProcessesOnSeveralHostsWithoutMirrors) {
  if (fake_calls("cuInit") < 0) GTEST_SKIP() << "needs a driver that fails on demand";
  run_processes(3, "without mirrors", 3);
}

TEST_F(NcclOnDevice, DeathOnAnotherHostEndsTheKernelsThatWaitForIt) {
  if (runtime_->devices() < 3) GTEST_SKIP() << "needs three devices";
  run_processes(3, "death", 3);
  run_processes(3, "death of a sender", 3);
}

TEST_F(NcclOnDevice, MemAllocIsOnTheDevice) {
  void* p = nullptr;
  ASSERT_EQ(ncclMemAlloc(&p, 1000), ncclSuccess) << ncclGetLastError(nullptr);
  EXPECT_TRUE(runtime_->locate(p).device);
  auto comms = communicators(1);
  void* handle = nullptr;
  EXPECT_EQ(ncclCommRegister(comms[0], p, 1000, &handle), ncclSuccess) << ncclGetLastError(nullptr);
  EXPECT_EQ(ncclCommDeregister(comms[0], handle), ncclSuccess);
  destroy(comms);
  EXPECT_EQ(ncclMemFree(p), ncclSuccess);
  EXPECT_FALSE(runtime_->locate(p).device);
}

// A host that is said to have no GPU: every rank names the one that it misses there.
TEST_F(NcclOnDevice, RanksSayWhichGpuTheyAreOn) {
  const std::string topology = testing::TempDir() + "/tutti_no_gpu.xml",
                    log = testing::TempDir() + "/tutti_no_gpu.log";
  std::ofstream(topology) << "<system version=\"1\"><cpu numaid=\"0\"/></system>\n";
  std::remove(log.c_str());
  setenv("TUTTI_TOPO", topology.c_str(), 1);
  setenv("NCCL_DEBUG", "WARN", 1);
  setenv("NCCL_DEBUG_FILE", log.c_str(), 1);
  auto comms = communicators(2);
  for (const char* name : {"TUTTI_TOPO", "NCCL_DEBUG", "NCCL_DEBUG_FILE"}) unsetenv(name);
  destroy(comms);
  std::ifstream file(log);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  for (const char* rank : {" of rank 0 ", " of rank 1 "})
    EXPECT_NE(text.find("GPU " + runtime_->bus_id(0) + rank), std::string::npos) << text;
  std::remove(topology.c_str());
  std::remove(log.c_str());
}

}  // namespace
}  // namespace tutti::cuda
