#include "src/cuda/gates.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstddef>

namespace tutti::cuda {
namespace {

// Operations that a driver takes at once.
constexpr size_t k_batch = 256;
// At least every number of a gate, as cyclic comparisons go.
constexpr uint32_t k_open = 0x7fffffff;

StreamMemOp write(DevicePtr address, uint32_t value) {
  StreamMemOp op;
  op.operation = k_write_value_32;
  op.address = address;
  op.value = value;
  return op;
}
StreamMemOp wait(DevicePtr address, uint32_t value) {
  StreamMemOp op;
  op.operation = k_wait_value_32;
  op.address = address;
  op.value = value;
  op.flags = k_wait_at_least;
  return op;
}
size_t reached_at(uint32_t set) { return offsetof(Gate, reached) + set * sizeof(uint32_t); }

uint32_t load(uint32_t& word) {
  return std::atomic_ref<uint32_t>(word).load(std::memory_order_acquire);
}

}  // namespace

Result<std::unique_ptr<Gates>> Gates::open(Runtime& runtime, Device& device, Rank rank,
                                           Pages pages) {
  std::unique_ptr<Gates> gates(new Gates(runtime, device, rank, std::move(pages)));
  TUTTI_RETURN_IF_ERROR(gates->enroll());
  return gates;
}

Status Gates::enroll() {
  const Driver& driver = runtime_.driver();
  Scope scope(driver, device_.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  for (Rank r = 0; r < ranks(); ++r) {
    if (pages_[r] == nullptr)
      return Status(
          Code::unsupported,
          fmt::format("no memory is shared with rank {}, which streams could wait on", r));
    auto registration = runtime_.register_memory(pages_[r].get(), page_bytes(ranks()), device_);
    if (!registration) return registration.status();
    registrations_.push_back(std::move(*registration));
    DevicePtr address = 0;
    TUTTI_RETURN_IF_ERROR(driver.check(driver.host_device_pointer(&address, pages_[r].get(), 0),
                                       "cuMemHostGetDevicePointer"));
    device_pages_.push_back(address);
  }
  return {};
}

Status Gates::enqueue(Stream stream, std::vector<StreamMemOp> operations) const {
  const Driver& driver = runtime_.driver();
  for (size_t at = 0; at < operations.size(); at += k_batch)
    TUTTI_RETURN_IF_ERROR(driver.check(
        driver.stream_memory_ops(stream,
                                 static_cast<unsigned>(std::min(k_batch, operations.size() - at)),
                                 &operations[at], 0),
        "cuStreamBatchMemOp"));
  return {};
}

Status Gates::pass(Stream stream, uint32_t number, uint32_t count, uint64_t signature) {
  Scope scope(runtime_.driver(), device_.context());
  TUTTI_RETURN_IF_ERROR(scope.status());
  const bool last = number == count;
  const uint32_t set = last ? 1 : 0, value = last ? 1 : number;
  std::vector<StreamMemOp> operations;
  for (Rank r = 0; r < ranks(); ++r) {
    if (number == 1) {
      const size_t at = offsetof(Gate, signature);
      operations.push_back(write(address(r, rank_, at), static_cast<uint32_t>(signature)));
      operations.push_back(
          write(address(r, rank_, at + 4), static_cast<uint32_t>(signature >> 32)));
    }
    operations.push_back(write(address(r, rank_, reached_at(set)), value));
  }
  for (Rank r = 0; r < ranks(); ++r)
    if (r != rank_) operations.push_back(wait(address(rank_, r, reached_at(set)), value));
  if (number + 1 >= count) {
    // The own entry first: behind() relies on it.
    operations.push_back(write(address(rank_, rank_, reached_at(set)), 0));
    for (Rank r = 0; r < ranks(); ++r)
      if (r != rank_) operations.push_back(write(address(rank_, r, reached_at(set)), 0));
  }
  return enqueue(stream, std::move(operations));
}

// The own entry says where the stream is; it is reset before the others.
bool Gates::behind(Rank peer, uint32_t set) const {
  uint32_t& own = entry(rank_, rank_).reached[set];
  const uint32_t mine = load(own);
  return mine != 0 && mine != k_open && load(entry(rank_, peer).reached[set]) < mine &&
         load(own) == mine;
}

std::optional<Rank> Gates::awaited() const {
  for (Rank r = 0; r < ranks(); ++r)
    if (r != rank_ && (behind(r, 0) || behind(r, 1))) return r;
  return std::nullopt;
}

// Nobody ends a call before all have come to its last gate: who gave up while the stream is at
// another one gave up this call.
std::optional<Rank> Gates::awaits_in_vain() const {
  bool inside = false;
  for (Rank r = 0; r < ranks(); ++r) inside = inside || (r != rank_ && behind(r, 0));
  for (Rank r = 0; r < ranks(); ++r)
    if (r != rank_ && load(entry(rank_, r).left) != 0 && (inside || behind(r, 1))) return r;
  return std::nullopt;
}

void Gates::leave() {
  for (Rank r = 0; r < ranks(); ++r)
    std::atomic_ref<uint32_t>(entry(r, rank_).left).store(1, std::memory_order_release);
}

void Gates::open() {
  for (Rank r = 0; r < ranks(); ++r)
    for (uint32_t& word : entry(rank_, r).reached)
      std::atomic_ref<uint32_t>(word).store(k_open, std::memory_order_release);
}

}  // namespace tutti::cuda
