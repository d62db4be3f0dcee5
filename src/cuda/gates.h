// Gates: where streams of ranks wait for each other, with no kernel that spins.
//
// Every rank has a *page* of host memory that all ranks of the host map and their devices reach:
// entry p is what rank p's stream says. At a gate a stream writes how far it has come into all
// pages, then waits until its own page has the same from everybody: memory operations of streams,
// which hold no multiprocessor while they wait.
//
//   a call of B >= 2 gates:  1, 2, ..., B - 1 in set 0;  set 0 of the own page to 0;
//                            1 in set 1;  set 1 of the own page to 0
//
// All numbers are the same at every call, so that a captured call can be replayed. They are never
// mistaken for those of another call: nobody writes into a set again before it was reset, because a
// rank passes a gate of the other set in between, which waits for what comes after the reset.
//
// The host sees the pages as well: who is waited for, who gave up; and it ends waits (open()).
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "src/cuda/program.h"
#include "src/cuda/runtime.h"

namespace tutti::cuda {

class Gates {
 public:
  // By rank, as this process sees them; zeroed before anyone uses them.
  using Pages = std::vector<std::shared_ptr<std::byte>>;
  static size_t page_bytes(uint32_t ranks) { return ranks * sizeof(Gate); }

  // Errors: unsupported, naming the rank whose page this process does not see; device_error.
  static Result<std::unique_ptr<Gates>> open(Runtime& runtime, Device& device, Rank rank,
                                             Pages pages);

  // Enqueues gate `number` (from 1) of a call of `count`. What the stream did before is seen by
  // whatever the others' streams do behind it. Errors: device_error.
  Status pass(Stream stream, uint32_t number, uint32_t count, uint64_t signature);
  // The entries of this rank's page, as its device addresses them.
  const Gate* entries() const { return reinterpret_cast<const Gate*>(device_pages_[rank_]); }
  uint32_t ranks() const { return static_cast<uint32_t>(pages_.size()); }

  // --- the host; from any thread

  // A rank that this rank's stream waits for now.
  std::optional<Rank> awaited() const;
  // The same, of a call that can not end any more because that rank gave up.
  std::optional<Rank> awaits_in_vain() const;
  // Tells the others that this rank gave up.
  void leave();
  // Ends the wait that the stream is in, if any. Later ones begin anew: until the stream has
  // passed, again and again.
  void open();

 private:
  Gates(Runtime& runtime, Device& device, Rank rank, Pages pages)
      : runtime_(runtime), device_(device), rank_(rank), pages_(std::move(pages)) {}
  Status enroll();
  Gate& entry(Rank page, Rank writer) const {
    return reinterpret_cast<Gate*>(pages_[page].get())[writer];
  }
  DevicePtr address(Rank page, Rank writer, size_t member) const {
    return device_pages_[page] + writer * sizeof(Gate) + member;
  }
  Status enqueue(Stream stream, std::vector<StreamMemOp> operations) const;
  // Whether the stream waits for that rank at a gate of `set`.
  bool behind(Rank peer, uint32_t set) const;

  Runtime& runtime_;
  Device& device_;
  Rank rank_;
  Pages pages_;
  std::vector<DevicePtr> device_pages_;
  std::vector<std::shared_ptr<const void>> registrations_;
};

}  // namespace tutti::cuda
