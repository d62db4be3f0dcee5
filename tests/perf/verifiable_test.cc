// The exactly predictable data: right for every dtype, op, rank count and order, and sensitive to
// everything a collective can get wrong.
#include "perf/verifiable.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>

namespace tutti::perf {
namespace {

bool is_integer(DType dtype) { return static_cast<int>(dtype) <= static_cast<int>(DType::uint64); }
bool is_signed(DType dtype) {
  return dtype == DType::int8 || dtype == DType::int32 || dtype == DType::int64;
}

// One element in a form that can be computed with: an integer of the dtype's width, or a double.
struct Value {
  int64_t integer = 0;
  double real = 0;
};

Value load(const unsigned char* bytes, DType dtype) {
  uint64_t bits = 0;
  std::memcpy(&bits, bytes, size_of(dtype));
  if (!is_integer(dtype)) return {0, decode_float(dtype, bits)};
  if (is_signed(dtype) && size_of(dtype) < 8) {
    const int shift = 64 - 8 * static_cast<int>(size_of(dtype));
    return {static_cast<int64_t>(bits << shift) >> shift, 0};
  }
  return {static_cast<int64_t>(bits), 0};
}

void store(unsigned char* bytes, DType dtype, const Value& value) {
  const uint64_t bits =
      is_integer(dtype) ? static_cast<uint64_t>(value.integer) : encode_float(dtype, value.real);
  std::memcpy(bytes, &bits, size_of(dtype));
}

// a op b, rounded to the dtype: what a step-by-step algorithm keeps between its steps.
Value combine(DType dtype, ReduceOp op, const Value& a, const Value& b) {
  const auto pick = [&](auto x, auto y) {
    switch (op) {
      case ReduceOp::prod:
        return x * y;
      case ReduceOp::min:
        return std::min(x, y);
      case ReduceOp::max:
        return std::max(x, y);
      default:
        return x + y;
    }
  };
  Value result{pick(a.integer, b.integer), pick(a.real, b.real)};
  unsigned char bytes[8];
  store(bytes, dtype, result);
  return load(bytes, dtype);
}

class Inputs {
 public:
  Inputs(DType dtype, ReduceOp op, uint32_t ranks, size_t count, uint64_t seed)
      : dtype_(dtype), op_(op), count_(count), pattern_(dtype, op, ranks), seed_(seed) {
    for (Rank r = 0; r < ranks; ++r) {
      data_.emplace_back(count * size_of(dtype));
      pattern_.fill(data_.back().data(), count, r, seed, k_first);
    }
  }
  // Reduces the ranks in `order`.
  std::vector<unsigned char> reduce(const std::vector<Rank>& order) const {
    std::vector<unsigned char> result(count_ * size_of(dtype_));
    for (size_t i = 0; i < count_; ++i) {
      Value total = scaled(order[0], i);
      for (size_t k = 1; k < order.size(); ++k)
        total = combine(dtype_, op_, total, scaled(order[k], i));
      if (op_ == ReduceOp::avg) total = average(total);
      store(result.data() + i * size_of(dtype_), dtype_, total);
    }
    return result;
  }
  uint64_t wrong(const std::vector<unsigned char>& result) const {
    return pattern_.count_wrong(result.data(), count_, seed_, k_first);
  }
  std::vector<std::vector<unsigned char>>& data() { return data_; }

  static constexpr uint64_t k_first = 12345;

 private:
  Value scaled(Rank rank, size_t i) const {
    const Value value = load(data_[rank].data() + i * size_of(dtype_), dtype_);
    if (op_ != ReduceOp::premul_sum) return value;
    const uint64_t bits = Pattern::scalar_bits(dtype_, rank);
    unsigned char bytes[8];
    std::memcpy(bytes, &bits, 8);
    return combine(dtype_, ReduceOp::prod, value, load(bytes, dtype_));
  }
  Value average(const Value& total) const {
    const auto n = static_cast<int64_t>(data_.size());
    if (is_integer(dtype_)) return {total.integer / n, 0};
    if (dtype_ == DType::float64) return {0, total.real / static_cast<double>(n)};
    return {0, static_cast<float>(total.real) / static_cast<float>(n)};
  }

  DType dtype_;
  ReduceOp op_;
  size_t count_;
  Pattern pattern_;
  uint64_t seed_;
  std::vector<std::vector<unsigned char>> data_;
};

class VerifiableTest : public testing::TestWithParam<int> {};

TEST_P(VerifiableTest, every_order_of_reduction_gives_the_expected_bits) {
  const auto dtype = static_cast<DType>(GetParam() / k_reduce_ops);
  const auto op = static_cast<ReduceOp>(GetParam() % k_reduce_ops);
  std::mt19937 random(7);
  for (uint32_t ranks : {1u, 2u, 3u, 4u, 5u, 8u, 13u, 33u, 64u, 300u}) {
    const Inputs inputs(dtype, op, ranks, 64, ranks);
    std::vector<Rank> order(ranks);
    std::iota(order.begin(), order.end(), 0);
    for (int trial = 0; trial < 4; ++trial) {
      EXPECT_EQ(inputs.wrong(inputs.reduce(order)), 0u)
          << name(dtype) << " " << name(op) << " " << ranks << " ranks, trial " << trial;
      std::shuffle(order.begin(), order.end(), random);
    }
  }
}

TEST_P(VerifiableTest, a_lost_or_doubled_contribution_shows) {
  const auto dtype = static_cast<DType>(GetParam() / k_reduce_ops);
  const auto op = static_cast<ReduceOp>(GetParam() % k_reduce_ops);
  const bool idempotent = op == ReduceOp::min || op == ReduceOp::max;
  for (uint32_t ranks : {2u, 3u, 8u, 40u}) {
    const Inputs inputs(dtype, op, ranks, 4096, 5);
    std::vector<Rank> all(ranks);
    std::iota(all.begin(), all.end(), 0);
    for (Rank victim = 0; victim < ranks; victim += 7) {
      std::vector<Rank> lost = all;
      lost.erase(lost.begin() + victim);
      EXPECT_GT(inputs.wrong(inputs.reduce(lost)), 0u)
          << name(dtype) << " " << name(op) << " lost " << victim << " of " << ranks;
      std::vector<Rank> doubled = all;
      doubled.push_back(victim);
      if (!idempotent) {
        EXPECT_GT(inputs.wrong(inputs.reduce(doubled)), 0u)
            << name(dtype) << " " << name(op) << " doubled " << victim << " of " << ranks;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(all, VerifiableTest, testing::Range(0, k_dtypes* k_reduce_ops),
                         [](const testing::TestParamInfo<int>& test) {
                           return std::string(name(static_cast<DType>(test.param / k_reduce_ops))) +
                                  "_" +
                                  std::string(
                                      name(static_cast<ReduceOp>(test.param % k_reduce_ops)));
                         });

TEST(Pattern, misplaced_or_stale_data_shows) {
  Inputs inputs(DType::float32, ReduceOp::sum, 4, 1000, 1);
  std::vector<unsigned char> good = inputs.reduce({0, 1, 2, 3});
  ASSERT_EQ(inputs.wrong(good), 0u);
  const Pattern pattern(DType::float32, ReduceOp::sum, 4);
  EXPECT_GT(pattern.count_wrong(good.data(), 1000, 1, Inputs::k_first + 1), 100u);  // shifted
  EXPECT_GT(pattern.count_wrong(good.data(), 1000, 2, Inputs::k_first), 100u);  // last iteration's
  good[400] ^= 1;
  EXPECT_EQ(inputs.wrong(good), 1u);
}

TEST(Pattern, wide_types_mix_all_ranks) {
  EXPECT_EQ(Pattern(DType::float32, ReduceOp::sum, 200).window(), 200u);
  EXPECT_GE(Pattern(DType::float16, ReduceOp::sum, 64).window(), 64u);
  EXPECT_GE(Pattern(DType::float8_e5m2, ReduceOp::sum, 8).window(), 4u);
}

TEST(Moved, depends_on_seed_rank_and_index) {
  for (int d = 0; d < k_dtypes; ++d) {
    const auto dtype = static_cast<DType>(d);
    std::vector<unsigned char> data(1000 * size_of(dtype));
    fill_moved(data.data(), 1000, dtype, 3, 42, 17);
    EXPECT_EQ(count_wrong_moved(data.data(), 1000, dtype, 3, 42, 17), 0u);
    EXPECT_GT(count_wrong_moved(data.data(), 1000, dtype, 2, 42, 17), 900u);
    EXPECT_GT(count_wrong_moved(data.data(), 1000, dtype, 3, 43, 17), 900u);
    EXPECT_GT(count_wrong_moved(data.data(), 1000, dtype, 3, 42, 18), 900u);
    EXPECT_EQ(count_wrong_moved(data.data() + 5 * size_of(dtype), 995, dtype, 3, 42, 22), 0u);
  }
}

TEST(EncodeFloat, agrees_with_the_formats) {
  EXPECT_EQ(encode_float(DType::float16, 1.0), 0x3c00u);
  EXPECT_EQ(encode_float(DType::float16, -2.0), 0xc000u);
  EXPECT_EQ(encode_float(DType::float16, 65504.0), 0x7bffu);
  EXPECT_EQ(encode_float(DType::float16, std::ldexp(1.0, -24)), 1u);
  EXPECT_EQ(encode_float(DType::bfloat16, 1.0), 0x3f80u);
  EXPECT_EQ(encode_float(DType::float8_e4m3, 448.0), 0x7eu);
  EXPECT_EQ(encode_float(DType::float8_e4m3, 1.0), 0x38u);
  EXPECT_EQ(encode_float(DType::float8_e5m2, 57344.0), 0x7bu);
  EXPECT_EQ(encode_float(DType::float16, 2049.0), encode_float(DType::float16, 2048.0));  // even
  EXPECT_EQ(encode_float(DType::float16, 2051.0), encode_float(DType::float16, 2052.0));
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 1000);
  for (int i = 0; i < 1000; ++i) {
    const float value = normal(random);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    EXPECT_EQ(encode_float(DType::float32, value), bits);
  }
}

TEST(EncodeFloat, every_finite_pattern_survives) {
  for (DType dtype : {DType::float16, DType::bfloat16, DType::float8_e4m3, DType::float8_e5m2}) {
    const uint64_t patterns = uint64_t{1} << (8 * size_of(dtype));
    for (uint64_t bits = 0; bits < patterns; ++bits) {
      const double value = decode_float(dtype, bits);
      if (!std::isfinite(value)) continue;
      EXPECT_EQ(encode_float(dtype, value), bits) << name(dtype);
    }
  }
}

}  // namespace
}  // namespace tutti::perf
