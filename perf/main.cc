// The `tutti` command: finds the subcommand and hands it the rest of the command line.
#include <cstdio>
#include <cstring>
#include <string>

#include "kernels/cpu/kernels.h"
#include "perf/ceilings.h"
#include "perf/launch.h"
#include "perf/perf_command.h"
#include "perf/report_command.h"
#include "tutti/communicator.h"
#ifdef TUTTI_HAS_RUN_COMMAND
#include "perf/run_command.h"
#endif
#ifdef TUTTI_HAS_PLAN_COMMAND
#include "perf/plan_command.h"
#endif
#ifdef TUTTI_HAS_SIM_COMMAND
#include "perf/sim_command.h"
#endif
#ifdef TUTTI_HAS_TUNE_COMMAND
#include "perf/tune_command.h"
#endif
#ifdef TUTTI_HAS_TOPO_COMMAND
#include "perf/topo_command.h"
#endif
#ifdef TUTTI_HAS_DOCS_COMMAND
#include "perf/docs_command.h"
#endif

namespace {

int info_command(int, char**) {
  const std::string launcher = tutti::perf::launcher_name();
  std::printf("tutti %s\n", tutti::version());
  std::printf("kernels: %s\n", tutti::kernels::target_name());
  std::printf("cores this process may use: %u\n", tutti::perf::allowed_cores());
  std::printf("started by: %s\n", launcher.empty() ? "no launcher" : launcher.c_str());
  return 0;
}

struct Command {
  const char* name;
  int (*run)(int, char**);
  const char* help;
};

constexpr Command k_commands[] = {
#ifdef TUTTI_HAS_RUN_COMMAND
    {"run", run_command, "start N ranks of a program, here or on hosts"},
#endif
    {"perf", perf_command, "measure and check collectives; --peers compares with other libraries"},
#ifdef TUTTI_HAS_PLAN_COMMAND
    {"plan", plan_command, "print, verify or draw the plan of a collective"},
#endif
#ifdef TUTTI_HAS_SIM_COMMAND
    {"sim", sim_command, "simulate a collective on a cluster that need not exist"},
#endif
#ifdef TUTTI_HAS_TUNE_COMMAND
    {"tune", tune_command, "measure this machine, write a profile of its prices; check one"},
#endif
#ifdef TUTTI_HAS_TOPO_COMMAND
    {"topo", topo_command, "show a machine or cluster: what hangs where, NICs, rings"},
#endif
#ifdef TUTTI_HAS_DOCS_COMMAND
    {"docs", docs_command, "write docs/algorithms.md and its drawings"},
#endif
    {"report", report_command, "print or compare result files"},
    {"info", info_command, "what this build and machine offer"},
};

void help(FILE* out) {
  std::fprintf(out, "usage: tutti COMMAND [FLAGS]\n\n");
  for (const Command& command : k_commands)
    std::fprintf(out, "  %-8s %s\n", command.name, command.help);
  std::fprintf(out, "\ntutti COMMAND --help says more.\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    help(stderr);
    return 2;
  }
  const char* wanted = argv[1];
  for (const char* word : {"help", "--help", "-h"})
    if (std::strcmp(wanted, word) == 0) {
      help(stdout);
      return 0;
    }
  if (std::strcmp(wanted, "--version") == 0) {
    std::printf("%s\n", tutti::version());
    return 0;
  }
  for (const Command& command : k_commands)
    if (std::strcmp(wanted, command.name) == 0) return command.run(argc - 1, argv + 1);
  std::fprintf(stderr, "tutti: unknown command '%s'\n\n", wanted);
  help(stderr);
  return 2;
}
