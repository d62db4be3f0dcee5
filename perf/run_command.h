// `tutti run`: starts the ranks of a program, here or on several hosts, and stays until they end.
//
//   tutti run -n 4 -- ./program args
//   tutti run -n 16 --hosts hosts.txt -- ./program         lines of hosts.txt: "node1 slots=8"
//   tutti run -n 8 --hosts ns.txt --host-agent "ip netns exec" -- ./program
//
// Ranks learn who they are from TUTTI_RANK, TUTTI_SIZE, TUTTI_LOCAL_RANK, TUTTI_LOCAL_SIZE, and get
// the unique id through TUTTI_ID_FD, an inherited file in memory: neither a command line nor the
// environment shows it. To other hosts it travels on the agent's standard input (so ssh encrypts
// it). Exit code: that of the first rank that failed (128 + signal), or 2 for a bad command line, 3
// when nothing could be started. The other ranks get 2 s to say what they saw, then SIGTERM, then
// SIGKILL.
#pragma once

int run_command(int argc, char** argv);
