// `tutti docs`: writes the generated pages of the documentation.
#pragma once

// argv[0] is "docs", argv[1] the folder of the documentation (default: docs). Exit code 0, or 1
// with a message on standard error.
int docs_command(int argc, char** argv);
