// link: tutti_planner tutti_transports
// Settings that are little languages: TUTTI_TUNE, the file of what was learnt, and the faults of
// transports/faulty.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "src/planner/feedback.h"
#include "transports/faulty/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (Result<std::vector<TuneRule>> rules = parse_tune(text); rules.ok()) {
    for (const TuneRule& rule : *rules)
      if (rule.from >= rule.to || rule.algorithm.empty()) std::abort();
  }
  if (const auto learnt = parse_learnt(text); learnt && *parse_learnt(to_text(*learnt)) != *learnt)
    std::abort();
  // Whatever stands in a file, a section can be kept there.
  const std::string_view lines = "all_reduce 4 float32 sum ring 0 0\n";
  if (find_section(replace_section(text, "here", lines), "here") != lines) std::abort();
  (void)find_sections(text, "here");
  (void)faulty::parse_spec(text);
  return 0;
}
