// The handbook of the algorithms: docs/algorithms.md with its drawings, made from the table of
// algorithms and their plans, so that it cannot go stale. `tutti docs` writes it.
#pragma once

#include <string>
#include <vector>

#include "tutti/status.h"

namespace tutti {

struct HandbookFile {
  std::string path;  // relative to docs/
  std::string text;
};

// Errors: internal_error, if a plan cannot be drawn.
Result<std::vector<HandbookFile>> handbook();

}  // namespace tutti
