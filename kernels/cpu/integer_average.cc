// avg of integers: the exact sum divided by the divisor, truncated toward zero.
//
// 8-bit elements add up exactly in fp32 and 32-bit elements in fp64 as long as sums stay within the
// mantissa; there the rounded quotient also truncates rightly (a quotient just below an integer q
// is at least q / |sum| away from it, more than half a unit in the last place). Longer runs and
// 64-bit elements add up in 128-bit integers.
#include <algorithm>
#include <limits>

#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/integer_average.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "kernels/cpu/pass-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tutti::kernels {
namespace HWY_NAMESPACE {

// `flip` and `bias` map a signed or unsigned element to
// what the CPU converts: x = (bits ^ flip) + bias.
struct Average8 {
  using DF = hn::ScalableTag<float>;
  using D = hn::Rebind<uint8_t, DF>;
  using Packed = hn::Vec<D>;
  using DI = hn::RebindToSigned<DF>;
  static constexpr size_t k_accs = 1;
  static constexpr size_t k_bytes = HWY_LANES(float);
  struct Acc {
    hn::Vec<DF> v[1];
  };

  HWY_INLINE Acc load(const uint8_t* p) const {
    const auto bits = hn::Xor(load_bytes(D(), p), hn::Set(D(), flip));
    const auto value = hn::ConvertTo(DF(), hn::PromoteTo(DI(), bits));
    return {{hn::Add(value, hn::Set(DF(), bias))}};
  }
  HWY_INLINE Acc combine(Acc a, Acc b) const { return {{hn::Add(a.v[0], b.v[0])}}; }
  HWY_INLINE hn::Vec<D> finish(Acc a) const {
    const auto quotient = hn::Trunc(hn::Div(a.v[0], hn::Set(DF(), divisor)));
    const auto shifted = hn::Sub(quotient, hn::Set(DF(), bias));
    const auto limited = hn::Min(hn::Max(shifted, hn::Zero(DF())), hn::Set(DF(), 255.0f));
    return hn::Xor(hn::DemoteTo(D(), hn::ConvertTo(DI(), limited)), hn::Set(D(), flip));
  }
  HWY_INLINE void store(hn::Vec<D> v, uint8_t* p) const { store_bytes(D(), v, p); }

  uint8_t flip;  // makes signed elements unsigned
  float bias;
  float divisor;
};

struct Average32 {
  using DF = hn::ScalableTag<double>;
  using D = hn::Rebind<int32_t, DF>;
  using Packed = hn::Vec<D>;
  static constexpr size_t k_accs = 1;
  static constexpr size_t k_bytes = HWY_LANES(double) * 4;
  struct Acc {
    hn::Vec<DF> v[1];
  };

  HWY_INLINE Acc load(const uint8_t* p) const {
    const auto bits = hn::Xor(load_bytes(D(), p), hn::Set(D(), flip));
    return {{hn::Add(hn::PromoteTo(DF(), bits), hn::Set(DF(), bias))}};
  }
  HWY_INLINE Acc combine(Acc a, Acc b) const { return {{hn::Add(a.v[0], b.v[0])}}; }
  HWY_INLINE hn::Vec<D> finish(Acc a) const {
    const auto quotient = hn::Trunc(hn::Div(a.v[0], hn::Set(DF(), divisor)));
    const auto shifted = hn::Sub(quotient, hn::Set(DF(), bias));
    const auto limited =
        hn::Min(hn::Max(shifted, hn::Set(DF(), -2147483648.0)), hn::Set(DF(), 2147483647.0));
    return hn::Xor(hn::DemoteTo(D(), limited), hn::Set(D(), flip));
  }
  HWY_INLINE void store(hn::Vec<D> v, uint8_t* p) const { store_bytes(D(), v, p); }

  int32_t flip;  // makes unsigned elements signed
  double bias;
  double divisor;
};

void average_vectors(const Pass& pass) {
  switch (pass.dtype) {
    case DType::int8:
      return run_pass(Average8{0x80, -128.0f, static_cast<float>(pass.divisor)}, pass);
    case DType::uint8:
      return run_pass(Average8{0, 0.0f, static_cast<float>(pass.divisor)}, pass);
    case DType::int32:
      return run_pass(Average32{0, 0.0, static_cast<double>(pass.divisor)}, pass);
    default:
      return run_pass(Average32{std::numeric_limits<int32_t>::min(), 2147483648.0,
                                static_cast<double>(pass.divisor)},
                      pass);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tutti::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tutti::kernels {

HWY_EXPORT(average_vectors);

namespace {

__extension__ using Int128 = __int128;

// Sources one after the other through a tile of sums, so that each is read in runs.
template <class T>
void average_exactly(const Pass& pass) {
  constexpr size_t k_tile = 256;
  Int128 sums[k_tile];
  T results[k_tile];
  for (size_t at = 0; at < pass.count; at += k_tile) {
    const size_t n = std::min(k_tile, pass.count - at);
    std::fill(sums, sums + n, Int128{0});
    for (size_t s = 0; s < pass.source_count; ++s) {
      const uint8_t* source = pass.source(s, at * sizeof(T));
      for (size_t i = 0; i < n; ++i) {
        T value;
        std::memcpy(&value, source + i * sizeof(T), sizeof(T));
        sums[i] += value;
      }
    }
    for (size_t i = 0; i < n; ++i) {
      const Int128 quotient = sums[i] / Int128{pass.divisor};
      results[i] = static_cast<T>(std::clamp<Int128>(quotient, std::numeric_limits<T>::min(),
                                                     std::numeric_limits<T>::max()));
    }
    for (size_t d = 0; d < pass.destination_count; ++d) {
      std::memcpy(pass.destination(d, at * sizeof(T)), results, n * sizeof(T));
    }
  }
}

// Largest numbers of sources whose sums stay within the mantissas of fp32 and fp64.
constexpr size_t k_exact_8 = size_t{1} << 16;
constexpr size_t k_exact_32 = size_t{1} << 20;

}  // namespace

void average_integers(const Pass& pass) {
  const bool narrow = size_of(pass.dtype) == 1;
  if (size_of(pass.dtype) < 8 && pass.source_count <= (narrow ? k_exact_8 : k_exact_32) &&
      (!narrow || pass.divisor <= k_exact_8)) {
    return HWY_DYNAMIC_DISPATCH(average_vectors)(pass);
  }
  switch (pass.dtype) {
    case DType::int8:
      return average_exactly<int8_t>(pass);
    case DType::uint8:
      return average_exactly<uint8_t>(pass);
    case DType::int32:
      return average_exactly<int32_t>(pass);
    case DType::uint32:
      return average_exactly<uint32_t>(pass);
    case DType::int64:
      return average_exactly<int64_t>(pass);
    default:
      return average_exactly<uint64_t>(pass);
  }
}

}  // namespace tutti::kernels
#endif
