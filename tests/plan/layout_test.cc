// Layout: every element of a block is in exactly one chunk of one round, chunks respect cache
// lines and caps, ranges join into runs, and all of it in 64 bits.
#include "src/plan/layout.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>

namespace tutti {
namespace {

Shape shape_of(uint32_t chunks) {
  Shape s;
  s.collective = Collective::all_gather;
  s.ranks = 3;
  s.chunks = chunks;
  return s;
}

TEST(Layout, EveryByteOfABlockIsInExactlyOneChunk) {
  for (uint32_t chunks : {1u, 2u, 3u, 7u, 16u})
    for (uint64_t count : {0u, 1u, 15u, 16u, 17u, 100u, 1000u, 4097u})
      for (size_t element : {1u, 2u, 4u, 8u})
        for (uint64_t cap : {0u, 64u, 100u, 1024u}) {
          const Layout layout(shape_of(chunks), count, element, cap);
          std::vector<int> covered(3 * count * element, 0);
          for (uint32_t round = 0; round < layout.rounds(); ++round)
            for (uint32_t c = 0; c < 3 * chunks; ++c) {
              const Extent e = layout.chunk(Buffer::output, c, round);
              ASSERT_LE(e.offset + e.bytes, covered.size());
              for (uint64_t b = e.offset; b < e.offset + e.bytes; ++b) ++covered[b];
              // The same length in every block and buffer.
              EXPECT_EQ(e.bytes, layout.chunk(Buffer::input, c % chunks, round).bytes);
              EXPECT_EQ(e.bytes, layout.chunk(Buffer::scratch, c, round).bytes);
              if (cap > 0) {
                EXPECT_LE(e.bytes, std::max<uint64_t>(cap, 64));
              }
            }
          EXPECT_TRUE(std::all_of(covered.begin(), covered.end(), [](int n) { return n == 1; }))
              << chunks << " " << count << " " << element << " " << cap;
        }
}

TEST(Layout, NeighbouringChunksShareNoCacheLine) {
  for (size_t element : {1u, 2u, 4u, 8u}) {
    const Layout layout(shape_of(5), 1001, element, 0);
    for (uint32_t c = 0; c < 5; ++c) {
      const Extent e = layout.chunk(Buffer::input, c, 0);
      if (e.bytes > 0) {
        EXPECT_EQ(e.offset % 64, 0u);
      }
    }
  }
}

TEST(Layout, ScratchChunksDoNotOverlapInAnyRound) {
  const Layout layout(shape_of(4), 777, 4, 128);
  ASSERT_GT(layout.rounds(), 1u);
  for (uint32_t round = 0; round < layout.rounds(); ++round)
    for (uint32_t c = 0; c < 9; ++c) {
      const Extent a = layout.chunk(Buffer::scratch, c, round);
      const Extent b = layout.chunk(Buffer::scratch, c + 1, round);
      EXPECT_LE(a.offset + a.bytes, b.offset);
      EXPECT_LE(b.offset + b.bytes, layout.scratch_bytes(10));
    }
}

TEST(Layout, RangesJoinIntoMaximalRuns) {
  const Layout layout(shape_of(4), 100, 4, 0);
  std::vector<Extent> runs;
  layout.for_each_extent(Buffer::input, 0, 4, 0, [&](Extent e) { runs.push_back(e); });
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].bytes, 400u);
  EXPECT_EQ(layout.bytes(0, 4, 0), 400u);
  // Two rounds: the parts of neighbouring blocks are apart.
  const Layout rounds(shape_of(2), 1000, 4, 1024);
  ASSERT_EQ(rounds.rounds(), 2u);
  runs.clear();
  rounds.for_each_extent(Buffer::output, 0, 6, 0, [&](Extent e) { runs.push_back(e); });
  EXPECT_EQ(runs.size(), 3u);
  uint64_t total = 0;
  for (uint32_t round = 0; round < 2; ++round)
    rounds.for_each_extent(Buffer::output, 0, 6, round, [&](Extent e) { total += e.bytes; });
  EXPECT_EQ(total, 3u * 4000);
}

TEST(Layout, BuffersOverFourGigabytes) {
  const uint64_t count = uint64_t{5} << 30;  // 40 GiB of doubles
  const Layout layout(shape_of(3), count, 8, uint64_t{1} << 31);
  uint64_t total = 0, end = 0;
  for (uint32_t round = 0; round < layout.rounds(); ++round)
    for (uint32_t c = 6; c < 9; ++c) {
      const Extent e = layout.chunk(Buffer::output, c, round);
      EXPECT_GE(e.offset, 2 * count * 8);
      total += e.bytes;
      end = std::max(end, e.offset + e.bytes);
    }
  EXPECT_EQ(total, count * 8);
  EXPECT_EQ(end, 3 * count * 8);
}

TEST(Layout, NothingToDoIsOneRoundOfEmptyChunks) {
  const Layout layout(shape_of(3), 0, 4, 1024);
  EXPECT_EQ(layout.rounds(), 1u);
  EXPECT_EQ(layout.bytes(0, 3, 0), 0u);
  layout.for_each_extent(Buffer::input, 0, 3, 0, [](Extent) { ADD_FAILURE(); });
}

}  // namespace
}  // namespace tutti
