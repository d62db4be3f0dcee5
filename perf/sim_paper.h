#pragma once

#include <string>

// `tutti sim --paper NAME`: a table of published figures beside what the simulator says, with the
// inputs of each row. Prints it; 0, or 1 when there is no such paper.
int print_paper(const std::string& name, bool json);
