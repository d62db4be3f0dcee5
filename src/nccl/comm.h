// Comm: what an ncclComm_t stands for. A tutti::Communicator with NCCL's life cycle around it.
//
// A communicator with blocking = 0, one that is being made in a group, and all but one of a group's
// communicators work on a lane: a thread of their own that runs jobs in order. Otherwise calls run
// in the caller's thread, after the lane's jobs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "src/nccl/fallback.h"
#include "src/nccl/handles.h"
#include "src/nccl/operation.h"
#include "src/nccl/public.h"
#include "tutti/communicator.h"

namespace tutti {
struct BufferBytes;
}

namespace tutti::nccl {

// What an ncclConfig_t says to tutti.
struct Settings {
  bool blocking = true;
  std::string name;
  Kinds fallback;  // operations of a real NCCL
  // One-sided calls: contexts (0: there are none) and signals in each; connected with the
  // communicator, or with its first window.
  int rma_contexts = 1;
  int rma_signals = 1;
  bool rma_eager = false;

  bool rma() const { return rma_contexts > 0 && rma_signals > 0; }
};
// `config` null: `defaults`. Errors: invalid_argument naming the attribute.
Result<Settings> read_config(const ncclConfig_t* config, const Settings& defaults);

// One detached thread, started by the first job; it outlives its Lane while a job runs, and so does
// whatever the job holds.
class Lane {
 public:
  ~Lane();
  void post(std::function<void()> job);
  bool idle() const { return state_->unfinished.load(std::memory_order_acquire) == 0; }
  void drain() const;  // waits until idle
  bool here() const;   // whether the caller is one of its jobs

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> jobs;
    std::atomic<uint32_t> unfinished{0};
    std::atomic<std::thread::id> thread{};
    bool running = false;
    bool closed = false;
  };
  static void run(const std::shared_ptr<State>& state);
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

class DeviceHost;  // device_calls.h

class Comm : public std::enable_shared_from_this<Comm> {
 public:
  using Make = std::function<Result<std::unique_ptr<Communicator>>()>;

  Comm(Rank rank, uint32_t ranks, int device, Settings settings);
  ~Comm();

  // Fixed at creation. Of a split or shrink: known once it is ready (rank() is 0 of 0 before).
  Rank rank() const { return rank_.load(std::memory_order_acquire); }
  uint32_t ranks() const { return ranks_.load(std::memory_order_acquire); }
  int device() const { return ordinal_; }
  bool blocking() const { return settings_.blocking; }
  const Settings& settings() const { return settings_; }
  Lane& lane() { return lane_; }

  // --- device buffers
  // What tells communicators of the same ranks apart from all others in this process.
  void set_world(std::string world);
  // As long as it is held, so is this.
  std::shared_ptr<DeviceHost> device_host();
  // Waits until streams have passed what was enqueued for this communicator.
  void drain_device();
  // Running and later kernels of this communicator leave as soon as they look.
  void stop_device();
  void add_async_error(const Status& status);

  // --- becoming ready, exactly once
  Status start(const Make& make);
  // Waits until start() has returned, in whatever thread.
  Status wait_started();
  bool started() const { return phase_.load(std::memory_order_acquire) != Phase::starting; }

  // --- operations
  // Whether operations are allowed now; says why not.
  Status usable() const;
  BufferBytes bytes_of(const Operation& operation) const;
  // Checks the arguments and resolves the reduction operator.
  Status check(Operation* operation);
  // Collectives in order, then the transfers together, then one-sided calls in order. Blocks; one
  // thread at a time.
  Status execute(std::span<Operation> operations);
  // Counts messages that the program calls now, those of a group at once (message_tallies.h);
  // before they run. Those of a communicator that is being made are not: it does without.
  void count_messages(std::span<Operation> operations);
  // Some of them were refused.
  void leave_messages_out();
  // Seconds that execute() would take, by the tuner's prices; waits until the communicator is
  // ready.
  Result<double> estimate(std::span<const Operation> operations);
  // Collective; null and 0: this rank offers no memory.
  Result<Window> offer_window(void* memory, size_t bytes);
  // Runs the operation: inline, or on the lane behind what is queued. On a communicator with
  // blocking = 0 it says in_progress.
  Status perform(Operation* operation);
  // The same for anything else; waits until the communicator has started.
  Status perform(std::function<Status()> body);
  // On the lane; `done` is told the outcome.
  void post(std::function<Status()> body, std::function<void(const Status&)> done);

  // --- life
  Status finalize();
  // Stops what runs. Nothing may be called afterwards.
  void abort();
  Status revoke();
  Status suspend();
  Status resume();
  bool revoked() const { return revoked_.load(std::memory_order_acquire); }
  bool suspended() const { return suspended_.load(std::memory_order_acquire); }
  // ok, in_progress, or what broke it.
  Status state() const;
  std::string last_error() const;
  void remember_error(const Status& status);
  // Null until ready.
  Communicator* communicator() const { return ready_.load(std::memory_order_acquire); }
  bool forked() const;

  // --- operators
  ncclRedOp_t add_premul(DType dtype, const void* scalar, bool immediate);
  bool remove_premul(ncclRedOp_t op);

  // --- registrations: the handles that belong to this communicator
  std::mutex& memory_mutex() { return memory_mutex_; }
  std::set<const void*>& registrations() { return registrations_; }
  std::set<const void*>& windows() { return windows_; }

 private:
  enum class Phase : uint8_t { starting, ready, failed };
  struct Premul {
    DType dtype;
    uint64_t bits = 0;
    const void* scalar = nullptr;  // read when the operation runs
  };

  Result<std::unique_ptr<Communicator>> make_all(const Make& make);
  Status resolve(Operation* operation);
  Status check_buffers(Operation* operation) const;
  Status check_one_sided(Operation* operation);
  Status check_signal(Operation::Signal signal, int peer) const;
  Status run_one_sided(const Operation& operation);
  Status run(const Operation& operation);
  Status run_transfers(std::span<const Operation> operations, size_t transfers);
  Status run_fallbacks(std::span<const Operation> operations);
  Status make_real(Communicator& here);
  std::shared_ptr<RealComm> real() const;
  Status explain(Status status) const;

  std::atomic<Rank> rank_;
  std::atomic<uint32_t> ranks_;
  const int ordinal_;
  const Settings settings_;
  const uint32_t fork_epoch_;

  std::atomic<Phase> phase_{Phase::starting};
  std::atomic<Communicator*> ready_{nullptr};
  std::unique_ptr<Communicator> communicator_;
  std::shared_ptr<RealComm> real_;  // made when it is needed
  mutable std::mutex mutex_;
  std::condition_variable started_;
  Status start_error_;
  Status async_error_;  // of a job whose caller was told "in progress"
  std::string last_error_;
  std::atomic<bool> early_messages_{false};  // called before there was anything to count in
  std::atomic<bool> finalized_{false}, revoked_{false}, suspended_{false}, aborted_{false};

  std::mutex premul_mutex_;
  std::map<int, Premul> premuls_;
  int next_premul_ = ncclNumOps;
  std::mutex memory_mutex_;
  std::set<const void*> registrations_, windows_;
  std::unique_ptr<DeviceHost> device_;

  Lane lane_;  // last: its jobs use all of the above
};

using CommTable = HandleTable<Comm, 1>;
CommTable& comms();

// Counts forks between this process and the one that loaded the library.
uint32_t fork_epoch();

// The communicator of a call. Errors: invalid_argument (null, destroyed, foreign), invalid_usage
// (of the parent of a forked child).
struct Found {
  CommTable::Pin comm;
  Status status;
};
Found find(ncclComm_t handle);

}  // namespace tutti::nccl
