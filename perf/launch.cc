// Starts the ranks of a measurement, see launch.h.
#include "perf/launch.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace tutti::perf {
namespace {

constexpr int k_failed_to_start = 3;
constexpr auto k_grace = std::chrono::seconds(20);  // for others to report, once one rank failed

int complain(const std::string& what) {
  std::fprintf(stderr, "# error: %s\n", what.c_str());
  return k_failed_to_start;
}

// Pipes that carry the id from rank 0's process to the others, opened before the fork.
class IdPipes {
 public:
  explicit IdPipes(uint32_t processes) : ends_(processes, {-1, -1}) {}
  ~IdPipes() {
    for (auto& pair : ends_)
      for (int fd : pair)
        if (fd >= 0) close(fd);
  }
  IdPipes(const IdPipes&) = delete;
  IdPipes& operator=(const IdPipes&) = delete;
  bool open() {
    for (size_t i = 1; i < ends_.size(); ++i)
      if (pipe(ends_[i].data()) != 0) return false;
    return true;
  }
  // The child keeps only its ends, so that a dead rank 0 shows as end-of-file.
  void keep_for(uint32_t process) {
    for (size_t i = 1; i < ends_.size(); ++i) {
      if (process != 0) close_end(i, 1);
      if (process != i) close_end(i, 0);
    }
  }
  void close_all() {
    for (size_t i = 1; i < ends_.size(); ++i) {
      close_end(i, 0);
      close_end(i, 1);
    }
  }
  Result<UniqueId> share(uint32_t process) {
    if (process != 0) return receive(process);
    Result<UniqueId> id = UniqueId::create();
    if (!id) return id;
    for (size_t i = 1; i < ends_.size(); ++i) {
      const ssize_t sent = write(ends_[i][1], id->bytes.data(), id->bytes.size());
      if (sent != static_cast<ssize_t>(id->bytes.size()))
        return Status(Code::system_error, "rank " + std::to_string(i) + " is gone");
      close_end(i, 1);
    }
    return id;
  }

 private:
  Result<UniqueId> receive(uint32_t process) {
    UniqueId id;
    size_t have = 0;
    while (have < id.bytes.size()) {
      const ssize_t got = read(ends_[process][0], id.bytes.data() + have, id.bytes.size() - have);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return Status(Code::system_error, "rank 0 left before it told its address");
      have += static_cast<size_t>(got);
    }
    return id;
  }
  void close_end(size_t pipe_index, size_t end) {
    int& fd = ends_[pipe_index][end];
    if (fd >= 0) close(fd);
    fd = -1;
  }

  std::vector<std::array<int, 2>> ends_;
};

// One thread per rank of this process; the first code that is not 0.
int run_threads(uint32_t count, const std::function<int(uint32_t)>& body) {
  if (count == 1) return body(0);
  std::atomic<int> code{0};
  std::vector<std::thread> threads;
  threads.reserve(count);
  for (uint32_t i = 0; i < count; ++i)
    threads.emplace_back([&, i] {
      const int mine = body(i);
      int none = 0;
      if (mine != 0) code.compare_exchange_strong(none, mine);
    });
  for (std::thread& thread : threads) thread.join();
  return code;
}

int join_and_run(const UniqueId& id, Rank rank, uint32_t ranks, const Config& config,
                 const RankBody& body) {
  Result<std::unique_ptr<Communicator>> communicator =
      Communicator::create(id, rank, ranks, config);
  if (!communicator)
    return complain("rank " + std::to_string(rank) + ": " + communicator.status().to_string());
  return body(std::move(*communicator));
}

int run_local(uint32_t ranks, const RankBody& body) {
  const Result<Config> config = Config::from_environment();
  if (!config) return complain(config.status().to_string());
  Result<std::vector<std::unique_ptr<Communicator>>> all =
      Communicator::create_local(ranks, *config);
  if (!all) return complain(all.status().to_string());
  return run_threads(ranks, [&](uint32_t i) { return body(std::move((*all)[i])); });
}

int run_process(IdPipes& pipes, uint32_t process, const LaunchOptions& options,
                const RankBody& body) {
  const Result<Config> config = Config::from_environment();
  if (!config) return complain(config.status().to_string());
  const Result<UniqueId> id = pipes.share(process);
  if (!id) return complain("rank " + std::to_string(process) + ": " + id.status().to_string());
  return run_threads(options.threads, [&](uint32_t thread) {
    return join_and_run(*id, process * options.threads + thread, options.ranks * options.threads,
                        *config, body);
  });
}

// Sleeps until a child ends, or for so many milliseconds (-1: as long as it takes). Who looked
// every millisecond instead would take the CPU from a rank as often, which is in percentiles of
// their calls.
void await_any(const std::vector<pid_t>& children, int milliseconds) {
  std::vector<pollfd> ends;
  for (pid_t child : children)
    if (child > 0) ends.push_back({static_cast<int>(syscall(SYS_pidfd_open, child, 0)), POLLIN, 0});
  const bool all = std::all_of(ends.begin(), ends.end(), [](const pollfd& p) { return p.fd >= 0; });
  static_cast<void>(poll(ends.data(), all ? ends.size() : 0, all ? milliseconds : 20));
  for (const pollfd& end : ends)
    if (end.fd >= 0) close(end.fd);
}

// Waits for all; a rank that ends badly gives the others a while to say why, then ends them.
int reap(std::vector<pid_t> children) {
  using Clock = std::chrono::steady_clock;
  int code = 0;
  Clock::time_point until{};
  size_t left = children.size();
  while (true) {
    for (pid_t& child : children) {
      int status = 0;
      if (child <= 0 || waitpid(child, &status, WNOHANG) != child) continue;
      const int mine = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      if (WIFSIGNALED(status))
        complain("rank " + std::to_string(&child - children.data()) + " was ended by signal " +
                 std::to_string(WTERMSIG(status)));
      if (code == 0 && mine != 0) until = Clock::now() + k_grace;
      if (code == 0) code = mine;
      child = 0;
      --left;
    }
    if (left == 0) return code;
    if (code != 0 && Clock::now() >= until)
      for (pid_t child : children)
        if (child > 0) kill(child, SIGKILL);
    await_any(children, code == 0 ? -1 : 100);
  }
}

int fork_processes(const LaunchOptions& options, const RankBody& body) {
  IdPipes pipes(options.ranks);
  if (!pipes.open()) return complain(std::string("no pipes: ") + std::strerror(errno));
  std::fflush(nullptr);
  std::vector<pid_t> children;
  const pid_t parent = getpid();
  for (uint32_t process = 0; process < options.ranks; ++process) {
    const pid_t child = fork();
    if (child < 0) {
      const std::string why = std::strerror(errno);
      for (pid_t started : children) kill(started, SIGKILL);
      reap(children);
      return complain("no process for rank " + std::to_string(process) + ": " + why);
    }
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(k_failed_to_start);
      pipes.keep_for(process);
      const int code = run_process(pipes, process, options, body);
      std::fflush(nullptr);
      _exit(code);
    }
    children.push_back(child);
  }
  pipes.close_all();
  return reap(std::move(children));
}

int run_launched(const LaunchOptions& options, const RankBody& body) {
  Result<std::unique_ptr<Communicator>> base = Communicator::from_environment();
  if (!base) return complain(base.status().to_string());
  if (options.threads == 1) return body(std::move(*base));
  Communicator& world = **base;
  if (world.ranks() == 1) return run_local(options.threads, body);
  UniqueId id;
  if (world.rank() == 0) {
    const Result<UniqueId> created = UniqueId::create();
    if (!created) return complain(created.status().to_string());
    id = *created;
  }
  const Status told =
      world.broadcast(id.bytes.data(), id.bytes.data(), id.bytes.size(), DType::uint8, 0);
  if (!told.ok()) return complain(told.to_string());
  const Result<Config> config = Config::from_environment();
  if (!config) return complain(config.status().to_string());
  return run_threads(options.threads, [&](uint32_t thread) {
    return join_and_run(id, world.rank() * options.threads + thread,
                        world.ranks() * options.threads, *config, body);
  });
}

struct Launcher {
  const char* variable;
  const char* name;
};
constexpr Launcher k_launchers[] = {{"TUTTI_RANK", "tutti run"},
                                    {"OMPI_COMM_WORLD_RANK", "Open MPI"},
                                    {"PMI_RANK", "MPICH/PMI"},
                                    {"RANK", "torchrun"},
                                    {"SLURM_PROCID", "Slurm"}};

}  // namespace

bool launched_as_other_rank() {
  for (const Launcher& launcher : k_launchers)
    if (const char* rank = std::getenv(launcher.variable)) return std::strcmp(rank, "0") != 0;
  return false;
}

std::string launcher_name() {
  for (const Launcher& launcher : k_launchers)
    if (std::getenv(launcher.variable) != nullptr) return launcher.name;
  return "";
}

int launch(const LaunchOptions& options, const RankBody& body) {
  if (options.ranks == 0) return run_launched(options, body);
  if (options.threads_mode) return run_local(options.ranks * options.threads, body);
  return fork_processes(options, body);
}

}  // namespace tutti::perf
