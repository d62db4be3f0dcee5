// One rank of a world in which every rank has a device of its own: its window, the windows of its
// peers (of this process, or of another one through CUDA IPC), and launches of the plan
// interpreter, one grid per rank.
//
// A grid waits for those of its peers, which run at the same time because they run elsewhere. Where
// ranks of several processes share a device, which takes their grids one after the other, a call is
// a series of launches that wait for nobody, with gates between them (ranges.h, gates.h). Ranks of
// one process on one device go another way: their streams may share a queue of the device, where
// one that waits keeps back the other that it waits for.
//
// The windows of ranks on other hosts have mirrors here (mirrors.h). Who makes such a world runs a
// proxy over them (proxy.h) for as long as the world lives.
//
// Small all_reduces have a kernel of their own where every rank has a window and all want it
// (shots.h); it has the bits of the plan that it stands for.
//
// Sends and receives have a kernel of their own (transfers.h), and a lane of the windows; only the
// two ranks of a message launch. In ranges there are none: they would need everybody. Where nobody
// has called a collective yet, ranks may find each other one by one: such a world has no plans.
//
// Data crosses in the windows (packets, slots): peers never see the buffers of a call, so these
// need neither registration nor mapping. A plan's form that holds for two different buffers holds
// in place as well where all it sends of a chunk is sent before anything is received into that
// chunk; who chooses plans sees to it.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/cuda/gates.h"
#include "src/cuda/mirrors.h"
#include "src/cuda/ranges.h"
#include "src/cuda/window_store.h"
#include "src/executor/exchange.h"

namespace tutti::cuda {

class PeerWorld {
 public:
  // `all` becomes the `mine` of every rank, by rank.
  using Gather = std::function<Status(const void* mine, void* all, size_t bytes)>;

  // What ranks tell each other.
  struct Member {
    static constexpr size_t k_bus_id = 16;
    char bus_id[k_bus_id] = {};  // "0000:07:00.0"; empty: not known
    uint64_t host = 0;           // equal: one machine
    uint64_t process = 0;        // equal: one Runtime
    DeviceUuid uuid{};
    int32_t ordinal = 0;
    uint32_t blocks =
        0;              // the most that a launch may take; 0: the device runs no cooperative grids
    bool shots = true;  // whether this rank takes part in shots
  };
  // What this rank says; `blocks` 0: as many as the device has multiprocessors.
  static Member describe(const Runtime& runtime, const Device& device, uint64_t host,
                         uint32_t blocks, bool shots = true);
  // Why these ranks cannot be a world of peers: the same on every rank. Empty: they may try.
  static std::string obstacle(const std::vector<Member>& members);
  // The first two ranks on one device; none: {0, 0}.
  static std::pair<Rank, Rank> sharing(const std::vector<Member>& members);
  static bool share_device(const Member& a, const Member& b);
  static bool several_hosts(const std::vector<Member>& members);

  // The windows that `make` uses where it is not told otherwise.
  static WindowShape default_shape(uint32_t ranks);
  // Collective. `pages`: where some ranks share a device, memory that all see (gates.h). Errors:
  // unsupported, on every rank alike, naming the rank that could not and why; those of `gather`.
  static Result<std::unique_ptr<PeerWorld>> make(Runtime& runtime, Device& device, Rank rank,
                                                 const std::vector<Member>& members,
                                                 const WindowShape& shape, const Gather& gather,
                                                 Gates::Pages pages = {});
  // A world of sends and receives alone, which reaches nobody yet. Local. Errors: device_error.
  static Result<std::unique_ptr<PeerWorld>> open(Runtime& runtime, Device& device, Rank rank,
                                                 uint32_t ranks, const Member& mine);
  // What a rank could not do, in a form that others can read.
  struct Vote {
    char why[200] = {};  // empty: all is well
    Vote() = default;
    explicit Vote(const Status& status);
    // unsupported, with the reason.
    Status status(Rank rank) const;
  };
  // What a rank tells those that are to reach its window.
  struct Offer {
    Vote vote;
    DevicePtr window = 0;
    IpcMemHandle handle{};
  };
  Offer offer(const Status& status = {}) const;
  // Both ranks at the same time, once each has the other's offer; they may launch when either knows
  // that the other was told ok. Errors: unsupported, with the reason.
  Status reach(Rank peer, const Member& mine, const Member& theirs, const Offer& offer);
  // Waits for the streams to pass what was launched.
  ~PeerWorld();
  PeerWorld(const PeerWorld&) = delete;
  PeerWorld& operator=(const PeerWorld&) = delete;

  struct Call {
    PlanPtr plan;
    uint64_t count = 0;  // elements of a block
    DType dtype = DType::int8;
    ReduceOp op = ReduceOp::sum;
    const void* input = nullptr;  // null where the rank has none
    void* output = nullptr;
    uint64_t signature = 0;         // equal on ranks that make the same call
    Factor factor{};                // of premul_sum
    std::optional<Wire> wire = {};  // packets or slots; none: by size
    // Bytes of the input that become the output's before the plan runs, in place.
    uint64_t copy_first = 0;
    // By the plan's interpreter, also where shots would do; alike on every rank.
    bool by_plan = false;
  };
  // Puts the plan's program on the device. A thread that drives several ranks prepares them all
  // before it launches any: memory may not be had while a grid waits for its peers.
  Status prepare(const PlanPtr& plan);
  // Enqueues one call; waits for nothing, may be captured. Calls run in the order of launches, on
  // whatever streams (captured ones: as their graphs are launched). Errors: unsupported (the plan),
  // device_error, error().
  Status launch(const Call& call, Stream stream);
  // Whether sends and receives can be launched: the same on every rank.
  bool transfers() const { return gates_ == nullptr; }
  // The same for a group of sends and receives: none of them waits for another, but messages of a
  // pair keep their order. Errors: as above; invalid_usage (copies_to_self()).
  Status launch(std::span<const Transfer> transfers, Stream stream);
  // How launch() cuts a call (fit_cut()).
  Result<DeviceCut> cut(const PlanPtr& plan, uint64_t count, DType dtype,
                        std::optional<Wire> wire = {}) const;
  const WindowShape& shape() const { return shape_; }
  uint32_t blocks() const { return blocks_; }
  // What is enqueued on `stream` from now on comes after what was launched; not in a capture.
  Status precede(Stream stream) const;
  // Of the windows of ranks on other hosts; null where there are none.
  Mirrors* mirrors() const { return mirrors_.get(); }

  // Every grid, also a later one, leaves as soon as it looks, and so do the peers' that wait for
  // it. From any thread.
  void abort();
  // Where calls run in ranges, to be called now and then while some are outstanding: sees who gave
  // up, and after an abort or error ends the streams' waits. From any thread.
  void tend();
  // Whether calls run in ranges that were given up: streams may need tend() to pass.
  bool needs_tending() const;
  // ok; invalid_usage: which peer made another call; remote_error: which peer gave one up. From any
  // thread.
  Status error() const;
  void drain();
  // Whether a grid may be running or waiting for its turn; captured calls may at any time. From any
  // thread.
  bool outstanding() const;
  // A peer that a grid has waited for, for some milliseconds, since this was asked the last time.
  std::optional<Rank> take_awaited();

 private:
  struct Program {
    PlanPtr plan;
    const DeviceProgram* address = nullptr;
    std::optional<RangeBook> ranges;
  };
  struct Place {
    Allocation* memory = nullptr;
    uint64_t offset = 0;
  };

  PeerWorld(Runtime& runtime, Device& device, Rank rank, const WindowShape& shape, uint32_t blocks)
      : runtime_(runtime), device_(device), rank_(rank), shape_(shape), blocks_(blocks) {}
  BuildRequest request_for(const PlanPtr& plan) const;
  Status write_program();
  Status write_links(Rank peer);
  Status open_own(const std::vector<Member>& members);
  Status open_peers(const std::vector<Member>& members, const std::vector<Offer>& offers);
  Status clear(Rank peer);
  Result<std::byte*> map(Rank peer, const Member& theirs, const Offer& offer);
  Result<Place> reserve(uint64_t bytes);
  Status ensure_scratch(uint64_t bytes);
  Status usable() const;
  Result<bool> begin(Stream stream);
  Status end(Stream stream, bool capturing, const Status& status);
  Status give_up_halfway(const Status& status);
  Result<bool> launch_shots(const Call& call, const DeviceCut& cut, Stream stream);
  Status copy(DevicePtr to, DevicePtr from, uint64_t bytes, Stream stream);
  Status run_transfers(std::span<const Transfer> transfers, Stream stream);
  template <class Launch>
  Status run_grid(Function function, uint32_t blocks, Launch& launch, Stream stream,
                  uint32_t threads = k_block_threads);
  Status run_ranges(Function function, PlanLaunch& launch, Program& program, Stream stream);
  bool quiet() const;
  Control* control() const { return reinterpret_cast<Control*>(control_->data()); }

  Runtime& runtime_;
  Device& device_;
  Rank rank_;
  WindowShape shape_;
  uint32_t blocks_;          // of a grid, at most; the same on every rank
  uint32_t own_blocks_ = 1;  // of a grid of this rank alone
  std::unique_ptr<WindowStore::Window> window_;
  std::vector<std::byte*> windows_;   // of every rank of this host, as the device addresses them
  std::unique_ptr<Mirrors> mirrors_;  // of the others'
  std::unique_ptr<Allocation> control_;
  Gates::Pages pages_;                               // until they are
  std::unique_ptr<Gates> gates_;                     // null: grids wait for each other
  Status half_enqueued_;                             // why a call's ranges ended early
  std::vector<std::unique_ptr<Allocation>> arenas_;  // programs and scratch
  uint64_t arena_used_ = 0, arena_bytes_ = 0;        // of the last one
  std::byte* scratch_ = nullptr;  // of all programs: they run one after the other
  uint64_t scratch_bytes_ = 0;
  std::map<const Plan*, Program> programs_;
  Place transfers_;                         // links by peer, then the TransferProgram
  std::vector<uint32_t> transfer_workers_;  // by peer
  Event last_ = nullptr;  // after the last launch that was not captured, on last_stream_
  Stream last_stream_ = nullptr;
  std::atomic<bool> launched_{false}, captured_{false};
};

}  // namespace tutti::cuda
