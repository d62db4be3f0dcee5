#include "src/executor/shared_direct.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/kernels.h"
#include "src/executor/lane_run.h"

namespace tutti {
namespace {

// Slots of everything in the window; four let a rank copy in piece i+1, reduce i and copy out i-1
// without waiting for readers.
constexpr uint64_t k_slots = 4;
constexpr size_t k_area_bytes = 128 * 1024;
constexpr size_t k_result_bytes = k_area_bytes / 2;
// The window: flags of two phases, probes, packets, areas, results.
constexpr size_t k_probes_at = 2048;
constexpr size_t k_packets_at = 3072;
constexpr size_t k_packets = 4;  // of one operation; more than these cost more than a second trip
constexpr size_t k_line_bytes = 48 + k_packets * 56;
constexpr size_t k_areas_at = 4096;
static_assert(k_packets_at + k_slots * k_packets * 64 <= k_areas_at);
constexpr size_t k_results_at = k_areas_at + k_slots * k_area_bytes;
static_assert(k_results_at + k_slots * k_result_bytes <= k_window_bytes);

void prefetch_for_writing(const void* line) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(line)));
#else
  __builtin_prefetch(line, 1);
#endif
}

// What the next operation will write is fetched while this one waits, up to here.
constexpr size_t k_prefetch_bytes = 8 * 1024;

// Distances to peers: from which size on they matter, how often they are measured, and what is far
// (a load of a line that a peer has written: 20-100 ns within a chip's cache, 200-400 across).
constexpr size_t k_probe_bytes = 16 * 1024;
constexpr uint64_t k_probe_every = 8;
constexpr double k_far_ns = 140, k_most_ns = 1000;

// Fetched tiles of all peers together should stay in the L2 cache.
constexpr size_t k_tiles_bytes = 256 * 1024;

}  // namespace

SharedDirectTuning SharedDirectTuning::of(uint32_t ranks, bool crowded, size_t remote_bytes) {
  SharedDirectTuning t;
  // One-shot reads n times what two-shot does, but hands over once.
  t.one_shot_bytes = ranks <= 4 ? 64 * 1024 : ranks <= 8 ? 16 * 1024 : 4 * 1024;
  t.exchange_bytes = 32 * 1024;
  t.remote_bytes = remote_bytes;
  t.piece_bytes = crowded ? k_area_bytes : 16 * 1024;
  t.tile_bytes = std::clamp<size_t>(k_tiles_bytes / ranks, 16 * 1024, 64 * 1024);
  return t;
}

bool SharedDirect::usable(const Transport& transport, uint32_t ranks) {
  if (ranks < 2 || ranks > k_max_ranks || !transport.capabilities().window) return false;
  uint32_t reached = 0;
  for (Rank r = 0; r < ranks; ++r) reached += transport.reaches(r);
  return reached + 1 >= ranks;  // whether a transport reaches its own rank is its own business
}

SharedDirect::SharedDirect(Transport& transport, Rank rank, uint32_t ranks, Monitor& monitor,
                           const WaitPolicy& policy, const SharedDirectTuning& tuning)
    : transport_(transport),
      rank_(rank),
      ranks_(ranks),
      monitor_(monitor),
      policy_(policy),
      tuning_(tuning) {
  // Nothing has to be driven for flags to arrive; looking around costs system calls.
  policy_.check_every = 256;
  for (Rank r = 0; r < ranks; ++r) windows_.push_back(transport.window(r));
  distance_.assign(ranks, 0);
  arrived_.resize(ranks * k_line_bytes);
  tuning_.one_shot_bytes = std::min(tuning_.one_shot_bytes, k_area_bytes);
}

SharedDirect::Line& SharedDirect::flag(Rank rank, int phase, uint64_t epoch) const {
  return reinterpret_cast<Line*>(
      windows_[rank])[static_cast<uint64_t>(phase) * k_slots + epoch % k_slots];
}
SharedDirect::Packet* SharedDirect::packets(Rank rank, uint64_t epoch) const {
  return reinterpret_cast<Packet*>(windows_[rank] + k_packets_at) + epoch % k_slots * k_packets;
}
std::atomic<uint64_t>& SharedDirect::probe(Rank rank, uint64_t epoch) const {
  return reinterpret_cast<Line*>(windows_[rank] + k_probes_at)[epoch % k_slots].epoch;
}
std::byte* SharedDirect::area(Rank rank, uint64_t epoch) const {
  return windows_[rank] + k_areas_at + epoch % k_slots * k_area_bytes;
}
std::byte* SharedDirect::result(Rank rank, uint64_t epoch) const {
  return windows_[rank] + k_results_at + epoch % k_slots * k_result_bytes;
}

void SharedDirect::raise(int phase, uint64_t epoch, uint64_t signature) {
  Line& mine = flag(rank_, phase, epoch);
  mine.signature = signature;
  mine.epoch.store(epoch, std::memory_order_release);
}

Status SharedDirect::await(int phase, uint64_t epoch, uint64_t signature) {
  // As in send_packets().
  prefetch_for_writing(&flag(rank_, phase, epoch + 1));
  Waiter waiter(policy_, monitor_);
  for (uint32_t i = 1; i < ranks_; ++i) {
    const Rank r = after(i);
    Line& line = flag(r, phase, epoch);
    while (line.epoch.load(std::memory_order_acquire) < epoch) {
      if (Status s = waiter.idle(r); !s.ok()) return s;
    }
    if (line.signature != signature) return mismatch(r, "its call belongs to another operation");
    waiter.moved();
  }
  return {};
}

// Between caches that are far from each other, a line that one writes and another reads pays the
// way twice; through memory it is faster. Near ones (siblings of a core, a shared cache) hand over
// best in the cache. Where processes or virtual CPUs lie changes while they run, so it is measured.
void SharedDirect::hand_over(std::byte* to, const std::byte* from, size_t bytes) const {
  far_ ? kernels::publish(to, from, bytes) : kernels::copy(to, from, bytes);
}

bool SharedDirect::begins_probe(const Job& job, uint64_t epoch) {
  if (job.bytes < k_probe_bytes || large_calls_++ % k_probe_every != 0) return false;
  probe(rank_, epoch).store(epoch, std::memory_order_relaxed);
  return true;
}

void SharedDirect::feel_distance(uint64_t epoch) {
  felt_ = felt_ + 1 < ranks_ ? felt_ + 1 : 1;
  const Rank peer = after(felt_);
  const Clock::time_point before = Clock::now();
  (void)probe(peer, epoch).load(std::memory_order_acquire);
  const double ns = std::chrono::duration<double, std::nano>(Clock::now() - before).count();
  double& distance = distance_[peer];
  distance += (std::min(ns, k_most_ns) - distance) / 2;
  far_ = *std::max_element(distance_.begin(), distance_.end()) > k_far_ns;
}

std::pair<size_t, size_t> SharedDirect::slice(size_t count, size_t element, Rank rank) const {
  const size_t quantum = std::max<size_t>(1, 64 / element);
  const size_t share = ((count + ranks_ - 1) / ranks_ + quantum - 1) / quantum * quantum;
  return {std::min(count, share * rank), std::min(count, share * (rank + 1))};
}

Status SharedDirect::barrier(uint64_t signature) {
  const uint64_t epoch = ++epoch_;
  raise(0, epoch, signature);
  return await(0, epoch, signature);
}

Status SharedDirect::all_reduce(const void* send, void* recv, size_t count, DType dtype,
                                ReduceOp op, uint32_t divisor, uint64_t signature) {
  const size_t element = size_of(dtype);
  const Job job{static_cast<const std::byte*>(send),
                static_cast<std::byte*>(recv),
                count,
                count * element,
                element,
                dtype,
                op,
                divisor,
                signature};
  if (job.bytes <= k_line_bytes) return line(job);
  return job.bytes < tuning_.exchange_bytes ? copied(job) : large(job);
}

Status SharedDirect::copied(const Job& job) {
  return one_shot(job.bytes) ? publish(job) : staged(job);
}

Status SharedDirect::line(const Job& job) {
  path_ = "line";
  const uint64_t epoch = ++epoch_;
  const size_t rest = job.bytes - std::min(job.bytes, sizeof(Line::payload));
  const size_t packets = (rest + sizeof(Packet::payload) - 1) / sizeof(Packet::payload);
  send_packets(job, epoch, packets);
  sources_.assign(ranks_, job.send);
  Waiter waiter(policy_, monitor_);
  for (uint32_t i = 1; i < ranks_; ++i) {
    const Rank r = after(i);
    std::byte* to = arrived_.data() + r * k_line_bytes;
    TUTTI_RETURN_IF_ERROR(receive_packets(job, epoch, packets, r, to, waiter));
    sources_[r] = to;
  }
  void* destination = job.recv;
  kernels::reduce(job.dtype, job.op, sources_, {&destination, 1}, job.count, job.divisor);
  return {};
}

void SharedDirect::send_packets(const Job& job, uint64_t epoch, size_t packets) {
  Line& head = flag(rank_, 0, epoch);
  std::memcpy(head.payload, job.send, std::min(job.bytes, sizeof(Line::payload)));
  raise(0, epoch, job.signature);
  Packet* packet = this->packets(rank_, epoch);
  size_t at = sizeof(Line::payload);
  for (size_t i = 0; i < packets; ++i, at += sizeof(Packet::payload)) {
    std::memcpy(packet[i].payload, job.send + at,
                std::min(job.bytes - at, sizeof(Packet::payload)));
    packet[i].epoch.store(epoch, std::memory_order_release);
  }
  // While the peers' lines are on their way, fetch the own next ones for writing.
  prefetch_for_writing(&flag(rank_, 0, epoch + 1));
  Packet* next = this->packets(rank_, epoch + 1);
  for (size_t i = 0; i < packets; ++i) prefetch_for_writing(next + i);
}

Status SharedDirect::receive_packets(const Job& job, uint64_t epoch, size_t packets, Rank rank,
                                     std::byte* to, Waiter& waiter) {
  const Line& head = flag(rank, 0, epoch);
  const Packet* packet = this->packets(rank, epoch);
  for (;;) {
    // Every line is looked at in every round, so that all of them travel at once.
    const bool begun = head.epoch.load(std::memory_order_acquire) >= epoch;
    bool complete = begun;
    for (size_t i = 0; i < packets; ++i)
      complete &= packet[i].epoch.load(std::memory_order_acquire) >= epoch;
    if (begun && head.signature != job.signature)
      return mismatch(rank, "its call belongs to another operation");
    if (complete) break;
    TUTTI_RETURN_IF_ERROR(waiter.idle(rank));
  }
  waiter.moved();
  std::memcpy(to, head.payload, std::min(job.bytes, sizeof(Line::payload)));
  size_t at = sizeof(Line::payload);
  for (size_t i = 0; i < packets; ++i, at += sizeof(Packet::payload))
    std::memcpy(to + at, packet[i].payload, std::min(job.bytes - at, sizeof(Packet::payload)));
  return {};
}

Status SharedDirect::publish(const Job& job) {
  path_ = "publish";
  const uint64_t epoch = ++epoch_;
  const bool probing = begins_probe(job, epoch);
  hand_over(area(rank_, epoch), job.send, job.bytes);
  raise(0, epoch, job.signature);
  if (job.bytes <= k_prefetch_bytes)
    for (size_t at = 0; at < job.bytes; at += 64) prefetch_for_writing(area(rank_, epoch + 1) + at);
  TUTTI_RETURN_IF_ERROR(await(0, epoch, job.signature));
  if (probing) feel_distance(epoch);
  sources_.clear();
  for (Rank r = 0; r < ranks_; ++r) sources_.push_back(area(r, epoch));
  sources_[rank_] = job.send;
  void* destination = job.recv;
  kernels::reduce(job.dtype, job.op, sources_, {&destination, 1}, job.count, job.divisor);
  return {};
}

// --- staged: pieces pass through the windows; copy in i+1, reduce i, copy out i-1.

void SharedDirect::copy_in(const Job& job, const Piece& piece) {
  // Everything but the own slice, which is read where it is.
  const auto [first, last] = slice(piece.count, job.element, rank_);
  const std::byte* from = job.send + piece.offset * job.element;
  std::byte* to = area(rank_, piece.epoch);
  hand_over(to, from, first * job.element);
  hand_over(to + last * job.element, from + last * job.element, (piece.count - last) * job.element);
  raise(0, piece.epoch, job.signature);
}

void SharedDirect::reduce_slice(const Job& job, const Piece& piece) {
  const auto [first, last] = slice(piece.count, job.element, rank_);
  if (first == last) return;
  sources_.clear();
  for (Rank r = 0; r < ranks_; ++r) sources_.push_back(area(r, piece.epoch) + first * job.element);
  sources_[rank_] = job.send + (piece.offset + first) * job.element;
  std::byte* destination = job.recv + (piece.offset + first) * job.element;
  void* const destinations[] = {destination};
  kernels::reduce(job.dtype, job.op, sources_, destinations, last - first, job.divisor);
  hand_over(result(rank_, piece.epoch), destination, (last - first) * job.element);
}

void SharedDirect::copy_out(const Job& job, const Piece& piece) {
  for (uint32_t i = 1; i < ranks_; ++i) {
    const Rank r = after(i);
    const auto [first, last] = slice(piece.count, job.element, r);
    kernels::copy(job.recv + (piece.offset + first) * job.element, result(r, piece.epoch),
                  (last - first) * job.element);
  }
}

Status SharedDirect::staged(const Job& job) {
  path_ = "staged";
  const size_t quantum = ranks_ * std::max<size_t>(1, 64 / job.element);
  const size_t most = k_area_bytes / job.element / quantum * quantum;
  // About four pieces, so that ranks overlap their copies, but none too small.
  const size_t wish = std::max<size_t>((job.count + 3) / 4, tuning_.piece_bytes / job.element);
  const size_t per_piece = std::min(most, (wish + quantum - 1) / quantum * quantum);
  const size_t pieces = (job.count + per_piece - 1) / per_piece;
  const uint64_t base = epoch_ + 1;
  epoch_ += pieces;
  auto piece = [&](size_t i) {
    return Piece{base + i, i * per_piece, std::min(per_piece, job.count - i * per_piece)};
  };
  const bool probing = begins_probe(job, base);
  copy_in(job, piece(0));
  for (size_t i = 0; i <= pieces; ++i) {
    if (i + 1 < pieces) copy_in(job, piece(i + 1));
    if (i < pieces) {
      TUTTI_RETURN_IF_ERROR(await(0, base + i, job.signature));
      if (probing && i == 0) feel_distance(base);
      reduce_slice(job, piece(i));
      raise(1, base + i, job.signature);
    }
    if (i > 0) {
      TUTTI_RETURN_IF_ERROR(await(1, base + i - 1, job.signature));
      copy_out(job, piece(i - 1));
    }
  }
  return {};
}

// --- direct: the owner of a slice reads all inputs and writes all outputs.

Status SharedDirect::large(const Job& job) {
  Buffers mine;
  Result<MemoryRef> input = transport_.describe(job.send, job.bytes);
  if (!input) return input.status();
  Result<MemoryRef> output = transport_.describe(job.recv, job.bytes);
  if (!output) return output.status();
  mine = {*input, *output};
  static_assert(sizeof(Buffers) <= sizeof(Line::payload));
  const uint64_t epoch = ++epoch_;
  std::memcpy(flag(rank_, 0, epoch).payload, &mine, sizeof(mine));
  raise(0, epoch, job.signature);
  TUTTI_RETURN_IF_ERROR(await(0, epoch, job.signature));

  buffers_.resize(ranks_);
  const Capabilities caps = transport_.capabilities();
  bool mapped = caps.map_private || caps.map_segments;
  for (Rank r = 0; r < ranks_; ++r) {
    std::memcpy(&buffers_[r], flag(r, 0, epoch).payload, sizeof(Buffers));
    if (!caps.map_private && (buffers_[r].input.segment == 0 || buffers_[r].output.segment == 0))
      mapped = false;
  }
  if (!mapped && (!caps.remote_memory || job.bytes < tuning_.remote_bytes)) return copied(job);
  path_ = mapped ? "mapped" : "process_vm";

  // A failure here must not leave peers waiting for the second flag: it latches and is posted.
  const uint64_t done = ++epoch_;
  TUTTI_RETURN_IF_ERROR(direct(job));
  raise(1, done, job.signature);
  return await(1, done, job.signature);
}

Status SharedDirect::direct(const Job& job) {
  const Capabilities caps = transport_.capabilities();
  const auto [first, last] = slice(job.count, job.element, rank_);
  mapped_in_.assign(ranks_, nullptr);
  mapped_out_.assign(ranks_, nullptr);
  bool tiled = false;
  for (Rank r = 0; r < ranks_; ++r) {
    auto reach = [&](MemoryRef ref) -> Result<void*> {
      if (ref.segment == 0 && !caps.map_private) return static_cast<void*>(nullptr);
      return transport_.map(r, ref, job.bytes);
    };
    if (r == rank_) {
      mapped_in_[r] = job.send;
      mapped_out_[r] = job.recv;
      continue;
    }
    Result<void*> in = reach(buffers_[r].input), out = reach(buffers_[r].output);
    if (!in) return in.status();
    if (!out) return out.status();
    mapped_in_[r] = static_cast<const std::byte*>(*in);
    mapped_out_[r] = static_cast<std::byte*>(*out);
    tiled |= *in == nullptr || *out == nullptr;
  }
  const size_t tile = tiled ? tuning_.tile_bytes / job.element : size_t{1} << 20;
  if (tiled) tiles_.resize(ranks_ * tile * job.element);
  for (size_t at = first; at < last; at += tile)
    TUTTI_RETURN_IF_ERROR(direct_tile(job, at, std::min(tile, last - at)));
  return {};
}

Status SharedDirect::direct_tile(const Job& job, size_t first, size_t count) {
  const size_t offset = first * job.element, bytes = count * job.element;
  sources_.clear();
  destinations_.clear();
  for (Rank r = 0; r < ranks_; ++r) {
    if (mapped_in_[r] != nullptr) {
      sources_.push_back(mapped_in_[r] + offset);
    } else {
      std::byte* tile = tiles_.data() + r * (tiles_.size() / ranks_);
      TUTTI_RETURN_IF_ERROR(
          transport_.remote_read(r, buffers_[r].input.offset + offset, {tile, bytes}));
      sources_.push_back(tile);
    }
    if (mapped_out_[r] != nullptr) destinations_.push_back(mapped_out_[r] + offset);
  }
  kernels::reduce(job.dtype, job.op, sources_, destinations_, count, job.divisor);
  for (Rank r = 0; r < ranks_; ++r)
    if (mapped_out_[r] == nullptr)
      TUTTI_RETURN_IF_ERROR(transport_.remote_write(r, buffers_[r].output.offset + offset,
                                                    {job.recv + offset, bytes}));
  return {};
}

}  // namespace tutti
