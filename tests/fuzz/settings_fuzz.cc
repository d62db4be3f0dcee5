// link: tutti_planner tutti_transports
// Settings that are little languages: TUTTI_TUNE, and the faults of transports/faulty.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "src/planner/planner.h"
#include "transports/faulty/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (Result<std::vector<TuneRule>> rules = parse_tune(text); rules.ok()) {
    for (const TuneRule& rule : *rules)
      if (rule.from >= rule.to || rule.algorithm.empty()) std::abort();
  }
  (void)faulty::parse_spec(text);
  return 0;
}
