// The inside of a Communicator: one rank's connections, caches, counters and error latch.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "src/base/auth.h"
#include "src/base/log.h"
#include "src/base/thread.h"
#include "src/communicator/bootstrap/bootstrap.h"
#include "src/communicator/device_operation.h"
#include "src/communicator/message_tallies.h"
#include "src/communicator/peers.h"
#include "src/executor/cpu_executor.h"
#include "src/executor/exchange.h"
#include "src/executor/shared_direct.h"
#include "src/planner/feedback.h"
#include "src/planner/planner.h"
#include "tutti/communicator.h"

namespace tutti {

struct Work::State {
  std::mutex mutex;
  std::condition_variable finished;
  bool done = false;
  Status status;
  std::function<Status()> body;
};

inline Deadline after(double seconds) {
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

// Whether a rank's buffers lie to each other as in place asks; its block begins `own` bytes into
// those of all ranks. Addresses are numbers here: nobody has asked yet whether they are any.
bool lie_in_place(Collective collective, const void* send, const void* recv, size_t own);

// How many collectives a rank has begun on host buffers and on device buffers, in memory that its
// peers can read (beside.cc).
struct CallTally {
  std::atomic<uint64_t> begun{0};  // on devices << 32 | on the host
  // The latest on devices, for messages: collective | dtype << 8 | op << 16 | root << 32.
  std::atomic<uint64_t> device_kind{0}, device_count{0};
};

class DeviceRank;

class Communicator::Impl final : public Monitor {
 public:
  // Collective over the ranks of `bootstrap`; blocks until `deadline`. `leaf`: where a topology
  // spec has this rank, if an ancestor knows.
  static Result<std::unique_ptr<Impl>> connect(std::unique_ptr<Bootstrap> bootstrap, Rank rank,
                                               uint32_t ranks, const Key& key, const Config& config,
                                               Deadline deadline, PartId leaf = k_no_part);
  // The same with the bootstrap of a unique id.
  static Result<std::unique_ptr<Impl>> join(const UniqueId& id, Rank rank, uint32_t ranks,
                                            const Config& config, PartId leaf = k_no_part);
  ~Impl() override;

  Rank rank() const { return rank_; }
  uint32_t ranks() const { return ranks_; }

  // A collective call, as its caller made it.
  struct Call {
    Collective collective = Collective::barrier;
    const void* send = nullptr;
    void* recv = nullptr;
    size_t count = 0;
    DType dtype = DType::int8;
    Reduction reduction;
    Rank root = 0;
  };
  // Blocking; queues behind asynchronous work, or joins the open group.
  Status run(const Call& call);
  Status run_transfers(std::vector<Transfer> transfers);
  // The same outside of any group, and not counted: they stand for others.
  Status run_uncounted(std::vector<Transfer> transfers);
  // The same on device buffers (device_rank.h).
  Status run_on_device(const DeviceOperation& operation);
  const Config& config() const { return config_; }
  const Planner& planner() const { return *planner_; }
  // For a thread that alone uses this communicator, as a carrier of other traffic.
  Router& router() { return *router_; }
  const WaitPolicy& waiting() const { return policy_; }
  // Whether the caller is the thread of asynchronous operations.
  bool on_worker() const {
    return worker_id_.load(std::memory_order_relaxed) == std::this_thread::get_id();
  }
  Work submit(std::function<Status()> body);
  Status group_start();
  Status group_end();

  // One-sided, see communicator.h.
  class OneSidedChannel;
  Result<Window> register_window(void* memory, size_t bytes);
  Status deregister_window(const Window& window);
  Status put_signal(const void* data, size_t bytes, Rank peer, const Window& window, size_t offset,
                    uint64_t signal);
  Status signal(Rank peer, uint64_t signal);
  Status wait_signals(std::span<const SignalCount> counts);
  Status open_one_sided();

  void abort(const std::string& reason);
  Status error();
  Status first_error() const;  // without a look at the peers
  Status finalize(Clock::duration patience);
  std::string explain(const Call& call, bool in_place);  // without a look at the buffers
  Result<double> estimate(const Call& call);
  void warn(std::string_view text) const { log_.write(LogLevel::warn, text); }
  void inform(std::string_view text) const {
    if (log_.on(LogLevel::info)) log_.write(LogLevel::info, text);
  }
  void on_late(std::function<void(const std::string&)> callback);
  void on_wait(std::function<Status()> callback) { wait_callback_ = std::move(callback); }

  // Descendants, see communicator.h.
  using Descendant = Result<std::unique_ptr<Impl>>;
  Descendant split(int color, int key, const Config* config);
  Descendant shrink(std::span<const Rank> excluded, const Config* config);
  Result<UniqueId> grow_id() const;
  Descendant grow(uint32_t ranks, const UniqueId* id, const Config* config);

  // Recovery, see communicator.h.
  void revoke(const std::string& reason);
  std::vector<Rank> failed();
  Result<Agreement> agree(uint64_t flags, std::chrono::nanoseconds timeout);

  // --- beside calls: for device_path.h and its watchdog (beside.cc). From any thread.
  bool broken() const { return broken_.load(std::memory_order_acquire); }
  // Takes note of what peers have said and of who is gone; first_error().
  Status look(std::vector<Rank>* gone);
  // Latches an error that no call has found. False: a call runs, ask again.
  bool fail(const Status& status, Rank culprit);
  // `connection`: what broke, where the rank itself may be well.
  Status lost_during_device_call(Rank peer, const Status& connection) const;
  // Collective: an all_gather of int8 that is known for what it is to ranks that make another call.
  Status gather_for_devices(const void* mine, void* all, size_t bytes);
  // Collective: `bytes` of zeroed memory of every rank, by rank, as far as this one sees it (null:
  // not at all). Mappings live as long as the transports. `process`: equal in ranks of one process.
  Result<std::vector<std::shared_ptr<std::byte>>> share_memory(uint64_t process, size_t bytes);
  // The steps of that, also for two ranks alone: memory of this rank, how another one finds it, and
  // what this one sees of another's (null: nothing). Offers are told as bytes; they are good until
  // both ranks have taken them.
  struct Shareable {
    std::shared_ptr<std::byte> memory;
    bool segment = false;  // other processes may see it
  };
  struct MemoryOffer {
    uint64_t process = 0;
    uint64_t transport = 0;                            // to the other; a hash of its name; 0: none
    const std::shared_ptr<std::byte>* here = nullptr;  // for ranks of the same process
    MemoryRef memory;                                  // for others
  };
  static Shareable shareable_memory(size_t bytes);  // zeroed
  MemoryOffer offer_memory(uint64_t process, const Shareable& mine, size_t bytes, Rank to) const;
  std::shared_ptr<std::byte> see_memory(Rank of, const MemoryOffer& mine, const MemoryOffer& theirs,
                                        size_t bytes);
  Result<std::vector<std::shared_ptr<std::byte>>> share_memory(uint64_t process,
                                                               const Shareable& own, size_t bytes);
  // Collective: ranks come to see each other's tallies.
  Status open_tallies(uint64_t process);

  // Messages, by kind of buffer (message_tallies.h). Whoever calls them counts them before they
  // run, those of a group at once.
  void count_messages(std::span<const Transfer> on_host,
                      std::span<const DeviceOperation> on_device);
  // While it lives, messages of the thread of the host calls have been counted.
  class Counted {
   public:
    explicit Counted(Impl& impl) : impl_(impl) { impl_.messages_counted_ = true; }
    ~Counted() { impl_.messages_counted_ = false; }
    Counted(const Counted&) = delete;

   private:
    Impl& impl_;
  };
  MessageTallies& messages() { return *messages_; }
  // What this rank tells others of where its tallies of messages are.
  MemoryOffer offer_messages(uint64_t process, Rank to);
  // Collective: where messages of all ranks go through windows.
  Status compare_messages(uint64_t process);
  // From now on calls are counted, on all ranks.
  void count_calls(bool on) { counting_.store(on, std::memory_order_release); }
  void tally_device_call(const Call& call);
  // Where ranks see no tally of some others, they tell each other theirs while they wait.
  void tell_tallies();
  // Proof that another rank's buffers are not where this one's are, in words. `host_call`: the one
  // that the calling thread is in; null: it is in none.
  std::optional<Status> contradiction(const CallRecord* host_call) const;
  // While it lives, calls of its thread on host buffers are not counted: they stand for others.
  class Uncounted {
   public:
    explicit Uncounted(Impl& impl) : impl_(impl) { impl_.uncounted_ = std::this_thread::get_id(); }
    ~Uncounted() { impl_.uncounted_ = std::thread::id(); }
    Uncounted(const Uncounted&) = delete;

   private:
    Impl& impl_;
  };
  Uncounted leave_uncounted() { return Uncounted(*this); }

  // Monitor: what happens while a call waits.
  Status check(Clock::duration waited, Rank waiting_for) override;
  void block(Clock::duration timeout) override;

 private:
  // What is remembered of a call's shape, so that the next equal one does no planning.
  struct CallKey {
    Collective collective;
    DType dtype;
    ReduceOp op;
    bool in_place;
    Rank root;
    size_t count;
    bool operator==(const CallKey&) const = default;
  };
  struct KeyHash {
    size_t operator()(const CallKey& key) const;
  };
  struct Entry {
    CallKey key{};
    bool shared = false;               // runs on SharedDirect
    bool copy_first = false;           // out of place, but the plan is the in-place form
    std::unique_ptr<BoundPlan> bound;  // otherwise
    Trial* trial = nullptr;            // whose current choice this is, while it is measured
    uint64_t signature = 0;
    bool stage_input = false;       // in place, but the plan is the other form
    std::vector<std::byte> staged;  // this rank's input, moved away or times premul_sum's scalar
  };

  Impl();
  Status start(std::unique_ptr<Bootstrap> bootstrap, const Key& key, Deadline deadline);
  Status make_transports(const std::vector<PeerIdentity>& peers, const Key& key, Deadline deadline);
  // Fills what of the placement only all ranks together know; `agreed`: rank 0's Tuning, encoded.
  Status settle_paths(Deadline deadline, Placement* placement, std::string* agreed);
  Status make_planner(Placement placement, std::vector<TuneRule> rules, const std::string& agreed);
  void choose_interfaces(const std::vector<PeerIdentity>& peers, TransportOptions* options) const;
  bool gpus_here() const;
  std::string report_on_host(size_t room) const;
  Status learn_hosts(const std::vector<std::string>& reports);
  void choose_waiting(const std::vector<PeerIdentity>& peers);
  Status open_log();

  Status enqueue_on_device(std::vector<DeviceOperation> operations);
  Status enqueue_counted(std::vector<DeviceOperation> operations);
  std::shared_ptr<DeviceRank> device_rank() const;
  Status execute(const Call& call);  // inline, on whichever thread
  template <class Body>
  Status guarded(Body&& body);
  // Behind the asynchronous work that was issued before.
  template <class Body>
  Status in_turn(Body&& body);
  Status validate(const Call& call) const;
  Status validate_shape(const Call& call) const;  // all but the buffers
  bool in_place(const Call& call) const;
  CallKey key_of(const Call& call, bool in_place) const;
  Result<Entry*> entry_for(const Call& call, const CallKey& key);
  Result<std::unique_ptr<Entry>> make_entry(const Call& call, const CallKey& key);
  Status run_entry(Entry& entry, const Call& call);
  Planner::Call planned(const Call& call) const;
  // A call that is measured; at the end of a trial the ranks agree on its outcome.
  Status run_trial(Entry& entry, const Call& call);
  Status conclude(Trial& trial);
  void forget(const ShapeClass& shape);
  void keep_learnt() const;
  Status finish(Status status, const char* what);
  Status settle(Status status, const char* what);

  // What the connections know by now: deaths, errors that peers have posted. Never waits.
  Status examine();
  Status abortion() const;
  // Lateness and the deadline of `doing` (null: the current collective); and the program may have
  // signals to handle.
  Status check_patience(Clock::duration waited, Rank waiting_for, const char* doing, bool* late);
  Status latch(Status status, Rank culprit);
  std::optional<Status> adopted_error();
  std::vector<Rank> known_lost();
  bool enter_call();    // false: another thread is in a call
  bool enter_beside();  // for a moment, instead of a call; false: a thread is in a call
  void leave_call() { in_call_.store(Occupant::nobody, std::memory_order_release); }
  static CallRecord device_record(const CallTally& tally);
  static std::string encode_error(const Status& status);
  static Status decode_error(const std::string& text);
  Status compare_calls(Rank peer, Clock::duration waited);
  Status both_sides(Status mismatch);
  // What a peer has posted of calls that differ.
  std::optional<Status> posted_mismatch() const;
  Status check_presence(Rank peer, Clock::duration waited);
  Clock::duration on_its_way(Rank peer) const;
  bool known_to_be_over(Rank peer, bool gone, Clock::duration waited);
  void report_late(Clock::duration waited, Rank waiting_for, const std::string& doing);
  std::string explain(const Entry& entry, const Call& call) const;
  std::string describe_call(const CallRecord& record) const;
  std::string describe_peer(Rank peer) const;
  std::string transport_names() const;
  bool hand_over(const std::shared_ptr<Work::State>& state);
  void work_loop();
  // What every rank gives, by rank: an all_gather of `mine`.
  template <class T>
  Result<std::vector<T>> share(const T& mine);
  Result<std::string> share_bytes(const std::string& mine);
  Status no_open_group(const char* what) const;
  static BootstrapOptions bootstrap_options(Rank rank, uint32_t ranks, const Config& config);
  Descendant enter(const std::string& ticket, const Key& key, const BootstrapOptions& options,
                   const Config& config);
  Config settings_of_descendant(const Config* config) const;
  PartId leaf_in(const Config& descendant) const;
  Result<std::string> assemble(const std::set<Rank>& excluded, const Key& key,
                               const BootstrapOptions& options);
  bool await_council(const std::function<bool(Council&)>& done, Clock::duration timeout,
                     std::vector<Rank>* awaited);
  void collect_lost();
  Status usable() const;
  Status two_callers() const;
  std::string describe_peers(const std::vector<Rank>& ranks) const;

  Result<Window> agree_on_window(uint32_t number, void* memory, size_t bytes);
  Status open_channel(uint32_t number, void* memory, size_t bytes);
  Status check_window(const Window& window, const char* what) const;
  Status check_one_sided(const char* what, Rank peer) const;
  template <class Body>
  Status one_sided(const char* what, Body&& body);

  Rank rank_ = 0;
  uint32_t ranks_ = 1;
  PartId leaf_ = k_no_part;  // where a topology spec has this rank
  Config config_;
  Log log_;
  Key key_{};
  std::unique_ptr<Bootstrap> bootstrap_;
  PeerTable peers_;
  std::unique_ptr<Router> router_;
  std::unique_ptr<Planner> planner_;
  std::unique_ptr<Feedback> feedback_;        // null: off
  std::string learnt_file_, learnt_section_;  // of rank 0; empty: nothing is kept
  std::unique_ptr<CpuExecutor> executor_;
  std::unique_ptr<SharedDirect> shared_;
  std::unique_ptr<Exchange> exchange_;
  WaitPolicy policy_;
  bool reads_peers_ = false;    // some transport lets this rank read its peers' memory
  bool by_reference_ = false;   // on every rank, receivers read senders' memory
  void* fork_guard_ = nullptr;  // a page that is zero in a forked child

  std::unordered_map<CallKey, std::unique_ptr<Entry>, KeyHash> entries_;
  Entry* last_ = nullptr;
  CallRecord record_;  // the current or latest collective call
  bool late_reported_ = false;
  // When a wait of a call first met a peer that had left the call, or the communicator.
  struct Sighting {
    uint64_t sequence = 0;  // of the call that waits
    Clock::time_point at{};
  };
  std::map<std::pair<Rank, bool>, Sighting> sightings_;  // by peer, and whether it is gone
  enum class Occupant : uint8_t { nobody, a_call, beside };
  std::atomic<Occupant> in_call_{Occupant::nobody};  // who uses the transports
  std::atomic<bool> device_streams_{false};   // calls on streams may run on the progress thread
  bool meeting_ = false;                      // the current call is gather_for_devices()
  std::atomic<std::thread::id> uncounted_{};  // whose calls are; see Uncounted
  std::atomic<bool> counting_{false};
  std::shared_ptr<CallTally> tally_;
  std::vector<std::shared_ptr<const CallTally>> peer_tallies_;  // null: this rank's own
  std::map<Rank, std::shared_ptr<CallTally>> heard_tallies_;    // of those that are not to be seen
  std::string told_note_;  // what the others have heard; at the council
  std::unique_ptr<MessageTallies> messages_;
  Shareable message_memory_;       // of messages_, once another rank has asked
  bool messages_counted_ = false;  // those that the thread of the host calls runs

  // Open group: point-to-point transfers, then collectives, in order.
  uint32_t group_depth_ = 0;
  std::vector<Transfer> group_transfers_;
  std::vector<Call> group_calls_;
  std::vector<DeviceOperation> group_device_operations_;

  mutable std::mutex error_mutex_;
  std::atomic<bool> broken_{false};
  std::atomic<bool> abort_requested_{false};
  Status first_error_;
  std::set<Rank> lost_;  // ranks that connections or errors have shown to be gone
  std::string abort_reason_;
  std::function<void(const std::string&)> late_callback_;
  std::function<Status()> wait_callback_;
  std::atomic<bool> finalized_{false};

  // One-sided calls.
  std::unique_ptr<OneSidedChannel> channel_;  // null until the first window with memory
  uint32_t windows_made_ = 0;
  const std::shared_ptr<const int> window_owner_ = std::make_shared<const int>(0);

  // The progress thread of asynchronous operations; started by the first.
  std::mutex work_mutex_;
  Condition work_changed_;
  std::deque<std::shared_ptr<Work::State>> work_;
  std::atomic<uint32_t> pending_{0};
  std::atomic<std::thread::id> worker_id_{};
  bool stopping_ = false;
  std::thread worker_;

  std::shared_ptr<DeviceRank>
      device_rank_;  // made by the first call on device buffers; error_mutex_
};

// One caller at a time, a healthy communicator, and not a forked child.
template <class Body>
Status Communicator::Impl::guarded(Body&& body) {
  if (broken_.load(std::memory_order_acquire)) return first_error();
  TUTTI_RETURN_IF_ERROR(usable());
  if (!enter_call()) return two_callers();
  Status status = abort_requested_.load(std::memory_order_relaxed) ? check({}, rank_) : Status();
  if (bootstrap_->revoked() != nullptr) status = adopted_error().value_or(first_error());
  if (status.ok()) status = body();
  leave_call();
  return status;
}

template <class Body>
Status Communicator::Impl::in_turn(Body&& body) {
  if (pending_.load(std::memory_order_acquire) != 0 && !on_worker())
    return submit(std::forward<Body>(body)).wait();
  return body();
}

// What every rank gives, by rank.
template <class T>
Result<std::vector<T>> Communicator::Impl::share(const T& mine) {
  std::vector<T> all(ranks_);
  TUTTI_RETURN_IF_ERROR(
      run({Collective::all_gather, &mine, all.data(), sizeof(T), DType::uint8, {}, 0}));
  return all;
}

}  // namespace tutti
