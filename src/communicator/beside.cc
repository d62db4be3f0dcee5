// What goes on beside a communicator's calls: looking at the peers from a watchdog's thread, and
// the tallies by which ranks find out that one of them made a call on device buffers where another
// made it on host buffers. Neither of the two would ever hear from the other: one waits in a
// kernel, the other in the CPU executor.
//
// Consistent ranks make the same calls in the same order, so that of any two tallies (calls on
// host buffers, calls on device buffers) one is at least the other in both. Two that are not prove
// the contradiction, whenever they are read.
#include <fmt/format.h>

#include <cstring>
#include <map>
#include <set>

#include "src/communicator/impl.h"
#include "src/cuda/runtime.h"

namespace tutti {
namespace {

constexpr int k_device_shift = 32;

uint32_t host_calls(uint64_t begun) { return static_cast<uint32_t>(begun); }
uint32_t device_calls(uint64_t begun) { return static_cast<uint32_t>(begun >> k_device_shift); }
// Whether number a comes after b; numbers may wrap.
bool after(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) > 0; }

}  // namespace

// --- looking

Status Communicator::Impl::look(std::vector<Rank>* gone) {
  if (usable().ok() && enter_beside()) {
    for (const auto& t : router_->transports()) static_cast<void>(t->progress());
    static_cast<void>(bootstrap_->progress());
    collect_lost();
    static_cast<void>(adopted_error());
    leave_call();
  }
  tell_tallies();
  *gone = known_lost();
  return first_error();
}

std::vector<Rank> Communicator::Impl::known_lost() {
  std::set<Rank> ranks;
  {
    std::lock_guard lock(error_mutex_);
    ranks = lost_;
  }
  bootstrap_->consult(
      [&](Council& council) { ranks.insert(council.gone().begin(), council.gone().end()); });
  ranks.erase(rank_);
  return {ranks.begin(), ranks.end()};
}

bool Communicator::Impl::fail(const Status& status, Rank culprit) {
  if (broken()) return true;
  if (!enter_beside()) return false;
  static_cast<void>(latch(status, culprit));
  leave_call();
  return true;
}

Status Communicator::Impl::lost_during_device_call(Rank peer, const Status& connection) const {
  const std::string what = connection.ok() ? describe_peer(peer) + " is gone"
                                           : fmt::format("the connection to {} broke ({})",
                                                         describe_peer(peer), connection.message());
  // Messages are not counted.
  const std::string during =
      counting_.load(std::memory_order_acquire)
          ? fmt::format(" during or after {}", describe_call(device_record(*tally_)))
          : std::string();
  return Status(
      Code::remote_error,
      fmt::format("rank {}: {}; a kernel waited for it{} on device buffers", rank_, what, during));
}

// --- tallies

Status Communicator::Impl::gather_for_devices(const void* mine, void* all, size_t bytes) {
  const Call call{Collective::all_gather, mine, all, bytes, DType::int8, {}, 0};
  auto body = [this, call] {
    meeting_ = true;
    Status status = execute(call);
    meeting_ = false;
    return status;
  };
  if (pending_.load(std::memory_order_acquire) != 0 && !on_worker()) return submit(body).wait();
  return body();
}

Communicator::Impl::Shareable Communicator::Impl::shareable_memory(size_t bytes) {
  // Without shared memory only ranks of this process see it.
  Shareable mine;
  auto* memory = static_cast<std::byte*>(mem_alloc(bytes));
  mine.segment = memory != nullptr;
  if (memory == nullptr) {
    mine.memory =
        std::shared_ptr<std::byte>(new std::byte[bytes], std::default_delete<std::byte[]>());
  } else {
    mine.memory =
        std::shared_ptr<std::byte>(memory, [](std::byte* p) { static_cast<void>(mem_free(p)); });
  }
  std::memset(mine.memory.get(), 0, bytes);
  return mine;
}

Communicator::Impl::MemoryOffer Communicator::Impl::offer_memory(uint64_t process,
                                                                 const Shareable& mine,
                                                                 size_t bytes, Rank to) const {
  MemoryOffer offer{process, 0, &mine.memory, {}};
  if (ranks_ == 1 || !mine.segment) return offer;
  Transport& transport = router_->transport(to);
  // Where it cannot be described, peers do without.
  const Result<MemoryRef> ref = transport.describe(mine.memory.get(), bytes);
  if (!ref) return offer;
  offer.transport = std::hash<std::string_view>()(transport.name());
  offer.memory = *ref;
  return offer;
}

std::shared_ptr<std::byte> Communicator::Impl::see_memory(Rank of, const MemoryOffer& mine,
                                                          const MemoryOffer& theirs, size_t bytes) {
  if (theirs.process == mine.process) return *theirs.here;
  if (theirs.transport == 0 || theirs.transport != mine.transport) return nullptr;
  const Result<void*> mapped = router_->transport(of).map(of, theirs.memory, bytes);
  if (!mapped || *mapped == nullptr) return nullptr;
  // The transport keeps the mapping as long as it lives.
  return {std::shared_ptr<void>(), static_cast<std::byte*>(*mapped)};
}

Result<std::vector<std::shared_ptr<std::byte>>> Communicator::Impl::share_memory(uint64_t process,
                                                                                 size_t bytes) {
  return share_memory(process, shareable_memory(bytes), bytes);
}

Result<std::vector<std::shared_ptr<std::byte>>> Communicator::Impl::share_memory(
    uint64_t process, const Shareable& own, size_t bytes) {
  // Ranks of this host first: those of others see it by no transport.
  Rank any = rank_ == 0 ? 1 : 0;
  for (Rank r = 0; r < ranks_; ++r)
    if (r != rank_ && peers_.host[r] == peers_.host[rank_]) any = r;
  const MemoryOffer mine = offer_memory(process, own, bytes, any);
  std::vector<MemoryOffer> all(ranks_);
  TUTTI_RETURN_IF_ERROR(gather_for_devices(&mine, all.data(), sizeof mine));
  std::vector<std::shared_ptr<std::byte>> seen(ranks_);
  for (Rank r = 0; r < ranks_; ++r)
    seen[r] = r == rank_ ? own.memory : see_memory(r, mine, all[r], bytes);
  // No rank may give up its memory before the others have taken it.
  char done = 0;
  std::vector<char> ignored(ranks_);
  TUTTI_RETURN_IF_ERROR(gather_for_devices(&done, ignored.data(), 1));
  return seen;
}

// Zeroes are a tally.
Status Communicator::Impl::open_tallies(uint64_t process) {
  auto seen = share_memory(process, sizeof(CallTally));
  if (!seen) return seen.status();
  peer_tallies_.clear();
  for (Rank r = 0; r < ranks_; ++r) {
    const std::shared_ptr<std::byte>& memory = (*seen)[r];
    if (memory == nullptr) {
      heard_tallies_[r] = std::make_shared<CallTally>();
      peer_tallies_.push_back(heard_tallies_[r]);
    } else {
      peer_tallies_.push_back({memory, reinterpret_cast<const CallTally*>(memory.get())});
    }
  }
  tally_ = {(*seen)[rank_], reinterpret_cast<CallTally*>((*seen)[rank_].get())};
  peer_tallies_[rank_] = nullptr;
  return {};
}

// By letters, which cost connections: only ranks that wait write them, once a call. Any tally that
// a rank ever had will do for a comparison.
void Communicator::Impl::tell_tallies() {
  const bool calls = counting_.load(std::memory_order_acquire) && !heard_tallies_.empty();
  if (!calls && !messages_->tells()) return;
  uint64_t mine[3] = {};
  if (calls) {
    mine[0] = tally_->begun.load(std::memory_order_acquire);
    mine[1] = tally_->device_kind.load(std::memory_order_relaxed);
    mine[2] = tally_->device_count.load(std::memory_order_relaxed);
  }
  std::string note(reinterpret_cast<const char*>(mine), sizeof mine);
  note += messages_->told(Council::k_most_note - sizeof mine);
  std::map<Rank, std::string> notes;
  bootstrap_->consult([&](Council& council) {
    if (note != told_note_) council.note(note);
    told_note_ = note;
    notes = council.notes();
  });
  for (const auto& [rank, text] : notes) {
    uint64_t theirs[3];
    if (text.size() < sizeof theirs) continue;
    messages_->hear(rank, std::string_view(text).substr(sizeof theirs));
    if (!calls) continue;
    const auto known = heard_tallies_.find(rank);
    if (known == heard_tallies_.end()) continue;
    std::memcpy(theirs, text.data(), sizeof theirs);
    known->second->device_kind.store(theirs[1], std::memory_order_relaxed);
    known->second->device_count.store(theirs[2], std::memory_order_relaxed);
    known->second->begun.store(theirs[0], std::memory_order_release);
  }
}

CallRecord Communicator::Impl::device_record(const CallTally& tally) {
  CallRecord record;
  const uint64_t kind = tally.device_kind.load(std::memory_order_relaxed);
  record.sequence = device_calls(tally.begun.load(std::memory_order_relaxed));
  record.count = tally.device_count.load(std::memory_order_relaxed);
  record.collective = static_cast<Collective>(kind & 0xff);
  record.dtype = static_cast<DType>(kind >> 8 & 0xff);
  record.op = static_cast<ReduceOp>(kind >> 16 & 0xff);
  record.root = static_cast<Rank>(kind >> 32);
  return record;
}

void Communicator::Impl::tally_device_call(const Call& call) {
  if (!counting_.load(std::memory_order_acquire)) return;
  tally_->device_kind.store(
      static_cast<uint64_t>(call.collective) | static_cast<uint64_t>(call.dtype) << 8 |
          static_cast<uint64_t>(call.reduction.op) << 16 | uint64_t{call.root} << 32,
      std::memory_order_relaxed);
  tally_->device_count.store(call.count, std::memory_order_relaxed);
  tally_->begun.fetch_add(uint64_t{1} << k_device_shift, std::memory_order_release);
}

std::optional<Status> Communicator::Impl::contradiction(const CallRecord* host_call) const {
  if (std::optional<Status> proof = messages_->contradiction()) return proof;
  if (!counting_.load(std::memory_order_acquire)) return std::nullopt;
  const uint64_t mine = tally_->begun.load(std::memory_order_acquire);
  for (Rank r = 0; r < ranks_; ++r) {
    if (peer_tallies_[r] == nullptr) continue;
    const uint64_t theirs = peer_tallies_[r]->begun.load(std::memory_order_acquire);
    const bool more_host = after(host_calls(mine), host_calls(theirs)),
               more_device = after(device_calls(mine), device_calls(theirs));
    const bool less_host = after(host_calls(theirs), host_calls(mine)),
               less_device = after(device_calls(theirs), device_calls(mine));
    if (more_host && less_device)
      return Status(
          Code::invalid_usage,
          fmt::format("rank {} calls {} on host buffers, but rank {} calls {} on device buffers",
                      rank_, host_call == nullptr ? "a collective" : describe_call(*host_call), r,
                      describe_call(device_record(*peer_tallies_[r]))));
    if (less_host && more_device)
      return Status(Code::invalid_usage,
                    fmt::format("rank {} calls {} on device buffers, but rank {} calls a "
                                "collective on host buffers",
                                rank_, describe_call(device_record(*tally_)), r));
  }
  return std::nullopt;
}

// --- messages

namespace {

// Messages of a captured call run when the graph is launched. A stream that does not say is one.
bool may_be_captured(cuda::Stream stream) {
  const Result<std::shared_ptr<cuda::Runtime>> runtime = cuda::Runtime::of_process();
  if (!runtime) return true;
  const Result<bool> capturing = (*runtime)->capturing(stream);
  return !capturing || *capturing;
}

}  // namespace

void Communicator::Impl::count_messages(std::span<const Transfer> on_host,
                                        std::span<const DeviceOperation> on_device) {
  // What a program submits for later runs beside its other calls.
  const bool later = on_worker();
  const auto sends = [](const Transfer& t) { return t.direction == Transfer::Direction::send; };
  if (on_device.empty() && on_host.size() == 1 && !later) {
    const Transfer& t = on_host[0];
    if (t.bytes > 0) messages_->add(t.peer, sends(t), MessageTallies::k_on_host);
    return;
  }
  std::map<std::pair<Rank, bool>, uint64_t> counts;
  for (const Transfer& t : on_host)
    if (t.bytes > 0) counts[{t.peer, sends(t)}] += MessageTallies::k_on_host;
  std::set<Rank> left_out;
  for (const DeviceOperation& op : on_device) {
    if (!op.transfer() || op.count == 0) continue;
    counts[{op.root, op.sends}] += MessageTallies::k_on_device;
    if (may_be_captured(op.stream)) left_out.insert(op.root);
  }
  for (const auto& [way, count] : counts)
    if (later || left_out.count(way.first) > 0) {
      messages_->leave_out(way.first);
    } else {
      messages_->add(way.first, way.second, count);
    }
}

Communicator::Impl::MemoryOffer Communicator::Impl::offer_messages(uint64_t process, Rank to) {
  const size_t bytes = MessageTallies::bytes(ranks_);
  if (!messages_->shown()) {
    message_memory_ = shareable_memory(bytes);
    messages_->show(message_memory_.memory);
  }
  return offer_memory(process, message_memory_, bytes, to);
}

Status Communicator::Impl::compare_messages(uint64_t process) {
  static_cast<void>(offer_messages(process, rank_ == 0 ? 1 : 0));
  auto seen = share_memory(process, message_memory_, MessageTallies::bytes(ranks_));
  if (!seen) return seen.status();
  for (Rank r = 0; r < ranks_; ++r) messages_->compare(r, std::move((*seen)[r]));
  return {};
}

}  // namespace tutti
