// Starting, watching and ending the ranks of one host; see run_job.h.
#include "perf/run_job.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "src/base/socket.h"

namespace tutti::run {
namespace {

using std::chrono::seconds;

constexpr size_t k_max_job = 16 << 20;
constexpr size_t k_length_digits = 10;
constexpr seconds k_patience{2};  // for the others' own reports after the first failure
constexpr seconds k_grace{3};     // between SIGTERM and SIGKILL

struct Process {
  uint32_t rank = 0;
  pid_t pid = -1;
  bool running = false;
  std::array<Fd, 2> output;               // stdout and stderr when labelled
  std::array<std::string, 2> unfinished;  // the last line, without its end
};

class Runner {
 public:
  Runner(const Job& job, int lifeline) : job_(job), lifeline_(lifeline) {}
  int run(const UniqueId& id);

 private:
  bool prepare(const UniqueId& id);
  bool start(uint32_t local_rank);
  [[noreturn]] void become_rank(uint32_t local_rank, const std::array<Fd, 4>& pipes);
  void set_environment(uint32_t local_rank);
  void bind_cpus(uint32_t local_rank);
  void watch();
  void on_signals();
  void reap();
  void on_exit(Process& process, int status);
  void on_output(Process& process, int stream);
  void print_line(const Process& process, int stream, std::string_view line);
  void kill_all(int signal);
  void escalate();
  bool busy() const;

  const Job& job_;
  int lifeline_;
  pid_t parent_ = ::getpid();
  Fd id_file_;
  Fd signals_;
  sigset_t old_mask_{};
  std::vector<Process> processes_;
  int exit_code_ = 0;
  bool failing_ = false;
  int next_signal_ = 0;  // what escalate() sends next; 0: nothing
  SocketDeadline escalate_at_ = SocketDeadline::max();
};

bool Runner::prepare(const UniqueId& id) {
  id_file_ = Fd(::memfd_create("tutti-id", MFD_ALLOW_SEALING));
  bool written = id_file_ && ::write(id_file_.get(), id.bytes.data(), id.bytes.size()) ==
                                 static_cast<ssize_t>(id.bytes.size());
  if (!written) {
    std::fprintf(stderr, "tutti run: cannot make the file of the id: %s\n",
                 errno_text(errno).c_str());
    return false;
  }
  ::fcntl(id_file_.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
  sigset_t mask;
  sigemptyset(&mask);
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD}) sigaddset(&mask, signal);
  ::sigprocmask(SIG_BLOCK, &mask, &old_mask_);
  signals_ = Fd(::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
  return static_cast<bool>(signals_);
}

int Runner::run(const UniqueId& id) {
  if (!prepare(id)) return 3;
  processes_.resize(job_.local_ranks);
  for (uint32_t i = 0; i < job_.local_ranks; ++i) {
    if (start(i)) continue;
    std::fprintf(stderr, "tutti run: cannot start rank %u: %s\n", job_.first_rank + i,
                 errno_text(errno).c_str());
    kill_all(SIGKILL);
    exit_code_ = 3;
    failing_ = true;
    break;
  }
  while (busy()) watch();
  ::sigprocmask(SIG_SETMASK, &old_mask_, nullptr);
  return exit_code_;
}

bool Runner::start(uint32_t local_rank) {
  Process& process = processes_[local_rank];
  process.rank = job_.first_rank + local_rank;
  std::array<Fd, 4> pipes;  // read and write ends of stdout, then of stderr
  for (int stream = 0; job_.label && stream < 2; ++stream) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return false;
    pipes[2 * stream].reset(ends[0]);
    pipes[2 * stream + 1].reset(ends[1]);
  }
  process.pid = ::fork();
  if (process.pid < 0) return false;
  if (process.pid == 0) become_rank(local_rank, pipes);
  ::setpgid(process.pid, process.pid);  // also done by the child: whoever comes first
  process.running = true;
  for (int stream = 0; job_.label && stream < 2; ++stream) {
    process.output[stream] = std::move(pipes[2 * stream]);
    ::fcntl(process.output[stream].get(), F_SETFL, O_NONBLOCK);
  }
  return true;
}

// In the child. A process group of its own lets everything it starts be ended with it; the death of
// `tutti run` ends it as well.
void Runner::become_rank(uint32_t local_rank, const std::array<Fd, 4>& pipes) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent_) ::_exit(127);
  ::sigprocmask(SIG_SETMASK, &old_mask_, nullptr);
  if (job_.label) {
    ::dup2(pipes[1].get(), STDOUT_FILENO);
    ::dup2(pipes[3].get(), STDERR_FILENO);
  }
  // A background group that reads the terminal would be stopped; an agent's input is its lifeline.
  bool keeps_input = processes_[local_rank].rank == 0 && lifeline_ < 0 && !::isatty(STDIN_FILENO);
  if (!keeps_input) {
    Fd null(::open("/dev/null", O_RDONLY));
    ::dup2(null.get(), STDIN_FILENO);
  }
  if (job_.bind) bind_cpus(local_rank);
  set_environment(local_rank);
  if (!job_.directory.empty() && ::chdir(job_.directory.c_str()) != 0) {
    std::fprintf(stderr, "tutti run: cannot enter %s: %s\n", job_.directory.c_str(),
                 errno_text(errno).c_str());
    ::_exit(126);
  }
  std::vector<char*> arguments;
  for (const std::string& word : job_.command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  int error = errno;
  std::fprintf(stderr, "tutti run: cannot execute %s: %s\n", arguments[0],
               errno_text(error).c_str());
  ::_exit(error == ENOENT ? 127 : 126);
}

void Runner::set_environment(uint32_t local_rank) {
  for (const std::string& entry : job_.environment) {
    size_t equals = entry.find('=');
    ::setenv(entry.substr(0, equals).c_str(), entry.substr(equals + 1).c_str(), 1);
  }
  for (const char* stale : {"TUTTI_ID", "TUTTI_ROOT"}) ::unsetenv(stale);
  auto set = [](const char* name, uint32_t value) {
    ::setenv(name, std::to_string(value).c_str(), 1);
  };
  set("TUTTI_RANK", job_.first_rank + local_rank);
  set("TUTTI_SIZE", job_.ranks);
  set("TUTTI_LOCAL_RANK", local_rank);
  set("TUTTI_LOCAL_SIZE", job_.local_ranks);
  set("TUTTI_ID_FD", static_cast<uint32_t>(id_file_.get()));
}

// Neighbouring CPUs for each rank; with more ranks than CPUs they take turns.
void Runner::bind_cpus(uint32_t local_rank) {
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) cpus.push_back(cpu);
  }
  size_t each = std::max<size_t>(1, cpus.size() / job_.local_ranks);
  cpu_set_t mine;
  CPU_ZERO(&mine);
  for (size_t i = 0; i < each; ++i) CPU_SET(cpus[(local_rank * each + i) % cpus.size()], &mine);
  ::sched_setaffinity(0, sizeof mine, &mine);
}

bool Runner::busy() const {
  return std::any_of(processes_.begin(), processes_.end(), [](const Process& process) {
    return process.running || process.output[0] || process.output[1];
  });
}

void Runner::watch() {
  std::vector<pollfd> polls{{signals_.get(), POLLIN, 0}, {lifeline_, POLLIN, 0}};
  for (const Process& process : processes_) {
    for (const Fd& fd : process.output) polls.push_back({fd.get(), POLLIN, 0});
  }
  SocketDeadline wake = std::min(escalate_at_, SocketClock::now() + seconds(60));
  poll_until(polls.data(), polls.size(), wake);
  for (size_t i = 0; i < 2 * processes_.size(); ++i) {
    if (polls[i + 2].revents != 0) on_output(processes_[i / 2], static_cast<int>(i % 2));
  }
  if (polls[0].revents != 0) on_signals();
  if (polls[1].revents != 0) {
    char scrap[256];
    if (::read(lifeline_, scrap, sizeof scrap) <= 0) {
      lifeline_ = -1;
      if (!failing_) exit_code_ = 128 + SIGTERM;
      failing_ = true;
      kill_all(SIGKILL);
    }
  }
  if (SocketClock::now() >= escalate_at_) escalate();
}

void Runner::on_signals() {
  signalfd_siginfo info;
  while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    int signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGCHLD) continue;
    kill_all(signal);
    if (signal == SIGUSR1 || signal == SIGUSR2) continue;
    if (!failing_) exit_code_ = 128 + signal;
    failing_ = true;
    next_signal_ = SIGKILL;
    escalate_at_ = SocketClock::now() + k_grace;
  }
  reap();
}

void Runner::reap() {
  for (Process& process : processes_) {
    int status = 0;
    if (process.running && ::waitpid(process.pid, &status, WNOHANG) == process.pid) {
      process.running = false;
      on_exit(process, status);
    }
  }
}

void Runner::on_exit(Process& process, int status) {
  // Its own children must not outlive it, nor keep its pipes open.
  ::kill(-process.pid, SIGKILL);
  bool killed = WIFSIGNALED(status);
  int code = killed ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  if (code == 0 || failing_) return;
  failing_ = true;
  exit_code_ = code;
  std::fprintf(stderr, "tutti run: rank %u (pid %d) %s %d%s%s%s; ending the others\n", process.rank,
               static_cast<int>(process.pid), killed ? "was killed by signal" : "exited with code",
               killed ? WTERMSIG(status) : code, killed ? " (" : "",
               killed ? ::strsignal(WTERMSIG(status)) : "", killed ? ")" : "");
  next_signal_ = SIGTERM;
  escalate_at_ = SocketClock::now() + k_patience;
}

void Runner::escalate() {
  kill_all(next_signal_);
  escalate_at_ = next_signal_ == SIGTERM ? SocketClock::now() + k_grace : SocketDeadline::max();
  next_signal_ = SIGKILL;
}

void Runner::kill_all(int signal) {
  for (const Process& process : processes_) {
    if (process.running) ::kill(-process.pid, signal);
  }
}

void Runner::print_line(const Process& process, int stream, std::string_view line) {
  std::fprintf(stream == 0 ? stdout : stderr, "[%u] %.*s\n", process.rank,
               static_cast<int>(line.size()), line.data());
  std::fflush(stream == 0 ? stdout : stderr);
}

void Runner::on_output(Process& process, int stream) {
  std::string& text = process.unfinished[stream];
  char buffer[16384];
  ssize_t got = ::read(process.output[stream].get(), buffer, sizeof buffer);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got > 0) text.append(buffer, static_cast<size_t>(got));
  size_t begin = 0;
  for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    print_line(process, stream, std::string_view(text).substr(begin, end - begin));
  }
  text.erase(0, begin);
  if (got > 0) return;
  if (!text.empty()) print_line(process, stream, text);
  process.output[stream].reset();
}

}  // namespace

std::string encode_job(const Job& job) {
  std::string body;
  auto add = [&](const std::string& field) { body.append(field).push_back('\0'); };
  auto add_list = [&](const std::vector<std::string>& list) {
    add(std::to_string(list.size()));
    for (const std::string& entry : list) add(entry);
  };
  for (uint32_t number :
       {job.ranks, job.first_rank, job.local_ranks, uint32_t{job.label}, uint32_t{job.bind}}) {
    add(std::to_string(number));
  }
  for (const std::string* text : {&job.interface, &job.id, &job.directory}) add(*text);
  add_list(job.environment);
  add_list(job.command);
  std::string length = std::to_string(body.size());
  return std::string(k_length_digits - length.size(), '0') + length + body;
}

Result<Job> decode_job(const std::string& bytes) {
  size_t at = 0;
  bool sound = true;
  auto text = [&] {
    size_t end = bytes.find('\0', at);
    sound = sound && end != std::string::npos;
    std::string field = sound ? bytes.substr(at, end - at) : std::string();
    at = sound ? end + 1 : at;
    return field;
  };
  auto number = [&] {
    std::string field = text();
    uint32_t value = 0;
    auto [stop, error] = std::from_chars(field.data(), field.data() + field.size(), value);
    sound = sound && error == std::errc() && stop == field.data() + field.size();
    return value;
  };
  auto list = [&] {
    std::vector<std::string> entries;
    for (uint32_t left = number(); sound && left > 0; --left) entries.push_back(text());
    return entries;
  };
  Job job;
  job.ranks = number();
  job.first_rank = number();
  job.local_ranks = number();
  job.label = number() != 0;
  job.bind = number() != 0;
  job.interface = text();
  job.id = text();
  job.directory = text();
  job.environment = list();
  job.command = list();
  sound = sound && at == bytes.size() && !job.command.empty() && job.local_ranks > 0 &&
          job.first_rank < job.ranks && job.local_ranks <= job.ranks - job.first_rank;
  if (!sound) return Status(Code::remote_error, "the job's description is damaged");
  return job;
}

Result<Job> read_job(int fd) {
  auto read_all = [fd](std::string* bytes) {
    for (size_t done = 0; done < bytes->size();) {
      ssize_t got = ::read(fd, bytes->data() + done, bytes->size() - done);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      done += static_cast<size_t>(got);
    }
    return true;
  };
  std::string digits(k_length_digits, '\0');
  size_t length = 0;
  bool sound = read_all(&digits);
  auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), length);
  sound = sound && error == std::errc() && stop == digits.data() + digits.size();
  if (!sound || length > k_max_job) return Status(Code::remote_error, "no job's description came");
  std::string body(length, '\0');
  if (!read_all(&body)) return Status(Code::remote_error, "the job's description was cut");
  return decode_job(body);
}

int run_job(const Job& job, const UniqueId& id, int lifeline) {
  return Runner(job, lifeline).run(id);
}

}  // namespace tutti::run
