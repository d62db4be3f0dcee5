// Corrections: what the model leaves out, as it was measured.
//
// Prices explain messages, links and CPUs; how an executor's threads take turns, what a cache still
// holds, what a kernel's scheduler does they explain only in part. `tutti tune` therefore keeps,
// for every algorithm it has measured, by how much the measured time differs from the model's, by
// size and in one kind of world. A prediction there is the model's times that factor: between
// measured sizes and numbers of ranks it is interpolated in their logarithms, beyond them the
// nearest counts.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tutti/types.h"

namespace tutti {

// Measured over predicted seconds.
struct CorrectionFactors {
  double simulated = 1, closed = 1;
  bool operator==(const CorrectionFactors&) const = default;
};

class Corrections {
 public:
  // A kind of world ("memory", "sockets", "network/2"; world_of() in src/planner/placement.h).
  struct Key {
    std::string world;
    Collective collective = Collective::all_reduce;
    std::string algorithm;
    auto operator<=>(const Key&) const = default;
  };
  using Knots = std::map<uint64_t, CorrectionFactors>;  // by bytes of a block

  static constexpr double k_least = 1e-3, k_most = 1e3;  // of a factor
  static constexpr double k_doubt = 1.25;

  // Factors are clamped to what a profile may hold, and rounded to four digits.
  void set(const Key& key, uint32_t ranks, uint64_t bytes, CorrectionFactors factors);
  // 1 where that algorithm was not measured in such a world. What was measured is the algorithm as
  // it comes; a `variant` of it (another depth) has the same factors, but none below 1, times
  // k_doubt: of many predictions the least is the one that errs most, so what was not measured must
  // promise more, and that another depth was cheaper than its price says nothing of this one.
  CorrectionFactors of(const Key& key, uint32_t ranks, uint64_t bytes, bool variant = false) const;

  bool empty() const { return known_.empty(); }
  const std::map<Key, std::map<uint32_t, Knots>>& all() const { return known_; }
  // What was measured by so many ranks in such a world.
  void forget(const std::string& world, uint32_t ranks);
  // The part that of() needs for so many ranks in one of these worlds.
  Corrections around(uint32_t ranks, const std::vector<std::string>& worlds) const;
  bool operator==(const Corrections&) const = default;

 private:
  std::map<Key, std::map<uint32_t, Knots>> known_;  // then by ranks
};

}  // namespace tutti
