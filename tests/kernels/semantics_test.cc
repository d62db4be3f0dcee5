// The promises of docs/numbers.md, each with values worked out by hand.
#include <gtest/gtest.h>

#include <cfenv>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "kernels/cpu/detect.h"
#include "kernels/cpu/kernels.h"
#include "tests/kernels/reference.h"
#include "tests/kernels/targets.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace tutti::kernels {
namespace {

// Element i of every source is values[i]'s part; returns the bits of the result.
template <class T>
T reduce_one(DType dtype, ReduceOp op, std::initializer_list<T> values, uint32_t divisor = 0) {
  std::vector<T> storage(values);
  std::vector<const void*> sources;
  for (const T& value : storage) sources.push_back(&value);
  T result{};
  void* destination = &result;
  reduce(dtype, op, sources, std::span<void* const>(&destination, 1), 1, divisor);
  return result;
}

template <class T>
auto bits_of(T value) {
  std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t> bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

TEST(Semantics, Fp8SaturatesAndKeepsNan) {
  for_each_target([] {
    const auto e4m3 = [](ReduceOp op, std::initializer_list<uint8_t> v) {
      return reduce_one<uint8_t>(DType::float8_e4m3, op, v);
    };
    EXPECT_EQ(e4m3(ReduceOp::sum, {0x7E, 0x7E}), 0x7E);  // 448 + 448 = 448
    EXPECT_EQ(e4m3(ReduceOp::sum, {0xFE, 0xFE}), 0xFE);
    EXPECT_EQ(e4m3(ReduceOp::sum, {0x7E, 0x7E, 0xFE}), 0x7E);  // 448 in the middle is 896
    EXPECT_EQ(e4m3(ReduceOp::sum, {0x7F, 0x38}), 0x7F);        // NaN + 1
    EXPECT_EQ(e4m3(ReduceOp::sum, {0xFF, 0x38}), 0x7F);        // the one NaN
    EXPECT_EQ(e4m3(ReduceOp::min, {0xFF, 0x38}), 0x38);        // a number wins
    EXPECT_EQ(e4m3(ReduceOp::max, {0x7F, 0xB8}), 0xB8);
    const auto e5m2 = [](ReduceOp op, std::initializer_list<uint8_t> v) {
      return reduce_one<uint8_t>(DType::float8_e5m2, op, v);
    };
    EXPECT_EQ(e5m2(ReduceOp::sum, {0x7B, 0x7B}), 0x7B);  // 57344 twice
    EXPECT_EQ(e5m2(ReduceOp::sum, {0x7C, 0x3C}), 0x7B);  // infinity + 1 saturates
    EXPECT_EQ(e5m2(ReduceOp::sum, {0x7C, 0xFC}), 0x7F);  // infinity - infinity
    EXPECT_EQ(e5m2(ReduceOp::max, {0x7C, 0x3C}), 0x7C);  // not rounded, so kept
  });
}

// 15 times 448 overflows fp32 to infinity; times 0 is NaN, and a product of two saturates.
TEST(Semantics, Fp8ProductsOverflowInFp32) {
  for_each_target([] {
    std::vector<uint8_t> values(20, 0x7E);
    std::vector<const void*> sources;
    for (const uint8_t& value : values) sources.push_back(&value);
    uint8_t result = 0;
    void* destination = &result;
    const std::span<void* const> out(&destination, 1);
    reduce(DType::float8_e4m3, ReduceOp::prod, sources, out, 1, 0);
    EXPECT_EQ(result, 0x7E);
    values.back() = 0;
    reduce(DType::float8_e4m3, ReduceOp::prod, sources, out, 1, 0);
    EXPECT_EQ(result, 0x7F);
  });
}

TEST(Semantics, NanResultsHaveOneBitPattern) {
  constexpr float k_inf = std::numeric_limits<float>::infinity();
  constexpr double k_inf64 = std::numeric_limits<double>::infinity();
  for_each_target([] {
    const float negative_nan = std::copysign(std::nanf("5"), -1.0f);
    EXPECT_EQ(bits_of(reduce_one<float>(DType::float32, ReduceOp::sum, {k_inf, -k_inf})),
              0x7FFFFFFFu);
    EXPECT_EQ(bits_of(reduce_one<float>(DType::float32, ReduceOp::prod, {negative_nan, 2.0f})),
              0x7FFFFFFFu);
    EXPECT_EQ(bits_of(reduce_one<double>(DType::float64, ReduceOp::sum, {k_inf64, -k_inf64})),
              0x7FFFFFFFFFFFFFFFu);
    EXPECT_EQ(reduce_one<uint16_t>(DType::float16, ReduceOp::sum, {0x7C00, 0xFC00}), 0x7FFF);
    EXPECT_EQ(reduce_one<uint16_t>(DType::bfloat16, ReduceOp::sum, {0xFFC1, 0x3F80}), 0x7FFF);
    EXPECT_EQ(
        bits_of(reduce_one<float>(DType::float32, ReduceOp::min, {negative_nan, negative_nan})),
        0x7FFFFFFFu);
    // One source is a copy, bits and all.
    EXPECT_EQ(bits_of(reduce_one<float>(DType::float32, ReduceOp::sum, {negative_nan})),
              bits_of(negative_nan));
  });
}

TEST(Semantics, ExtremaOrderZeros) {
  for_each_target([] {
    for (auto [a, b] : {std::pair{0.0f, -0.0f}, std::pair{-0.0f, 0.0f}}) {
      EXPECT_EQ(bits_of(reduce_one<float>(DType::float32, ReduceOp::min, {a, b})), 0x80000000u);
      EXPECT_EQ(bits_of(reduce_one<float>(DType::float32, ReduceOp::max, {a, b})), 0u);
    }
    EXPECT_EQ(bits_of(reduce_one<float>(DType::float32, ReduceOp::sum, {-0.0f, -0.0f})),
              0x80000000u);
    EXPECT_EQ(reduce_one<uint8_t>(DType::float8_e4m3, ReduceOp::sum, {0x80, 0x80}), 0x80);
  });
}

TEST(Semantics, IntegerAverageDoesNotWrap) {
  for_each_target([] {
    EXPECT_EQ(reduce_one<int8_t>(DType::int8, ReduceOp::avg, {127, 127, 127}, 3), 127);
    EXPECT_EQ(reduce_one<int8_t>(DType::int8, ReduceOp::avg, {-128, -128, -1}, 3), -85);
    EXPECT_EQ(reduce_one<int8_t>(DType::int8, ReduceOp::avg, {-3, -4}, 2), -3);  // toward zero
    EXPECT_EQ(reduce_one<uint8_t>(DType::uint8, ReduceOp::avg, {255, 255, 254}, 3), 254);
    constexpr int64_t k_top = std::numeric_limits<int64_t>::max();
    constexpr int64_t k_bottom = std::numeric_limits<int64_t>::min();
    EXPECT_EQ(reduce_one<int64_t>(DType::int64, ReduceOp::avg, {k_top, k_top, k_top}, 3), k_top);
    EXPECT_EQ(reduce_one<int64_t>(DType::int64, ReduceOp::avg, {k_bottom, k_bottom}, 2), k_bottom);
    constexpr uint64_t k_all = std::numeric_limits<uint64_t>::max();
    EXPECT_EQ(reduce_one<uint64_t>(DType::uint64, ReduceOp::avg, {k_all, k_all - 1}, 2), k_all - 1);
    constexpr int32_t k_low = std::numeric_limits<int32_t>::min();
    EXPECT_EQ(reduce_one<int32_t>(DType::int32, ReduceOp::avg, {k_low, k_low, k_low}, 3), k_low);
    EXPECT_EQ(reduce_one<uint32_t>(DType::uint32, ReduceOp::avg, {~0u, ~0u, ~0u - 1}, 3), ~0u - 1);
    // Sums wrap.
    EXPECT_EQ(reduce_one<int8_t>(DType::int8, ReduceOp::sum, {127, 1}), -128);
  });
}

// Above 65536 sources of 8 bits fp32 sums would round: the exact path takes over.
TEST(Semantics, IntegerAverageOfVeryManySources) {
  constexpr size_t k_sources = 70000;
  const std::vector<uint8_t> data{255, 3};
  std::vector<const void*> sources(k_sources, &data[0]);
  for (size_t s = 0; s < k_sources; s += 2) sources[s] = &data[1];
  uint8_t result = 0;
  void* destination = &result;
  for_each_target([&] {
    reduce(DType::uint8, ReduceOp::avg, sources, std::span<void* const>(&destination, 1), 1,
           k_sources);
    EXPECT_EQ(result, 129);
  });
}

// Rounded once at the end, in the order of the sources: 2048 + 1 + 1 in fp16 is 2050 in one pass
// and 2048 in two.
TEST(Semantics, OnePassRoundsOnce) {
  for_each_target([] {
    EXPECT_EQ(reduce_one<uint16_t>(DType::float16, ReduceOp::sum, {0x6800, 0x3C00, 0x3C00}),
              0x6801);
    const float big = 16777216.0f;
    EXPECT_EQ(reduce_one<float>(DType::float32, ReduceOp::sum, {1.0f, big, -big}), 0.0f);
    EXPECT_EQ(reduce_one<float>(DType::float32, ReduceOp::sum, {big, -big, 1.0f}), 1.0f);
  });
}

#if defined(__x86_64__)
// A caller may have set flush-to-zero, denormals-are-zero or another rounding direction.
TEST(Semantics, CallersFloatingPointModeDoesNotMatter) {
  const unsigned saved = _mm_getcsr();
  for_each_target([&] {
    for (unsigned mode : {0x8040u, 0x2000u, 0x4000u, 0x6000u}) {
      _mm_setcsr((saved & ~0xE040u) | mode);
      const uint32_t denormal_sum =
          bits_of(reduce_one<float>(DType::float32, ReduceOp::sum, {1e-45f, 1e-45f}));
      const float third = reduce_one<float>(DType::float32, ReduceOp::avg, {1.0f, 0.0f}, 3);
      const uint16_t half = reduce_one<uint16_t>(DType::float16, ReduceOp::sum, {0x0001, 0x0001});
      const uint16_t tie = reduce_one<uint16_t>(DType::float16, ReduceOp::sum, {0x6801, 0x3C00});
      const uint8_t eighth = reduce_one<uint8_t>(DType::float8_e4m3, ReduceOp::sum, {1, 1});
      const unsigned after = _mm_getcsr();
      _mm_setcsr(saved);
      EXPECT_EQ(denormal_sum, 2u);
      EXPECT_EQ(bits_of(third), 0x3EAAAAABu);
      EXPECT_EQ(half, 2);
      EXPECT_EQ(tie, 0x6802);  // 2050 + 1: halfway, to even
      EXPECT_EQ(eighth, 2);
      EXPECT_EQ(after & 0xE040u, mode);
    }
  });
}
#endif

// scale() is the product with the scalar, rounded once to the element type.
TEST(Semantics, ScaleIsTheRoundedProduct) {
  std::mt19937_64 random(5);
  for (int d = 0; d < k_dtypes; ++d) {
    const auto dtype = static_cast<DType>(d);
    const size_t size = size_of(dtype);
    for (size_t count : {0, 1, 3, 64, 1000, 9001}) {
      const uint64_t scalar = random();
      std::vector<uint8_t> values(count * size + 1), scalars(count * size + 1);
      for (auto& byte : values) byte = static_cast<uint8_t>(random());
      for (size_t i = 0; i < count; ++i) std::memcpy(&scalars[i * size], &scalar, size);
      std::vector<uint8_t> expected(count * size + 1, 0xAB), got(count * size + 1, 0xAB);
      const void* sources[] = {values.data(), scalars.data()};
      reference::reduce(dtype, ReduceOp::prod, sources, expected.data(), count, 0);
      for_each_target([&] {
        scale(dtype, got.data(), values.data(), count, scalar);
        EXPECT_EQ(got, expected) << name(dtype) << " " << count;
        std::vector<uint8_t> in_place = values;
        in_place.back() = 0xAB;
        scale(dtype, in_place.data(), in_place.data(), count, scalar);
        EXPECT_EQ(in_place, expected) << name(dtype) << " in place " << count;
      });
    }
  }
}

TEST(Semantics, CopyCopies) {
  std::mt19937_64 random(9);
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{7}, size_t{64}, size_t{4095}, size_t{300000},
                       size_t{40} << 20}) {
    for (size_t offset : {0, 1, 13}) {
      std::vector<uint8_t> from(bytes + 64), to(bytes + 128, 0xCD);
      for (size_t i = 0; i < from.size(); i += 7) from[i] = static_cast<uint8_t>(random());
      copy(to.data() + 64 - offset, from.data() + offset, bytes);
      EXPECT_TRUE(bytes == 0 ||
                  std::memcmp(to.data() + 64 - offset, from.data() + offset, bytes) == 0);
      EXPECT_EQ(to[63 - offset], 0xCD);
      EXPECT_EQ(to[64 - offset + bytes], 0xCD);
      if (bytes > (size_t{1} << 20)) break;
    }
  }
}

TEST(Semantics, NothingToDoTouchesNothing) {
  float value = 1;
  const void* source = &value;
  void* destination = &value;
  const std::span<const void* const> sources(&source, 1);
  const std::span<void* const> destinations(&destination, 1);
  reduce(DType::float32, ReduceOp::sum, {}, destinations, 1, 0);
  reduce(DType::float32, ReduceOp::sum, sources, {}, 1, 0);
  reduce(DType::float32, ReduceOp::avg, sources, destinations, 0, 2);
  EXPECT_EQ(value, 1);
}

TEST(Semantics, TargetNameIsTheBestSupported) {
  const int64_t supported = hwy::SupportedTargets();
  EXPECT_STREQ(target_name(), hwy::TargetName(supported & -supported));
}

// What the shared libraries go by agrees with what Highway finds itself.
TEST(Semantics, TheCpuIsDetectedAsHighwayDoes) {
  EXPECT_EQ(detect_targets(), hwy::SupportedTargets() & HWY_TARGETS);
}

}  // namespace
}  // namespace tutti::kernels
