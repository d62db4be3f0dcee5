// LineTransport: endpoints, records in the arena, sleeping and saying goodbye.
#include "transports/line/line_transport.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <thread>

namespace tutti::line {
namespace {

constexpr uint32_t k_most_credits = 1 << 16;
// Beyond this many endpoints a sleeper does not look at all of them before it sleeps; what it
// misses it sees k_longest_sleep later.
constexpr size_t k_most_scanned = 256;

constexpr size_t k_call_words = sizeof(CallCell::words) / sizeof(uint64_t);
static_assert(sizeof(CallRecord) <= sizeof(CallCell::words));

}  // namespace

LineTransport::LineTransport(const TransportOptions& options)
    : options_(options), pid_(::getpid()) {}

LineTransport::~LineTransport() = default;

bool LineTransport::in_forked_child() const { return ::getpid() != pid_; }

Status LineTransport::check_usable(const char* what) const {
  if (in_forked_child()) {
    return Status(Code::invalid_usage, std::string(what) + " in a forked child (pid " +
                                           std::to_string(::getpid()) +
                                           "): the communicator of rank " + std::to_string(rank()) +
                                           " belongs to pid " + std::to_string(pid_));
  }
  if (closed_) return Status(Code::invalid_usage, std::string(what) + " after close()");
  return {};
}

// --- endpoints

Endpoint* LineTransport::find(Rank peer, uint32_t lane) {
  auto it = endpoints_.find({peer, lane});
  return it == endpoints_.end() ? nullptr : it->second.get();
}

Result<Endpoint*> LineTransport::open(Rank peer, uint32_t lane, const EndpointOptions& options) {
  TUTTI_RETURN_IF_ERROR(check_usable("open()"));
  if (!connected_ || peer >= options_.ranks || peer == rank() || !reaches(peer)) {
    return Status(Code::invalid_argument, std::string(name()) + ": rank " + std::to_string(rank()) +
                                              " does not reach rank " + std::to_string(peer));
  }
  const uint32_t small_credits = std::max(options.credits, options.small_credits);
  if (options.credits == 0 || small_credits > k_most_credits) {
    return Status(Code::invalid_argument, "credits must be 1.." + std::to_string(k_most_credits) +
                                              ", not " + std::to_string(options.credits) + " and " +
                                              std::to_string(options.small_credits));
  }
  if (Endpoint* known = find(peer, lane)) return known;

  const uint32_t lines = std::bit_ceil(small_credits);
  auto offset = arena_->allocate(sizeof(Channel) + lines * sizeof(Line));
  if (!offset) return offset.status();
  auto* channel = new (arena_->at(*offset)) Channel{};
  std::atomic<uint32_t>& first = arena_->first_channel(peer);
  channel->next.store(first.load(std::memory_order_relaxed), std::memory_order_relaxed);
  channel->lane = lane;
  channel->credits = options.credits;
  channel->small_credits = small_credits;
  channel->ring = lines;
  channel->slot_bytes = options.slot_bytes;
  first.store(static_cast<uint32_t>(*offset / sizeof(Line)), std::memory_order_release);

  auto endpoint = std::make_unique<LineEndpoint>(*this, peer, *channel, options.slot_bytes);
  if (auto lost = gone_.find(peer); lost != gone_.end()) endpoint->break_with(lost->second);
  Endpoint* made = endpoint.get();
  endpoints_.emplace(std::pair{peer, lane}, std::move(endpoint));
  return made;
}

// --- life and death

Status LineTransport::check_life(Rank peer) {
  if (auto lost = gone_.find(peer); lost != gone_.end()) return lost->second;
  switch (arena_of(peer)->control().life.load(std::memory_order_acquire)) {
    case Life::closed:
      lose(peer, Status(Code::remote_error, name_of(peer) + " closed the connection"), false);
      break;
    case Life::dropped:
      lose(peer, Status(Code::remote_error, name_of(peer) + " left without saying goodbye"), true);
      break;
    default:
      return {};
  }
  return gone_[peer];
}

void LineTransport::look_after(LineEndpoint& endpoint) {
  if (Status s = check_life(endpoint.peer()); !s.ok()) endpoint.break_with(std::move(s));
}

void LineTransport::lose(Rank peer, Status status, bool dead) {
  if (!gone_.emplace(peer, status).second) return;
  for (auto it = endpoints_.lower_bound({peer, 0});
       it != endpoints_.end() && it->first.first == peer; ++it) {
    it->second->break_with(status);
  }
  if (dead && first_death_.ok()) first_death_ = std::move(status);
}

std::vector<Rank> LineTransport::lost() const {
  std::vector<Rank> peers;
  for (Rank peer = 0; peer < options_.ranks; ++peer) {
    if (peer == rank() || arena_ == nullptr || !reaches(peer)) continue;
    // An orderly goodbye is told to nobody: it is looked for here.
    const bool left =
        !closed_ && arena_of(peer)->control().life.load(std::memory_order_acquire) == Life::closed;
    if (left || gone_.contains(peer)) peers.push_back(peer);
  }
  return peers;
}

Status LineTransport::progress() {
  if (arena_ == nullptr || closed_) return {};
  const uint32_t mail = arena_->bell().mail.load(std::memory_order_acquire);
  if (mail != mail_seen_) {
    mail_seen_ = mail;
    look_around();
  }
  return first_death_;
}

void LineTransport::wait(Clock::duration timeout) {
  if (arena_ == nullptr || closed_) return;
  Bell& bell = arena_->bell();
  const uint32_t seen = bell.word.load(std::memory_order_acquire);
  bell.sleeping.store(1, std::memory_order_seq_cst);
  bool news = bell.mail.load(std::memory_order_acquire) != mail_seen_;
  const bool scanned = endpoints_.size() <= k_most_scanned;
  if (scanned) news |= any_news();
  if (!news) {
    // Who sleeps in vain makes sure that nobody can miss that it sleeps, and then sleeps long: a
    // thousand idle ranks that looked up every 2 ms would keep the CPUs from the one that works.
    const bool certain = slept_in_vain_ && scanned && fence_peers() && !any_news();
    slept_in_vain_ = sleep_on(bell, seen, certain ? timeout : std::min(timeout, k_longest_sleep));
  }
  bell.sleeping.store(0, std::memory_order_relaxed);
}

bool LineTransport::any_news() const {
  return std::any_of(endpoints_.begin(), endpoints_.end(),
                     [](const auto& entry) { return entry.second->has_news(); });
}

void LineTransport::wake_peers() {
  for (auto& [key, endpoint] : endpoints_) ring(arena_of(key.first)->bell());
}

void LineTransport::send_mail(Rank peer) {
  Bell& bell = arena_of(peer)->bell();
  bell.mail.fetch_add(1, std::memory_order_acq_rel);
  ring(bell);
}

void LineTransport::say_goodbye(Life life) {
  if (arena_ == nullptr || closed_ || in_forked_child()) return;
  closed_ = true;
  arena_->control().life.store(life, std::memory_order_release);
  if (!connected_) return;
  if (life == Life::dropped) {
    for (Rank peer = 0; peer < options_.ranks; ++peer) {
      if (peer != rank() && reaches(peer)) send_mail(peer);
    }
  } else {
    wake_peers();
  }
}

void LineTransport::close(Deadline deadline) {
  if (closed_ || in_forked_child()) return;
  // Lines and slots outlive this rank in its arena; only memory that peers read in place must wait.
  auto reading = [&] {
    return std::any_of(endpoints_.begin(), endpoints_.end(), [](const auto& entry) {
      return entry.second->refs_outstanding() && !entry.second->broken();
    });
  };
  while (connected_ && reading() && Clock::now() < deadline) {
    for (auto& [key, endpoint] : endpoints_) look_after(*endpoint);
    (void)progress();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  say_goodbye(Life::closed);
}

// --- agreement and errors

void LineTransport::announce(const CallRecord& record) {
  if (arena_ == nullptr || closed_) return;
  CallCell& cell = arena_->control().call;
  uint64_t words[k_call_words] = {};
  std::memcpy(words, &record, sizeof record);
  const uint32_t version = cell.version.load(std::memory_order_relaxed);
  cell.version.store(version + 1, std::memory_order_relaxed);
  // Release on each word: who reads a new word also sees the odd version before it.
  for (size_t i = 0; i < k_call_words; ++i) {
    cell.words[i].store(words[i], std::memory_order_release);
  }
  cell.version.store(version + 2, std::memory_order_release);
}

std::optional<CallRecord> LineTransport::peer_call(Rank peer) {
  if (!connected_ || peer >= options_.ranks || (peer != rank() && !reaches(peer))) return {};
  CallCell& cell = arena_of(peer)->control().call;
  for (int attempt = 0; attempt < 1000; ++attempt) {
    const uint32_t before = cell.version.load(std::memory_order_acquire);
    uint64_t words[k_call_words];
    for (size_t i = 0; i < k_call_words; ++i) {
      words[i] = cell.words[i].load(std::memory_order_acquire);
    }
    if (before % 2 != 0 || cell.version.load(std::memory_order_relaxed) != before) continue;
    if (before == 0) return {};
    CallRecord record;
    std::memcpy(&record, words, sizeof record);
    return record;
  }
  return {};
}

void LineTransport::post_error(const ErrorRecord& record) {
  if (arena_ == nullptr || !connected_ || closed_ || error_posted_) return;
  error_posted_ = true;  // the first cause wins
  ErrorCell& cell = arena_->control().error;
  cell.code = static_cast<uint32_t>(record.code);
  cell.reporter = record.reporter;
  cell.culprit = record.culprit;
  cell.length = static_cast<uint32_t>(std::min(record.message.size(), sizeof cell.message));
  std::memcpy(cell.message, record.message.data(), cell.length);
  cell.posted.store(1, std::memory_order_release);
  for (Rank peer = 0; peer < options_.ranks; ++peer) {
    if (peer == rank() || !reaches(peer)) continue;
    Bell& bell = arena_of(peer)->bell();
    uint32_t nobody = 0;
    bell.error_from.compare_exchange_strong(nobody, rank() + 1, std::memory_order_acq_rel);
    ring(bell);
  }
}

std::optional<ErrorRecord> LineTransport::posted_error() {
  if (arena_ == nullptr || !connected_) return {};
  const uint32_t from = arena_->bell().error_from.load(std::memory_order_acquire);
  if (from == 0 || from > options_.ranks || !reaches(from - 1)) return {};
  const ErrorCell& cell = arena_of(from - 1)->control().error;
  if (cell.posted.load(std::memory_order_acquire) == 0) return {};
  ErrorRecord record;
  record.code = static_cast<Code>(cell.code);
  record.reporter = cell.reporter;
  record.culprit = cell.culprit;
  record.message.assign(cell.message, std::min<size_t>(cell.length, sizeof cell.message));
  return record;
}

std::byte* LineTransport::window(Rank peer) {
  if (!connected_ || peer >= options_.ranks || (peer != rank() && !reaches(peer))) return nullptr;
  return arena_of(peer)->window(options_.ranks);
}

}  // namespace tutti::line
