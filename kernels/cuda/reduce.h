// Copy and k-way reduction by a team of threads, on host and device.
//
// The bulk goes in vectors of 16 bytes, several per thread in flight before the first is used; the
// ends, and buffers that lie differently within 16 bytes, go element by element. Sources are
// reduced in order, accumulated in the wide type and rounded once (docs/numbers.md).
#pragma once

#include "kernels/cuda/packed.h"

namespace tutti::cuda {

// Thread `index` of `count` that share a job: those of a block, or of a grid.
struct Team {
  uint32_t index = 0;
  uint32_t count = 1;
};

// One pass: destinations[j] = sources[0] op sources[1] op ..., `bytes` bytes each. Pointers are
// multiples of the element; a destination may be exactly one of the sources.
struct Pass {
  const std::byte* const* sources;
  uint32_t source_count;
  std::byte* const* destinations;
  uint32_t destination_count;
  uint64_t bytes;
  const uint64_t* factors = nullptr;  // premul_sum: of every source, in an element's bits
};

// Bytes before the first 16-byte boundary when all pointers share one; `bytes` when they do not.
TUTTI_HD inline uint64_t unaligned_head(const Pass& pass) {
  const auto residue = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % k_vector; };
  const uint64_t first = residue(pass.destinations[0]);
  for (uint32_t d = 1; d < pass.destination_count; ++d)
    if (residue(pass.destinations[d]) != first) return pass.bytes;
  for (uint32_t s = 0; s < pass.source_count; ++s)
    if (residue(pass.sources[s]) != first) return pass.bytes;
  const uint64_t head = (k_vector - first) % k_vector;
  return head < pass.bytes ? head : pass.bytes;
}

namespace detail {

// Vectors per thread and turn: as many as their accumulators leave registers for.
template <class Element>
inline constexpr uint32_t k_flight = sizeof(Element) == 1 ? 2 : 4;

// Sources as they lie in memory, or each times its factor.
struct Plain {
  struct Source {
    template <class Element>
    TUTTI_HD Element operator()(Element e) const {
      return e;
    }
  };
  TUTTI_HD Source source(uint32_t) const { return {}; }
};
template <DType kType>
struct Scaled {
  const uint64_t* factors;
  TUTTI_HD Premultiplier<kType> source(uint32_t s) const {
    return Premultiplier<kType>(factors[s]);
  }
};

template <class A, class Sources>
TUTTI_HD void reduce_elements(Team team, const A& a, const Sources& sources, const Pass& pass,
                              uint64_t begin, uint64_t end) {
  using Element = typename A::Element;
  for (uint64_t at = begin + uint64_t{team.index} * sizeof(Element); at < end;
       at += uint64_t{team.count} * sizeof(Element)) {
    auto acc = a.load(sources.source(0)(load_element<Element>(pass.sources[0] + at)));
    for (uint32_t s = 1; s < pass.source_count; ++s)
      acc = a.combine(acc, a.load(sources.source(s)(load_element<Element>(pass.sources[s] + at))));
    const Element result = a.finish(acc);
    for (uint32_t d = 0; d < pass.destination_count; ++d)
      store_element(pass.destinations[d] + at, result);
  }
}

// Every element of a word, times its factor.
template <class Element>
TUTTI_HD inline uint32_t scale_word(const Plain::Source&, uint32_t w) {
  return w;
}
template <class Element>
TUTTI_HD inline uint64_t scale_word(const Plain::Source&, uint64_t w) {
  return w;
}
template <class Element, class Word, DType kType>
TUTTI_HD Word scale_word(const Premultiplier<kType>& scale, Word w) {
  Words<sizeof(Word)> from{}, to{};
  from.put(0, w);
  TUTTI_HD_UNROLL(4)
  for (uint32_t e = 0; e < sizeof(Word) / sizeof(Element); ++e)
    to.put(e, scale(from.template get<Element>(e)));
  return to.template get<Word>(0);
}

// kFlight vectors at `at`, `stride` bytes apart.
template <uint32_t kFlight, class Element, class P, class Sources>
TUTTI_HD void reduce_vectors(const P& p, const Sources& sources, const Pass& pass, uint64_t at,
                             uint64_t stride) {
  using Word = typename P::Word;
  constexpr uint32_t k_words = k_vector / sizeof(Word);
  typename P::Wide acc[kFlight][k_words];
  {
    const auto scale = sources.source(0);
    Words<k_vector> v[kFlight];
    TUTTI_HD_UNROLL(8)
    for (uint32_t u = 0; u < kFlight; ++u)
      v[u] = load_words<k_vector>(pass.sources[0] + at + u * stride);
    TUTTI_HD_UNROLL(8)
    for (uint32_t u = 0; u < kFlight; ++u) {
      TUTTI_HD_UNROLL(4)
      for (uint32_t w = 0; w < k_words; ++w)
        acc[u][w] = p.load(scale_word<Element>(scale, v[u].template get<Word>(w)));
    }
  }
  TUTTI_HD_UNROLL(2)
  for (uint32_t s = 1; s < pass.source_count; ++s) {
    const auto scale = sources.source(s);
    const std::byte* source = pass.sources[s] + at;
    Words<k_vector> v[kFlight];
    TUTTI_HD_UNROLL(8)
    for (uint32_t u = 0; u < kFlight; ++u) v[u] = load_words<k_vector>(source + u * stride);
    TUTTI_HD_UNROLL(8)
    for (uint32_t u = 0; u < kFlight; ++u) {
      TUTTI_HD_UNROLL(4)
      for (uint32_t w = 0; w < k_words; ++w)
        acc[u][w] =
            p.combine(acc[u][w], p.load(scale_word<Element>(scale, v[u].template get<Word>(w))));
    }
  }
  TUTTI_HD_UNROLL(8)
  for (uint32_t u = 0; u < kFlight; ++u) {
    Words<k_vector> result{};
    TUTTI_HD_UNROLL(4)
    for (uint32_t w = 0; w < k_words; ++w) result.put(w, p.finish(acc[u][w], pass.source_count));
    for (uint32_t d = 0; d < pass.destination_count; ++d)
      store_words(pass.destinations[d] + at + u * stride, result);
  }
}

// Calls body<kFlight>(at) for the vectors of [begin, end) that fall to this thread: neighbouring
// threads take neighbouring vectors.
template <uint32_t kFlight, class Body>
TUTTI_HD void for_vectors(Team team, uint64_t begin, uint64_t end, Body&& body) {
  const uint64_t stride = uint64_t{team.count} * k_vector;
  uint64_t at = begin + uint64_t{team.index} * k_vector;
  for (; at + (kFlight - 1) * stride < end; at += kFlight * stride)
    body.template operator()<kFlight>(at, stride);
  for (; at < end; at += stride) body.template operator()<1>(at, stride);
}

}  // namespace detail

namespace detail {

template <uint32_t kFlight, DType kType, Family kFamily, class Sources>
TUTTI_HD void reduce_all(Team team, Operator op, const Sources& sources, const Pass& pass) {
  using A = Arithmetic<kType, kFamily>;
  const A a(op);
  const Packed<kType, kFamily> packed(op);
  const uint64_t head = unaligned_head(pass);
  const uint64_t tail = head + (pass.bytes - head) / k_vector * k_vector;
  reduce_elements(team, a, sources, pass, 0, head);
  for_vectors<kFlight>(team, head, tail, [&]<uint32_t kNow>(uint64_t at, uint64_t stride) {
    reduce_vectors<kNow, typename A::Element>(packed, sources, pass, at, stride);
  });
  reduce_elements(team, a, sources, pass, tail, pass.bytes);
}

}  // namespace detail

template <DType kType, Family kFamily>
TUTTI_HD void reduce(Team team, Operator op, const Pass& pass) {
  using A = Arithmetic<kType, kFamily>;
  constexpr uint32_t k_flight = detail::k_flight<typename A::Element>;
  if constexpr (kFamily == Family::sum) {
    if (pass.factors != nullptr) {
      const detail::Scaled<kType> scaled{pass.factors};
      return detail::reduce_all<k_flight / 2, kType, kFamily>(team, op, scaled, pass);
    }
  }
  detail::reduce_all<k_flight, kType, kFamily>(team, op, detail::Plain(), pass);
}

// destinations = sources[0], bit for bit; pointers need no alignment.
TUTTI_HD inline void copy(Team team, const Pass& pass) {
  const uint64_t head = unaligned_head(pass);
  const uint64_t tail = head + (pass.bytes - head) / k_vector * k_vector;
  const auto bytes = [&](uint64_t begin, uint64_t end) {
    for (uint64_t at = begin + team.index; at < end; at += team.count) {
      const std::byte b = pass.sources[0][at];
      for (uint32_t d = 0; d < pass.destination_count; ++d) pass.destinations[d][at] = b;
    }
  };
  bytes(0, head);
  detail::for_vectors<4>(team, head, tail, [&]<uint32_t kFlight>(uint64_t at, uint64_t stride) {
    Words<k_vector> v[kFlight];
    TUTTI_HD_UNROLL(4)
    for (uint32_t u = 0; u < kFlight; ++u)
      v[u] = load_words<k_vector>(pass.sources[0] + at + u * stride);
    TUTTI_HD_UNROLL(4)
    for (uint32_t u = 0; u < kFlight; ++u)
      for (uint32_t d = 0; d < pass.destination_count; ++d)
        store_words(pass.destinations[d] + at + u * stride, v[u]);
  });
  bytes(tail, pass.bytes);
}

// One source with nothing to divide or multiply is a copy and keeps every bit.
template <DType kType, Family kFamily>
TUTTI_HD void run_pass(Team team, Operator op, const Pass& pass) {
  if (pass.source_count == 1 && op.divisor == 0 && pass.factors == nullptr) return copy(team, pass);
  reduce<kType, kFamily>(team, op, pass);
}

}  // namespace tutti::cuda
