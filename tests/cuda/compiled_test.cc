// What the kernels cost as nvcc compiled them: memory that they touch, and instructions. Needs
// TUTTI_FAKE_PTX (fake_compiled.h; ctest -R compiled.cuda).
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "src/cuda/group_launch.h"
#include "tests/cuda/fake_cuda.h"

namespace tutti::cuda {
namespace {

class Compiled : public testing::Test {
 protected:
  void SetUp() override {
    if (fake_.compiled() == nullptr) GTEST_SKIP() << "TUTTI_FAKE_PTX names no compiled kernels";
    fake_.compiled()->count(true);
    runtime_ = fake_.runtime();
    ASSERT_NE(runtime_, nullptr);
  }

  // One call of `n` ranks on one device, `bytes` each.
  ptx::Counts all_reduce(uint32_t n, uint64_t bytes, DType dtype, ReduceOp op) {
    GroupCall call;
    call.count = bytes / size_of(dtype);
    call.dtype = dtype;
    call.op = op;
    const Stream stream = fake_.stream();
    for (uint32_t r = 0; r < n; ++r) {
      auto* send = fake_.allocate(bytes);
      std::memset(send, 0x11, bytes);
      call.ranks.push_back({0, stream, send, fake_.allocate(bytes), {}});
    }
    const Status status = launch_group(*runtime_, call, {});
    EXPECT_TRUE(status.ok()) << status.to_string();
    fake_.synchronize(stream);
    return fake_.compiled()->take_counts();
  }

  FakeCuda fake_;
  std::shared_ptr<Runtime> runtime_;
};

// Whatever other tests run: the machine knows all that nvcc writes, for every architecture.
TEST(CompiledKernels, AreKnownToTheMachine) {
  const char* folder = std::getenv("TUTTI_FAKE_PTX");
  if (folder == nullptr) GTEST_SKIP() << "TUTTI_FAKE_PTX names no compiled kernels";
  size_t kernels = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    const std::string name = file.path().filename();
    if (!name.starts_with("kernels_") || !name.ends_with(".ptx")) continue;
    std::ifstream in(file.path());
    std::stringstream text;
    text << in.rdbuf();
    auto machine = ptx::Machine::load(text.str());
    ASSERT_TRUE(machine.ok()) << file.path() << ": " << machine.status().to_string();
    for (const std::string& one : (*machine)->kernels()) {
      const auto kernel = (*machine)->kernel(one);
      EXPECT_TRUE(kernel.ok()) << file.path() << ": " << kernel.status().to_string();
      ++kernels;
    }
  }
  EXPECT_GE(kernels, 3u * 3 * k_dtypes) << "three families of plans, shots and direct passes";
}

// The floor of an all_reduce on one device: every input byte is read once and every output byte
// written once, in whole sectors. For sums of 64-bit integers on sm_100 nvcc 13.0 loads the upper
// halves of words a second time, which the cache has.
TEST_F(Compiled, AllReduceTouchesEveryByteOnce) {
  for (DType dtype : {DType::float32, DType::float16, DType::float8_e4m3, DType::int64})
    for (uint32_t n : {2u, 8u}) {
      const uint64_t bytes = 1 << 20, all = n * bytes;
      const uint64_t again = dtype == DType::int64 ? all / 2 : 0;
      const ptx::Counts counts = all_reduce(n, bytes, dtype, ReduceOp::sum);
      EXPECT_GE(counts.global_loads, all) << name(dtype) << " " << n;
      EXPECT_LE(counts.global_loads, all + again) << name(dtype) << " " << n;
      EXPECT_EQ(counts.global_stores, all) << name(dtype) << " " << n;
      EXPECT_LE(counts.sectors, 2 * (all + again) / 32) << name(dtype) << " " << n;
    }
}

// Instructions of threads for every 16 bytes of an input: printed for docs/performance.md, and
// bounded by what was reached. While such an all_reduce moves 32 bytes, an H200 (132 processors of
// 128 lanes, 1.98 GHz, 4.8 TB/s) has time for 223, half as many of integers.
TEST_F(Compiled, InstructionsPerVector) {
  constexpr uint32_t k_ranks = 8;
  constexpr uint64_t k_bytes = 256 << 10;
  std::printf("| type | sum | avg of 8 | max | prod |\n|---|---|---|---|---|\n");
  for (int t = 0; t < k_dtypes; ++t) {
    const auto dtype = static_cast<DType>(t);
    std::printf("| %s |", std::string(name(dtype)).c_str());
    for (ReduceOp op : {ReduceOp::sum, ReduceOp::avg, ReduceOp::max, ReduceOp::prod}) {
      const ptx::Counts counts = all_reduce(k_ranks, k_bytes, dtype, op);
      const double each =
          static_cast<double>(counts.instructions) / static_cast<double>(k_ranks * k_bytes / 16);
      std::printf(" %.0f |", each);
      EXPECT_LT(each, 110) << name(dtype) << " " << name(op);
    }
    std::printf("\n");
  }
}

}  // namespace
}  // namespace tutti::cuda
