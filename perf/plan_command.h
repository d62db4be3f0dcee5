// `tutti plan`: prints, verifies or draws the plan of a collective.
#pragma once

// argv[0] is "plan". Exit code: 0 done and proven, 1 the plan failed a proof or could not be made,
// 2 a proof is open (`unproven`), others from the parsing of flags.
int plan_command(int argc, char** argv);
