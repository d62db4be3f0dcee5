// What a host looks like, found out once by its first rank and told to all: NUMA nodes and NICs.
// From that and from where every rank may run follow the levels of the hierarchy and a Topology.
#pragma once

#include <string>
#include <vector>

#include "src/communicator/peers.h"
#include "topology/machine.h"
#include "tutti/config.h"
#include "tutti/status.h"

namespace tutti {

// The host as Config::topology describes it or as sysfs shows it; without GPUs, cores, ports that
// are down and what else ranks on processors have no use for. With `nics` those that tcp may use
// (Config::socket_interface); ranks that are all on one host have no use for them either, and every
// file of sysfs costs time at init. Errors: invalid_argument naming the file and the place in it.
Result<Machine> look_at_host(const Config& config, bool nics = true);

// For the exchange, in at most `room` bytes: without its NICs where they do not fit. An error
// travels as well: all ranks return it, with who met it.
std::string encode_report(const Result<Machine>& report, size_t room = 48 * 1024);
// Errors: the one that was encoded; remote_error for bytes that encode_report() never makes.
Result<Machine> decode_report(const std::string& text);

// The interfaces that ranks of this host may use for tcp: all that a list of names in
// Config::socket_interface admits, else the one that is taken. None where that is an error, which
// tcp will return.
std::vector<std::string> usable_interfaces(const Config& config);
// Which of them rank `index` of those on this host should use, who may run on these CPUs: the one
// nearest to it, dealt in order where several are. Empty where there is no choice.
std::string nearest_interface(const Machine& host, const std::vector<std::string>& allowed,
                              uint32_t index);

// Where this thread may run, as a list of CPUs: "0-3,8"; empty where the system does not say.
std::string allowed_cpu_list();

}  // namespace tutti
