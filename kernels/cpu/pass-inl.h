// The one loop of all reduction kernels, written over a Format. Per-target include (no guard of the
// usual kind): the includer sits between HWY_BEFORE_NAMESPACE and its exports.
//
// A Format says how one packet of elements becomes wide accumulators and back:
//   k_bytes, k_accs          bytes of a packet in memory; accumulator vectors it widens to
//   Acc                      the accumulators of one packet, struct { V v[k_accs]; }
//   Acc load(bytes)          k_bytes from any address
//   Acc combine(Acc, Acc)    the operator, element by element
//   Packed finish(Acc)       divide, round, canonicalise: one vector, as stored
//   store(Packed, bytes)
//
// A block is as many packets as fill four accumulator vectors, so that the latency of the operator
// is hidden and everything stays in registers.

#if defined(TUTTI_KERNELS_PASS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TUTTI_KERNELS_PASS_INL_H_
#undef TUTTI_KERNELS_PASS_INL_H_
#else
#define TUTTI_KERNELS_PASS_INL_H_
#endif

#include <cstring>

#include "hwy/highway.h"
#include "kernels/cpu/pass.h"

#ifndef TUTTI_UNROLL
#ifdef __clang__
#define TUTTI_UNROLL _Pragma("unroll")
#else
#define TUTTI_UNROLL _Pragma("GCC unroll 8")
#endif
#endif

HWY_BEFORE_NAMESPACE();
namespace tutti::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Unaligned vectors of any lane type. One lane goes through memcpy: a plain dereference of a
// misaligned pointer would be undefined.
template <class D>
HWY_INLINE hn::Vec<D> load_bytes(D d, const uint8_t* p) {
  using T = hn::TFromD<D>;
#if HWY_TARGET == HWY_SCALAR
  T value;
  std::memcpy(&value, p, sizeof(T));
  return hn::Set(d, value);
#else
  return hn::LoadU(d, reinterpret_cast<const T*>(p));
#endif
}
template <class D>
HWY_INLINE void store_bytes(D d, hn::Vec<D> v, uint8_t* p) {
  using T = hn::TFromD<D>;
#if HWY_TARGET == HWY_SCALAR
  (void)d;
  const T value = hn::GetLane(v);
  std::memcpy(p, &value, sizeof(T));
#else
  hn::StoreU(v, d, reinterpret_cast<T*>(p));
#endif
}

// More sources than this go through an accumulator tile, a group at a time.
constexpr size_t k_group = 8;
// Blocks of a tile: its accumulators fill 8 KiB (AVX2), a quarter of a small L1.
constexpr size_t k_tile_blocks = 32;

template <class F>
constexpr size_t block_packets() {
  return F::k_accs >= 8 ? 1 : 8 / F::k_accs;
}

// Folds sources[from..to) at byte offset `at` into `acc`.
template <class F, size_t U>
HWY_INLINE void fold(const F& format, const Pass& pass, size_t from, size_t to, size_t at,
                     typename F::Acc (&acc)[U]) {
  for (size_t s = from; s < to; ++s) {
    const uint8_t* source = pass.source(s, at);
    TUTTI_UNROLL
    for (size_t u = 0; u < U; ++u) {
      acc[u] = format.combine(acc[u], format.load(source + u * F::k_bytes));
    }
  }
}

template <class F, size_t U>
HWY_INLINE void load_first(const F& format, const uint8_t* source, typename F::Acc (&acc)[U]) {
  TUTTI_UNROLL
  for (size_t u = 0; u < U; ++u) acc[u] = format.load(source + u * F::k_bytes);
}

// A Format may finish a block at once (finish_block), where that is cheaper.
template <class F, size_t U>
HWY_INLINE void finish_all(const F& format, const typename F::Acc (&acc)[U],
                           typename F::Packed (&packed)[U]) {
  if constexpr (requires { format.finish_block(acc, packed); }) {
    format.finish_block(acc, packed);
  } else {
    TUTTI_UNROLL
    for (size_t u = 0; u < U; ++u) packed[u] = format.finish(acc[u]);
  }
}

template <class F, size_t U>
HWY_INLINE void store_all(const F& format, const Pass& pass, size_t at, typename F::Acc (&acc)[U]) {
  typename F::Packed packed[U];
  finish_all<F, U>(format, acc, packed);
  for (size_t d = 0; d < pass.destination_count; ++d) {
    uint8_t* const destination = pass.destination(d, at);
    TUTTI_UNROLL
    for (size_t u = 0; u < U; ++u) format.store(packed[u], destination + u * F::k_bytes);
  }
}

// Whole blocks of U packets in [at, bytes); returns where it stopped.
template <size_t U, class F>
HWY_INLINE size_t reduce_blocks(const F& format, const Pass& pass, size_t at, size_t bytes) {
  for (; bytes - at >= U * F::k_bytes; at += U * F::k_bytes) {
    typename F::Acc acc[U];
    load_first<F, U>(format, pass.source(0, at), acc);
    fold<F, U>(format, pass, 1, pass.source_count, at, acc);
    store_all<F, U>(format, pass, at, acc);
  }
  return at;
}

// The same for two sources and one destination, with the pointers in registers.
template <size_t U, class F>
HWY_INLINE size_t reduce_two(const F& format, const Pass& pass, size_t at, size_t bytes) {
  const uint8_t* const a = pass.source(0, 0);
  const uint8_t* const b = pass.source(1, 0);
  uint8_t* const out = pass.destination(0, 0);
  for (; bytes - at >= U * F::k_bytes; at += U * F::k_bytes) {
    typename F::Acc acc[U];
    load_first<F, U>(format, a + at, acc);
    TUTTI_UNROLL
    for (size_t u = 0; u < U; ++u) {
      acc[u] = format.combine(acc[u], format.load(b + at + u * F::k_bytes));
    }
    typename F::Packed packed[U];
    finish_all<F, U>(format, acc, packed);
    TUTTI_UNROLL
    for (size_t u = 0; u < U; ++u) format.store(packed[u], out + at + u * F::k_bytes);
  }
  return at;
}

// Many sources: a tile of accumulators stays in L1 while the sources stream by in groups, so that
// no more than k_group streams are open at once.
template <size_t U, class F>
HWY_INLINE size_t reduce_tiles(const F& format, const Pass& pass, size_t at, size_t bytes) {
  constexpr size_t k_block = U * F::k_bytes;
  typename F::Acc tile[k_tile_blocks][U];
  while (bytes - at >= k_block) {
    const size_t left = (bytes - at) / k_block;
    const size_t blocks = left < k_tile_blocks ? left : k_tile_blocks;
    for (size_t from = 0; from < pass.source_count; from += k_group) {
      const bool last = pass.source_count - from <= k_group;
      const size_t to = last ? pass.source_count : from + k_group;
      for (size_t b = 0; b < blocks; ++b) {
        const size_t here = at + b * k_block;
        typename F::Acc acc[U];
        if (from == 0) {
          load_first<F, U>(format, pass.source(0, here), acc);
        } else {
          TUTTI_UNROLL
          for (size_t u = 0; u < U; ++u) acc[u] = tile[b][u];
        }
        fold<F, U>(format, pass, from == 0 ? 1 : from, to, here, acc);
        if (last) {
          store_all<F, U>(format, pass, here, acc);
        } else {
          TUTTI_UNROLL
          for (size_t u = 0; u < U; ++u) tile[b][u] = acc[u];
        }
      }
    }
    at += blocks * k_block;
  }
  return at;
}

// Two pieces that may overlap: short lengths without a call.
template <class Piece>
HWY_INLINE void copy_ends(uint8_t* to, const uint8_t* from, size_t bytes) {
  Piece first, last;
  std::memcpy(&first, from, sizeof(Piece));
  std::memcpy(&last, from + bytes - sizeof(Piece), sizeof(Piece));
  std::memcpy(to, &first, sizeof(Piece));
  std::memcpy(to + bytes - sizeof(Piece), &last, sizeof(Piece));
}
HWY_INLINE void copy_few(uint8_t* to, const uint8_t* from, size_t bytes) {
  if (bytes > 16) {
    std::memcpy(to, from, bytes);
  } else if (bytes >= 8) {
    copy_ends<uint64_t>(to, from, bytes);
  } else if (bytes >= 4) {
    copy_ends<uint32_t>(to, from, bytes);
  } else if (bytes >= 2) {
    copy_ends<uint16_t>(to, from, bytes);
  } else {
    *to = *from;
  }
}

// The last, partial packet, through a buffer of one packet.
template <class F>
HWY_INLINE void reduce_tail(const F& format, const Pass& pass, size_t at, size_t bytes) {
  const size_t rest = bytes - at;
  alignas(64) uint8_t buffer[F::k_bytes] = {};
  copy_few(buffer, pass.source(0, at), rest);
  typename F::Acc acc = format.load(buffer);
  for (size_t s = 1; s < pass.source_count; ++s) {
    copy_few(buffer, pass.source(s, at), rest);
    acc = format.combine(acc, format.load(buffer));
  }
  format.store(format.finish(acc), buffer);
  for (size_t d = 0; d < pass.destination_count; ++d) {
    copy_few(pass.destination(d, at), buffer, rest);
  }
}

template <class F>
HWY_INLINE void run_pass(const F& format, const Pass& shared) {
  constexpr size_t k_u = block_packets<F>();
  const Pass pass = shared;  // a local that no store can alias stays in registers
  const size_t bytes = pass.count * size_of(pass.dtype);
  size_t at = 0;
  if (pass.source_count == 2 && pass.destination_count == 1) {
    at = reduce_two<k_u>(format, pass, at, bytes);
  } else if (pass.source_count <= k_group) {
    at = reduce_blocks<k_u>(format, pass, at, bytes);
  } else {
    at = reduce_tiles<k_u>(format, pass, at, bytes);
  }
  if constexpr (k_u > 1) at = reduce_blocks<1>(format, pass, at, bytes);
  if (at < bytes) reduce_tail(format, pass, at, bytes);
}

}  // namespace HWY_NAMESPACE
}  // namespace tutti::kernels
HWY_AFTER_NAMESPACE();

#endif
