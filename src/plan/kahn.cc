#include "src/plan/kahn.h"

namespace tutti {

KahnLayout::KahnLayout(const PlanIndex& index, const RunLimits& limits) {
  begin_.reserve(index.channels().size() + 1);
  begin_.push_back(0);
  for (const Channel& c : index.channels()) {
    const uint64_t all = uint64_t{c.messages} * limits.rounds;
    // Where connections are not limited, published messages may all be in flight at once.
    const uint64_t most =
        c.signal || !limits.per_connection ? all : std::min<uint64_t>(all, limits.credits);
    begin_.push_back(begin_.back() + most);
  }
}

}  // namespace tutti
