// Corrections: between what was measured, beyond it, and where nothing was.
#include "src/cost/corrections.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tutti {
namespace {

const Corrections::Key k_ring{"memory", Collective::all_reduce, "ring"};

TEST(Corrections, InterpolateInLogarithmsAndEndWithTheNearest) {
  Corrections c;
  EXPECT_TRUE(c.empty());
  EXPECT_EQ(c.of(k_ring, 8, 64), CorrectionFactors());
  c.set(k_ring, 2, 63, {1, 1});
  c.set(k_ring, 2, 1023, {4, 9});
  EXPECT_EQ(c.of(k_ring, 2, 1023), (CorrectionFactors{4, 9}));
  // (1 + bytes) is a sixteenth of 1024 at the first knot, a quarter half way.
  EXPECT_NEAR(c.of(k_ring, 2, 255).simulated, 2, 1e-12);
  EXPECT_NEAR(c.of(k_ring, 2, 255).closed, 3, 1e-12);
  EXPECT_EQ(c.of(k_ring, 2, 0), (CorrectionFactors{1, 1}));
  EXPECT_EQ(c.of(k_ring, 2, 1 << 30), (CorrectionFactors{4, 9}));
  // One number of ranks stands for all until there is another.
  EXPECT_EQ(c.of(k_ring, 100, 1023), (CorrectionFactors{4, 9}));
  c.set(k_ring, 11, 1023, {16, 1});
  EXPECT_NEAR(c.of(k_ring, 5, 1023).simulated, 8, 1e-12);  // 6 is between 3 and 12
  EXPECT_NEAR(c.of(k_ring, 5, 1023).closed, 3, 1e-12);
  EXPECT_EQ(c.of(k_ring, 1 << 20, 1023), (CorrectionFactors{16, 1}));
  // Variants of what was measured are doubted, what was not measured at all is as the model has it.
  EXPECT_DOUBLE_EQ(c.of(k_ring, 11, 1023, true).simulated, 16 * Corrections::k_doubt);
  c.set({"memory", Collective::reduce, "ring"}, 2, 63, {0.5, 2});
  EXPECT_DOUBLE_EQ(c.of({"memory", Collective::reduce, "ring"}, 2, 63).simulated, 0.5);
  EXPECT_DOUBLE_EQ(c.of({"memory", Collective::reduce, "ring"}, 2, 63, true).simulated,
                   Corrections::k_doubt);
  EXPECT_DOUBLE_EQ(c.of({"memory", Collective::reduce, "ring"}, 2, 63, true).closed,
                   2 * Corrections::k_doubt);
  EXPECT_EQ(c.of({"sockets", Collective::all_reduce, "ring"}, 2, 63), CorrectionFactors());
  EXPECT_EQ(c.of({"memory", Collective::broadcast, "ring"}, 2, 63), CorrectionFactors());
  EXPECT_EQ(c.of({"memory", Collective::all_reduce, "chain"}, 2, 63, true), CorrectionFactors());
}

TEST(Corrections, APartSaysTheSame) {
  Corrections c;
  for (const char* world : {"memory", "sockets", "network/2"})
    for (const uint32_t ranks : {2, 8, 32}) {
      c.set({world, Collective::all_reduce, "ring"}, ranks, 64, {ranks / 7.0, 1});
      c.set({world, Collective::reduce, "chain"}, ranks, 4096, {1, ranks / 9.0});
    }
  for (const uint32_t ranks : {1, 2, 5, 8, 31, 32, 100}) {
    const Corrections part = c.around(ranks, {"memory", "sockets"});
    for (const auto& [key, by_ranks] : part.all()) EXPECT_LE(by_ranks.size(), 2u) << ranks;
    for (const char* world : {"memory", "sockets"})
      for (const auto& [collective, algorithm] :
           {std::pair{Collective::all_reduce, "ring"}, {Collective::reduce, "chain"}})
        for (const uint64_t bytes : {1, 1000, 1 << 20})
          EXPECT_EQ(part.of({world, collective, algorithm}, ranks, bytes),
                    c.of({world, collective, algorithm}, ranks, bytes))
              << ranks;
    EXPECT_EQ(part.of({"network/2", Collective::all_reduce, "ring"}, ranks, 64),
              CorrectionFactors());
  }
}

TEST(Corrections, AreClampedAndForgotten) {
  Corrections c;
  c.set(k_ring, 2, 64, {1e9, 0});
  EXPECT_EQ(c.of(k_ring, 2, 64), (CorrectionFactors{Corrections::k_most, Corrections::k_least}));
  c.set(k_ring, 8, 64, {2, 2});
  c.forget("sockets", 2);
  c.forget("memory", 2);
  EXPECT_EQ(c.of(k_ring, 2, 64), (CorrectionFactors{2, 2}));
  c.forget("memory", 8);
  EXPECT_TRUE(c.empty());
}

}  // namespace
}  // namespace tutti
