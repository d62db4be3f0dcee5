// main() of all_reduce_perf and its siblings; TUTTI_PERF_COLLECTIVE is set by the build.
#include "perf/perf_command.h"

int main(int argc, char** argv) {
  return tutti::perf::perf_main(argc, argv, tutti::Collective::TUTTI_PERF_COLLECTIVE);
}
