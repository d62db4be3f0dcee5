#pragma once

// `tutti tune`: measures this machine's prices and writes a profile; --check holds one to reality.
int tune_command(int argc, char** argv);
