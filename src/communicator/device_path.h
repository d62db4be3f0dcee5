// DevicePath: a communicator's calls on device buffers, enqueued on their streams, and back.
// docs/cuda.md has the whole picture.
//
// All ranks of a communicator that meet in one group of this process are served by a kernel (or the
// copy engines) over everybody's buffers. Ranks with a device each run plans through each other's
// windows, or mirrors of them where they are on other hosts. Everything else is staged: through
// pinned memory and the CPU executor, in stream order. Which of the last two it is, ranks find out
// together at their first collective on device buffers. Until then the two ranks of a message open
// windows to each other when they first send or receive.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "src/communicator/device_operation.h"
#include "src/communicator/device_plan.h"
#include "src/communicator/device_proxy.h"
#include "src/communicator/impl.h"
#include "src/cuda/group_launch.h"
#include "src/cuda/peer_world.h"
#include "src/cuda/staging.h"

namespace tutti {

// Bytes of the buffers that a rank's call uses; 0 where it uses none. `block`: bytes of `count`.
struct BufferBytes {
  size_t send = 0, recv = 0;
};
BufferBytes buffer_bytes(const DeviceOperation& op, Rank rank, uint32_t ranks);

// The operations on host memory, one after the other; transfers together after the collectives.
Status run_on_host(Communicator::Impl& impl, std::span<const DeviceOperation> operations);

class DevicePath {
 public:
  // Whose path it is: a rank of a communicator, with the thread that its calls on host memory run
  // on.
  class Host {
   public:
    virtual ~Host() = default;
    virtual DevicePath& device_path() = 0;
    // Null while the communicator is being made.
    virtual Communicator::Impl* impl() const = 0;
    virtual Rank rank() const = 0;
    virtual uint32_t ranks() const = 0;
    // Whether operations are allowed now; says why not.
    virtual Status usable() const = 0;
    // Callers do not wait for the communicator: what has to wait for other ranks runs behind them.
    virtual bool blocking() const = 0;
    // Runs `body` on the thread of the host calls, in order; waits for nothing. From any thread.
    virtual void post(std::function<Status()> body, std::function<void(const Status&)> done) = 0;
    // Whether the caller is that thread, in such a body.
    virtual bool here() const = 0;
    // An error that no call returned.
    virtual void add_async_error(const Status& status) = 0;
    // For the log: which way device buffers go, and why.
    virtual void inform(const std::string& text) = 0;
  };

  // `device`: the ordinal of this rank's device. `world`: what tells the communicators of the same
  // ranks apart from all others in this process; empty: unknown.
  DevicePath(Host& host, int device) : host_(host), device_(device) {}
  ~DevicePath();
  DevicePath(const DevicePath&) = delete;
  DevicePath& operator=(const DevicePath&) = delete;

  int device() const { return device_; }
  void set_world(std::string world) { world_ = std::move(world); }

  struct Task {
    std::shared_ptr<Host> host;
    std::vector<DeviceOperation> operations;
  };
  // Enqueues what a group (or one call) does on devices. Waits for nothing but, once in a
  // communicator's life, for all its ranks: at the first collective; before that, for the other
  // rank of the first message of a pair. Where a communicator does not block, that wait is behind
  // the caller, who is told in_progress. Errors: invalid_argument or invalid_usage naming rank and
  // buffer; device_error; the communicator's own.
  static Status enqueue(std::vector<Task> tasks);

  // What this path has enqueued and not captured has passed.
  void drain();
  // Running and later kernels of this rank leave as soon as they look. From any thread.
  void stop();
  // Of kernels: which peer made another call, or left one. From any thread.
  Status error() const;

 private:
  using World = std::vector<Task*>;
  class Start;

  Status open(const std::shared_ptr<cuda::Runtime>& runtime);
  Status check(const DeviceOperation& op) const;
  Status open_proxy();
  void line_up(const Start* start);
  bool is_next(const Start* start);
  void step_out(const Start* start);
  // Whom a call has to wait for first.
  struct Strangers {
    bool all = false;
    std::vector<Rank> peers;  // of messages
    bool none() const { return !all && peers.empty(); }
  };
  Strangers strangers(std::span<const DeviceOperation> operations) const;
  Status meet(const Strangers& strangers);
  Status meet_all();
  Status meet_pairs(std::vector<Rank> peers);
  Result<cuda::PeerWorld::Member> describe_member(cuda::Device& device) const;
  Status make_planner(const std::vector<cuda::PeerWorld::Member>& members,
                      const cuda::PeerWorld::Gather& gather);
  static Status go(cuda::Runtime& runtime, std::vector<Task>& tasks);
  static std::vector<World> complete_worlds(std::vector<Task>& tasks);
  static Status check_devices(const World& world);
  static Result<cuda::GroupCall> join(const World& world, size_t k);
  static Status launch_world(cuda::Runtime& runtime, const World& world);
  static Status launch_worlds(cuda::Runtime& runtime, std::vector<Task>& tasks);
  Result<cuda::PeerWorld::Call> peer_call(const DeviceOperation& op);
  struct Prepared;
  static Result<Prepared> prepare(Task& task);
  Status launch(const cuda::PeerWorld::Call& call, const DeviceOperation& op);
  Status launch(cuda::PeerWorld& world, std::span<const Transfer> transfers,
                std::span<const cuda::Stream> streams);
  Status follow_pairs(const cuda::PeerWorld& world, cuda::Stream stream) const;
  // Through whose windows a message with `peer` goes; null: none.
  cuda::PeerWorld* world_to(Rank peer) const;
  static Status launch_on_peers(std::vector<Task>& tasks);
  struct Staged;
  static Result<Staged> post_staged(cuda::Runtime& runtime, Task& task);
  static Status finish_staged(cuda::Runtime& runtime, const Staged& staged);
  static Status stage(cuda::Runtime& runtime, std::vector<Task>& tasks);
  cuda::PeerWorld* peers() const {
    return met_.load(std::memory_order_acquire) ? peers_.get() : nullptr;
  }
  // f(world) of those that there are.
  template <class F>
  void each_world(F&& f) const {
    for (const auto& world : worlds_)
      if (cuda::PeerWorld* w = world.load(std::memory_order_acquire)) f(*w);
  }

  // The watch: a thread that looks after kernels that wait for peers, which the peers' deaths do
  // not end. It sleeps while no kernel is outstanding.
  Status start_watcher();  // before the first launch
  void watch();
  void watch_loop();
  bool look();
  bool outstanding() const;
  bool needs_tending() const;
  void tend();
  std::optional<Rank> take_awaited();
  Status reason_of(const Status& left);

  Host& host_;
  const int device_;
  std::string world_;
  std::shared_ptr<cuda::Runtime> runtime_;  // outlives the staging
  std::unique_ptr<cuda::Staging> staging_;
  cuda::LaunchLimits limits_;
  bool shares_device_ = false;  // TUTTI_MULTI_RANK_GPU
  bool shots_ = true;           // TUTTI_GPU_SHOTS
  std::mutex starts_mutex_;
  std::deque<const Start*> starts_;    // calls behind their callers, in order
  std::atomic<uint32_t> starting_{0};  // so many
  std::atomic<bool> met_{false};  // the ranks have told each other what devices they have; then:
  std::unique_ptr<cuda::PeerWorld> peers_;  // null: calls are staged
  // Between ranks that have exchanged messages before all have met.
  std::unique_ptr<cuda::PeerWorld> pairs_;
  enum class Pair : uint8_t { unknown, open, staged };
  std::unique_ptr<std::atomic<Pair>[]> pair_with_;  // by rank
  std::atomic<cuda::PeerWorld*> worlds_[2] = {};    // peers_ and pairs_, for any thread
  std::unique_ptr<DevicePlanner> planner_;          // with peers_
  std::unique_ptr<DeviceProxy> proxy_;              // likewise, where some are on other hosts

  std::mutex watch_mutex_;
  std::condition_variable watch_changed_;
  bool watching_ = false, ending_ = false;
  std::vector<Rank> gone_;  // as the watch saw it the last time
  std::thread watcher_;
};

}  // namespace tutti
