// Runs a test body on every instruction set that the kernels were compiled for and this CPU has.
#pragma once

#include <gtest/gtest.h>

#include "kernels/cpu/targets.h"
// After targets.h.
#include "hwy/highway.h"

namespace tutti::kernels {

// Kernels are compiled for all attainable targets of the build, the one-lane fallback included.
template <class Body>
void for_each_target(Body body) {
  int64_t left = hwy::SupportedTargets() & HWY_TARGETS;
  ASSERT_NE(left, 0);
  for (; left != 0; left &= left - 1) {
    const int64_t target = left & -left;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    SCOPED_TRACE(hwy::TargetName(target));
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace tutti::kernels
