// Tallies of messages: how many a rank has sent to and received from each peer, on host and on
// device buffers. A message whose ends differ in that would be waited for for ever, by a kernel or
// in the CPU executor: neither hears from the other.
//
// The calls of both ends of a pair make the same messages in the same order, in each direction; a
// group's count at once, as those in host memory and on devices may run in another order within
// it. So of two tallies of a direction (messages on host buffers, on device buffers), whenever they
// were read, one is at least the other in both. Two that are not prove that some message has
// another kind of buffer at its other end.
//
// Messages that a graph captures run when it is launched, which nobody counts: the pair's tallies
// are not compared from then on.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "tutti/status.h"
#include "tutti/types.h"

namespace tutti {

class MessageTallies {
 public:
  // Messages on host buffers, in the low half, and on device buffers. In memory that others see.
  using Cell = std::atomic<uint64_t>;
  static constexpr uint64_t k_on_host = 1, k_on_device = uint64_t{1} << 32;
  static constexpr uint64_t k_not_compared = UINT64_MAX;

  MessageTallies(Rank rank, uint32_t ranks)
      : rank_(rank), ranks_(ranks), peers_(std::make_unique<Peer[]>(ranks)) {}

  // Counts what one call, or one group, does with `peer` in one direction. One thread at a time.
  void add(Rank peer, bool sends, uint64_t messages);
  void leave_out(Rank peer);
  void leave_out_all();

  // --- what others see; from the thread of the host calls
  static size_t bytes(uint32_t ranks) { return size_t{ranks} * 2 * sizeof(Cell); }
  // Zeroed memory of bytes() becomes what others see of this rank's tallies, once.
  bool shown() const { return shown_ != nullptr; }
  void show(std::shared_ptr<std::byte> memory);
  const std::shared_ptr<std::byte>& shown_memory() const { return shown_; }
  // The tallies of a peer, as far as they are to be seen (null: they are heard of), count from now
  // on.
  void compare(Rank peer, std::shared_ptr<std::byte> theirs);

  // --- from any thread
  // What a peer that does not see them has to hear, and what it said; of at most `room` bytes.
  bool tells() const { return hears_.load(std::memory_order_acquire); }
  std::string told(size_t room) const;
  void hear(Rank from, std::string_view told);
  // invalid_usage that names peer, direction, message and who had what.
  std::optional<Status> contradiction() const;

 private:
  struct Peer {
    Cell mine[2] = {};   // sent, received
    Cell heard[2] = {};  // what the peer has received and sent, as it told
    // Its tallies of messages with this rank: sent, received. Null: not compared.
    std::atomic<const Cell*> theirs{nullptr};
    std::atomic<bool> hears{false};
  };
  std::optional<Status> compare_way(Rank peer, bool sends) const;
  void publish(Rank peer, bool sends);

  const Rank rank_;
  const uint32_t ranks_;
  std::unique_ptr<Peer[]> peers_;
  std::atomic<Cell*> cells_{nullptr};  // of shown_
  std::atomic<bool> compares_{false}, hears_{false};
  std::shared_ptr<std::byte> shown_;
  std::vector<std::shared_ptr<std::byte>> seen_;
};

}  // namespace tutti
