// Launchers: real ones where they are installed, made-up environments for the others.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "src/communicator/bootstrap/bootstrap.h"
#include "src/communicator/bootstrap/id.h"
#include "src/communicator/environment.h"

namespace tutti {
namespace {

const std::string k_bin = std::string(TUTTI_BINARY_DIR) + "/bin/";

struct Outcome {
  int code = -1;
  std::vector<std::string> lines;  // sorted: ranks print in any order
  bool has(const std::string& text) const {
    return std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
      return line.find(text) != std::string::npos;
    });
  }
};

Outcome shell(const std::string& command) {
  Outcome outcome;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  std::string text;
  char buffer[4096];
  while (size_t got = ::fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, got);
  int status = ::pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) outcome.lines.push_back(line);
  std::sort(outcome.lines.begin(), outcome.lines.end());
  return outcome;
}

bool installed(const std::string& program) { return shell("command -v " + program).code == 0; }

// Joins as all ranks, each with its own environment, and compares what they were told.
void expect_job(uint32_t ranks, const std::string& launcher, bool weak,
                const std::function<Variables(Rank)>& variables) {
  Config config;
  config.init_timeout = 60;
  std::vector<std::thread> threads;
  for (Rank rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      Result<LaunchInfo> info = detect_launch(variables(rank), config);
      ASSERT_TRUE(info.ok()) << info.status().to_string();
      EXPECT_EQ(info->launcher, launcher);
      EXPECT_EQ(info->rank, rank);
      EXPECT_EQ(info->ranks, ranks);
      EXPECT_EQ(info->weak_secret, weak);
      BootstrapOptions options;
      options.rank = info->rank;
      options.ranks = info->ranks;
      options.deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      auto joined = Bootstrap::join(info->id, options);
      ASSERT_TRUE(joined.ok()) << joined.status().to_string();
      EXPECT_TRUE((*joined)->barrier(options.deadline).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

uint16_t free_port() {
  Fd probe = std::move(listen_on(Address::parse("127.0.0.1:0").value())).value();
  return local_address(probe.get())->port();
}

Status refusal(const Variables& variables) { return detect_launch(variables, Config()).status(); }

TEST(Launch, a_lone_process_is_rank_0_of_1) {
  LaunchInfo info = detect_launch({{"PATH", "/bin"}}, Config()).value();
  EXPECT_EQ(info.ranks, 1u);
  EXPECT_EQ(info.launcher, "none");
}

TEST(Launch, torchrun) {
  std::string port = std::to_string(free_port() - 1);
  for (bool secret : {false, true}) {
    expect_job(3, "torchrun", !secret, [&](Rank rank) {
      Variables variables{{"RANK", std::to_string(rank)},       {"WORLD_SIZE", "3"},
                          {"LOCAL_RANK", std::to_string(rank)}, {"LOCAL_WORLD_SIZE", "3"},
                          {"MASTER_ADDR", "localhost"},         {"MASTER_PORT", port},
                          {"TORCHELASTIC_RUN_ID", "job 7"}};
      if (secret) variables["TUTTI_SECRET"] = "known to all ranks";
      return variables;
    });
  }
}

TEST(Launch, slurm) {
  expect_job(4, "Slurm", true, [&](Rank rank) {
    return Variables{{"SLURM_PROCID", std::to_string(rank)},
                     {"SLURM_STEP_NUM_TASKS", "4"},
                     {"SLURM_NTASKS", "9"},
                     {"SLURM_LOCALID", std::to_string(rank)},
                     {"SLURM_STEP_NUM_NODES", "1"},
                     {"SLURM_STEP_NODELIST", "127.0.0.[1-4,9]"},
                     {"SLURM_JOB_ID", std::to_string(::getpid())},
                     {"SLURM_STEP_ID", "0"}};
  });
}

TEST(Launch, slurm_batch_scripts_are_lone_processes) {
  EXPECT_EQ(detect_launch({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}}, Config())->ranks, 1u);
}

TEST(Launch, root_and_secret_override_the_rendezvous) {
  std::string root = "127.0.0.1:" + std::to_string(free_port());
  expect_job(2, "Open MPI", false, [&](Rank rank) {
    return Variables{{"OMPI_COMM_WORLD_RANK", std::to_string(rank)},
                     {"OMPI_COMM_WORLD_SIZE", "2"},
                     {"OMPI_COMM_WORLD_LOCAL_SIZE", "1"},
                     {"TUTTI_ROOT", root},
                     {"TUTTI_SECRET", "s"}};
  });
}

TEST(Launch, open_mpi_on_one_host_as_threads) {
  std::string job = "test-" + std::to_string(::getpid());
  for (int again = 0; again < 2; ++again) {
    expect_job(3, "Open MPI", false, [&](Rank rank) {
      return Variables{{"OMPI_COMM_WORLD_RANK", std::to_string(rank)},
                       {"OMPI_COMM_WORLD_SIZE", "3"},
                       {"OMPI_COMM_WORLD_LOCAL_SIZE", "3"},
                       {"OMPI_COMM_WORLD_LOCAL_RANK", std::to_string(rank)},
                       {"PMIX_NAMESPACE", job}};
    });
  }
}

TEST(Launch, half_an_environment_is_an_error_that_names_what_is_missing) {
  struct Case {
    Variables variables;
    const char* named;
  };
  const Case cases[] = {
      {{{"TUTTI_RANK", "0"}}, "TUTTI_SIZE is not set"},
      {{{"TUTTI_SIZE", "2"}}, "TUTTI_RANK is not set"},
      {{{"TUTTI_RANK", "0"}, {"TUTTI_SIZE", "2"}}, "TUTTI_ID_FD"},
      {{{"TUTTI_RANK", "0"}, {"TUTTI_SIZE", "2"}, {"TUTTI_ID", "12"}}, "256 hexadecimal"},
      {{{"TUTTI_RANK", "0"}, {"TUTTI_SIZE", "2"}, {"TUTTI_ID_FD", "999999"}}, "TUTTI_ID_FD"},
      {{{"TUTTI_RANK", "2"}, {"TUTTI_SIZE", "2"}}, "not below TUTTI_SIZE=2"},
      {{{"TUTTI_RANK", "x"}, {"TUTTI_SIZE", "2"}}, "TUTTI_RANK=\"x\""},
      {{{"RANK", "0"}}, "WORLD_SIZE is not set"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}}, "MASTER_ADDR is not set"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}}, "MASTER_PORT is not set"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}, {"MASTER_PORT", "65535"}},
       "MASTER_PORT=\"65535\""},
      {{{"OMPI_COMM_WORLD_RANK", "0"}}, "OMPI_COMM_WORLD_SIZE is not set"},
      {{{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "2"}}, "TUTTI_ROOT"},
      {{{"OMPI_COMM_WORLD_RANK", "0"},
        {"OMPI_COMM_WORLD_SIZE", "2"},
        {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}},
       "PMIX_NAMESPACE"},
      {{{"PMI_RANK", "0"}, {"PMI_FD", "5"}}, "PMI_SIZE is not set"},
      {{{"SLURM_PROCID", "0"}, {"SLURM_STEP_ID", "0"}}, "SLURM_NTASKS is not set"},
      {{{"SLURM_PROCID", "0"}, {"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "2"}},
       "SLURM_STEP_NODELIST"},
      {{{"TUTTI_RANK", "0"}, {"TUTTI_SIZE", "2"}, {"TUTTI_ROOT", "127.0.0.1:5"}}, "TUTTI_SECRET"},
      {{{"TUTTI_RANK", "0"}, {"TUTTI_SIZE", "2"}, {"TUTTI_ROOT", "x:5"}}, "TUTTI_ROOT"},
  };
  for (const Case& one : cases) {
    Status status = refusal(one.variables);
    EXPECT_EQ(status.code(), Code::invalid_argument) << one.named;
    EXPECT_NE(status.message().find(one.named), std::string::npos)
        << "wanted " << one.named << ", got " << status.message();
  }
}

TEST(Launch, secret_files_must_be_ours_and_private) {
  std::string path = testing::TempDir() + "tutti_secret_" + std::to_string(::getpid());
  std::ofstream(path) << "a secret of many words\n";
  Variables variables{{"TUTTI_RANK", "1"},
                      {"TUTTI_SIZE", "2"},
                      {"TUTTI_ROOT", "127.0.0.1:5"},
                      {"TUTTI_SECRET_FILE", path}};
  ::chmod(path.c_str(), 0644);
  EXPECT_NE(refusal(variables).message().find("chmod 600"), std::string::npos);
  ::chmod(path.c_str(), 0600);
  Result<LaunchInfo> info = detect_launch(variables, Config());
  ASSERT_TRUE(info.ok()) << info.status().to_string();
  EXPECT_EQ(info->id, UniqueId::from_address("127.0.0.1:5", "a secret of many words").value());
  std::ofstream(path, std::ios::trunc) << "";
  EXPECT_NE(refusal(variables).message().find("empty"), std::string::npos);
  ::unlink(path.c_str());
  EXPECT_NE(refusal(variables).message().find(path), std::string::npos);
}

void expect_three(const Outcome& outcome, const std::string& launcher, size_t times = 1) {
  EXPECT_EQ(outcome.code, 0);
  ASSERT_EQ(outcome.lines.size(), 3 * times) << testing::PrintToString(outcome.lines);
  for (size_t i = 0; i < 3 * times; ++i) {
    std::string rank = std::to_string(i / times);
    EXPECT_EQ(outcome.lines[i], launcher + " rank " + rank + " local " + rank + "/3: 0 1 2");
  }
}

TEST(RealLauncher, tutti_run) {
  expect_three(shell(k_bin + "run_program run -n 3 -- " + k_bin + "join_program 2"), "tutti run",
               2);
}

TEST(RealLauncher, mpich) {
  if (!installed("mpiexec.hydra")) GTEST_SKIP() << "MPICH's mpiexec is not installed";
  expect_three(shell("timeout 100 mpiexec.hydra -n 3 " + k_bin + "join_program"), "PMI");
}

TEST(RealLauncher, open_mpi) {
  if (!installed("mpirun.openmpi")) GTEST_SKIP() << "Open MPI's mpirun is not installed";
  expect_three(shell("timeout 100 mpirun.openmpi --allow-run-as-root --oversubscribe -np 3 " +
                     k_bin + "join_program 2"),
               "Open MPI", 2);
}

TEST(Run, the_id_is_in_no_command_line_and_no_environment) {
  Outcome outcome = shell(k_bin + "run_program run -n 2 -- sh -c 'env; cat /proc/$$/cmdline'");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_TRUE(outcome.has("TUTTI_ID_FD="));
  EXPECT_FALSE(outcome.has("TUTTI_ID="));
  EXPECT_FALSE(outcome.has("747574746964"));  // "tuttid" in hexadecimal
}

TEST(Run, the_first_failure_is_reported_and_ends_the_others) {
  Outcome outcome = shell(k_bin +
                          "run_program run -n 3 -- sh -c "
                          "'test $TUTTI_RANK = 1 && exit 7; sleep 321 & wait'");
  EXPECT_EQ(outcome.code, 7);
  EXPECT_TRUE(outcome.has("rank 1")) << testing::PrintToString(outcome.lines);
  EXPECT_TRUE(outcome.has("exited with code 7"));
  EXPECT_NE(shell("pgrep -x -f 'sleep 321'").code, 0);  // grandchildren neither
}

TEST(Run, a_signal_is_reported_as_such) {
  Outcome outcome = shell(k_bin + "run_program run -n 2 -- sh -c 'kill -9 $$'");
  EXPECT_EQ(outcome.code, 137);
  EXPECT_TRUE(outcome.has("was killed by signal 9 (Killed)"));
}

TEST(Run, signals_reach_the_ranks) {
  Outcome outcome = shell("timeout -s TERM 0.5 " + k_bin +
                          "run_program run -n 2 -- sh -c 'trap \"echo got it; exit 0\" TERM; "
                          "sleep 322 & wait'");
  EXPECT_TRUE(outcome.has("got it"));
  EXPECT_NE(shell("pgrep -x -f 'sleep 322'").code, 0);
}

TEST(Run, nothing_survives_a_killed_launcher) {
  shell("timeout -s KILL 0.5 " + k_bin + "run_program run -n 2 -- sleep 323");
  int code = 0;
  for (int i = 0; i < 100 && code == 0; ++i) {
    ::usleep(20'000);
    code = shell("pgrep -x -f 'sleep 323'").code;
  }
  EXPECT_NE(code, 0);
}

TEST(Run, labels_environment_and_binding) {
  Outcome outcome = shell(k_bin +
                          "run_program run -n 2 --label --cpu-bind core -x WORD=good -- sh -c "
                          "'echo $WORD; printf unfinished >&2'");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.lines,
            (std::vector<std::string>{"[0] good", "[0] unfinished", "[1] good", "[1] unfinished"}));
}

TEST(Run, bad_command_lines) {
  EXPECT_EQ(shell(k_bin + "run_program run -n 2").code, 2);
  EXPECT_EQ(shell(k_bin + "run_program run -- true").code, 2);
  EXPECT_NE(shell(k_bin + "run_program run -n 0 -- true").code, 0);
  EXPECT_EQ(shell(k_bin + "run_program run -n 2 -x NO_SUCH_VARIABLE -- true").code, 2);
  EXPECT_EQ(shell(k_bin + "run_program run -n 2 --hosts /nonexistent -- true").code, 2);
  EXPECT_EQ(shell(k_bin + "run_program run -n 2 -- /nonexistent").code, 127);
}

// Hosts through an agent that is only `env`: the protocol without a network.
TEST(Run, hosts_through_an_agent) {
  std::string hosts = testing::TempDir() + "tutti_hosts_" + std::to_string(::getpid());
  std::ofstream(hosts) << "a slots=2  # the first\n\nb slots=3\n";
  std::string run = k_bin + "run_program run --hosts " + hosts + " --host-agent 'env HOST={host}' ";
  Outcome joined = shell(run + "-n 3 --label -- " + k_bin + "join_program");
  EXPECT_EQ(joined.code, 0);
  EXPECT_EQ(joined.lines, (std::vector<std::string>{"[0] tutti run rank 0 local 0/2: 0 1 2",
                                                    "[1] tutti run rank 1 local 1/2: 0 1 2",
                                                    "[2] tutti run rank 2 local 0/1: 0 1 2"}));
  Outcome failed = shell(run + "-- sh -c 'test $TUTTI_RANK = 4 && exit 9; sleep 324'");
  EXPECT_EQ(failed.code, 9) << testing::PrintToString(failed.lines);
  EXPECT_TRUE(failed.has("host b ended with code 9"));
  EXPECT_NE(shell("pgrep -x -f 'sleep 324'").code, 0);
  EXPECT_EQ(shell(run + "-n 6 -- true").code, 2);
  EXPECT_EQ(shell(k_bin + "run_program run --hosts " + hosts + " --host-agent false -- true").code,
            1);
  ::unlink(hosts.c_str());
}

}  // namespace
}  // namespace tutti
