// Levels: a Hierarchy as an algorithm needs it. Level 0 joins single ranks into the innermost
// groups, each further level joins groups of the one before, the top level joins everything.
// Levels that join nothing are left out, so there is always a top, and at least two groups below
// it.
//
// At every level a few ranks of a group go on to the next: those with index < rails. One of them
// (the leader) carries the whole block up; with as many rails as the smallest group has members,
// the ranks of a rail meet on the next level, each rail with its own part of the block. Larger
// groups leave their further members behind: they only hand in and get back.
#pragma once

#include <cstdint>
#include <vector>

#include "src/base/host_device.h"
#include "src/plan/plan.h"
#include "tutti/status.h"

namespace tutti {

// One rank's place in one level. `size` is 0 where the rank takes no part.
struct LevelPlace {
  const Rank* members = nullptr;  // the group; the rank itself is members[index]
  uint32_t size = 0;
  uint32_t index = 0;
  uint32_t rails = 1;

  TUTTI_HD bool goes_on() const { return index < rails; }
};

enum class Rails : uint8_t { one, all };

class Levels {
 public:
  static constexpr uint32_t k_max = 8;

  // `first`: a rank that shall have index 0 in all its groups (a root).
  Levels(const Hierarchy& hierarchy, uint32_t ranks, Rails rails, Rank first = 0);

  // ok, or what is wrong with a hierarchy: levels that do not nest, too many.
  static Status check(const Hierarchy& hierarchy, uint32_t ranks);

  uint32_t count() const { return static_cast<uint32_t>(levels_.size()); }
  uint32_t top_size() const { return levels_.back().largest; }
  uint32_t rails(uint32_t level) const { return levels_[level].rails; }
  uint32_t largest(uint32_t level) const { return levels_[level].largest; }
  LevelPlace place(uint32_t level, Rank rank) const;

 private:
  struct Level {
    std::vector<Rank> members;                 // group after group
    std::vector<uint32_t> begin, size, index;  // per rank
    uint32_t rails = 1;
    uint32_t largest = 0;
  };
  std::vector<Level> levels_;
};

}  // namespace tutti
