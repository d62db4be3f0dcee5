// link: tutti_communicator
// What ranks tell each other at init: identities and reports on hosts. Whatever can be read is
// written back to the same, and a job of such ranks on such hosts is placed or refused.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "src/communicator/host_report.h"
#include "src/communicator/peers.h"
#include "topology/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (const Result<PeerIdentity> p = PeerIdentity::decode(text); p && p->encode() != text)
    std::abort();
  // An identity, then the report of its host.
  const size_t cut = size > 0 ? std::min<size_t>(size - 1, data[0]) : 0;
  const Result<PeerIdentity> rank = PeerIdentity::decode(text.substr(0, cut));
  const Result<Machine> host = decode_report(text.substr(cut));
  if (!host || host->copies > 4 || host->parts.size() > 128) return 0;
  if (const Result<ClusterSpec> s = parse_cluster(host->inside); s && size_of(*s).ranks > 128)
    return 0;
  PeerTable table({rank ? *rank : PeerIdentity(), PeerIdentity()});
  if (!table.add_views(std::vector<Machine>(table.hosts(), *host)).ok()) return 0;
  Placement placement = place(table);
  static_cast<void>(follow_links(table, &placement));
  return 0;
}
