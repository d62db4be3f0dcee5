// The device kernels' arithmetic and loops, compiled for the host: bit for bit what kernels/cpu
// gives.
#include <gtest/gtest.h>

#include <random>

#include "kernels/cpu/kernels.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/reduce.h"

namespace tutti::cuda {
namespace {

// As a block of `threads` threads would, one after the other.
void reduce_by_team(DType dtype, ReduceOp op, uint32_t divisor, const Pass& pass,
                    uint32_t threads) {
  const Operator operation{op == ReduceOp::avg ? divisor : 0, op == ReduceOp::max};
  dispatch(dtype, family_of(op), [&]<DType kType, Family kFamily>() {
    for (uint32_t t = 0; t < threads; ++t) run_pass<kType, kFamily>({t, threads}, operation, pass);
  });
}

struct Case {
  size_t sources, count, offset, destinations;
  uint32_t divisor, threads;
  bool same_offset;
};

class Twin : public testing::TestWithParam<std::tuple<int, int>> {
 protected:
  DType dtype() const { return static_cast<DType>(std::get<0>(GetParam())); }
  ReduceOp op() const { return static_cast<ReduceOp>(std::get<1>(GetParam())); }

  void check(const Case& c, std::mt19937_64& random) {
    const size_t size = size_of(dtype()), bytes = c.count * size;
    std::vector<std::vector<std::byte>> memory;
    std::vector<const void*> sources;
    std::vector<const std::byte*> device_sources;
    const auto place = [&](size_t i) { return (c.offset + (c.same_offset ? 0 : i)) % 16 * size; };
    for (size_t s = 0; s < c.sources; ++s) {
      memory.emplace_back(bytes + 16 * size);
      for (auto& b : memory.back()) b = static_cast<std::byte>(random());
      sources.push_back(memory.back().data() + place(s));
      device_sources.push_back(memory.back().data() + place(s));
    }
    std::vector<std::byte> expected(bytes);
    void* to = expected.data();
    kernels::reduce(dtype(), op(), sources, {&to, 1}, c.count, c.divisor);
    std::vector<std::vector<std::byte>> out;
    std::vector<std::byte*> destinations;
    for (size_t d = 0; d < c.destinations; ++d) {
      out.emplace_back(bytes + 17 * size, std::byte{0xA5});
      destinations.push_back(out.back().data() + place(c.sources + d));
    }
    reduce_by_team(dtype(), op(), c.divisor,
                   {device_sources.data(), static_cast<uint32_t>(c.sources), destinations.data(),
                    static_cast<uint32_t>(c.destinations), bytes},
                   c.threads);
    for (std::byte* got : destinations) {
      for (size_t i = 0; i < bytes; ++i)
        ASSERT_EQ(got[i], expected[i])
            << name(dtype()) << " " << name(op()) << " k=" << c.sources << " n=" << c.count
            << " divisor=" << c.divisor << " offset " << c.offset << " byte " << i;
      ASSERT_EQ(got[bytes], std::byte{0xA5}) << "written past the end";
    }
  }
};

TEST_P(Twin, EqualsCpuKernels) {
  std::mt19937_64 random(1 + std::get<0>(GetParam()) * 10 + std::get<1>(GetParam()));
  for (size_t k : {1, 2, 3, 8, 17})
    for (size_t n : {1, 2, 7, 16, 33, 100, 515, 3001})
      for (size_t round = 0; round < 3; ++round) {
        const uint32_t divisors[] = {static_cast<uint32_t>(k), 0, 3, 16, 1000003, 0xFFFFFFFF};
        const uint32_t divisor = op() == ReduceOp::avg ? divisors[random() % 6] : 0;
        check({k, n, random() % 16, 1 + random() % 3, divisor,
               static_cast<uint32_t>(1 + random() % 70), random() % 3 != 0},
              random);
        if (HasFatalFailure()) return;
      }
}

TEST_P(Twin, InPlace) {
  std::mt19937_64 random(5);
  const size_t size = size_of(dtype()), count = 700;
  std::vector<std::byte> a(count * size), b(count * size), expected(count * size);
  for (auto* v : {&a, &b})
    for (auto& x : *v) x = static_cast<std::byte>(random());
  const void* sources[] = {a.data(), b.data()};
  void* to = expected.data();
  kernels::reduce(dtype(), op(), sources, {&to, 1}, count, 2);
  const std::byte* device_sources[] = {a.data(), b.data()};
  std::byte* destinations[] = {b.data(), a.data()};
  reduce_by_team(dtype(), op(), 2, {device_sources, 2, destinations, 2, count * size}, 7);
  EXPECT_EQ(a, expected);
  EXPECT_EQ(b, expected);
}

// premul_sum: every source times its factor, rounded, then summed; and one of them alone.
TEST(TwinPremulSum, EqualsScaledSources) {
  std::mt19937_64 random(3);
  for (int t = 0; t < k_dtypes; ++t) {
    const DType dtype = static_cast<DType>(t);
    const size_t size = size_of(dtype);
    for (size_t k : {1, 2, 5})
      for (size_t count : {1, 15, 300, 2001})
        for (size_t offset : {0, 3}) {
          std::vector<std::vector<std::byte>> memory, scaled;
          std::vector<const std::byte*> sources;
          std::vector<const void*> scaled_sources;
          std::vector<uint64_t> factors;
          for (size_t s = 0; s < k; ++s) {
            memory.emplace_back((count + 16) * size);
            for (auto& b : memory.back()) b = static_cast<std::byte>(random());
            sources.push_back(memory.back().data() + offset * s * size);
            uint64_t factor = 0;
            const uint64_t bits = random();
            std::memcpy(&factor, &bits, size);
            factors.push_back(factor);
            scaled.emplace_back(count * size);
            kernels::scale(dtype, scaled.back().data(), sources.back(), count, factor);
          }
          for (const auto& s : scaled) scaled_sources.push_back(s.data());
          std::vector<std::byte> want(count * size), got(count * size);
          void* to = want.data();
          kernels::reduce(dtype, ReduceOp::sum, scaled_sources, {&to, 1}, count, 0);
          std::byte* out = got.data();
          const Pass pass{sources.data(), static_cast<uint32_t>(k), &out, 1, count * size,
                          factors.data()};
          dispatch(dtype, Family::sum, [&]<DType kType, Family kFamily>() {
            const Operator op{0, false, true};
            for (uint32_t i = 0; i < 7; ++i) run_pass<kType, kFamily>({i, 7}, op, pass);
          });
          ASSERT_EQ(got, want) << name(dtype) << " k=" << k << " n=" << count << " at " << offset;
        }
  }
}

// The factor one changes nothing in a sum.
TEST(TwinPremulSum, UnitFactors) {
  for (int t = 0; t < k_dtypes; ++t) {
    const DType dtype = static_cast<DType>(t);
    std::vector<std::byte> x(500 * size_of(dtype)), want(x.size()), got(x.size());
    std::mt19937_64 random(7);
    for (auto& b : x) b = static_cast<std::byte>(random());
    const std::byte* sources[] = {x.data(), x.data()};
    dispatch(dtype, Family::sum, [&]<DType kType, Family kFamily>() {
      const uint64_t units[] = {unit_factor<kType>(), unit_factor<kType>()};
      std::byte* to = want.data();
      run_pass<kType, kFamily>({}, {}, {sources, 2, &to, 1, x.size()});
      to = got.data();
      run_pass<kType, kFamily>({}, {0, false, true}, {sources, 2, &to, 1, x.size(), units});
    });
    EXPECT_EQ(got, want) << name(dtype);
  }
}

std::string twin_name(const testing::TestParamInfo<std::tuple<int, int>>& info) {
  return std::string(name(static_cast<DType>(std::get<0>(info.param)))) + "_" +
         std::string(name(static_cast<ReduceOp>(std::get<1>(info.param))));
}
INSTANTIATE_TEST_SUITE_P(All, Twin,
                         testing::Combine(testing::Range(0, k_dtypes),
                                          testing::Range(0, k_reduce_ops)),
                         twin_name);

// Every pair of codes of the narrow floats' 8 bits, and every code of the 16-bit ones against all
// rounding cases: x / divisor alone, x * 1, and sums with neighbours.
TEST(TwinConversion, EveryCode) {
  for (DType dtype : {DType::float16, DType::bfloat16, DType::float8_e4m3, DType::float8_e5m2}) {
    const size_t size = size_of(dtype);
    const uint32_t codes = size == 1 ? 256 : 65536;
    std::mt19937_64 random(9);
    std::vector<std::byte> a, b;
    const auto add = [&](std::vector<std::byte>& v, uint32_t code) {
      for (size_t i = 0; i < size; ++i) v.push_back(static_cast<std::byte>(code >> (8 * i)));
    };
    for (uint32_t x = 0; x < codes; ++x)
      for (uint32_t y = 0; y < (size == 1 ? 256u : 6u); ++y) {
        add(a, x);
        add(b, size == 1 ? y : y < 3 ? static_cast<uint32_t>(random()) : (x ^ 0x8000) + y - 4);
      }
    const void* sources[] = {a.data(), b.data()};
    const std::byte* device_sources[] = {a.data(), b.data()};
    std::vector<std::byte> expected(a.size()), got(a.size());
    void* to = expected.data();
    std::byte* device_to = got.data();
    for (ReduceOp op : {ReduceOp::sum, ReduceOp::prod, ReduceOp::min, ReduceOp::max, ReduceOp::avg})
      for (uint32_t divisor : {1u, 3u, 1000u, 65537u})
        for (uint32_t k : {1u, 2u}) {
          kernels::reduce(dtype, op, {sources, k}, {&to, 1}, a.size() / size, divisor);
          reduce_by_team(dtype, op, divisor, {device_sources, k, &device_to, 1, a.size()}, 1);
          ASSERT_EQ(got, expected)
              << name(dtype) << " " << name(op) << " / " << divisor << " k=" << k;
        }
  }
}

}  // namespace
}  // namespace tutti::cuda
