// `tutti run` by itself, so that its tests need none of the other commands.
#include "perf/run_command.h"

int main(int argc, char** argv) { return argc > 1 ? run_command(argc - 1, argv + 1) : 9; }
