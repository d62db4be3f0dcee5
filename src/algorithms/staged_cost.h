// What an algorithm costs stage by stage, where the stages have other partners: the large messages
// of halving-doubling go to near ranks and the small ones far, which prices them where links
// differ.
#pragma once

#include <vector>

#include "src/algorithms/algorithms.h"

namespace tutti {

struct Stage {
  Cost cost;
  std::vector<Rank> to;  // whom each rank sends to; itself: nobody
};

// The costs' sum is Algorithm::cost. Empty for algorithms whose stages are alike or of one message.
// `algorithm` must serve the request.
std::vector<Stage> staged_cost(const Algorithm& algorithm, const PlanRequest& request);

}  // namespace tutti
