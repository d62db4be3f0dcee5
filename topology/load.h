// A machine or cluster from whatever a user names it by.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "topology/machine.h"

namespace tutti {

// A machine of topology/machines/, as it was when the library was built.
struct RecordedMachine {
  std::string_view name;     // "dgx-a100"
  std::string_view text;     // NCCL's or hwloc's XML, or a spec with # comments
  std::string_view profile;  // its prices (src/cost), JSON; empty where there are none
};
std::span<const RecordedMachine> recorded_machines();
// nullptr: no such name.
const RecordedMachine* find_recorded_machine(std::string_view name);
// The first sentence of the file's own description.
std::string title_of(const RecordedMachine& machine);

struct Cluster {
  Topology topology;
  std::string source;                         // "recorded machine dgx-a100", "topo.xml", "spec"
  std::vector<Machine> machines;              // empty for specs
  std::vector<std::string> missing;           // what was not found out, and what is assumed instead
  const RecordedMachine* recorded = nullptr;  // whose profile fits
};

// `what` is, in this order: the name of a recorded machine, "NAME*N" for N of them on one network;
// a file (XML of either kind, or a spec); a spec. Errors: invalid_argument naming the file and the
// place in it, or all recorded names where a single word is none of them.
Result<Cluster> load_cluster(const std::string& what);
// The same for the contents of a file.
Result<Cluster> parse_cluster_text(std::string_view text);
// A file's contents, at most k_max_xml_bytes. Errors: invalid_argument naming the file.
Result<std::string> read_topology_file(const std::string& path);
// What a rank's host looks like, by the same names: one host, or a spec of it or of a cluster of
// which it is one (Machine::inside). Errors: as load_cluster(); invalid_argument where an XML file
// describes several hosts.
Result<Machine> load_machine(const std::string& what);
// Whether load_machine() would read the text itself, as a spec.
bool names_spec(const std::string& what);
// Hosts that a text of either XML kind describes.
Result<std::vector<Machine>> parse_machines(std::string_view xml);

}  // namespace tutti
