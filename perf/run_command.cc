// The command line of `tutti run`, and the ranks' distribution over hosts; see run_command.h.
#include "perf/run_command.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "perf/run_job.h"
#include "src/base/socket.h"
#include "src/communicator/bootstrap/id.h"

extern "C" char** environ;

namespace tutti::run {
namespace {

constexpr std::string_view k_id_word = "tutti-id ";

struct Host {
  std::string name;
  uint32_t slots = 1;
};

struct Agent {
  std::string host;
  pid_t pid = -1;
  Fd input;   // closing it ends the agent's ranks
  Fd output;  // of the first agent, which tells the id
};

int complain(const std::string& what, int code) {
  std::fprintf(stderr, "tutti run: %s\n", what.c_str());
  return code;
}

// "node1 slots=4" a line; "#" begins a comment.
Result<std::vector<Host>> read_hosts(const std::string& path) {
  std::ifstream file(path);
  if (!file) return Status(Code::invalid_argument, "cannot read the hosts in " + path);
  std::vector<Host> hosts;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    std::istringstream words(line.substr(0, line.find('#')));
    Host host;
    if (!(words >> host.name)) continue;
    for (std::string word; words >> word;) {
      bool slots = word.starts_with("slots=");
      char* end = nullptr;
      unsigned long value = slots ? std::strtoul(word.c_str() + 6, &end, 10) : 0;
      if (!slots || *end != '\0' || value == 0 || value > 65536) {
        return Status(Code::invalid_argument,
                      path + ":" + std::to_string(number) + ": \"" + word + "\" is not slots=N");
      }
      host.slots = static_cast<uint32_t>(value);
    }
    hosts.push_back(host);
  }
  if (hosts.empty()) return Status(Code::invalid_argument, "no hosts in " + path);
  return hosts;
}

// Hosts in order, each filled up; only those that get ranks.
Result<std::vector<Host>> distribute(std::vector<Host> hosts, uint32_t ranks) {
  uint32_t left = ranks;
  for (Host& host : hosts) {
    host.slots = std::min(host.slots, left);
    left -= host.slots;
  }
  if (left > 0) {
    return Status(Code::invalid_argument, std::to_string(ranks) +
                                              " ranks, but the hosts have only " +
                                              std::to_string(ranks - left) + " slots");
  }
  std::erase_if(hosts, [](const Host& host) { return host.slots == 0; });
  return hosts;
}

// -x NAME passes a variable on, -x NAME=VALUE sets one. TUTTI_* and NCCL_* go along by themselves.
Result<std::vector<std::string>> environment_for(const std::vector<std::string>& named,
                                                 bool remote) {
  std::vector<std::string> entries;
  for (char** entry = environ; remote && *entry != nullptr; ++entry) {
    std::string text = *entry;
    if (text.starts_with("TUTTI_") || text.starts_with("NCCL_")) entries.push_back(text);
  }
  for (const std::string& name : named) {
    if (name.find('=') != std::string::npos) {
      entries.push_back(name);
    } else if (const char* value = std::getenv(name.c_str())) {
      entries.push_back(name + "=" + value);
    } else {
      return Status(Code::invalid_argument, "-x " + name + ": no such environment variable");
    }
  }
  return entries;
}

Result<UniqueId> make_id(const std::string& interface) {
  IdOptions options;
  options.interface = interface;
  options.persistent = true;
  return create_id(options);
}

std::string own_path() {
  std::string path(4096, '\0');
  ssize_t length = ::readlink("/proc/self/exe", path.data(), path.size());
  path.resize(length > 0 ? static_cast<size_t>(length) : 0);
  return path;
}

// LIBRARY put before what a list of libraries or folders holds already.
std::string before(const std::string& first, const char* variable, const char* separator) {
  const char* present = std::getenv(variable);
  const bool more = present != nullptr && *present != '\0';
  return std::string(variable) + "=" + first + (more ? separator + std::string(present) : "");
}

// What makes the ranks load tutti where they ask for NCCL (docs/nccl.md): by name, by path, through
// vLLM's own variable.
Result<std::vector<std::string>> nccl_environment(const std::string& tutti) {
  const std::string program = tutti.substr(0, tutti.rfind('/') + 1);
  for (const char* folder : {"../lib", "../lib64", "../lib/x86_64-linux-gnu"}) {
    const std::string found = program + folder;
    char absolute[PATH_MAX];
    if (::realpath(found.c_str(), absolute) == nullptr) continue;
    const std::string library = std::string(absolute) + "/libnccl.so.2";
    if (::access(library.c_str(), R_OK) != 0) continue;
    return std::vector<std::string>{
        before(absolute, "LD_LIBRARY_PATH", ":"), before(library, "LD_PRELOAD", ":"),
        before(std::string(absolute) + "/libtutti_nccl_audit.so", "LD_AUDIT", ":"),
        "VLLM_NCCL_SO_PATH=" + library};
  }
  return Status(Code::system_error, "--nccl: no libnccl.so.2 in a lib folder beside " + program);
}

// "ssh -p 7" with host "a" -> {ssh, -p, 7, a, PATH, run, --agent}; "{host}" says where it goes.
std::vector<std::string> agent_command(const std::string& agent, const std::string& host,
                                       const std::string& path) {
  std::vector<std::string> words;
  std::istringstream stream(agent);
  bool placed = false;
  for (std::string word; stream >> word; words.push_back(word)) {
    size_t at = word.find("{host}");
    if (at == std::string::npos) continue;
    word.replace(at, 6, host);
    placed = true;
  }
  if (!placed) words.push_back(host);
  words.insert(words.end(), {path, "run", "--agent"});
  return words;
}

bool start_agent(const std::vector<std::string>& command, bool tells_id, Agent* agent) {
  int input[2];
  int output[2];
  if (::pipe2(input, O_CLOEXEC) != 0) return false;
  agent->input.reset(input[1]);
  Fd input_end(input[0]);
  if (::pipe2(output, O_CLOEXEC) != 0) return false;
  agent->output.reset(output[0]);
  Fd output_end(output[1]);
  pid_t parent = ::getpid();
  agent->pid = ::fork();
  if (agent->pid != 0) {
    if (!tells_id) agent->output.reset();
    return agent->pid > 0;
  }
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(127);
  ::dup2(input_end.get(), STDIN_FILENO);
  if (tells_id) ::dup2(output_end.get(), STDOUT_FILENO);
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  complain("cannot execute " + command[0] + ": " + errno_text(errno), 0);
  ::_exit(127);
}

bool send_job(const Agent& agent, const Job& job) {
  std::string bytes = encode_job(job);
  for (size_t done = 0; done < bytes.size();) {
    ssize_t put = ::write(agent.input.get(), bytes.data() + done, bytes.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    done += static_cast<size_t>(put);
  }
  return true;
}

// The first line of the first agent; what comes after it is the ranks' output.
std::string read_id(const Agent& agent) {
  std::string line;
  char letter = 0;
  while (line.size() < 400 && ::read(agent.output.get(), &letter, 1) == 1 && letter != '\n') {
    line.push_back(letter);
  }
  return line.starts_with(k_id_word) ? line.substr(k_id_word.size()) : std::string();
}

void copy_output(Fd* from) {
  char buffer[16384];
  ssize_t got = ::read(from->get(), buffer, sizeof buffer);
  if (got <= 0) return from->reset();
  std::fwrite(buffer, 1, static_cast<size_t>(got), stdout);
  std::fflush(stdout);
}

// Waits for the agents. The first failure, or a signal to us, ends them all: their input closes.
int watch_agents(std::vector<Agent>* agents) {
  int code = 0;
  size_t left = agents->size();
  while (left > 0) {
    pollfd entry{agents->front().output.get(), POLLIN, 0};
    poll_until(&entry, 1, SocketClock::now() + std::chrono::milliseconds(50));
    if (entry.revents != 0) copy_output(&agents->front().output);
    for (Agent& agent : *agents) {
      int status = 0;
      if (agent.pid < 0 || ::waitpid(agent.pid, &status, WNOHANG) != agent.pid) continue;
      agent.pid = -1;
      --left;
      int failed = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      if (failed == 0 || code != 0) continue;
      code = failed;
      complain("host " + agent.host + " ended with code " + std::to_string(failed), 0);
      for (Agent& other : *agents) other.input.reset();
    }
  }
  while (agents->front().output) copy_output(&agents->front().output);
  return code;
}

int run_on_hosts(Job job, const std::vector<Host>& hosts, const std::string& agent_words,
                 const std::string& path) {
  ::signal(SIGPIPE, SIG_IGN);
  std::vector<Agent> agents(hosts.size());
  for (size_t i = 0; i < hosts.size(); ++i) {
    agents[i].host = hosts[i].name;
    job.local_ranks = hosts[i].slots;
    bool started =
        start_agent(agent_command(agent_words, hosts[i].name, path), i == 0, &agents[i]) &&
        send_job(agents[i], job);
    if (started && i == 0) {
      job.id = read_id(agents[0]);
      started = !job.id.empty();
    }
    if (!started) {
      complain("no agent on host " + hosts[i].name + " (" + agent_words + ")", 3);
      agents.resize(i + 1);
      for (Agent& agent : agents) agent.input.reset();
      int code = watch_agents(&agents);
      return code != 0 ? code : 3;
    }
    job.first_rank += hosts[i].slots;
  }
  return watch_agents(&agents);
}

int run_agent() {
  Result<Job> job = read_job(STDIN_FILENO);
  if (!job.ok()) return complain("agent: " + job.status().message(), 3);
  Result<UniqueId> id = job->id.empty() ? make_id(job->interface) : id_from_hex(job->id);
  if (!id.ok()) return complain("agent: " + id.status().message(), 3);
  if (job->id.empty()) {
    std::printf("%s%s\n", k_id_word.data(), id_to_hex(*id).c_str());
    std::fflush(stdout);
  }
  return run_job(*job, *id, STDIN_FILENO);
}

}  // namespace

int run_main(int argc, char** argv) {
  CLI::App app{"Starts the ranks of a program, here or on several hosts.", "tutti run"};
  Job job;
  std::string hosts_file;
  std::string agent = "ssh -o BatchMode=yes";
  std::string path = own_path();
  std::string bind = "none";
  std::vector<std::string> variables;
  bool is_agent = false;
  bool nccl = false;
  app.add_option("-n,--ranks", job.ranks, "number of ranks")->check(CLI::Range(1, 65536));
  app.add_option("--hosts", hosts_file, "file of hosts, \"name slots=4\" a line");
  app.add_option("--host-agent", agent, "command that runs its arguments on {host}");
  app.add_option("--tutti", path, "the tutti command on the other hosts");
  app.add_option("-x", variables, "pass NAME, or set NAME=VALUE, in the ranks' environment")
      ->allow_extra_args(false);
  app.add_option("--interface", job.interface,
                 "where the root listens (NCCL_SOCKET_IFNAME syntax)");
  app.add_flag("--label", job.label, "put [rank] before every line of output");
  app.add_option("--cpu-bind", bind, "none, or core: each rank on its share of the CPUs")
      ->check(CLI::IsMember({"none", "core"}));
  app.add_flag("--nccl", nccl,
               "the program loads tutti where it asks for NCCL (-n 1 unless given)");
  app.add_flag("--agent", is_agent)->group("");
  app.prefix_command();
  CLI11_PARSE(app, argc, argv);
  if (is_agent) return run_agent();
  job.command = app.remaining();
  if (!job.command.empty() && job.command.front() == "--") job.command.erase(job.command.begin());
  if (job.command.empty()) return complain("no program; see tutti run --help", 2);
  job.bind = bind == "core";

  Result<std::vector<std::string>> environment = environment_for(variables, !hosts_file.empty());
  if (!environment.ok()) return complain(environment.status().message(), 2);
  job.environment = *environment;
  if (nccl) {
    Result<std::vector<std::string>> loading = nccl_environment(path);
    if (!loading.ok()) return complain(loading.status().message(), 2);
    job.environment.insert(job.environment.end(), loading->begin(), loading->end());
    if (hosts_file.empty() && job.ranks == 0) job.ranks = 1;
  }
  if (hosts_file.empty()) {
    if (job.ranks == 0) return complain("how many ranks? (-n N)", 2);
    job.local_ranks = job.ranks;
    // One host: nobody else has to reach the root. A bare network namespace has its loopback down.
    Result<UniqueId> id = make_id(job.interface.empty() ? "lo" : job.interface);
    if (!id.ok() && job.interface.empty()) id = make_id("");
    if (!id.ok()) return complain(id.status().message(), 3);
    return run_job(job, *id, -1);
  }
  Result<std::vector<Host>> hosts = read_hosts(hosts_file);
  if (hosts.ok() && job.ranks == 0) {
    for (const Host& host : *hosts) job.ranks += host.slots;
  }
  if (hosts.ok()) hosts = distribute(*hosts, job.ranks);
  if (!hosts.ok()) return complain(hosts.status().message(), 2);
  char directory[4096];
  if (::getcwd(directory, sizeof directory) != nullptr) job.directory = directory;
  return run_on_hosts(job, *hosts, agent, path);
}

}  // namespace tutti::run

int run_command(int argc, char** argv) { return tutti::run::run_main(argc, argv); }
