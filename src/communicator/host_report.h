// What a host looks like, found out once by its first rank and told to all: NUMA nodes, NICs, GPUs.
// From that and from where every rank may run follow the levels of the hierarchy and a Topology.
#pragma once

#include <string>
#include <vector>

#include "src/communicator/peers.h"
#include "topology/machine.h"
#include "tutti/config.h"
#include "tutti/status.h"

namespace tutti {

// Which devices are worth a look: every file of sysfs costs time at init, and NVML more of it.
struct Sights {
  bool nics = true;   // those that tcp may use; ranks that are all on one host need none
  bool gpus = false;  // and the links between them: where ranks work on GPUs
};
// The host as Config::topology describes it or as sysfs shows it; without cores, ports that are
// down and what else makes no difference to messages. Errors: invalid_argument naming the file and
// the place in it, or the spec and the column.
Result<Machine> look_at_host(const Config& config, Sights sights = {});
// The spec that Config::topology holds as text, for ranks that are not their host's first: all must
// have the same. An error of reading it; no Machine::inside where it is none.
Result<Machine> own_spec(const Config& config);

// For the exchange, in at most `room` bytes: without its devices where they do not fit. An error
// travels as well: all ranks return it, with who met it.
std::string encode_report(const Result<Machine>& report, size_t room = 48 * 1024);
// Errors: the one that was encoded; remote_error for bytes that encode_report() never makes.
Result<Machine> decode_report(const std::string& text);

// The interfaces that ranks of this host may use for tcp: all that a list of names in
// Config::socket_interface admits, else the one that is taken. None where that is an error, which
// tcp will return.
std::vector<std::string> usable_interfaces(const Config& config);
// Which of them rank `index` of those on this host should use side by side: so many `each`, those
// nearest to it, dealt in order where several are. Empty where there is no choice or no telling.
std::vector<std::string> nearest_interfaces(const Machine& host,
                                            const std::vector<PeerIdentity>& here, uint32_t index,
                                            uint32_t each);

// Where this thread may run, as a list of CPUs: "0-3,8"; empty where the system does not say.
std::string allowed_cpu_list();

}  // namespace tutti
