// Calls: validation, cached entries, execution, and the error latch.
#include "src/communicator/impl.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <limits>

#include "kernels/cpu/kernels.h"
#include "src/algorithms/algorithms.h"
#include "src/base/hash.h"
#include "src/communicator/device_rank.h"
#include "src/communicator/one_sided_channel.h"
#include "src/plan/braid.h"

namespace tutti {
namespace {

// Waiting longer than this, a rank looks at what its peer is doing.
constexpr Clock::duration k_compare_after = std::chrono::milliseconds(5);
// And the program that waits may have signals to handle.
constexpr Clock::duration k_call_back_after = std::chrono::milliseconds(10);
// Without any progress for so long, a message of a peer that is in a later call is not on its way.
constexpr Clock::duration k_left_behind_memory = std::chrono::milliseconds(500);
constexpr Clock::duration k_left_behind_network = std::chrono::seconds(5);

// And so long a rank that has met a mismatch waits to hear what its peers call.
constexpr Clock::duration k_answering = std::chrono::milliseconds(200);

// Stands for the root in the record of a call by which ranks find out about their devices.
constexpr Rank k_meeting = ~Rank{0};

bool has_blocks(Collective c, bool input) {
  switch (c) {
    case Collective::reduce_scatter:
    case Collective::scatter:
      return input;
    case Collective::all_gather:
    case Collective::gather:
      return !input;
    case Collective::all_to_all:
      return true;
    default:
      return false;
  }
}

}  // namespace

size_t Communicator::Impl::KeyHash::operator()(const CallKey& k) const {
  uint64_t h =
      mix(k.count + 1, static_cast<uint64_t>(k.collective) << 16 |
                           static_cast<uint64_t>(k.dtype) << 8 | static_cast<uint64_t>(k.op));
  return mix(h, uint64_t{k.root} << 1 | k.in_place);
}

Communicator::Impl::Impl() = default;

Communicator::Impl::~Impl() {
  device_rank_ = nullptr;  // first: it waits for its streams, whose calls may run here
  if (!finalized_) static_cast<void>(finalize(std::chrono::milliseconds(500)));
  if (fork_guard_ != nullptr) munmap(fork_guard_, 4096);
}

// --- what a call is

bool lie_in_place(Collective collective, const void* send, const void* recv, size_t own) {
  const auto from = reinterpret_cast<uintptr_t>(send), to = reinterpret_cast<uintptr_t>(recv);
  switch (collective) {
    case Collective::all_gather:
    case Collective::gather:
      return from == to + own;
    case Collective::reduce_scatter:
    case Collective::scatter:
      return to == from + own;
    default:
      return from == to;
  }
}

bool Communicator::Impl::in_place(const Call& c) const {
  return lie_in_place(c.collective, c.send, c.recv, rank_ * c.count * size_of(c.dtype));
}

// Only ranks that use both buffers can be in place.
Communicator::Impl::CallKey Communicator::Impl::key_of(const Call& c, bool in_place) const {
  const bool both =
      c.collective != Collective::barrier && (!is_rooted(c.collective) || rank_ == c.root);
  return {c.collective, c.dtype, c.reduction.op, in_place && both, c.root, c.count};
}

Status Communicator::Impl::validate_shape(const Call& c) const {
  auto bad = [&](std::string why) {
    return Status(Code::invalid_argument,
                  fmt::format("rank {}: {}: {}", rank_, name(c.collective), why));
  };
  if (!valid(c.dtype)) return bad(fmt::format("unknown dtype {}", static_cast<int>(c.dtype)));
  if (!valid(c.reduction.op))
    return bad(fmt::format("unknown op {}", static_cast<int>(c.reduction.op)));
  if (c.root >= ranks_) return bad(fmt::format("root {} of {} ranks", c.root, ranks_));
  if (c.count > std::numeric_limits<size_t>::max() / 2 / size_of(c.dtype) / ranks_)
    return bad(fmt::format("count {} of {} ranks overflows", c.count, ranks_));
  return {};
}

Status Communicator::Impl::validate(const Call& c) const {
  TUTTI_RETURN_IF_ERROR(validate_shape(c));
  if (c.collective == Collective::barrier || c.count == 0) return {};
  auto bad = [&](std::string why) {
    return Status(Code::invalid_argument,
                  fmt::format("rank {}: {}: {}", rank_, name(c.collective), why));
  };

  const bool root_only =
      c.collective == Collective::broadcast || c.collective == Collective::scatter;
  const bool needs_send = !root_only || rank_ == c.root;
  const bool needs_recv =
      (c.collective != Collective::reduce && c.collective != Collective::gather) || rank_ == c.root;
  const size_t element = size_of(c.dtype);
  auto check = [&](const void* p, const char* which) -> Status {
    if (p == nullptr) return bad(fmt::format("the {} buffer is null", which));
    if (reinterpret_cast<uintptr_t>(p) % element != 0)
      return bad(fmt::format("the {} buffer is not aligned to {} bytes", which, element));
    return {};
  };
  if (needs_send) TUTTI_RETURN_IF_ERROR(check(c.send, "send"));
  if (needs_recv) TUTTI_RETURN_IF_ERROR(check(c.recv, "receive"));
  if (!needs_send || !needs_recv || in_place(c)) return {};
  const auto send = reinterpret_cast<uintptr_t>(c.send), recv = reinterpret_cast<uintptr_t>(c.recv);
  const size_t block = c.count * element;
  const size_t send_bytes = has_blocks(c.collective, true) ? block * ranks_ : block;
  const size_t recv_bytes = has_blocks(c.collective, false) ? block * ranks_ : block;
  if (send < recv + recv_bytes && recv < send + send_bytes)
    return bad("the send and receive buffers overlap, but not as in place asks");
  return {};
}

// --- running

Status Communicator::Impl::run(const Call& call) {
  if (group_depth_ > 0) {
    TUTTI_RETURN_IF_ERROR(validate(call));
    group_calls_.push_back(call);
    return {};
  }
  return in_turn([this, call] { return execute(call); });
}

// The progress thread's calls and the caller's take turns: those of streams come at any time.
bool Communicator::Impl::enter_call() {
  Occupant seen = Occupant::nobody;
  while (!in_call_.compare_exchange_weak(seen, Occupant::a_call, std::memory_order_acquire)) {
    const bool of_streams = device_streams_.load(std::memory_order_relaxed);
    if (seen == Occupant::a_call && !of_streams) return false;
    if (seen == Occupant::beside) std::this_thread::yield();
    if (seen == Occupant::a_call) std::this_thread::sleep_for(std::chrono::microseconds(20));
    seen = Occupant::nobody;
  }
  return true;
}

bool Communicator::Impl::enter_beside() {
  Occupant seen = Occupant::nobody;
  return in_call_.compare_exchange_strong(seen, Occupant::beside, std::memory_order_acquire);
}

Status Communicator::Impl::two_callers() const {
  return Status(Code::invalid_usage,
                fmt::format("rank {}: two threads call the same communicator at once", rank_));
}

Status Communicator::Impl::execute(const Call& call) {
  return guarded([&]() -> Status {
    TUTTI_RETURN_IF_ERROR(validate(call));
    Entry* entry = last_;
    const CallKey key = key_of(call, in_place(call));
    if (entry == nullptr || !(entry->key == key)) {
      Result<Entry*> found = entry_for(call, key);
      if (!found) return found.status();
      entry = last_ = *found;
    }
    return entry->trial == nullptr ? run_entry(*entry, call) : run_trial(*entry, call);
  });
}

Result<Communicator::Impl::Entry*> Communicator::Impl::entry_for(const Call& call,
                                                                 const CallKey& key) {
  if (auto it = entries_.find(key); it != entries_.end()) return it->second.get();
  // Bindings hold scratch; a program with ever new counts must not grow without bound.
  if (entries_.size() >= 256) {
    entries_.clear();
    last_ = nullptr;
  }
  Result<std::unique_ptr<Entry>> made = make_entry(call, key);
  if (!made) return made.status();
  if (log_.on(LogLevel::info)) log_.write(LogLevel::info, "plan: " + explain(**made, call));
  return entries_.emplace(key, std::move(*made)).first->second.get();
}

Result<std::unique_ptr<Communicator::Impl::Entry>> Communicator::Impl::make_entry(
    const Call& call, const CallKey& key) {
  auto entry = std::make_unique<Entry>();
  entry->key = key;
  // What does not depend on the rank: ranks that disagree in any of it must notice.
  uint64_t h = mix(call.count + 1, static_cast<uint64_t>(call.collective) << 16 |
                                       static_cast<uint64_t>(call.dtype) << 8 |
                                       static_cast<uint64_t>(call.reduction.op));
  entry->signature = mix(h, call.root);
  if (call.collective == Collective::barrier && shared_ != nullptr) {
    entry->shared = true;
    return entry;
  }
  // In place is this rank's own matter (decision 0003): the signature leaves it out. Where its
  // forms differ in messages, all ranks run the same one: that in place for all_reduce, where the
  // way there is a copy from input to output, else that out of place, after a copy of the input.
  const Planner::Call wanted = planned(call);
  if (feedback_ != nullptr && call.collective != Collective::barrier)
    entry->trial = feedback_->trial_for(*planner_, wanted, call.count);
  Result<Choice> choice =
      entry->trial != nullptr ? entry->trial->current() : planner_->choose(wanted);
  if (!choice) return choice.status();
  Result<PlanPtr> plan = planner_->plan(wanted, *choice, key.in_place);
  if (!plan) return plan.status();
  // A plan relabelled along the links has another name than its algorithm; the choice keeps it.
  if (const Algorithm* chosen = find_algorithm(choice->algorithm);
      chosen != nullptr && chosen->in_place_differs(call.collective, ranks_)) {
    const bool common = call.collective == Collective::all_reduce;
    entry->copy_first = common && !key.in_place;
    entry->stage_input = !common && key.in_place;
    plan = planner_->plan(wanted, *choice, common);
    if (!plan) return plan.status();
  }
  const std::string& algorithm = (*plan)->algorithm();
  if (shared_ != nullptr && call.collective == Collective::all_reduce &&
      (algorithm == "direct_one_shot" || algorithm == "direct_two_shot")) {
    entry->shared = true;
    return entry;
  }
  const ReduceOp op = call.reduction.op == ReduceOp::premul_sum ? ReduceOp::sum : call.reduction.op;
  Result<std::unique_ptr<BoundPlan>> bound =
      bind({*plan, call.count, call.dtype, op, config_.slot_bytes, by_reference_}, rank_);
  if (!bound) return bound.status();
  entry->bound = std::move(*bound);
  return entry;
}

Status Communicator::Impl::run_entry(Entry& entry, const Call& call) {
  record_.sequence += 1;
  record_.signature = entry.signature;
  record_.count = call.count;
  record_.collective = call.collective;
  record_.dtype = call.dtype;
  record_.op = call.reduction.op;
  record_.root = call.root;
  if (meeting_) {
    record_.signature = mix(entry.signature, k_meeting);
    record_.root = k_meeting;
  } else if (counting_.load(std::memory_order_relaxed) &&
             uncounted_.load(std::memory_order_relaxed) != std::this_thread::get_id()) {
    tally_->begun.fetch_add(1, std::memory_order_release);
  }
  late_reported_ = false;
  for (const auto& t : router_->transports()) t->announce(record_);
  if (log_.on(LogLevel::trace)) log_.write(LogLevel::trace, describe_call(record_));

  const void* send = call.send;
  const bool premul = call.reduction.op == ReduceOp::premul_sum;
  if ((premul || entry.stage_input) && call.count > 0 && send != nullptr) {
    const uint64_t elements = call.count * (has_blocks(call.collective, true) ? ranks_ : 1);
    const size_t bytes = elements * size_of(call.dtype);
    entry.staged.resize(bytes);
    if (premul) {
      kernels::scale(call.dtype, entry.staged.data(), send, elements, call.reduction.scalar_bits);
    } else {
      kernels::copy(entry.staged.data(), send, bytes);
    }
    send = entry.staged.data();
  }
  if (entry.copy_first && call.count > 0) {
    const size_t input = call.count * size_of(call.dtype);
    kernels::copy(call.recv, send, input);
    send = call.recv;
  }
  const uint64_t signature = mix(record_.signature, record_.sequence);
  const ReduceOp op = premul ? ReduceOp::sum : call.reduction.op;
  Status status;
  if (entry.shared && call.collective == Collective::barrier) {
    status = shared_->barrier(signature);
  } else if (entry.shared) {
    status = shared_->all_reduce(send, call.recv, call.count, call.dtype, op,
                                 op == ReduceOp::avg ? ranks_ : 0, signature);
  } else {
    status = executor_->run(
        *entry.bound, {static_cast<const std::byte*>(send), static_cast<std::byte*>(call.recv)},
        signature);
  }
  return settle(std::move(status), "");
}

Status Communicator::Impl::run_transfers(std::vector<Transfer> transfers) {
  if (group_depth_ > 0) {
    group_transfers_.insert(group_transfers_.end(), transfers.begin(), transfers.end());
    return {};
  }
  if (!messages_counted_) count_messages(transfers, {});
  return run_uncounted(std::move(transfers));
}

Status Communicator::Impl::run_uncounted(std::vector<Transfer> transfers) {
  return in_turn([this, transfers = std::move(transfers)] {
    return guarded([&] {
      Status status = exchange_->run(transfers);
      return settle(std::move(status), "send/recv");
    });
  });
}

Status Communicator::Impl::group_start() {
  ++group_depth_;
  return {};
}

Status Communicator::Impl::group_end() {
  if (group_depth_ == 0)
    return Status(Code::invalid_usage,
                  fmt::format("rank {}: group_end without group_start", rank_));
  if (--group_depth_ > 0) return {};
  std::vector<Transfer> transfers;
  std::vector<Call> calls;
  std::vector<DeviceOperation> on_device;
  transfers.swap(group_transfers_);
  calls.swap(group_calls_);
  on_device.swap(group_device_operations_);
  if (!messages_counted_) count_messages(transfers, on_device);
  if (!transfers.empty()) TUTTI_RETURN_IF_ERROR(run_uncounted(std::move(transfers)));
  for (const Call& call : calls) TUTTI_RETURN_IF_ERROR(run(call));
  return on_device.empty() ? Status() : enqueue_on_device(std::move(on_device));
}

// --- waiting: errors, abort, lateness, disagreement

Status Communicator::Impl::abortion() const {
  if (!abort_requested_.load(std::memory_order_acquire)) return {};
  std::lock_guard lock(error_mutex_);
  return Status(Code::aborted, fmt::format("rank {}: aborted: {}", rank_, abort_reason_));
}

Status Communicator::Impl::examine() {
  Status lost;
  for (const auto& t : router_->transports())
    if (Status s = t->progress(); !s.ok() && lost.ok()) lost = std::move(s);
  if (std::optional<Status> posted = adopted_error()) return *posted;
  return lost;
}

Status Communicator::Impl::check(Clock::duration waited, Rank waiting_for) {
  TUTTI_RETURN_IF_ERROR(abortion());
  TUTTI_RETURN_IF_ERROR(examine());
  if (waited > k_compare_after && waiting_for != rank_) {
    TUTTI_RETURN_IF_ERROR(bootstrap_->progress());
    TUTTI_RETURN_IF_ERROR(compare_calls(waiting_for, waited));
    TUTTI_RETURN_IF_ERROR(check_presence(waiting_for, waited));
  }
  return check_patience(waited, waiting_for, nullptr, &late_reported_);
}

Status Communicator::Impl::check_patience(Clock::duration waited, Rank waiting_for,
                                          const char* doing, bool* late) {
  if (wait_callback_ && waited > k_call_back_after) TUTTI_RETURN_IF_ERROR(wait_callback_());
  const double seconds = std::chrono::duration<double>(waited).count();
  const auto what = [&] { return doing != nullptr ? doing : describe_call(record_); };
  if (seconds > config_.late_after && !std::exchange(*late, true))
    report_late(waited, waiting_for, what());
  if (config_.timeout > 0 && seconds > config_.timeout)
    return Status(Code::timeout, fmt::format("rank {}: waited {:.1f} s for {} in {}", rank_,
                                             seconds, describe_peer(waiting_for), what()));
  return {};
}

void Communicator::Impl::block(Clock::duration timeout) {
  // With several transports, sleeping in one would be deaf to the others; short turns are fair.
  const auto& all = router_->transports();
  for (const auto& t : all) t->wait(timeout / static_cast<int>(all.size()));
}

// How long what a peer has sent may take to be seen here.
Clock::duration Communicator::Impl::on_its_way(Rank peer) const {
  return router_->capabilities(peer).pull ? k_left_behind_memory : k_left_behind_network;
}

// Whether this rank has known for some time of this very wait that the peer sends nothing more, and
// has looked for its messages since: what it sent before must have arrived. A look that finds a
// peer gone for the first time proves nothing, however long the wait: it may have sent and gone on
// while this rank had no CPU.
bool Communicator::Impl::known_to_be_over(Rank peer, bool gone, Clock::duration waited) {
  const Clock::time_point now = Clock::now();
  Sighting& sighting = sightings_[{peer, gone}];
  if (sighting.sequence != record_.sequence || sighting.at < now - waited) {
    sighting = {record_.sequence, now};
    return false;
  }
  return now - sighting.at > on_its_way(peer);
}

// A peer that is in the call of the same number, but another call, will never send what is
// expected; nor will one that has left this call behind, once what it sent must have arrived.
Status Communicator::Impl::compare_calls(Rank peer, Clock::duration waited) {
  tell_tallies();
  if (std::optional<Status> proof = contradiction(&record_)) return *proof;
  const std::optional<CallRecord> theirs = router_->transport(peer).peer_call(peer);
  if (!theirs || theirs->sequence < record_.sequence) return {};
  if (theirs->sequence > record_.sequence && waited > on_its_way(peer) &&
      known_to_be_over(peer, false, waited))
    return Status(Code::invalid_usage,
                  fmt::format("rank {} waits in {} for rank {}, which has left that call for {}",
                              rank_, describe_call(record_), peer, describe_call(*theirs)));
  if (theirs->sequence > record_.sequence || theirs->signature == record_.signature) return {};
  const auto side = [&](const CallRecord& one, const CallRecord& other) {
    const bool where = other.root == k_meeting && one.root != k_meeting;
    return describe_call(one) + (where ? " on host buffers" : "");
  };
  return Status(Code::invalid_usage,
                fmt::format("rank {} calls {}, but rank {} calls {}", rank_, side(record_, *theirs),
                            peer, side(*theirs, record_)));
}

// A peer that has said goodbye sends nothing more, once what it sent must have arrived.
Status Communicator::Impl::check_presence(Rank peer, Clock::duration waited) {
  if (waited <= on_its_way(peer)) return {};
  const std::vector<Rank> gone = router_->transport(peer).lost();
  if (std::find(gone.begin(), gone.end(), peer) == gone.end()) return {};
  if (!known_to_be_over(peer, true, waited)) return {};
  return Status(Code::remote_error, describe_peer(peer) + " has left the communicator");
}

void Communicator::Impl::report_late(Clock::duration waited, Rank waiting_for,
                                     const std::string& doing) {
  std::string text =
      fmt::format("rank {}: {} is late: {:.1f} s without progress, waiting for {}", rank_, doing,
                  std::chrono::duration<double>(waited).count(), describe_peer(waiting_for));
  if (std::optional<CallRecord> theirs = router_->transport(waiting_for).peer_call(waiting_for))
    text += fmt::format(", whose latest call is {}", describe_call(*theirs));
  std::function<void(const std::string&)> callback;
  {
    std::lock_guard lock(error_mutex_);
    callback = late_callback_;
  }
  warn(text);
  if (callback) callback(text);
}

std::string Communicator::Impl::describe_call(const CallRecord& r) const {
  if (r.sequence == 0) return "none yet";
  if (r.root == k_meeting) return "its first collective on device buffers";
  if (r.collective == Collective::barrier) return fmt::format("barrier #{}", r.sequence);
  std::string text =
      fmt::format("{} #{} of {} {}", name(r.collective), r.sequence, r.count, name(r.dtype));
  const bool reduces = r.collective == Collective::all_reduce ||
                       r.collective == Collective::reduce ||
                       r.collective == Collective::reduce_scatter;
  if (reduces) text += fmt::format(" {}", name(r.op));
  if (is_rooted(r.collective)) text += fmt::format(" root {}", r.root);
  return text;
}

std::string Communicator::Impl::describe_peer(Rank peer) const {
  if (peer >= peers_.host.size()) return fmt::format("peer {}", peer);
  return fmt::format("peer {} (host {}, pid {})", peer, peers_.host_names[peers_.host[peer]],
                     peers_.pid[peer]);
}

// --- the latch

// A peer that has given up this call owns its buffers again: what this rank has read from them may
// be anything. But it has posted its error before, so who finds none now has read the right bytes.
Status Communicator::Impl::settle(Status status, const char* what) {
  if (!status.ok()) return finish(std::move(status), what);
  if (!reads_peers_) return status;
  std::atomic_thread_fence(std::memory_order_acquire);
  for (const auto& t : router_->transports())
    if (t->capabilities().pull && t->posted_error()) return adopted_error().value_or(first_error());
  return status;
}

// A mismatch is told with both sides, as far as the peers' calls are known: at once in shared
// memory, over networks when they have answered.
Status Communicator::Impl::both_sides(Status mismatch) {
  const Clock::time_point enough = Clock::now() + k_answering;
  for (;;) {
    bool unknown = false;
    for (Rank r = 0; r < ranks_; ++r) {
      if (r == rank_) continue;
      if (Status both = compare_calls(r, {}); !both.ok()) return both;
      unknown |= !router_->transport(r).peer_call(r);
    }
    if (!unknown || Clock::now() > enough) return mismatch;
    bool answers = bootstrap_->progress().ok();
    for (const auto& t : router_->transports()) answers = t->progress().ok() && answers;
    // Whoever knew both sides first has told, and may answer no more.
    if (std::optional<Status> told = posted_mismatch()) return *told;
    if (!answers) return mismatch;
    block(std::chrono::milliseconds(1));
  }
}

std::optional<Status> Communicator::Impl::posted_mismatch() const {
  for (const auto& t : router_->transports())
    if (const std::optional<ErrorRecord> e = t->posted_error(); e && e->code == Code::invalid_usage)
      return Status(e->code, e->message);
  if (const std::optional<std::string> text = bootstrap_->posted_error())
    if (Status told = decode_error(*text); told.code() == Code::invalid_usage) return told;
  return std::nullopt;
}

// The caller learns which call failed; the first cause of all ranks wins.
Status Communicator::Impl::finish(Status status, const char* what) {
  if (broken_.load(std::memory_order_acquire)) return first_error();
  if (status.code() == Code::invalid_usage && *what == '\0') status = both_sides(std::move(status));
  // A peer that closed its connection may have said why before: the cause is worth more.
  if (status.code() == Code::remote_error)
    if (std::optional<Status> posted = adopted_error()) return *posted;
  // Messages of this rank begin with its name; a mismatch already names both sides.
  std::string message = status.message();
  if (message.rfind("rank ", 0) != 0) message = fmt::format("rank {}: {}", rank_, message);
  const std::string call = *what != '\0' ? what : describe_call(record_);
  if (status.code() != Code::aborted && message.find(call) == std::string::npos)
    message += fmt::format(" during {}", call);
  collect_lost();
  Rank culprit = rank_;
  {
    std::lock_guard lock(error_mutex_);
    if (status.code() == Code::remote_error && lost_.size() == 1) culprit = *lost_.begin();
  }
  return latch(Status(status.code(), message), culprit);
}

Status Communicator::Impl::latch(Status status, Rank culprit) {
  {
    std::lock_guard lock(error_mutex_);
    if (broken_.load(std::memory_order_relaxed)) return first_error_;
    first_error_ = status;
    broken_.store(true, std::memory_order_release);
  }
  warn(status.message());
  const ErrorRecord record{status.code(), rank_, culprit, status.message()};
  for (const auto& t : router_->transports()) t->post_error(record);
  bootstrap_->post_error(encode_error(status));
  return status;
}

// An error as it travels out of band: "6 rank 3: ...".
std::string Communicator::Impl::encode_error(const Status& status) {
  return fmt::format("{} {}", static_cast<int>(status.code()), status.message());
}

Status Communicator::Impl::decode_error(const std::string& text) {
  const size_t space = text.find(' ');
  const int code = std::atoi(text.c_str());
  const bool sound =
      space != std::string::npos && code > 0 && code <= static_cast<int>(Code::internal_error);
  return Status(sound ? static_cast<Code>(code) : Code::remote_error,
                sound ? text.substr(space + 1) : text);
}

// What another rank posted as the first cause, latched here too.
std::optional<Status> Communicator::Impl::adopted_error() {
  if (const std::string* record = bootstrap_->revoked()) return latch(decode_error(*record), rank_);
  for (const auto& t : router_->transports())
    if (std::optional<ErrorRecord> e = t->posted_error(); e && e->code != Code::ok) {
      if (e->code == Code::remote_error && e->culprit != e->reporter) {
        std::lock_guard lock(error_mutex_);
        lost_.insert(e->culprit);
      }
      return latch(Status(e->code, e->message), e->culprit);
    }
  if (std::optional<std::string> text = bootstrap_->posted_error())
    return latch(decode_error(*text), rank_);
  return std::nullopt;
}

Status Communicator::Impl::first_error() const {
  std::lock_guard lock(error_mutex_);
  return first_error_;
}

Status Communicator::Impl::error() {
  if (!broken() && usable().ok() && enter_beside()) {
    Status found = examine();
    if (found.ok()) found = bootstrap_->progress();
    if (found.ok() && channel_ != nullptr) found = channel_->error();
    if (!found.ok()) static_cast<void>(finish(std::move(found), "no call of this rank"));
    leave_call();
  }
  return first_error();
}

void Communicator::Impl::abort(const std::string& reason) {
  {
    std::lock_guard lock(error_mutex_);
    if (abort_requested_.load(std::memory_order_relaxed)) return;
    abort_reason_ = reason;
    abort_requested_.store(true, std::memory_order_release);
  }
  if (const auto device = device_rank()) device->device_path().stop();
  // A running call notices by itself; otherwise tell the peers from here.
  if (!enter_beside()) return;
  static_cast<void>(latch(abortion(), rank_));
  leave_call();
}

void Communicator::Impl::on_late(std::function<void(const std::string&)> callback) {
  std::lock_guard lock(error_mutex_);
  late_callback_ = std::move(callback);
}

std::string Communicator::Impl::explain(const Call& call, bool in_place) {
  if (Status bad = validate_shape(call); !bad.ok()) return bad.to_string();
  Result<Entry*> found = entry_for(call, key_of(call, in_place));
  return found ? explain(**found, call) : found.status().to_string();
}

std::string Communicator::Impl::transport_names() const {
  std::string names;
  for (const auto& t : router_->transports())
    names += (names.empty() ? "" : "+") + std::string(t->name());
  return names.empty() ? "memory" : names;
}

std::string Communicator::Impl::explain(const Entry& entry, const Call& call) const {
  const size_t bytes = call.count * size_of(call.dtype);
  const std::string where = transport_names();
  if (entry.shared && call.collective == Collective::barrier)
    return "barrier: flags in shared windows";
  if (entry.shared)
    return fmt::format("{} {} B: {} over {} ({})", name(call.collective), bytes,
                       shared_->one_shot(bytes) ? "direct_one_shot" : "direct_two_shot", where,
                       shared_->last_path());
  return fmt::format("{} {} B: {} over {}, {} round{}", name(call.collective), bytes,
                     entry.bound->request.plan->algorithm(), where, entry.bound->layout.rounds(),
                     entry.bound->layout.rounds() == 1 ? "" : "s");
}

}  // namespace tutti
