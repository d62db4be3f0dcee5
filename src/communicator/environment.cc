// Launcher detection; see environment.h. Pure functions of the variables but for the exchange of
// the id, which is in exchange.cc.
#include "src/communicator/environment.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "src/base/socket.h"
#include "src/communicator/bootstrap/id.h"
#include "src/communicator/exchange.h"

namespace tutti {
namespace {

constexpr size_t k_max_secret_file = 4096;

// Looks variables up and complains by name.
class Scope {
 public:
  Scope(const Variables& variables, const Config& config)
      : variables_(variables), config_(config) {}

  const Config& config() const { return config_; }

  bool has(const char* name) const { return !text(name).empty(); }
  std::string text(const char* name) const {
    auto found = variables_.find(name);
    return found == variables_.end() ? std::string() : found->second;
  }
  // A number in [0, most]; missing or bad: invalid_argument.
  Result<uint32_t> number(const char* name, const char* launcher, uint32_t most) const {
    std::string value = text(name);
    if (value.empty()) {
      return Status(Code::invalid_argument,
                    std::string("started by ") + launcher + ", but " + name + " is not set");
    }
    uint32_t number = 0;
    const char* end = value.data() + value.size();
    auto [stop, error] = std::from_chars(value.data(), end, number);
    if (error == std::errc() && stop == end && number <= most) return number;
    return Status(Code::invalid_argument, std::string(name) + "=\"" + value +
                                              "\" is not a whole number up to " +
                                              std::to_string(most));
  }
  // A number that may be missing or unreadable: `otherwise`.
  uint32_t number_or(const char* name, uint32_t otherwise) const {
    if (!has(name)) return otherwise;
    Result<uint32_t> value = number(name, "", ~0u);
    return value.ok() ? *value : otherwise;
  }
  SocketDeadline deadline() const {
    return SocketClock::now() + std::chrono::duration_cast<SocketClock::duration>(
                                    std::chrono::duration<double>(config_.init_timeout));
  }

 private:
  const Variables& variables_;
  const Config& config_;
};

struct Names {
  const char* launcher;
  const char* rank;
  const char* ranks;
  const char* local_rank;
  const char* local_ranks;
};

Result<LaunchInfo> place(const Scope& scope, const Names& names) {
  LaunchInfo info;
  info.launcher = names.launcher;
  Result<uint32_t> ranks = scope.number(names.ranks, names.launcher, 1u << 16);
  if (!ranks.ok()) return ranks.status();
  Result<uint32_t> rank = scope.number(names.rank, names.launcher, 1u << 16);
  if (!rank.ok()) return rank.status();
  if (*rank >= *ranks) {
    return Status(Code::invalid_argument, std::string(names.rank) + "=" + std::to_string(*rank) +
                                              " is not below " + names.ranks + "=" +
                                              std::to_string(*ranks));
  }
  info.rank = *rank;
  info.ranks = *ranks;
  info.local_ranks = scope.number_or(names.local_ranks, 0);
  info.local_rank = scope.number_or(names.local_rank, 0);
  return info;
}

// A secret's file must not be readable by others.
Result<std::string> read_secret_file(const std::string& path) {
  auto refuse = [&](const std::string& why) {
    return Status(Code::invalid_argument, "TUTTI_SECRET_FILE=\"" + path + "\": " + why);
  };
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd) return refuse(errno_text(errno));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) return refuse("not a plain file");
  if (info.st_uid != ::geteuid()) return refuse("belongs to another user");
  if ((info.st_mode & 077) != 0) return refuse("others may read or write it (chmod 600)");
  std::string secret(k_max_secret_file + 1, '\0');
  ssize_t got = ::read(fd.get(), secret.data(), secret.size());
  if (got < 0) return refuse(errno_text(errno));
  if (static_cast<size_t>(got) > k_max_secret_file) return refuse("longer than 4096 bytes");
  secret.resize(static_cast<size_t>(got));
  while (!secret.empty() && (secret.back() == '\n' || secret.back() == '\r')) secret.pop_back();
  if (secret.empty()) return refuse("empty");
  return secret;
}

// Empty: none given.
Result<std::string> find_secret(const Scope& scope) {
  if (scope.has("TUTTI_SECRET_FILE")) return read_secret_file(scope.text("TUTTI_SECRET_FILE"));
  return scope.text("TUTTI_SECRET");
}

// The id of a fixed address. `names` (of the job) stand in for a secret where they may.
Result<LaunchInfo> meet_at(const Scope& scope, LaunchInfo info, const Address& address,
                           const std::string& names) {
  Result<std::string> secret = find_secret(scope);
  if (!secret.ok()) return secret.status();
  if (secret->empty() && names.empty()) {
    return Status(Code::invalid_argument,
                  "TUTTI_ROOT needs a secret that all ranks share: set TUTTI_SECRET_FILE or "
                  "TUTTI_SECRET");
  }
  info.weak_secret = secret->empty();
  Result<UniqueId> id = UniqueId::from_address(
      address.to_string(),
      secret->empty() ? names + " uid " + std::to_string(::getuid()) : *secret);
  if (!id.ok()) return id.status();
  info.id = *id;
  return info;
}

Result<LaunchInfo> meet_at_root(const Scope& scope, const LaunchInfo& info,
                                const std::string& names) {
  Result<Address> root = Address::parse(scope.text("TUTTI_ROOT"));
  if (!root.ok()) return root.status().with_context("TUTTI_ROOT");
  return meet_at(scope, info, *root, names);
}

Result<UniqueId> fresh_id(const Scope& scope, bool one_host) {
  IdOptions options;
  options.interface = scope.config().socket_interface;
  options.family = scope.config().socket_family;
  if (one_host && options.interface.empty()) options.interface = "lo";
  Result<UniqueId> id = create_id(options);
  if (id.ok() || !one_host || !scope.config().socket_interface.empty()) return id;
  options.interface.clear();  // a host whose loopback has another name
  return create_id(options);
}

// ---- tutti run

Result<UniqueId> read_id_fd(const Scope& scope) {
  Result<uint32_t> fd = scope.number("TUTTI_ID_FD", "tutti run", 1u << 20);
  if (!fd.ok()) return fd.status();
  UniqueId id;
  // Read at an offset: the descriptor is a file in memory that all ranks of the host share.
  ssize_t got = ::pread(static_cast<int>(*fd), id.bytes.data(), id.bytes.size(), 0);
  if (got == static_cast<ssize_t>(id.bytes.size())) return id;
  return Status(Code::invalid_argument, "TUTTI_ID_FD=" + std::to_string(*fd) +
                                            " does not hold a unique id" +
                                            (got < 0 ? ": " + errno_text(errno) : ""));
}

Result<LaunchInfo> from_tutti_run(const Scope& scope) {
  Result<LaunchInfo> info = place(
      scope, {"tutti run", "TUTTI_RANK", "TUTTI_SIZE", "TUTTI_LOCAL_RANK", "TUTTI_LOCAL_SIZE"});
  if (!info.ok() || info->ranks == 1) return info;
  if (!scope.has("TUTTI_ID_FD") && !scope.has("TUTTI_ID") && scope.has("TUTTI_ROOT")) {
    return meet_at_root(scope, *info, "");
  }
  Result<UniqueId> id = scope.has("TUTTI_ID_FD") ? read_id_fd(scope)
                        : scope.has("TUTTI_ID")
                            ? id_from_hex(scope.text("TUTTI_ID"))
                            : Status(Code::invalid_argument,
                                     "TUTTI_RANK and TUTTI_SIZE are set, but none of TUTTI_ID_FD, "
                                     "TUTTI_ID and TUTTI_ROOT");
  if (!id.ok()) return id.status();
  info->id = *id;
  return info;
}

// ---- process managers and MPI

Result<LaunchInfo> from_pmi(const Scope& scope) {
  Result<LaunchInfo> info =
      place(scope, {"PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"});
  if (!info.ok() || info->ranks == 1) return info;
  if (scope.has("TUTTI_ROOT")) return meet_at_root(scope, *info, "");
  Result<uint32_t> fd = scope.number("PMI_FD", "PMI", 1u << 20);
  if (!fd.ok()) return fd.status();
  UniqueId mine;
  if (info->rank == 0) {
    Result<UniqueId> id = fresh_id(scope, info->local_ranks == info->ranks);
    if (!id.ok()) return id.status();
    mine = *id;
  }
  Result<UniqueId> id = exchange_by_pmi(static_cast<int>(*fd), info->rank, mine, scope.deadline());
  if (!id.ok()) return id.status();
  info->id = *id;
  return info;
}

Result<LaunchInfo> from_open_mpi(const Scope& scope) {
  Result<LaunchInfo> info =
      place(scope, {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                    "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"});
  if (!info.ok() || info->ranks == 1) return info;
  if (scope.has("TUTTI_ROOT")) return meet_at_root(scope, *info, "");
  if (info->local_ranks != info->ranks) {
    return Status(Code::invalid_argument,
                  "started by Open MPI on several hosts: set TUTTI_ROOT to an address and port of "
                  "rank 0's host, and TUTTI_SECRET_FILE or TUTTI_SECRET (mpirun -x)");
  }
  std::string job = scope.text("PMIX_NAMESPACE");
  if (job.empty()) job = scope.text("OMPI_MCA_ess_base_jobid");
  if (job.empty()) {
    return Status(Code::invalid_argument,
                  "started by Open MPI, but neither PMIX_NAMESPACE nor OMPI_MCA_ess_base_jobid is "
                  "set");
  }
  UniqueId mine;
  if (info->rank == 0) {
    Result<UniqueId> id = fresh_id(scope, true);
    if (!id.ok()) return id.status();
    mine = *id;
  }
  Result<UniqueId> id =
      exchange_by_socket("ompi-" + job, info->rank, info->ranks, mine, scope.deadline());
  if (!id.ok()) return id.status();
  info->id = *id;
  return info;
}

// ---- launchers that only give an address

int wanted_family(const Config& config) {
  if (config.socket_family == "AF_INET6") return AF_INET6;
  return config.socket_family == "AF_INET" ? AF_INET : AF_UNSPEC;
}

// Rank 0 meets itself where it will listen. Its own name may resolve to a loopback address there
// (Debian's 127.0.1.1), which would be of no use to ranks of other hosts.
Result<Address> meeting_point(const Scope& scope, const LaunchInfo& info, const std::string& host,
                              uint16_t port) {
  Result<Address> address = Address::resolve(host, port, wanted_family(scope.config()));
  bool alone = info.local_ranks == info.ranks;
  if (!address.ok() || info.rank != 0 || alone || !address->is_loopback()) return address;
  Result<Interface> interface =
      select_interface(scope.config().socket_interface, scope.config().socket_family);
  if (!interface.ok()) return interface.status();
  return interface->address.with_port(port);
}

Result<LaunchInfo> from_torchrun(const Scope& scope) {
  Result<LaunchInfo> info =
      place(scope, {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"});
  if (!info.ok() || info->ranks == 1) return info;
  std::string names = "torchrun " + scope.text("TORCHELASTIC_RUN_ID") + " attempt " +
                      scope.text("TORCHELASTIC_RESTART_COUNT") + " at " +
                      scope.text("MASTER_ADDR") + ":" + scope.text("MASTER_PORT");
  if (scope.has("TUTTI_ROOT")) return meet_at_root(scope, *info, names);
  if (!scope.has("MASTER_ADDR")) {
    return Status(Code::invalid_argument, "started by torchrun, but MASTER_ADDR is not set");
  }
  bool own_port = scope.has("TUTTI_PORT");
  Result<uint32_t> port =
      scope.number(own_port ? "TUTTI_PORT" : "MASTER_PORT", "torchrun", own_port ? 65535 : 65534);
  if (!port.ok()) return port.status();
  Result<Address> address = meeting_point(scope, *info, scope.text("MASTER_ADDR"),
                                          static_cast<uint16_t>(*port + (own_port ? 0 : 1)));
  if (!address.ok()) return address.status().with_context("MASTER_ADDR");
  return meet_at(scope, *info, *address, names);
}

// "node[03-05,9],login" -> "node03"; "a1,a2" -> "a1".
std::string first_node(const std::string& list) {
  size_t bracket = list.find('[');
  size_t comma = list.find(',');
  if (bracket == std::string::npos || comma < bracket) return list.substr(0, comma);
  size_t end = list.find_first_of(",-]", bracket);
  if (end == std::string::npos) return {};
  size_t close = list.find(']', bracket);
  size_t rest = list.find(',', close);
  std::string suffix =
      close == std::string::npos
          ? std::string()
          : list.substr(close + 1, rest == std::string::npos ? rest : rest - close - 1);
  return list.substr(0, bracket) + list.substr(bracket + 1, end - bracket - 1) + suffix;
}

Result<LaunchInfo> from_slurm(const Scope& scope) {
  const char* tasks = scope.has("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
  Result<LaunchInfo> info =
      place(scope, {"Slurm", "SLURM_PROCID", tasks, "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"});
  if (!info.ok() || info->ranks == 1) return info;
  if (scope.text("SLURM_STEP_NUM_NODES") == "1") info->local_ranks = info->ranks;
  std::string names = "Slurm job " + scope.text("SLURM_JOB_ID") + "." + scope.text("SLURM_STEP_ID");
  if (scope.has("TUTTI_ROOT")) return meet_at_root(scope, *info, names);
  if (!scope.has("SLURM_STEP_NODELIST")) {
    return Status(Code::invalid_argument, "started by Slurm, but SLURM_STEP_NODELIST is not set");
  }
  Result<uint32_t> job = scope.number("SLURM_JOB_ID", "Slurm", ~0u);
  if (!job.ok()) return job.status();
  // Below the ephemeral ports, spread so that jobs and steps that share a node seldom meet.
  uint32_t mixed = *job * 31 + scope.number_or("SLURM_STEP_ID", 0) * 1009;
  uint32_t port = scope.number_or("TUTTI_PORT", 15000 + mixed % 15000);
  std::string host = first_node(scope.text("SLURM_STEP_NODELIST"));
  Result<Address> address = meeting_point(scope, *info, host, static_cast<uint16_t>(port));
  if (!address.ok()) return address.status().with_context("SLURM_STEP_NODELIST");
  return meet_at(scope, *info, *address, names);
}

}  // namespace

Result<LaunchInfo> detect_launch(const Variables& variables, const Config& config) {
  Scope scope(variables, config);
  if (scope.has("TUTTI_RANK") || scope.has("TUTTI_SIZE")) return from_tutti_run(scope);
  if (scope.has("PMI_RANK") && scope.has("PMI_FD")) return from_pmi(scope);
  if (scope.has("OMPI_COMM_WORLD_RANK") || scope.has("OMPI_COMM_WORLD_SIZE")) {
    return from_open_mpi(scope);
  }
  if (scope.has("RANK") || scope.has("WORLD_SIZE")) return from_torchrun(scope);
  // A batch script has SLURM_PROCID as well; only tasks of a step have the step's number.
  if (scope.has("SLURM_PROCID") && scope.has("SLURM_STEP_ID")) return from_slurm(scope);
  return LaunchInfo();
}

}  // namespace tutti
