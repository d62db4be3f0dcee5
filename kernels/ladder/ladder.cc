#include "kernels/ladder/ladder.h"
namespace tutti::ladder {
std::span<const Rung> rungs() { return {}; }
}  // namespace tutti::ladder
