// The ladder to the device kernels: small programs, each one idea further, for k-way sums of fp32
// and bf16. They are what tests/kernels checks on the host and perf/bench/gpu_ladder checks and
// times on a device beside the promoted kernel (kernels/cuda/reduce.h), which also does everything
// else: any type, operator and alignment, several destinations, tails. README.md has the story.
//
// Every rung sums `count` elements of `k` sources in order, in fp32, rounded once; pointers are
// multiples of 16 bytes and `count` of 8 elements.
#pragma once

#include "kernels/cuda/reduce.h"

namespace tutti::cuda::ladder {

inline constexpr uint32_t k_most_sources = 16;

struct Sum {
  const std::byte* sources[k_most_sources];
  std::byte* destination;
  uint32_t k;
  uint64_t bytes;
};

enum class Rung : uint8_t { reference, v1, v2, promoted };
inline constexpr int k_rungs = 4;
constexpr const char* name(Rung rung) {
  switch (rung) {
    case Rung::reference:
      return "reference";
    case Rung::v1:
      return "v1";
    case Rung::v2:
      return "v2";
    case Rung::promoted:
      return "promoted";
  }
  return "";
}

// Reference: an element a turn. Neighbouring threads read neighbouring elements, and nothing else
// is done about memory: one load of 2 or 4 bytes in flight per thread and source.
template <DType kType>
TUTTI_HD void reference(Team team, const Sum& sum) {
  using A = Arithmetic<kType, Family::sum>;
  using Element = typename A::Element;
  const A a(Operator{});
  for (uint64_t at = team.index * sizeof(Element); at < sum.bytes;
       at += uint64_t{team.count} * sizeof(Element)) {
    auto acc = a.load(load_element<Element>(sum.sources[0] + at));
    for (uint32_t s = 1; s < sum.k; ++s)
      acc = a.combine(acc, a.load(load_element<Element>(sum.sources[s] + at)));
    store_element(sum.destination + at, a.finish(acc));
  }
}

// v1: 16 bytes a turn: a quarter (an eighth) of the instructions that touch memory.
template <DType kType>
TUTTI_HD void v1(Team team, const Sum& sum) {
  using A = Arithmetic<kType, Family::sum>;
  using Element = typename A::Element;
  constexpr uint32_t k_each = k_vector / sizeof(Element);
  const A a(Operator{});
  for (uint64_t at = uint64_t{team.index} * k_vector; at < sum.bytes;
       at += uint64_t{team.count} * k_vector) {
    typename A::Wide acc[k_each];
    Words<k_vector> v = load_words<k_vector>(sum.sources[0] + at);
    TUTTI_HD_UNROLL(8)
    for (uint32_t e = 0; e < k_each; ++e) acc[e] = a.load(v.template get<Element>(e));
    for (uint32_t s = 1; s < sum.k; ++s) {
      v = load_words<k_vector>(sum.sources[s] + at);
      TUTTI_HD_UNROLL(8)
      for (uint32_t e = 0; e < k_each; ++e)
        acc[e] = a.combine(acc[e], a.load(v.template get<Element>(e)));
    }
    Words<k_vector> result{};
    TUTTI_HD_UNROLL(8)
    for (uint32_t e = 0; e < k_each; ++e) result.put(e, a.finish(acc[e]));
    store_words(sum.destination + at, result);
  }
}

// v2: the vectors of all sources (up to 8) are loaded before the first is used: the loads of a turn
// are in flight together, whatever k is. Sources past the eighth come in further such groups.
template <DType kType>
TUTTI_HD void v2(Team team, const Sum& sum) {
  using A = Arithmetic<kType, Family::sum>;
  using Element = typename A::Element;
  constexpr uint32_t k_each = k_vector / sizeof(Element), k_group = 8;
  const A a(Operator{});
  for (uint64_t at = uint64_t{team.index} * k_vector; at < sum.bytes;
       at += uint64_t{team.count} * k_vector) {
    typename A::Wide acc[k_each]{};  // k is at least 1, which the compiler cannot see
    for (uint32_t first = 0; first < sum.k; first += k_group) {
      Words<k_vector> v[k_group];
      TUTTI_HD_UNROLL(8)
      for (uint32_t i = 0; i < k_group; ++i)
        if (first + i < sum.k) v[i] = load_words<k_vector>(sum.sources[first + i] + at);
      TUTTI_HD_UNROLL(8)
      for (uint32_t i = 0; i < k_group; ++i) {
        if (first + i >= sum.k) continue;
        TUTTI_HD_UNROLL(8)
        for (uint32_t e = 0; e < k_each; ++e) {
          const auto x = a.load(v[i].template get<Element>(e));
          acc[e] = first + i == 0 ? x : a.combine(acc[e], x);
        }
      }
    }
    Words<k_vector> result{};
    TUTTI_HD_UNROLL(8)
    for (uint32_t e = 0; e < k_each; ++e) result.put(e, a.finish(acc[e]));
    store_words(sum.destination + at, result);
  }
}

template <DType kType>
TUTTI_HD void run(Rung rung, Team team, const Sum& sum) {
  switch (rung) {
    case Rung::reference:
      return reference<kType>(team, sum);
    case Rung::v1:
      return v1<kType>(team, sum);
    case Rung::v2:
      return v2<kType>(team, sum);
    case Rung::promoted: {
      std::byte* const to = sum.destination;
      return reduce<kType, Family::sum>(team, Operator{}, {sum.sources, sum.k, &to, 1, sum.bytes});
    }
  }
}

}  // namespace tutti::cuda::ladder
