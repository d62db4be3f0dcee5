// `tutti sim`: how long a collective takes on a cluster that need not exist.
#pragma once

// argv[0] is "sim". Exit code: 0 done, 1 a request that cannot be served, others from the parsing
// of flags.
int sim_command(int argc, char** argv);
