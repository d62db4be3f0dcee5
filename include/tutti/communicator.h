// Communicator: a group of ranks and the collectives among them.
//
//   auto comm = tutti::Communicator::from_environment();  // tutti run, torchrun, mpirun, srun
//   if (!comm) return comm.status();
//   return (*comm)->all_reduce(in, out, n, tutti::DType::float32, tutti::ReduceOp::sum);
//
// `count` is always the elements of one block: per-rank contribution for all_gather, gather and
// all_to_all (one destination's share), per-rank result for reduce_scatter and scatter, the whole
// buffer for the others. In place means: send == recv (all_reduce, broadcast, reduce, all_to_all),
// send == recv + rank*count (all_gather; gather at the root), recv == send + rank*count
// (reduce_scatter; scatter at the root).
//
// One caller at a time per communicator; different communicators concurrently. A blocking call
// returns when its result is in place (or an error says who broke what). Errors latch: once the
// communicator is broken every later call returns the first cause.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "tutti/config.h"
#include "tutti/status.h"
#include "tutti/types.h"
#include "tutti/unique_id.h"

namespace [[gnu::visibility("default")]] tutti {  // all else in libtutti.so is hidden

// A reduction operator, with the scalar that premul_sum multiplies this rank's input by.
// `scalar_bits` holds one element of the call's dtype in its low bytes.
struct Reduction {
  ReduceOp op = ReduceOp::sum;
  uint64_t scalar_bits = 0;
  Reduction(ReduceOp plain = ReduceOp::sum) : op(plain) {}  // NOLINT: an operator is a reduction
  static Reduction premul_sum(DType dtype, const void* scalar);
};

// Handle of an asynchronous operation. Copies share the operation.
class Work {
 public:
  bool done() const;
  Status wait();                                      // blocks; the operation's Status
  Status wait_for(std::chrono::nanoseconds timeout);  // Code::in_progress when not done in time
  struct [[gnu::visibility("hidden")]] State;
  explicit Work(std::shared_ptr<State> state = nullptr) : state_(std::move(state)) {}

 private:
  std::shared_ptr<State> state_;
};

// Memory that every rank offers the others, from Communicator::register_window(). Copies share it.
class Window {
 public:
  // What `rank` offers; 0 of a Window that is none.
  size_t bytes(Rank rank) const;
  explicit operator bool() const { return state_ != nullptr; }
  struct [[gnu::visibility("hidden")]] State;
  explicit Window(std::shared_ptr<State> state = nullptr) : state_(std::move(state)) {}

 private:
  friend class Communicator;
  std::shared_ptr<State> state_;
};

// Signals to wait for: `count` of those that `peer` raises under the number `signal`.
struct SignalCount {
  Rank peer = 0;
  uint64_t count = 1;
  uint64_t signal = 0;
};

class OnStream;

class Communicator {
 public:
  // Joins rank `rank` of `ranks`. Blocks until all have joined or Config::init_timeout.
  static Result<std::unique_ptr<Communicator>> create(const UniqueId& id, Rank rank, uint32_t ranks,
                                                      const Config& config);
  // Rank, size and rendezvous from the launcher's environment: tutti run, torchrun, Open MPI,
  // MPICH/PMI, Slurm; a lone process is rank 0 of 1.
  static Result<std::unique_ptr<Communicator>> from_environment();
  // `ranks` communicators in this process, connected to each other, one for each thread to use.
  static Result<std::vector<std::unique_ptr<Communicator>>> create_local(uint32_t ranks,
                                                                         const Config& config);
  // The same with settings for each rank.
  static Result<std::vector<std::unique_ptr<Communicator>>> create_local(
      const std::vector<Config>& configs);
  ~Communicator();

  Rank rank() const;
  uint32_t ranks() const;

  Status all_reduce(const void* send, void* recv, size_t count, DType dtype, Reduction op);
  Status reduce_scatter(const void* send, void* recv, size_t count, DType dtype, Reduction op);
  Status all_gather(const void* send, void* recv, size_t count, DType dtype);
  Status broadcast(const void* send, void* recv, size_t count, DType dtype, Rank root);
  Status reduce(const void* send, void* recv, size_t count, DType dtype, Reduction op, Rank root);
  Status all_to_all(const void* send, void* recv, size_t count, DType dtype);
  // Counts and displacements in elements, one per rank. Pairs are agreed one by one: send_counts[p]
  // here must equal recv_counts[rank] there.
  Status all_to_all_v(const void* send, std::span<const size_t> send_counts,
                      std::span<const size_t> send_offsets, void* recv,
                      std::span<const size_t> recv_counts, std::span<const size_t> recv_offsets,
                      DType dtype);
  Status gather(const void* send, void* recv, size_t count, DType dtype, Rank root);
  Status scatter(const void* send, void* recv, size_t count, DType dtype, Rank root);
  Status barrier();
  Status send(const void* buffer, size_t count, DType dtype, Rank peer);
  Status recv(void* buffer, size_t count, DType dtype, Rank peer);

  // Point-to-point calls between group_start and group_end progress together; group_end returns
  // when all are complete. Groups nest.
  Status group_start();
  Status group_end();

  // One-sided: a rank writes into memory of another one, which takes part without a call.
  //
  // Collective: every rank offers `bytes` of host memory (null and 0: none), until it deregisters
  // them, which is local. The first window with memory makes the connections for such calls, and a
  // thread that serves what peers send. Errors: invalid_argument, invalid_usage when ranks disagree
  // on how many windows there were.
  Result<Window> register_window(void* memory, size_t bytes);
  Status deregister_window(const Window& window);
  // Writes `bytes` of `data` to `offset` (in bytes) of what `peer` offers, and then raises `signal`
  // there. On return `data` may be reused; nothing is known of the peer. What one rank puts and
  // signals to another takes place in order. `peer` may be this rank. Errors: invalid_argument (a
  // window that is not this communicator's or was deregistered, bytes beyond the peer's, an unknown
  // peer), invalid_usage (no window with memory yet; the peer has deregistered it, then on both).
  Status put_signal(const void* data, size_t bytes, Rank peer, const Window& window, size_t offset,
                    uint64_t signal = 0);
  Status signal(Rank peer, uint64_t signal = 0);
  // Blocks until all of `counts` have been raised here, and takes them away; what was put before
  // each of them is in place. Errors: invalid_usage (signals of this rank that it has not raised),
  // remote_error naming a peer that died or left without raising its own.
  Status wait_signals(std::span<const SignalCount> counts);
  // Collective: makes the connections now, for signals without any window.
  Status open_one_sided();

  // Asynchronous forms run on the communicator's progress thread, in the order of issue; blocking
  // calls queue behind them. Buffers belong to the operation until it is done.
  Work all_reduce_async(const void* send, void* recv, size_t count, DType dtype, Reduction op);
  Work reduce_scatter_async(const void* send, void* recv, size_t count, DType dtype, Reduction op);
  Work all_gather_async(const void* send, void* recv, size_t count, DType dtype);
  Work broadcast_async(const void* send, void* recv, size_t count, DType dtype, Rank root);
  Work reduce_async(const void* send, void* recv, size_t count, DType dtype, Reduction op,
                    Rank root);
  Work all_to_all_async(const void* send, void* recv, size_t count, DType dtype);
  Work barrier_async();
  // Any sequence of blocking calls as one operation of the progress thread: a stream of its own.
  Work submit(std::function<Status(Communicator&)> body);

  // The same calls on device buffers, enqueued on a CUDA stream (cudaStream_t; null: the default
  // stream). See OnStream; it must not outlive this.
  OnStream on_stream(void* stream);

  // Communicators from this one. `config` null: this one's settings.
  //
  // Collective over all ranks. Those that pass the same color (>= 0) form a communicator, ordered
  // by key and then by rank here; k_no_color gives a null pointer. Errors: invalid_argument on all
  // ranks naming the one whose color is neither; the parent stays as it was.
  static constexpr int k_no_color = -1;
  Result<std::unique_ptr<Communicator>> split(int color, int key, const Config* config = nullptr);
  // Called by every rank that is not in `excluded` (the same set on each, any order); the others
  // may be dead. Keeps the order of ranks. Works after an error, abort() or revoke(). Errors:
  // invalid_argument (own rank or an unknown one excluded), invalid_usage naming ranks whose sets
  // differ, remote_error naming a rank that died meanwhile, timeout naming who did not come.
  Result<std::unique_ptr<Communicator>> shrink(std::span<const Rank> excluded,
                                               const Config* config = nullptr);
  // The id under which new ranks enter: called by one rank, which hands it to them and to grow().
  Result<UniqueId> grow_id();
  // Collective over all ranks here, with create(id, rank, ranks, config) of the new ones: a
  // communicator of `ranks` > ranks() in which these keep their numbers. The rank that called
  // grow_id() passes the id, the others null.
  Result<std::unique_ptr<Communicator>> grow(uint32_t ranks, const UniqueId* id,
                                             const Config* config = nullptr);

  // From any thread: stops the running operation here and on every rank that can be reached; later
  // collectives return Code::aborted, or the error that this rank had before. Only failed(),
  // agree(), shrink() and the destructor go on. docs/fault_tolerance.md has the whole loop.
  void revoke(const std::string& reason);
  // Ranks that this rank knows to have died or left, ascending. Others may know more: agree().
  std::vector<Rank> failed() const;
  // Among the ranks that live (after ULFM's MPIX_Comm_agree): every one that returns ok returns the
  // same flags (AND of what the survivors passed) and the same failed set (their union), even when
  // more ranks die meanwhile. Works on a broken or revoked communicator. Errors: timeout naming the
  // ranks that live, or may live, but did not answer; call again to resume (all attempts' flags
  // count).
  struct Agreement {
    uint64_t flags = ~uint64_t{0};
    std::vector<Rank> failed;
  };
  Result<Agreement> agree(uint64_t flags, std::chrono::nanoseconds timeout);

  // From any thread: unblocks a running operation here and on all ranks; latches Code::aborted.
  void abort(const std::string& reason);
  // The latched first cause, ok while healthy. Outside of a call it looks, without waiting, whether
  // a peer has died or told of an error meanwhile. From any thread.
  Status error() const;
  // Waits for outstanding work, says goodbye. The destructor does it with a short deadline.
  Status finalize();

  // "all_reduce 4194304 B: direct_two_shot over shm (process_vm), 1 round": how a call would run.
  std::string explain(Collective collective, size_t count, DType dtype, Rank root = 0,
                      bool in_place = false);
  // Seconds that a call would take, by the tuner's prices, without making it (`count` as in the
  // call; reductions by sum). Local. Errors: invalid_argument; unsupported when nothing serves the
  // call.
  Result<double> estimate(Collective collective, size_t count, DType dtype, Rank root = 0);
  // Watchdog: called from a thread of the library when an operation is later than
  // Config::late_after, once per operation, with a sentence that names rank, peers and sequence.
  void on_late(std::function<void(const std::string&)> callback);
  // For language bindings: called now and then on the thread that waits inside a call, once nothing
  // has moved for 10 ms. A status that is not ok ends the call and breaks the communicator as
  // abort() does. Set it while no call runs.
  void on_wait(std::function<Status()> callback);

  class [[gnu::visibility("hidden")]] Impl;
  explicit Communicator(std::unique_ptr<Impl> impl);
  [[gnu::visibility("hidden")]] Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// A communicator's calls on device buffers, in the order of a stream: a call enqueues and returns;
// the stream has the result when it comes past it. May be captured in a CUDA graph. docs/cuda.md
// says which way a call goes.
//
// The first collective on device buffers waits for all ranks, before it the first message of a pair
// for its peer. The first call's buffers say which device is the communicator's. Its calls on device
// buffers and on host buffers are not ordered by the library: synchronise the stream between them.
//
// Errors of the call: as with host buffers; invalid_argument naming the buffer (memory of another
// device, host memory, freed, too short) or the stream; device_error: no driver, no kernels for the
// device, what the driver said. Errors that come later break the communicator:
// Communicator::error(); what the stream then finds in the buffers is undefined.
class OnStream {
 public:
  Status all_reduce(const void* send, void* recv, size_t count, DType dtype, Reduction op);
  Status reduce_scatter(const void* send, void* recv, size_t count, DType dtype, Reduction op);
  Status all_gather(const void* send, void* recv, size_t count, DType dtype);
  Status broadcast(const void* send, void* recv, size_t count, DType dtype, Rank root);
  Status reduce(const void* send, void* recv, size_t count, DType dtype, Reduction op, Rank root);
  Status all_to_all(const void* send, void* recv, size_t count, DType dtype);
  // As Communicator::all_to_all_v: a group of sends and receives.
  Status all_to_all_v(const void* send, std::span<const size_t> send_counts,
                      std::span<const size_t> send_offsets, void* recv,
                      std::span<const size_t> recv_counts, std::span<const size_t> recv_offsets,
                      DType dtype);
  Status gather(const void* send, void* recv, size_t count, DType dtype, Rank root);
  Status scatter(const void* send, void* recv, size_t count, DType dtype, Rank root);
  // Between group_start and group_end of the communicator they are enqueued at its end, together.
  Status send(const void* buffer, size_t count, DType dtype, Rank peer);
  Status recv(void* buffer, size_t count, DType dtype, Rank peer);
  // What is enqueued on this stream from now on comes after what is on `other` now.
  Status after(void* other);

 private:
  friend class Communicator;
  OnStream(Communicator& communicator, void* stream)
      : communicator_(communicator), stream_(stream) {}
  Communicator& communicator_;
  void* stream_;
};

// Host memory that the ranks of a host can map and reduce into directly (a memfd). At least
// page-aligned, zero-filled. Null and a reason in *error when the memory cannot be reserved.
void* mem_alloc(size_t bytes, Status* error = nullptr);
// Errors: invalid_argument when `memory` did not come from mem_alloc. A peer that still maps it
// keeps its own view; the memory returns to the system when the last one lets go.
Status mem_free(void* memory);

// "0.1.0"
const char* version();

}  // namespace tutti
