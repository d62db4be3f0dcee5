#include "src/communicator/peers.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "src/base/cpus.h"

namespace tutti {
namespace {

// Of an encoded identity: what comes before the host's name.
constexpr size_t k_address_at = 44;
constexpr size_t k_fixed_bytes = k_address_at + sizeof(PackedAddress);
constexpr uint32_t k_library_version = 0x000100;  // 0.1.0

uint64_t hash(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325ULL;
  for (unsigned char c : text) h = (h ^ c) * 0x100000001b3ULL;
  h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdULL;
  return h ^ (h >> 33);
}

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

uint64_t inode_of(const char* path) {
  struct stat s {};
  return stat(path, &s) == 0 ? s.st_ino : 0;
}

// Field 22 of /proc/self/stat; the command in field 2 may hold spaces and parentheses.
std::string process_start() {
  const std::string line = first_line("/proc/self/stat");
  std::istringstream rest(line.substr(std::min(line.size(), line.rfind(')') + 2)));
  std::string field;
  for (int i = 3; i <= 22 && rest >> field; ++i) {
  }
  return field;
}

}  // namespace

PeerIdentity PeerIdentity::of_this_process(const Config& config) {
  PeerIdentity p;
  p.pid = static_cast<uint32_t>(getpid());
  p.version = k_library_version;
  char name[256] = "?";
  gethostname(name, sizeof(name) - 1);
  p.host_name = std::string(name).substr(0, 64);
  const std::string boot_id = first_line("/proc/sys/kernel/random/boot_id");
  const std::string host =
      fmt::format("{}|{}|{}", boot_id, inode_of("/proc/self/ns/net"), config.host_id);
  p.machine = hash(boot_id);
  // Not the affinity mask: launchers bind ranks to CPUs of their own.
  const double online = static_cast<double>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  p.cpus = static_cast<uint32_t>(std::max(1.0, std::min(online, cgroup_cpus())));
  p.host = hash(host);
  p.process =
      hash(fmt::format("{}|{}|{}|{}", host, inode_of("/proc/self/ns/pid"), p.pid, process_start()));
  std::string transports;
  for (const std::string& t : config.transports) transports += t + ",";
  p.config = hash(fmt::format("{}|{}|{}|{}|{}|{}", transports, config.process_vm_bytes, config.tune,
                              config.deterministic, config.slot_bytes, config.socket_connections));
  return p;
}

std::string PeerIdentity::encode() const {
  std::string out(k_fixed_bytes, '\0');
  std::memcpy(out.data(), &host, 8);
  std::memcpy(out.data() + 8, &process, 8);
  std::memcpy(out.data() + 16, &config, 8);
  std::memcpy(out.data() + 24, &pid, 4);
  std::memcpy(out.data() + 28, &version, 4);
  std::memcpy(out.data() + 32, &machine, 8);
  std::memcpy(out.data() + 40, &cpus, 4);
  std::memcpy(out.data() + k_address_at, council.data(), council.size());
  return out + host_name;
}

Result<PeerIdentity> PeerIdentity::decode(const std::string& text) {
  if (text.size() < k_fixed_bytes || text.size() > k_fixed_bytes + 64)
    return Status(Code::remote_error, fmt::format("an identity of {} bytes", text.size()));
  PeerIdentity p;
  std::memcpy(&p.host, text.data(), 8);
  std::memcpy(&p.process, text.data() + 8, 8);
  std::memcpy(&p.config, text.data() + 16, 8);
  std::memcpy(&p.pid, text.data() + 24, 4);
  std::memcpy(&p.version, text.data() + 28, 4);
  std::memcpy(&p.machine, text.data() + 32, 8);
  std::memcpy(&p.cpus, text.data() + 40, 4);
  std::memcpy(p.council.data(), text.data() + k_address_at, p.council.size());
  p.host_name = text.substr(k_fixed_bytes);
  return p;
}

PeerTable::PeerTable(const std::vector<PeerIdentity>& peers) {
  std::map<uint64_t, uint32_t> index, machines;
  for (const PeerIdentity& p : peers) {
    const auto [it, made] = index.try_emplace(p.host, host_names.size());
    if (made) host_names.push_back(p.host_name);
    host.push_back(it->second);
    pid.push_back(p.pid);
    machine.push_back(machines.try_emplace(p.machine, machines.size()).first->second);
    cpus = cpus == 0 ? p.cpus : std::min(cpus, p.cpus);
  }
}

Placement place(const PeerTable& peers) {
  Placement placement;
  placement.ranks = static_cast<uint32_t>(peers.host.size());
  placement.hosts = peers.hosts();
  placement.host = peers.host;
  placement.cpu_pools = peers.machine;
  placement.cpus = peers.cpus;
  if (placement.hosts < placement.ranks) placement.hierarchy.level.push_back(peers.host);
  return placement;
}

}  // namespace tutti
