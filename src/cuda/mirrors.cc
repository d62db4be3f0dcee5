#include "src/cuda/mirrors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace tutti::cuda {
namespace {

constexpr uint64_t k_page = 4096;

void raise_to(std::atomic<uint32_t>& most, uint32_t value) {
  uint32_t seen = most.load(std::memory_order_relaxed);
  while (seen < value && !most.compare_exchange_weak(seen, value, std::memory_order_release)) {
  }
}

}  // namespace

Result<std::unique_ptr<Mirrors>> Mirrors::make(Runtime& runtime, Device& device,
                                               const WindowShape& shape,
                                               const std::vector<bool>& remote) {
  std::unique_ptr<Mirrors> mirrors(new Mirrors(shape));
  const uint64_t each = (mirrors->shape_.shared_bytes() + k_page - 1) / k_page * k_page;
  const auto peers = static_cast<uint64_t>(std::count(remote.begin(), remote.end(), true));
  const uint64_t bytes = 2 * each * peers;
  auto memory = Allocation::pinned(runtime, device, bytes);
  if (!memory)
    return memory.status().with_context(
        fmt::format("{} bytes of pinned memory for {} ranks on other hosts", bytes, peers));
  mirrors->memory_ = std::move(*memory);
  std::byte* at = mirrors->memory_->data();
  std::memset(at, 0, bytes);
  for (const bool is_remote : remote) {
    mirrors->all_.push_back(is_remote ? Mirror{at, at + each} : Mirror{});
    if (is_remote) at += 2 * each;
  }
  return mirrors;
}

void Mirrors::use(uint32_t lanes, uint32_t workers) {
  raise_to(lanes_, lanes);
  raise_to(workers_, workers);
}

}  // namespace tutti::cuda
