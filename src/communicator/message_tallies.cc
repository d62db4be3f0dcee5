#include "src/communicator/message_tallies.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace tutti {
namespace {

uint32_t on_host(uint64_t tally) { return static_cast<uint32_t>(tally); }
uint32_t on_device(uint64_t tally) { return static_cast<uint32_t>(tally >> 32); }
// Whether number a comes after b; numbers may wrap.
bool after(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) > 0; }
uint32_t earlier(uint32_t a, uint32_t b) { return after(a, b) ? b : a; }

// Of a pair, as it travels.
struct Told {
  uint32_t peer;
  uint64_t sent, received;
};
constexpr size_t k_told = 20;

}  // namespace

void MessageTallies::add(Rank peer, bool sends, uint64_t messages) {
  if (peer == rank_ || peer >= ranks_) return;
  Cell& cell = peers_[peer].mine[sends ? 0 : 1];
  for (uint64_t before = cell.load(), more = 0; before != k_not_compared;) {
    // The halves do not carry into each other.
    more = uint64_t{on_device(before) + on_device(messages)} << 32 |
           (on_host(before) + on_host(messages));
    if (cell.compare_exchange_weak(before, more)) break;
  }
  publish(peer, sends);
}

void MessageTallies::leave_out(Rank peer) {
  if (peer == rank_ || peer >= ranks_) return;
  for (const bool sends : {true, false}) {
    peers_[peer].mine[sends ? 0 : 1].store(k_not_compared);
    publish(peer, sends);
  }
}

void MessageTallies::leave_out_all() {
  for (Rank r = 0; r < ranks_; ++r) leave_out(r);
}

// show() and a caller may publish one cell at a time: the one that stores last has seen the latest.
void MessageTallies::publish(Rank peer, bool sends) {
  Cell* const cells = cells_.load();
  if (cells == nullptr) return;
  const Cell& mine = peers_[peer].mine[sends ? 0 : 1];
  for (uint64_t value = mine.load();;) {
    cells[2 * peer + (sends ? 0 : 1)].store(value);
    const uint64_t now = mine.load();
    if (now == value) return;
    value = now;
  }
}

void MessageTallies::show(std::shared_ptr<std::byte> memory) {
  if (shown()) return;
  shown_ = std::move(memory);
  cells_.store(reinterpret_cast<Cell*>(shown_.get()));
  for (Rank r = 0; r < ranks_; ++r)
    for (const bool sends : {true, false}) publish(r, sends);
}

void MessageTallies::compare(Rank peer, std::shared_ptr<std::byte> theirs) {
  Peer& p = peers_[peer];
  if (peer == rank_ || p.theirs.load() != nullptr) return;
  if (theirs == nullptr) {
    p.hears.store(true);
    hears_.store(true, std::memory_order_release);
    p.theirs.store(p.heard, std::memory_order_release);
  } else {
    p.theirs.store(reinterpret_cast<const Cell*>(theirs.get()) + 2 * rank_,
                   std::memory_order_release);
    seen_.push_back(std::move(theirs));
  }
  compares_.store(true, std::memory_order_release);
}

std::string MessageTallies::told(size_t room) const {
  std::string text;
  for (Rank r = 0; r < ranks_ && text.size() + k_told <= room; ++r) {
    const Peer& p = peers_[r];
    const uint64_t sent = p.mine[0].load(), received = p.mine[1].load();
    if (!p.hears.load() || (sent == 0 && received == 0)) continue;
    text.append(reinterpret_cast<const char*>(&r), 4);
    text.append(reinterpret_cast<const char*>(&sent), 8);
    text.append(reinterpret_cast<const char*>(&received), 8);
  }
  return text;
}

void MessageTallies::hear(Rank from, std::string_view told) {
  if (from >= ranks_) return;
  for (; told.size() >= k_told; told.remove_prefix(k_told)) {
    Told one{};
    std::memcpy(&one.peer, told.data(), 4);
    std::memcpy(&one.sent, told.data() + 4, 8);
    std::memcpy(&one.received, told.data() + 12, 8);
    if (one.peer != rank_) continue;
    peers_[from].heard[0].store(one.sent);
    peers_[from].heard[1].store(one.received);
  }
}

std::optional<Status> MessageTallies::compare_way(Rank peer, bool sends) const {
  const Cell* const all = peers_[peer].theirs.load(std::memory_order_acquire);
  if (all == nullptr) return std::nullopt;
  const uint64_t mine = peers_[peer].mine[sends ? 0 : 1].load(), theirs = all[sends ? 1 : 0].load();
  if (mine == k_not_compared || theirs == k_not_compared) return std::nullopt;
  const bool here =
      after(on_host(mine), on_host(theirs)) && after(on_device(theirs), on_device(mine));
  const bool there =
      after(on_host(theirs), on_host(mine)) && after(on_device(mine), on_device(theirs));
  if (!here && !there) return std::nullopt;
  // Of the messages that both have made one of another kind has come by then.
  const uint32_t number =
      earlier(on_host(mine), on_host(theirs)) + earlier(on_device(mine), on_device(theirs)) + 1;
  const Rank from = sends ? rank_ : peer, to = sends ? peer : rank_;
  const bool host_sends = here == sends;
  return Status(Code::invalid_usage,
                fmt::format("rank {} sends message {} to rank {} from {} memory, but rank {} "
                            "receives it into {} memory",
                            from, number, to, host_sends ? "host" : "device", to,
                            host_sends ? "device" : "host"));
}

std::optional<Status> MessageTallies::contradiction() const {
  if (!compares_.load(std::memory_order_acquire)) return std::nullopt;
  for (Rank r = 0; r < ranks_; ++r)
    for (const bool sends : {true, false})
      if (std::optional<Status> proof = compare_way(r, sends)) return proof;
  return std::nullopt;
}

}  // namespace tutti
