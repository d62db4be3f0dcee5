// link: tutti_cost tutti_topology
// Cost profiles from anywhere: parsing must not crash, and what is accepted can be written and read
// again without loss.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "src/cost/profile.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  const Result<Profile> profile = parse_profile({reinterpret_cast<const char*>(data), size});
  if (!profile) return 0;
  const Result<Profile> again = parse_profile(to_json(*profile));
  if (!again || !(*again == *profile)) std::abort();
  return 0;
}
