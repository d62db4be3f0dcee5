// Sixteen bytes in registers: how kernels read and write memory, and how elements lie in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "src/base/host_device.h"

namespace tutti::cuda {

inline constexpr uint32_t k_vector = 16;  // bytes of the widest access

// A vector of bytes; elements do not straddle its words but for those of 8 bytes.
template <uint32_t kBytes>
struct Words {
  static_assert(kBytes % 4 == 0);
  uint32_t w[kBytes / 4];

  template <class Element>
  TUTTI_HD Element get(uint32_t i) const {
    if constexpr (sizeof(Element) == 8) {
      return static_cast<Element>(uint64_t{w[2 * i + 1]} << 32 | w[2 * i]);
    } else if constexpr (sizeof(Element) == 4) {
      return static_cast<Element>(w[i]);
    } else {
      constexpr uint32_t k_each = 4 / sizeof(Element);
      return static_cast<Element>(w[i / k_each] >> (8 * sizeof(Element) * (i % k_each)));
    }
  }
  // Into words that are zero where the element goes.
  template <class Element>
  TUTTI_HD void put(uint32_t i, Element e) {
    if constexpr (sizeof(Element) == 8) {
      w[2 * i] = static_cast<uint32_t>(static_cast<uint64_t>(e));
      w[2 * i + 1] = static_cast<uint32_t>(static_cast<uint64_t>(e) >> 32);
    } else if constexpr (sizeof(Element) == 4) {
      w[i] = static_cast<uint32_t>(e);
    } else {
      constexpr uint32_t k_each = 4 / sizeof(Element);
      const auto bits = static_cast<uint32_t>(e) & ((uint32_t{1} << (8 * sizeof(Element))) - 1);
      w[i / k_each] |= bits << (8 * sizeof(Element) * (i % k_each));
    }
  }
};

// One access; `p` is a multiple of kBytes.
template <uint32_t kBytes>
TUTTI_HD inline Words<kBytes> load_words(const std::byte* p) {
  Words<kBytes> v;
#if defined(__CUDA_ARCH__)
  if constexpr (kBytes == 16) {
    const uint4 all = *reinterpret_cast<const uint4*>(p);
    v.w[0] = all.x, v.w[1] = all.y, v.w[2] = all.z, v.w[3] = all.w;
  } else {
    const uint2 all = *reinterpret_cast<const uint2*>(p);
    v.w[0] = all.x, v.w[1] = all.y;
  }
#else
  memcpy(v.w, p, kBytes);
#endif
  return v;
}
template <uint32_t kBytes>
TUTTI_HD inline void store_words(std::byte* p, const Words<kBytes>& v) {
#if defined(__CUDA_ARCH__)
  if constexpr (kBytes == 16) {
    *reinterpret_cast<uint4*>(p) = make_uint4(v.w[0], v.w[1], v.w[2], v.w[3]);
  } else {
    *reinterpret_cast<uint2*>(p) = make_uint2(v.w[0], v.w[1]);
  }
#else
  memcpy(p, v.w, kBytes);
#endif
}

// An element at an address that is a multiple of its size.
template <class Element>
TUTTI_HD inline Element load_element(const std::byte* p) {
#if defined(__CUDA_ARCH__)
  return *reinterpret_cast<const Element*>(p);
#else
  Element e;
  memcpy(&e, p, sizeof e);
  return e;
#endif
}
template <class Element>
TUTTI_HD inline void store_element(std::byte* p, Element e) {
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<Element*>(p) = e;
#else
  memcpy(p, &e, sizeof e);
#endif
}

}  // namespace tutti::cuda
