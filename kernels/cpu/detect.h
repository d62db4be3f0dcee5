// What this CPU can do, as Highway's targets.
#pragma once

#include <cstdint>

namespace tutti::kernels {

// The targets that the kernels were compiled for and this CPU and its system can run; never 0.
int64_t detect_targets();

}  // namespace tutti::kernels
