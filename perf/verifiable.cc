// Exactly predictable inputs and their expected results, see verifiable.h.
#include "perf/verifiable.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace tutti::perf {
namespace {

constexpr uint32_t k_phases = 4;
// Enough ranks to mix at an index; keeps the tables small at thousands of ranks.
constexpr uint32_t k_widest_window = 256;

uint64_t hash(uint64_t value) {  // the finaliser of splitmix64
  value += 0x9e3779b97f4a7c15ULL;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31);
}

struct FloatFormat {
  int mantissa;  // stored bits
  int exponent;  // bits
  int bias;
  bool finite_only;  // e4m3: no infinity, one NaN
};

bool is_float(DType dtype) {
  return dtype == DType::float16 || dtype == DType::float32 || dtype == DType::float64 ||
         dtype == DType::bfloat16 || dtype == DType::float8_e4m3 || dtype == DType::float8_e5m2;
}

bool is_unsigned(DType dtype) {
  return dtype == DType::uint8 || dtype == DType::uint32 || dtype == DType::uint64;
}

FloatFormat format_of(DType dtype) {
  switch (dtype) {
    case DType::float8_e4m3:
      return {3, 4, 7, true};
    case DType::float8_e5m2:
      return {2, 5, 15, false};
    case DType::float16:
      return {10, 5, 15, false};
    case DType::bfloat16:
      return {7, 8, 127, false};
    case DType::float32:
      return {23, 8, 127, false};
    default:
      return {52, 11, 1023, false};
  }
}

// Integers of at most this magnitude are exact in the dtype.
int64_t exact_limit(DType dtype) {
  switch (dtype) {
    case DType::int8:
    case DType::uint8:
      return 127;
    case DType::int32:
    case DType::uint32:
      return std::numeric_limits<int32_t>::max();
    case DType::int64:
    case DType::uint64:
      return int64_t{1} << 62;
    default:
      return int64_t{1} << (format_of(dtype).mantissa + 1);
  }
}

// Values are small integers times this, so that the upper bytes of wide types matter.
int64_t unit_of(DType dtype, ReduceOp op) {
  switch (dtype) {
    case DType::int8:
    case DType::uint8:
      return op == ReduceOp::avg ? 8 : 1;  // otherwise avg truncates what it should show
    case DType::int32:
    case DType::uint32:
      return 65537;
    case DType::int64:
    case DType::uint64:
      return (int64_t{1} << 40) + (int64_t{1} << 20) + 1;
    case DType::float32:
      return 257;
    case DType::float64:
      return (int64_t{1} << 32) + 1;
    default:
      return 1;
  }
}

// Powers of two that a product may reach, minus one for safety against premature rounding to zero.
uint32_t doublings(DType dtype) {
  switch (dtype) {
    case DType::int8:
    case DType::uint8:
      return 6;
    case DType::float8_e4m3:
      return 8;
    case DType::float8_e5m2:
    case DType::float16:
      return 15;
    case DType::int32:
    case DType::uint32:
      return 30;
    default:
      return 60;
  }
}

using Base = std::array<int64_t, 4>;

// The first rank of a window gives `first[phase]`, so that results differ from index to index also
// when all ranks take part; rank k > 0 of the window gives rest[k % 4].
struct Values {
  Base first;
  Base rest;
  int64_t at(uint32_t phase, uint32_t position) const {
    return position == 0 ? first[phase] : rest[position % 4];
  }
};

Values sum_values(DType dtype) {
  return is_unsigned(dtype) ? Values{{1, 2, 3, 4}, {1, 2, 1, 3}}
                            : Values{{1, 2, 3, -1}, {1, 1, 2, -1}};
}
Values prod_values(DType dtype) {
  return is_unsigned(dtype) ? Values{{1, 2, 1, 2}, {2, 1, 2, 1}}
                            : Values{{2, -1, 1, -2}, {2, -1, 1, -2}};
}

int64_t multiplier(ReduceOp op, Rank rank) {
  return op == ReduceOp::premul_sum && rank % 2 == 1 ? 2 : 1;
}

uint32_t sum_window(DType dtype, ReduceOp op, uint32_t ranks) {
  const Values values = sum_values(dtype);
  const int64_t worst = op == ReduceOp::premul_sum ? 2 : 1;
  const int64_t limit = exact_limit(dtype) / unit_of(dtype, op);
  int64_t total = worst * *std::max_element(values.first.begin(), values.first.end());
  uint32_t window = 1;
  while (window < std::min(ranks, k_widest_window)) {
    total += worst * std::abs(values.at(0, window));
    if (total > limit) break;
    ++window;
  }
  return window;
}

uint32_t prod_window(DType dtype, uint32_t ranks) {
  // Every second value doubles, and the first one may.
  return std::min({ranks, k_widest_window, 2 * doublings(dtype) - 2});
}

// min and max: a different small value at each position of the window, none the neutral one.
int64_t extreme_span(DType dtype) {
  return std::min<int64_t>(exact_limit(dtype) / unit_of(dtype, ReduceOp::min), 100) - 1;  // e5m2: 7
}
int64_t extreme_low(DType dtype) { return is_unsigned(dtype) ? 1 : -extreme_span(dtype); }
uint64_t extreme_values(DType dtype) {
  return static_cast<uint64_t>(extreme_span(dtype) - extreme_low(dtype) + 1);
}
int64_t extreme_value(DType dtype, uint32_t phase, uint32_t position) {
  // 7 has no factor in common with the 15, 31, 99 and 199 values there are.
  const uint64_t step = (uint64_t{position} * 7 + uint64_t{phase} * 3) % extreme_values(dtype);
  return unit_of(dtype, ReduceOp::min) * (extreme_low(dtype) + static_cast<int64_t>(step));
}

int64_t neutral(DType dtype, ReduceOp op) {
  switch (op) {
    case ReduceOp::prod:
      return 1;
    case ReduceOp::min:
      return unit_of(dtype, ReduceOp::min) * (extreme_span(dtype) + 1);
    case ReduceOp::max:
      return unit_of(dtype, ReduceOp::min) * (extreme_low(dtype) - 1);
    default:
      return 0;
  }
}

int64_t fold(ReduceOp op, int64_t a, int64_t b) {
  switch (op) {
    case ReduceOp::prod:
      return a * b;
    case ReduceOp::min:
      return std::min(a, b);
    case ReduceOp::max:
      return std::max(a, b);
    default:
      return a + b;
  }
}

template <class T>
void fill_as(void* buffer, size_t count, const auto& bits_at) {
  auto* out = static_cast<unsigned char*>(buffer);
  for (size_t i = 0; i < count; ++i) {
    const T element = static_cast<T>(bits_at(i));
    std::memcpy(out + i * sizeof(T), &element, sizeof(T));
  }
}

template <class T>
uint64_t differ_as(const void* buffer, size_t count, const auto& bits_at) {
  const auto* in = static_cast<const unsigned char*>(buffer);
  uint64_t wrong = 0;
  for (size_t i = 0; i < count; ++i) {
    T element;
    std::memcpy(&element, in + i * sizeof(T), sizeof(T));
    wrong += element != static_cast<T>(bits_at(i));
  }
  return wrong;
}

void fill_bits(void* buffer, size_t count, DType dtype, const auto& bits_at) {
  switch (size_of(dtype)) {
    case 1:
      return fill_as<uint8_t>(buffer, count, bits_at);
    case 2:
      return fill_as<uint16_t>(buffer, count, bits_at);
    case 4:
      return fill_as<uint32_t>(buffer, count, bits_at);
    default:
      return fill_as<uint64_t>(buffer, count, bits_at);
  }
}

uint64_t differ_bits(const void* buffer, size_t count, DType dtype, const auto& bits_at) {
  switch (size_of(dtype)) {
    case 1:
      return differ_as<uint8_t>(buffer, count, bits_at);
    case 2:
      return differ_as<uint16_t>(buffer, count, bits_at);
    case 4:
      return differ_as<uint32_t>(buffer, count, bits_at);
    default:
      return differ_as<uint64_t>(buffer, count, bits_at);
  }
}

}  // namespace

uint64_t encode_float(DType dtype, double value) {
  if (dtype == DType::float64) return std::bit_cast<uint64_t>(value);
  const FloatFormat f = format_of(dtype);
  const uint64_t sign = std::signbit(value) ? uint64_t{1} << (f.mantissa + f.exponent) : 0;
  const double magnitude = std::fabs(value);
  if (magnitude == 0) return sign;
  // Subnormals share the exponent of the smallest normal number.
  const int exponent = std::max(std::ilogb(magnitude), 1 - f.bias);
  // rint rounds to nearest even: the default mode, which no thread of ours changes.
  const double steps = std::rint(std::ldexp(magnitude, f.mantissa - exponent));
  // A carry out of the mantissa moves into the exponent by itself.
  const auto bits = static_cast<uint64_t>(exponent - 1 + f.bias) << f.mantissa;
  return sign | (bits + static_cast<uint64_t>(steps));
}

double decode_float(DType dtype, uint64_t bits) {
  if (dtype == DType::float64) return std::bit_cast<double>(bits);
  const FloatFormat f = format_of(dtype);
  const uint64_t mantissa = bits & ((uint64_t{1} << f.mantissa) - 1);
  const auto field = static_cast<int>((bits >> f.mantissa) & ((uint64_t{1} << f.exponent) - 1));
  const bool negative = ((bits >> (f.mantissa + f.exponent)) & 1) != 0;
  const int top = (1 << f.exponent) - 1;
  double magnitude;
  if (field == top && (!f.finite_only || mantissa == (uint64_t{1} << f.mantissa) - 1)) {
    magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity()
                              : std::numeric_limits<double>::quiet_NaN();
  } else if (field == 0) {
    magnitude = std::ldexp(static_cast<double>(mantissa), 1 - f.bias - f.mantissa);
  } else {
    magnitude = std::ldexp(static_cast<double>(mantissa | (uint64_t{1} << f.mantissa)),
                           field - f.bias - f.mantissa);
  }
  return negative ? -magnitude : magnitude;
}

Pattern::Pattern(DType dtype, ReduceOp op, uint32_t ranks)
    : dtype_(dtype), op_(op), ranks_(ranks), window_(std::min(ranks, k_widest_window)) {
  if (op == ReduceOp::prod) window_ = prod_window(dtype, ranks);
  if (op == ReduceOp::min || op == ReduceOp::max)
    window_ = static_cast<uint32_t>(std::min<uint64_t>(window_, extreme_values(dtype) / 2));
  if (op == ReduceOp::sum || op == ReduceOp::avg || op == ReduceOp::premul_sum)
    window_ = sum_window(dtype, op, ranks);
  for (uint32_t phase = 0; phase < k_phases; ++phase) {
    for (uint32_t position = 0; position <= window_; ++position)
      position_bits_.push_back(encode_integer(contribution(position, {phase, 0})));
    if (window_ == ranks_)  // nobody is outside
      position_bits_.back() = encode_integer(neutral(dtype_, op_));
  }
  // Which ranks fill the window matters only where they have scalars of their own.
  for (uint32_t phase = 0; phase < k_phases; ++phase)
    for (uint32_t start = 0; start < ranks_; ++start)
      expected_.push_back(start == 0 || op == ReduceOp::premul_sum ? expected_bits({phase, start})
                                                                   : expected_.back());
}

Pattern::Draw Pattern::draw(uint64_t seed, uint64_t index) const {
  const uint64_t h = hash(seed ^ (index * 0xd1342543de82ef95ULL));
  return {static_cast<uint32_t>(h & (k_phases - 1)),
          static_cast<uint32_t>(((h >> 32) * ranks_) >> 32)};
}

int64_t Pattern::contribution(Rank rank, Draw at) const {
  const uint32_t position = (rank + ranks_ - at.start) % ranks_;
  if (position >= window_) return neutral(dtype_, op_);
  switch (op_) {
    case ReduceOp::prod:
      return prod_values(dtype_).at(at.phase, position);
    case ReduceOp::min:
    case ReduceOp::max:
      return extreme_value(dtype_, at.phase, position);
    default:
      return unit_of(dtype_, op_) * sum_values(dtype_).at(at.phase, position);
  }
}

uint64_t Pattern::expected_bits(Draw at) const {
  int64_t result = neutral(dtype_, op_);
  for (uint32_t position = 0; position < window_; ++position) {
    const Rank rank = (at.start + position) % ranks_;
    result = fold(op_, result, contribution(rank, at) * multiplier(op_, rank));
  }
  if (op_ != ReduceOp::avg) return encode_integer(result);
  if (dtype_ == DType::float64)
    return encode_float(dtype_, static_cast<double>(result) / static_cast<double>(ranks_));
  // avg divides the exact sum in fp32, then rounds to the element type (docs/numbers.md).
  if (is_float(dtype_))
    return encode_float(dtype_, static_cast<float>(result) / static_cast<float>(ranks_));
  return encode_integer(result / static_cast<int64_t>(ranks_));
}

uint64_t Pattern::encode_integer(int64_t value) const {
  return is_float(dtype_) ? encode_float(dtype_, static_cast<double>(value))
                          : static_cast<uint64_t>(value);
}

uint64_t Pattern::scalar_bits(DType dtype, Rank rank) {
  const int64_t value = multiplier(ReduceOp::premul_sum, rank);
  return is_float(dtype) ? encode_float(dtype, static_cast<double>(value))
                         : static_cast<uint64_t>(value);
}

void Pattern::fill(void* buffer, size_t count, Rank rank, uint64_t seed, uint64_t first) const {
  fill_bits(buffer, count, dtype_, [&](size_t i) {
    const Draw at = draw(seed, first + i);
    uint32_t position = rank >= at.start ? rank - at.start : rank + ranks_ - at.start;
    position = std::min(position, window_);
    return position_bits_[at.phase * (window_ + 1) + position];
  });
}

uint64_t Pattern::count_wrong(const void* result, size_t count, uint64_t seed,
                              uint64_t first) const {
  return differ_bits(result, count, dtype_, [&](size_t i) {
    const Draw at = draw(seed, first + i);
    return expected_[at.phase * ranks_ + at.start];
  });
}

void fill_moved(void* buffer, size_t count, DType dtype, Rank rank, uint64_t seed, uint64_t first) {
  const uint64_t key = hash(seed ^ (uint64_t{rank} << 40));
  fill_bits(buffer, count, dtype, [&](size_t i) { return hash(key + first + i); });
}

uint64_t count_wrong_moved(const void* buffer, size_t count, DType dtype, Rank rank, uint64_t seed,
                           uint64_t first) {
  const uint64_t key = hash(seed ^ (uint64_t{rank} << 40));
  return differ_bits(buffer, count, dtype, [&](size_t i) { return hash(key + first + i); });
}

}  // namespace tutti::perf
