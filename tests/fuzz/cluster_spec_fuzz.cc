// link: tutti_topology
// Cluster specs from anywhere: parsing must not crash, what is accepted has one canonical text, and
// what can be built has a way between its ranks.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "tests/fuzz/walk.h"
#include "topology/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  const Result<ClusterSpec> spec = parse_cluster({reinterpret_cast<const char*>(data), size});
  if (!spec) return 0;
  const std::string text = to_text(*spec);
  const Result<ClusterSpec> again = parse_cluster(text);
  if (!again || !(*again == *spec) || to_text(*again) != text) std::abort();
  // A short text can ask for a large cluster; sizes are not what is sought here.
  uint64_t ranks = 1;
  for (const ClusterLevel& level : spec->levels)
    for (uint32_t count : level.counts) ranks = ranks * count > 4096 ? 4097 : ranks * count;
  if (ranks > 4096) return 0;
  walk(build_cluster(*spec));
  return 0;
}
