#include "src/cuda/transfer_launches.h"

#include <algorithm>
#include <map>
#include <utility>

#include "src/base/hash.h"

namespace tutti::cuda {
namespace {

using Queues = std::map<std::pair<Rank, bool>, std::vector<Transfer>>;  // by peer, and whether sent

Queues sort(Rank self, std::span<const Transfer> transfers) {
  Queues queues;
  for (const Transfer& t : transfers)
    if (t.peer != self && t.bytes > 0)
      queues[{t.peer, t.direction == Transfer::Direction::send}].push_back(t);
  return queues;
}

uint32_t signature_of(const Transfer& t) {
  return static_cast<uint32_t>(mix(mix(1, t.bytes), static_cast<uint64_t>(t.dtype)));
}

// Messages [first, first + at_most) of every queue.
TransferLaunch launch_of(const Queues& queues, size_t first, size_t at_most,
                         std::span<const uint32_t> workers) {
  TransferLaunch launch{};
  uint16_t message = 0;
  for (const auto& [key, all] : queues) {
    if (all.size() <= first) continue;
    TransferQueue& queue = launch.queue[launch.queues++];
    queue.peer = static_cast<uint16_t>(key.first);
    queue.sends = key.second ? 1 : 0;
    queue.workers = static_cast<uint8_t>(workers[key.first]);
    queue.first = message;
    queue.count = static_cast<uint16_t>(std::min(at_most, all.size() - first));
    for (size_t i = first; i < first + queue.count; ++i, ++message) {
      launch.memory[message] = all[i].memory;
      launch.bytes[message] = all[i].bytes;
      launch.signature[message] = signature_of(all[i]);
      launch.workers = std::max(launch.workers, transfer_workers(all[i].bytes, workers[key.first]));
    }
  }
  return launch;
}

}  // namespace

std::vector<TransferLaunch> transfer_launches(Rank self, std::span<const Transfer> transfers,
                                              std::span<const uint32_t> workers) {
  const Queues queues = sort(self, transfers);
  size_t longest = 0;
  for (const auto& [key, all] : queues) longest = std::max(longest, all.size());
  std::vector<TransferLaunch> launches;
  const size_t each = k_max_messages / std::max<size_t>(1, queues.size());
  for (size_t first = 0; first < longest; first += each)
    launches.push_back(launch_of(queues, first, each, workers));
  return launches;
}

uint32_t transfer_blocks(const TransferLaunch& launch, uint32_t most) {
  return std::min(launch.queues * launch.workers, most);
}

}  // namespace tutti::cuda
