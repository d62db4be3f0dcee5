// A group of sends and receives as launches of their kernel; pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/cuda/transfers.h"
#include "src/executor/exchange.h"

namespace tutti::cuda {

// The messages of `transfers` with other ranks that have any bytes. `workers`: by peer, the most
// that a message with it is cut among; the same at both ends.
//
// More messages than a launch holds are several launches, the same number of messages of every
// queue in each. Launches come one after the other on a rank, yet a group ends on all of them: of
// all ranks that still have launches, the one that is through with the fewest messages of a queue
// waits only for messages that its peers have launched. `program` is left
// for who launches.
std::vector<TransferLaunch> transfer_launches(Rank self, std::span<const Transfer> transfers,
                                              std::span<const uint32_t> workers);

// Blocks for a launch, of `most`, which are no fewer than any `workers` above.
uint32_t transfer_blocks(const TransferLaunch& launch, uint32_t most);

}  // namespace tutti::cuda
