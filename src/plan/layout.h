// Layout: from chunks to bytes, for one call. A plan is size-free; this is where count, element
// size, in-place aliasing and rounds come in.
//
// A block of `count` elements is cut into rounds, and the part of a round into Shape::chunks chunks
// (multiples of 64 bytes but for the last, so that writers of neighbouring chunks share no cache
// line; trailing chunks may be empty). Both ends of a connection compute the same cut. All sizes
// are 64-bit.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "src/base/host_device.h"
#include "src/plan/plan.h"

namespace tutti {

// A run of bytes of one buffer, relative to the buffer's start.
struct Extent {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// How executors cut a plan's chunks.
struct LayoutLimits {
  uint64_t max_chunk_bytes = 0;   // of one round; 0: everything in one
  uint64_t min_chunk_bytes = 64;  // where messages are dear, small blocks go in few chunks

  // `slot_bytes`: the most that a message through a slot may carry. `by_reference`: contiguous
  // messages of any length are read where they are.
  static LayoutLimits of(const Shape& shape, uint64_t slot_bytes, bool by_reference) {
    // A message over a network costs as much as some kilobytes: smaller chunks are not worth one.
    constexpr uint64_t k_network_chunk = 4096;
    // A message of one chunk is contiguous; one of several may not be, and then takes a slot.
    // Scratch of several generations must not grow with the call (recursive doubling: log2 n
    // blocks).
    const bool any_size = by_reference && shape.longest == 1 && shape.scratch <= shape.chunks;
    const uint64_t slot = std::max<uint64_t>(1, slot_bytes / shape.longest);
    return {any_size ? 0 : slot, by_reference ? 64 : std::min(k_network_chunk, slot)};
  }
};

class Layout {
 public:
  Layout() = default;
  // `max_chunk_bytes`: the most that one chunk may hold in a round; 0: everything in one round.
  // `min_chunk_bytes`: chunks are multiples of it; where messages are dear, a small block is better
  // off in few chunks, since empty ones are not sent.
  Layout(const Shape& shape, uint64_t count, size_t element_bytes, uint64_t max_chunk_bytes,
         uint64_t min_chunk_bytes = 64)
      : chunks_(std::max<uint32_t>(shape.chunks, 1)), element_(element_bytes), count_(count) {
    const uint64_t quantum = std::max<uint64_t>(1, min_chunk_bytes / element_);
    auto up = [&](uint64_t elements) { return (elements + quantum - 1) / quantum * quantum; };
    auto per_chunk = [&](uint64_t elements) {
      // A block smaller than a quantum per chunk is still spread in whole quanta.
      return up((elements + chunks_ - 1) / chunks_);
    };
    chunk_ = per_chunk(count);
    if (max_chunk_bytes > 0) {
      const uint64_t cap = std::max(quantum, max_chunk_bytes / element_ / quantum * quantum);
      if (chunk_ > cap) {
        const uint64_t rounds = (count + cap * chunks_ - 1) / (cap * chunks_);
        chunk_ = per_chunk((count + rounds - 1) / rounds);
      }
    }
    const uint64_t round = chunk_ * chunks_;
    rounds_ = count == 0 ? 1 : static_cast<uint32_t>((count + round - 1) / round);
  }

  TUTTI_HD uint32_t rounds() const { return rounds_; }
  TUTTI_HD size_t element_bytes() const { return element_; }
  uint64_t count() const { return count_; }
  uint64_t block_bytes() const { return count_ * element_; }
  // Bytes of scratch for `scratch_chunks` chunks (the same area serves every round).
  uint64_t scratch_bytes(uint32_t scratch_chunks) const {
    return uint64_t{scratch_chunks} * chunk_ * element_;
  }

  // The bytes of chunk `chunk` of `buffer` in `round`.
  TUTTI_HD Extent chunk(Buffer buffer, uint32_t chunk, uint32_t round) const {
    const uint64_t in_block = chunk % chunks_, block = chunk / chunks_;
    const uint64_t base = std::min(count_, uint64_t{round} * chunk_ * chunks_ + in_block * chunk_);
    const uint64_t end = std::min(count_, base + chunk_);
    const uint64_t start =
        buffer == Buffer::scratch ? uint64_t{chunk} * chunk_ : block * count_ + base;
    return {start * element_, (end - base) * element_};
  }

  // Calls f(Extent) for the maximal contiguous runs of chunks [chunk, chunk + count), in order,
  // skipping empty ones.
  template <class F>
  void for_each_extent(Buffer buffer, uint32_t first, uint32_t count, uint32_t round, F&& f) const {
    Extent run;
    for (uint32_t c = first; c < first + count; ++c) {
      const Extent e = chunk(buffer, c, round);
      if (e.bytes == 0) continue;
      if (run.bytes > 0 && run.offset + run.bytes == e.offset) {
        run.bytes += e.bytes;
      } else {
        if (run.bytes > 0) f(run);
        run = e;
      }
    }
    if (run.bytes > 0) f(run);
  }

  // Payload of a step over chunks [first, first + count); the same for source and destination.
  uint64_t bytes(uint32_t first, uint32_t count, uint32_t round) const {
    uint64_t total = 0;
    while (count > 0) {  // the chunks of a block lie one after the other
      const uint32_t here = std::min(count, chunks_ - first % chunks_);
      const Extent last = chunk(Buffer::input, first + here - 1, round);
      total += last.offset + last.bytes - chunk(Buffer::input, first, round).offset;
      first += here;
      count -= here;
    }
    return total;
  }

 private:
  uint32_t chunks_ = 1;
  size_t element_ = 1;
  uint64_t count_ = 0;
  uint64_t chunk_ = 0;  // elements of a full chunk in one round
  uint32_t rounds_ = 1;
};

}  // namespace tutti
