// link: tutti_plan
// Plan text from anywhere: parsing must not crash, what is accepted has one canonical text, and
// verify() and the drawing must give a verdict on it whatever it says.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "src/plan/draw.h"
#include "src/plan/text.h"
#include "src/plan/verify.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  const Result<PlanPtr> plan = parse_text({reinterpret_cast<const char*>(data), size});
  if (!plan) return 0;
  const std::string text = to_text(**plan);
  const Result<PlanPtr> again = parse_text(text);
  if (!again || to_text(**again) != text) std::abort();
  // A short text can declare a world that takes long to run; sizes are not what is sought here.
  const Shape& shape = (*plan)->shape();
  const uint64_t cells =
      uint64_t{shape.ranks} * (uint64_t{shape.ranks} * shape.chunks + shape.scratch);
  if (shape.ranks > 64 || shape.lanes > 64 || cells > 1u << 16 || shape.credits > 1u << 16)
    return 0;
  const VerifyReport report = verify(**plan);
  if (report.ok() != report.problem.empty()) std::abort();
  (void)to_svg(**plan);
  return 0;
}
