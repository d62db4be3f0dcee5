// The rungs, see ladder.h and README.md: right for finite values and whole vectors; what a rung
// adds over the one before is its point.
#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ladder/ladder.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/ladder/ladder.h"

HWY_BEFORE_NAMESPACE();
namespace tutti::ladder {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One vector per turn: the loop's bookkeeping costs as much as its work.
void fp32_v1(void* a, const void* b, size_t n) {
  const hn::ScalableTag<float> d;
  auto* x = static_cast<float*>(a);
  const auto* y = static_cast<const float*>(b);
  for (size_t i = 0; i + hn::Lanes(d) <= n; i += hn::Lanes(d)) {
    hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, x + i);
  }
}

// Four vectors per turn, all loaded before any is stored.
void fp32_v2(void* a, const void* b, size_t n) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  auto* x = static_cast<float*>(a);
  const auto* y = static_cast<const float*>(b);
  for (size_t i = 0; i + 4 * lanes <= n; i += 4 * lanes) {
    const auto s0 = hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, y + i));
    const auto s1 = hn::Add(hn::LoadU(d, x + i + lanes), hn::LoadU(d, y + i + lanes));
    const auto s2 = hn::Add(hn::LoadU(d, x + i + 2 * lanes), hn::LoadU(d, y + i + 2 * lanes));
    const auto s3 = hn::Add(hn::LoadU(d, x + i + 3 * lanes), hn::LoadU(d, y + i + 3 * lanes));
    hn::StoreU(s0, d, x + i);
    hn::StoreU(s1, d, x + i + lanes);
    hn::StoreU(s2, d, x + i + 2 * lanes);
    hn::StoreU(s3, d, x + i + 3 * lanes);
  }
}

// bf16 widened by PromoteTo: half a vector in, half a vector out, a shuffle each way.
void bf16_v1(void* a, const void* b, size_t n) {
  const hn::ScalableTag<float> df;
  const hn::Rebind<uint16_t, decltype(df)> d16;
  const hn::RebindToUnsigned<decltype(df)> du;
  auto* x = static_cast<uint16_t*>(a);
  const auto* y = static_cast<const uint16_t*>(b);
  const auto widen = [&](const uint16_t* p) HWY_ATTR {
    return hn::BitCast(df, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, p))));
  };
  const hn::RebindToSigned<decltype(df)> di;
  for (size_t i = 0; i + hn::Lanes(df) <= n; i += hn::Lanes(df)) {
    const auto sum = hn::BitCast(du, hn::Add(widen(x + i), widen(y + i)));
    const auto odd = hn::And(hn::ShiftRight<16>(sum), hn::Set(du, 1u));
    const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(sum, hn::Set(du, 0x7FFFu)), odd));
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, rounded)), d16, x + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tutti::ladder
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tutti::ladder {
namespace {

HWY_EXPORT(fp32_v1);
HWY_EXPORT(fp32_v2);
HWY_EXPORT(bf16_v1);

// The plain loop, with the compiler's own vectors of the baseline instruction set.
void fp32_reference(void* a, const void* b, size_t n) {
  auto* x = static_cast<float*>(a);
  const auto* y = static_cast<const float*>(b);
  for (size_t i = 0; i < n; ++i) x[i] += y[i];
}

float decode_e4m3(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                    : std::ldexp(static_cast<float>(mantissa + 8), exponent - 10);
  return code & 0x80 ? -value : value;
}

// To nearest even and saturated, for finite values.
uint8_t encode_e4m3(float value) {
  const int sign = std::signbit(value) ? 0x80 : 0;
  const float x = std::fmin(std::fabs(value), 448.0f);
  const int exponent = std::max(x > 0 ? std::ilogb(x) : -6, -6);
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(x, 3 - exponent)));
  return static_cast<uint8_t>(sign | (((exponent + 6) << 3) + steps));
}

// fp8 as its definition reads.
void e4m3_reference(void* a, const void* b, size_t n) {
  auto* x = static_cast<uint8_t*>(a);
  const auto* y = static_cast<const uint8_t*>(b);
  for (size_t i = 0; i < n; ++i) x[i] = encode_e4m3(decode_e4m3(x[i]) + decode_e4m3(y[i]));
}

// All 65536 pairs in a table: one load per element, which L1 cannot hold.
void e4m3_v1(void* a, const void* b, size_t n) {
  static const auto k_table = [] {
    std::array<uint8_t, 65536> table;
    for (int i = 0; i < 65536; ++i) {
      table[i] = encode_e4m3(decode_e4m3(i >> 8) + decode_e4m3(i & 255));
    }
    return table;
  }();
  auto* x = static_cast<uint8_t*>(a);
  const auto* y = static_cast<const uint8_t*>(b);
  for (size_t i = 0; i < n; ++i) x[i] = k_table[x[i] << 8 | y[i]];
}

constexpr Rung k_rungs[] = {
    {"fp32 reference", DType::float32, fp32_reference},
    {"fp32 v1 one vector", DType::float32,
     [](void* a, const void* b, size_t n) {
       HWY_DYNAMIC_DISPATCH(fp32_v1)
       (a, b, n);
     }},
    {"fp32 v2 four vectors", DType::float32,
     [](void* a, const void* b, size_t n) {
       HWY_DYNAMIC_DISPATCH(fp32_v2)
       (a, b, n);
     }},
    {"bf16 v1 shuffles", DType::bfloat16,
     [](void* a, const void* b, size_t n) {
       HWY_DYNAMIC_DISPATCH(bf16_v1)
       (a, b, n);
     }},
    {"e4m3 reference", DType::float8_e4m3, e4m3_reference},
    {"e4m3 v1 table", DType::float8_e4m3, e4m3_v1},
};

}  // namespace

std::span<const Rung> rungs() { return k_rungs; }

}  // namespace tutti::ladder
#endif
