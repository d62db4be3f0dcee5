// reduce() against the reference: every type, operator and instruction set over many shapes.
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>

#include "kernels/cpu/kernels.h"
#include "tests/kernels/reference.h"
#include "tests/kernels/targets.h"

namespace tutti::kernels {
namespace {

enum class Values { any_bits, moderate };

// `bytes` bytes at `offset` past a cache line, in a heap block that ends with them, so that the
// address sanitizer sees any read past the end.
class Buffer {
 public:
  Buffer(size_t bytes, size_t offset)
      : bytes_(bytes),
        block_(new (std::align_val_t{64}) uint8_t[offset + bytes]),
        offset_(offset) {}
  uint8_t* data() const { return block_.get() + offset_; }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(uint8_t* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  size_t bytes_;
  std::unique_ptr<uint8_t[], Free> block_;
  size_t offset_;
};

void fill(DType dtype, Values values, std::mt19937_64& random, void* out, size_t count) {
  const reference::Narrow* narrow = reference::narrow_of(dtype);
  for (size_t i = 0; i < count; ++i) {
    const uint64_t bits = random();
    const float real = std::ldexp(static_cast<float>(static_cast<int>(bits % 4001) - 2000) / 1000,
                                  static_cast<int>((bits >> 32) % 5) - 2);
    if (values == Values::any_bits || (!narrow && dtype < DType::float16)) {
      std::memcpy(static_cast<char*>(out) + i * size_of(dtype), &bits, size_of(dtype));
    } else if (narrow) {
      const int code = narrow->encode(real);
      std::memcpy(static_cast<char*>(out) + i * size_of(dtype), &code, size_of(dtype));
    } else if (dtype == DType::float32) {
      reference::store<float>(out, i, real);
    } else {
      reference::store<double>(out, i, real * 1.1);
    }
  }
}

struct Case {
  DType dtype;
  ReduceOp op;
  size_t sources;
  size_t count;
  uint32_t divisor;
  Values values;
};

std::string describe(const Case& c) {
  return std::string(name(c.dtype)) + " " + std::string(name(c.op)) +
         " k=" + std::to_string(c.sources) + " n=" + std::to_string(c.count) +
         " divisor=" + std::to_string(c.divisor) +
         (c.values == Values::any_bits ? " any bits" : " moderate");
}

void expect_equal(const std::vector<uint8_t>& expected, const uint8_t* got, DType dtype) {
  if (expected.empty() || std::memcmp(expected.data(), got, expected.size()) == 0) return;
  const size_t size = size_of(dtype);
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] != got[i]) {
      const size_t element = i / size;
      uint64_t want = 0, have = 0;
      std::memcpy(&want, &expected[element * size], size);
      std::memcpy(&have, got + element * size, size);
      FAIL() << "element " << element << ": expected " << std::hex << want << ", got " << have;
    }
  }
}

// Out of place into two destinations, then in place over one of the sources.
void check(const Case& c, std::mt19937_64& random, size_t offset_seed) {
  SCOPED_TRACE(describe(c));
  const size_t bytes = c.count * size_of(c.dtype);
  std::vector<Buffer> sources;
  std::vector<const void*> pointers;
  for (size_t s = 0; s < c.sources; ++s) {
    sources.emplace_back(bytes, (offset_seed + 13 * s) % 64);
    fill(c.dtype, c.values, random, sources.back().data(), c.count);
    pointers.push_back(sources.back().data());
  }
  std::vector<uint8_t> expected(bytes);
  reference::reduce(c.dtype, c.op, pointers, expected.data(), c.count, c.divisor);

  const size_t inside = random() % c.sources;
  const std::vector<uint8_t> kept(sources[inside].data(), sources[inside].data() + bytes);
  for_each_target([&] {
    Buffer one(bytes, (offset_seed + 7) % 64), two(bytes, (offset_seed + 31) % 64);
    void* both[] = {one.data(), two.data()};
    reduce(c.dtype, c.op, pointers, std::span<void* const>(both, 1), c.count, c.divisor);
    expect_equal(expected, one.data(), c.dtype);
    std::memset(one.data(), 0, bytes);
    reduce(c.dtype, c.op, pointers, both, c.count, c.divisor);
    expect_equal(expected, one.data(), c.dtype);
    expect_equal(expected, two.data(), c.dtype);

    void* in_place[] = {two.data(), sources[inside].data()};
    reduce(c.dtype, c.op, pointers, std::span<void* const>(in_place + 1, 1), c.count, c.divisor);
    expect_equal(expected, sources[inside].data(), c.dtype);
    if (bytes > 0) std::memcpy(sources[inside].data(), kept.data(), bytes);
    reduce(c.dtype, c.op, pointers, in_place, c.count, c.divisor);
    expect_equal(expected, sources[inside].data(), c.dtype);
    if (bytes > 0) std::memcpy(sources[inside].data(), kept.data(), bytes);
  });
}

class Reduce : public testing::TestWithParam<std::tuple<int, int>> {
 protected:
  DType dtype() const { return static_cast<DType>(std::get<0>(GetParam())); }
  ReduceOp op() const { return static_cast<ReduceOp>(std::get<1>(GetParam())); }
};

TEST_P(Reduce, MatchesReference) {
  std::mt19937_64 random(1 + std::get<0>(GetParam()) * 100 + std::get<1>(GetParam()));
  const size_t k_lengths[] = {0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 63, 65, 100, 127, 129, 300};
  for (size_t k : {1, 2, 3, 5, 8, 17}) {
    for (size_t n : k_lengths) {
      const auto values = random() % 2 ? Values::any_bits : Values::moderate;
      const uint32_t divisors[] = {static_cast<uint32_t>(k), 0, 3, 16, 1000003};
      const uint32_t divisor = op() == ReduceOp::avg ? divisors[random() % 5] : 0;
      check({dtype(), op(), k, n, divisor, values}, random, random() % 64);
      if (testing::Test::HasFailure()) return;
    }
    check({dtype(), op(), k, 5003, static_cast<uint32_t>(k), Values::any_bits}, random, 1);
    check({dtype(), op(), k, 2048, static_cast<uint32_t>(k), Values::moderate}, random, 0);
  }
}

TEST_P(Reduce, ManySources) {
  std::mt19937_64 random(7);
  for (size_t n : {1, 40, 700}) {
    check({dtype(), op(), 300, n, 300, Values::any_bits}, random, n);
    check({dtype(), op(), 300, n, 300, Values::moderate}, random, n + 1);
  }
  check({dtype(), op(), 9, 9000, 9, Values::moderate}, random, 5);
}

TEST_P(Reduce, EveryMisalignment) {
  std::mt19937_64 random(11);
  for (size_t offset = 0; offset < 64; ++offset) {
    check({dtype(), op(), 2, 70, 2, Values::any_bits}, random, offset);
    if (testing::Test::HasFailure()) return;
  }
}

// Several MiB in one call equals the same in pieces; one destination is a source, one is
// misaligned, and the count divides by nothing.
TEST(LargeReduce, EqualsItsPieces) {
  std::mt19937_64 random(13);
  const size_t count = (size_t{9} << 20) + 12345;
  for (DType dtype : {DType::float8_e5m2, DType::int8}) {
    Buffer a(count, 0), b(count, 3), c(count, 17);
    fill(dtype, Values::any_bits, random, a.data(), count);
    fill(dtype, Values::any_bits, random, b.data(), count);
    const void* sources[] = {a.data(), b.data()};
    std::vector<uint8_t> expected(count);
    for (size_t at = 0; at < count; at += 4096) {
      const void* from[] = {a.data() + at, b.data() + at};
      void* to = expected.data() + at;
      reduce(dtype, ReduceOp::sum, from, std::span<void* const>(&to, 1),
             std::min(count - at, size_t{4096}), 0);
    }
    void* destinations[] = {c.data(), b.data()};
    reduce(dtype, ReduceOp::sum, sources, destinations, count, 0);
    expect_equal(expected, b.data(), dtype);
    expect_equal(expected, c.data(), dtype);
  }
}

std::string reduce_name(const testing::TestParamInfo<std::tuple<int, int>>& info) {
  return std::string(name(static_cast<DType>(std::get<0>(info.param)))) + "_" +
         std::string(name(static_cast<ReduceOp>(std::get<1>(info.param))));
}
INSTANTIATE_TEST_SUITE_P(All, Reduce,
                         testing::Combine(testing::Range(0, k_dtypes),
                                          testing::Range(0, k_reduce_ops)),
                         reduce_name);

}  // namespace
}  // namespace tutti::kernels
