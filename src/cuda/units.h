// Units: what packets carry, 8 bytes of a buffer that may begin anywhere and end within one.
#pragma once

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/words.h"

namespace tutti::cuda {

// 8 bytes of data travel in two packets.
inline constexpr uint32_t k_unit = 8;
TUTTI_HD constexpr uint64_t units_of(uint64_t bytes) { return (bytes + k_unit - 1) / k_unit; }

// Unit u of the `bytes` at p; past their end come zeros, which nobody stores.
template <class Element>
TUTTI_HD inline Words<k_unit> load_unit(const std::byte* p, uint64_t bytes, uint64_t u) {
  p += u * k_unit;
  const uint64_t left = bytes - u * k_unit;
  if (left >= k_unit && reinterpret_cast<uintptr_t>(p) % k_unit == 0) return load_words<k_unit>(p);
  Words<k_unit> data{};
  for (uint32_t e = 0; e < k_unit / sizeof(Element) && e * sizeof(Element) < left; ++e)
    data.put(e, load_element<Element>(p + e * sizeof(Element)));
  return data;
}

template <class Element>
TUTTI_HD inline void store_unit(std::byte* p, uint64_t bytes, uint64_t u,
                                const Words<k_unit>& data) {
  p += u * k_unit;
  const uint64_t left = bytes - u * k_unit;
  if (left >= k_unit && reinterpret_cast<uintptr_t>(p) % k_unit == 0) return store_words(p, data);
  for (uint32_t e = 0; e < k_unit / sizeof(Element) && e * sizeof(Element) < left; ++e)
    store_element(p + e * sizeof(Element), data.template get<Element>(e));
}

// premul_sum: every element times the factor, rounded to the element.
template <DType kType>
TUTTI_HD inline Words<k_unit> times(const Words<k_unit>& data, uint64_t factor) {
  using Element = typename Premultiplier<kType>::Element;
  const Premultiplier<kType> multiply(factor);
  Words<k_unit> result{};
  TUTTI_HD_UNROLL(8)
  for (uint32_t e = 0; e < k_unit / sizeof(Element); ++e)
    result.put(e, multiply(data.template get<Element>(e)));
  return result;
}

}  // namespace tutti::cuda
