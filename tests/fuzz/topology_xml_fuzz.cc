// link: tutti_topology
// Machine descriptions from anywhere, NCCL's XML, hwloc's XML or a spec: parsing must not crash,
// what is understood can be written and read back, and what can be built has a way between its
// ranks.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "tests/fuzz/walk.h"
#include "topology/load.h"
#include "topology/nccl_xml.h"
#include "topology/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  Result<std::vector<Machine>> hosts = parse_machines({reinterpret_cast<const char*>(data), size});
  if (!hosts) return 0;
  // A short text can ask for a large cluster or many cores; sizes are not what is sought here.
  for (Machine& m : *hosts) {
    const Result<ClusterSpec> inside = parse_cluster(m.inside);
    if (m.copies > 64 || m.parts.size() > 512 || (inside && size_of(*inside).ranks > 512)) return 0;
    simplify(&m);
  }
  if (!parse_nccl_xml(to_nccl_xml(*hosts))) std::abort();
  walk(build_topology(*hosts));
  return 0;
}
