#include "src/cuda/shot_launches.h"

#include <algorithm>

#include "src/cuda/launch.h"

namespace tutti::cuda {
namespace {

ShotPlaces places_of(const WindowShape& window) {
  ShotPlaces places;
  places.acks = window.ack(0, 0);
  places.notices = window.notice(0);
  places.signatures = window.shot_signature(0, 0);
  places.packets = window.shot_packets(0, 0);
  places.call_counters = window.call_counters();
  places.numbers = window.shot_numbers();
  places.links = window.all_lanes() * window.workers;
  places.plan_links = window.lanes * window.workers;
  places.blocks = window.shot_blocks;
  places.units = window.shot_bytes / k_unit;
  return places;
}

uint64_t parts(uint64_t all, uint64_t each) { return (all + each - 1) / each; }

}  // namespace

std::optional<ShotCut> shot_cut(const PlanPtr& plan, const DeviceCut& cut,
                                const WindowShape& window, uint32_t blocks) {
  const Shape& shape = plan->shape();
  const bool two = plan->algorithm() == "direct_two_shot";
  if (shape.collective != Collective::all_reduce || shape.ranks < 2) return {};
  if (two ? shape.chunks != shape.ranks : plan->algorithm() != "direct_one_shot") return {};
  if (!window.shots() || cut.wire != Wire::packets || cut.layout.rounds() > 1) return {};
  const uint64_t bytes = cut.layout.block_bytes(), slice = two ? cut.layout.scratch_bytes(1) : 0;
  // Both shots of a call have a place of their own.
  const uint64_t each = window.shot_bytes / k_unit / (two ? 2 : 1);
  const uint64_t units = units_of(two ? std::min(slice, bytes) : bytes);
  const uint64_t most = std::min(window.shot_blocks, blocks);
  if (each == 0 || units > each * most) return {};
  ShotCut shots;
  shots.bytes = static_cast<uint32_t>(bytes);
  shots.slice = static_cast<uint32_t>(slice);
  shots.blocks = static_cast<uint32_t>(std::max<uint64_t>(1, parts(units, each)));
  const uint64_t share = parts(units, shots.blocks);
  shots.share = static_cast<uint32_t>(share * k_unit);
  // A thread for each unit of a share, and as many for signatures where both are few.
  shots.threads = static_cast<uint32_t>(std::clamp<uint64_t>(
      parts(share, 32) * 32 + parts(shape.ranks - 1, 32) * 32, 64, k_block_threads));
  return shots;
}

ShotLaunch shot_launch(const ShotCut& cut, Operator op, const WindowShape& window,
                       const std::vector<std::byte*>& windows) {
  ShotLaunch launch{};
  std::copy(windows.begin(), windows.end(), launch.windows);
  launch.places = places_of(window);
  launch.op = op;
  launch.ranks = window.ranks;
  launch.bytes = cut.bytes;
  launch.slice = cut.slice;
  launch.share = cut.share;
  launch.blocks = cut.blocks;
  return launch;
}

}  // namespace tutti::cuda
