// `tutti topo`: what a machine or cluster looks like.
#pragma once

// argv[0] is "topo". Exit code: 0 done, 1 a request that cannot be served, others from the parsing
// of flags.
int topo_command(int argc, char** argv);
