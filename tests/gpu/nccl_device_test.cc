// The NCCL API on device buffers, through whatever libcuda.so.1 the process finds: a real driver
// (label gpu), or the fake one (tests/cuda/libcuda_shim.cc). Skipped where there is none.
#include <gtest/gtest.h>
#include <nccl.h>

#include <cstdlib>
#include <cstring>
#include <random>
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

}  // namespace
}  // namespace tutti::cuda
