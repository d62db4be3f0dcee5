// The two functions that Highway's dispatch calls, so that the shared libraries need no libhwy
// where they are loaded: Highway is headers only for them. (The rooms and their tests link
// Highway's own.)
#include "kernels/cpu/detect.h"
#include "kernels/cpu/targets.h"
// After targets.h.
#include "hwy/highway.h"

namespace hwy {

decltype(SupportedTargets()) SupportedTargets() { return tutti::kernels::detect_targets(); }

ChosenTarget& GetChosenTarget() {
  static ChosenTarget chosen;
  return chosen;
}

}  // namespace hwy
