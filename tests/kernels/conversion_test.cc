// Every code of the narrow floats, and the hard cases of rounding, on every instruction set.
#include <gtest/gtest.h>

#include <random>

#include "kernels/cpu/kernels.h"
#include "tests/kernels/reference.h"
#include "tests/kernels/targets.h"

namespace tutti::kernels {
namespace {

using reference::Narrow;

// Reduces columns of 16-bit codes of one narrow type and compares with the reference.
class Columns {
 public:
  Columns(DType dtype, size_t sources) : dtype_(dtype), rows_(sources) {}

  void add(std::initializer_list<int> codes) {
    size_t s = 0;
    for (int code : codes) rows_[s++].push_back(static_cast<uint16_t>(code));
  }

  void check(ReduceOp op, uint32_t divisor) const {
    const size_t size = size_of(dtype_), count = rows_[0].size();
    std::vector<std::vector<uint8_t>> bytes;
    std::vector<const void*> sources;
    for (const auto& row : rows_) {
      bytes.emplace_back(count * size);
      for (size_t i = 0; i < count; ++i) std::memcpy(&bytes.back()[i * size], &row[i], size);
    }
    for (const auto& row : bytes) sources.push_back(row.data());
    std::vector<uint8_t> expected(count * size), got(count * size);
    reference::reduce(dtype_, op, sources, expected.data(), count, divisor);
    for_each_target([&] {
      void* destination = got.data();
      reduce(dtype_, op, sources, std::span<void* const>(&destination, 1), count, divisor);
      for (size_t i = 0; i < count; ++i) {
        if (std::memcmp(&expected[i * size], &got[i * size], size) != 0) {
          ADD_FAILURE() << name(dtype_) << " " << name(op) << "/" << divisor << " of " << std::hex
                        << rows_[0][i] << " and " << rows_.back()[i] << ": expected "
                        << code(expected, i) << ", got " << code(got, i);
          return;
        }
      }
    });
  }

 private:
  int code(const std::vector<uint8_t>& bytes, size_t i) const {
    int value = 0;
    std::memcpy(&value, &bytes[i * size_of(dtype_)], size_of(dtype_));
    return value;
  }
  DType dtype_;
  std::vector<std::vector<uint16_t>> rows_;
};

constexpr DType k_narrow[] = {DType::float16, DType::bfloat16, DType::float8_e4m3,
                              DType::float8_e5m2};

TEST(Conversion, AllPairsOfFp8) {
  for (DType dtype : {DType::float8_e4m3, DType::float8_e5m2}) {
    Columns pairs(dtype, 2);
    for (int a = 0; a < 256; ++a) {
      for (int b = 0; b < 256; ++b) pairs.add({a, b});
    }
    for (ReduceOp op : {ReduceOp::sum, ReduceOp::prod, ReduceOp::min, ReduceOp::max}) {
      pairs.check(op, 0);
    }
    for (uint32_t divisor : {2, 3, 7, 1000}) pairs.check(ReduceOp::avg, divisor);
  }
}

// x * 1 decodes and encodes every code; x / 1 alone does so without a second source.
TEST(Conversion, EveryCodeRoundTrips) {
  for (DType dtype : k_narrow) {
    const Narrow& format = *reference::narrow_of(dtype);
    const int one = format.encode(1.0);
    Columns products(dtype, 2), alone(dtype, 1);
    for (int code = 0; code < 2 * format.sign_bit(); ++code) {
      products.add({code, one});
      alone.add({code});
    }
    products.check(ReduceOp::prod, 0);
    alone.check(ReduceOp::avg, 1);
    for (uint32_t divisor : {2u, 3u, 64u, 65537u, 0x80000000u, 0xFFFFFFFFu}) {
      alone.check(ReduceOp::avg, divisor);
    }
  }
}

// Halfway between every two neighbours, and a little to either side of it: x + half a step, then
// plus or minus a sliver far below (three sources, summed in fp32 before the only rounding).
TEST(Conversion, TiesAndTheirNeighbours) {
  for (DType dtype : k_narrow) {
    const Narrow& format = *reference::narrow_of(dtype);
    Columns sums(dtype, 3);
    for (int code = 0; code < format.largest_finite(); ++code) {
      const double low = format.decode(code), step = format.decode(code + 1) - low;
      const int half = format.encode(step / 2), sliver = format.encode(step / 64);
      const int sign = format.sign_bit();
      for (int third : {0, sliver, sliver | sign}) {
        sums.add({code, half, third});
        sums.add({code | sign, half | sign, third});
        sums.add({code + 1, half | sign, third});
      }
    }
    sums.check(ReduceOp::sum, 0);
    sums.check(ReduceOp::avg, 2);
    sums.check(ReduceOp::avg, 3);
  }
}

TEST(Conversion, OverflowAndItsBoundary) {
  for (DType dtype : k_narrow) {
    const Narrow& format = *reference::narrow_of(dtype);
    const int top = format.largest_finite(), sign = format.sign_bit();
    const double step = format.decode(top) - format.decode(top - 1);
    Columns sums(dtype, 3);
    for (double part : {0.25, 0.4375, 0.5, 0.5625, 0.75, 1.0, 2.0}) {
      const int more = format.encode(step * part);
      for (int third : {0, format.encode(step / 32), format.encode(step / 32) | sign}) {
        sums.add({top, more, third});
        sums.add({top | sign, more | sign, third});
        sums.add({top, top, third});
        sums.add({top | sign, top | sign, third});
      }
    }
    for (ReduceOp op : {ReduceOp::sum, ReduceOp::prod}) sums.check(op, 0);
    sums.check(ReduceOp::avg, 3);
  }
}

TEST(Conversion, RandomPairsOf16Bits) {
  std::mt19937_64 random(3);
  for (DType dtype : {DType::float16, DType::bfloat16}) {
    Columns pairs(dtype, 2);
    for (int a = 0; a < 65536; ++a) {
      for (int i = 0; i < 4; ++i) pairs.add({a, static_cast<int>(random() & 0xFFFF)});
      pairs.add({a, (a ^ 0x8000) + static_cast<int>(random() % 5) - 2});  // cancellation
    }
    for (ReduceOp op : {ReduceOp::sum, ReduceOp::prod, ReduceOp::min, ReduceOp::max}) {
      pairs.check(op, 0);
    }
    pairs.check(ReduceOp::avg, 3);
  }
}

}  // namespace
}  // namespace tutti::kernels
