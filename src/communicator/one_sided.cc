// One-sided calls: windows, puts, signals; see communicator.h and one_sided_channel.h.
#include <fmt/format.h>

#include <algorithm>

#include "src/base/cpus.h"
#include "src/communicator/one_sided_channel.h"

namespace tutti {
namespace {

// Polls of the serving thread that only yield after something came.
constexpr uint32_t k_yields = 64;
constexpr Clock::duration k_first_sleep = std::chrono::microseconds(50);
constexpr Clock::duration k_longest_sleep = std::chrono::milliseconds(2);
// A poll looks at every peer.
constexpr Clock::duration k_sleep_per_peer = std::chrono::microseconds(20);
// What ranks raise at each other when they connect; taken before any other call.
constexpr uint64_t k_hello = ~uint64_t{0};
constexpr const char* k_idle = "no call of this rank";

}  // namespace

struct Window::State {
  std::shared_ptr<const int> owner;  // of the communicator that it belongs to
  uint32_t number = 0;
  std::vector<size_t> bytes;  // by rank
  // Where peers reach it; null when no rank offers any.
  Communicator::Impl::OneSidedChannel* channel = nullptr;
  std::atomic<bool> registered{true};
};

size_t Window::bytes(Rank rank) const {
  return state_ == nullptr || rank >= state_->bytes.size() ? 0 : state_->bytes[rank];
}

// --- the channel

Communicator::Impl::OneSidedChannel::OneSidedChannel(Impl& owner, std::unique_ptr<Impl> carrier)
    : owner_(owner), carrier_(std::move(carrier)), engine_(*carrier_->router_) {}

Status Communicator::Impl::OneSidedChannel::open() {
  TUTTI_RETURN_IF_ERROR(engine_.open());
  // All connections are up before any rank can leave.
  Signals hellos;
  for (Rank r = 0; r < carrier_->ranks_; ++r) {
    TUTTI_RETURN_IF_ERROR(put({r, 0, 0, nullptr, 0, k_hello}));
    hellos[{r, k_hello}] = 1;
  }
  TUTTI_RETURN_IF_ERROR(wait(hellos));
  if (carrier_->ranks_ == 1) return {};
  Result<std::thread> thread = start_thread([this] { serve(); });
  if (!thread) return thread.status();
  server_ = std::move(*thread);
  return {};
}

void Communicator::Impl::OneSidedChannel::close(Clock::duration patience, bool forked) {
  if (forked) {  // the thread and whoever held the lock are the parent's
    if (server_.joinable()) server_.detach();
    static_cast<void>(carrier_->finalize(patience));
    return;
  }
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_->notify_one();
  if (server_.joinable()) server_.join();
  std::lock_guard lock(mutex_);
  static_cast<void>(carrier_->finalize(patience));
}

// Ranks that outnumber the CPUs look less often, so that the idle ones leave them to the others.
Clock::duration Communicator::Impl::OneSidedChannel::longest_sleep() const {
  const auto here = static_cast<uint32_t>(std::count(
      owner_.peers_.host.begin(), owner_.peers_.host.end(), owner_.peers_.host[owner_.rank_]));
  return k_longest_sleep * std::clamp(here / std::max(1u, available_cpus()), 1u, 50u) +
         k_sleep_per_peer * owner_.ranks_;
}

void Communicator::Impl::OneSidedChannel::serve() {
  const Clock::duration longest = longest_sleep();
  uint32_t idle = 0;
  Clock::duration sleep = k_first_sleep;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    bool moved = false;
    Status status = engine_.progress(&moved);
    if (status.ok() && !moved) status = carrier_->examine();
    if (!status.ok()) {
      static_cast<void>(carrier_->finish(std::move(status), k_idle));
      return;
    }
    if (moved) idle = 0;
    if (++idle < k_yields) {
      lock.unlock();
      sched_yield();
      lock.lock();
      sleep = k_first_sleep;
    } else {
      stop_->wait_for(lock, sleep, [this] { return stopping_; });
      sleep = std::min(sleep * 2, longest);
    }
  }
}

template <class Step>
Status Communicator::Impl::OneSidedChannel::drive(const char* what, Rank waiting_for, Step&& step) {
  std::lock_guard lock(mutex_);
  TUTTI_RETURN_IF_ERROR(error());
  doing_ = what;
  waiting_for_ = waiting_for;
  late_ = false;
  Waiter waiter(carrier_->policy_, *this);
  while (true) {
    bool moved = false;
    Status status = engine_.progress(&moved);
    if (status.ok() && step(&moved, &status) == Io::done) return {};
    if (status.ok() && moved) {
      waiter.moved();
      status = owner_.abortion();
    } else if (status.ok()) {
      status = waiter.idle(waiting_for_);
    }
    if (!status.ok()) return carrier_->finish(std::move(status), what);
  }
}

Status Communicator::Impl::OneSidedChannel::put(const Put& put) {
  const char* what = put.bytes == 0 ? "signal" : "put_signal";
  bool started = false;
  return drive(what, put.peer, [&](bool* moved, Status* status) {
    if (!std::exchange(started, true)) engine_.start(put);
    const Io io = engine_.advance(moved);
    if (io == Io::failed) *status = engine_.failure();
    return io;
  });
}

Status Communicator::Impl::OneSidedChannel::wait(const Signals& wanted) {
  if (wanted.empty()) return {};
  TUTTI_RETURN_IF_ERROR(
      drive("wait_signals", wanted.begin()->first.first, [&](bool*, Status* status) {
        return engine_.take(wanted) ? Io::done : find_absent(wanted, status);
      }));
  std::lock_guard lock(mutex_);
  return carrier_->settle(Status(), "wait_signals");
}

// failed: somebody who has left is still to raise a signal.
Io Communicator::Impl::OneSidedChannel::find_absent(const Signals& wanted, Status* status) {
  for (const auto& [key, count] : wanted) {
    const auto [peer, signal] = key;
    const uint64_t raised = engine_.raised(peer, signal);
    if (raised >= count) continue;
    waiting_for_ = peer;
    const Status& gone = engine_.status(peer);
    if (peer == owner_.rank_ || gone.ok()) continue;
    *status = Status(gone.code(), fmt::format("{} of {} signals had come from peer {} when {}",
                                              raised, count, peer, gone.message()));
    return Io::failed;
  }
  return Io::again;
}

uint64_t Communicator::Impl::OneSidedChannel::missing_from_self(const Signals& wanted) {
  std::lock_guard lock(mutex_);
  for (const auto& [key, count] : wanted) {
    const uint64_t raised = engine_.raised(key.first, key.second);
    if (key.first == owner_.rank_ && raised < count) return count - raised;
  }
  return 0;
}

Status Communicator::Impl::OneSidedChannel::check(Clock::duration waited, Rank waiting_for) {
  TUTTI_RETURN_IF_ERROR(owner_.abortion());
  TUTTI_RETURN_IF_ERROR(carrier_->examine());
  TUTTI_RETURN_IF_ERROR(owner_.examine());
  return owner_.check_patience(waited, waiting_for, doing_, &late_);
}

// --- the calls

// What breaks the channel breaks the communicator.
template <class Body>
Status Communicator::Impl::one_sided(const char* what, Body&& body) {
  return guarded([&] {
    Status status = body();
    return status.ok() ? status : finish(std::move(status), what);
  });
}

Result<Window> Communicator::Impl::register_window(void* memory, size_t bytes) {
  TUTTI_RETURN_IF_ERROR(no_open_group("register_window"));
  if (memory == nullptr && bytes > 0)
    return Status(Code::invalid_argument,
                  fmt::format("rank {}: register_window: null of {} bytes", rank_, bytes));
  const uint32_t number = windows_made_ + 1;
  // Known here before any peer can know of it.
  if (channel_ != nullptr) channel_->add_window(number, memory, bytes);
  Result<Window> made = agree_on_window(number, memory, bytes);
  if (made) windows_made_ = number;
  if (!made && channel_ != nullptr) channel_->remove_window(number);
  return made;
}

Result<Window> Communicator::Impl::agree_on_window(uint32_t number, void* memory, size_t bytes) {
  struct Offer {
    uint64_t bytes = 0;
    uint32_t number = 0;
    uint32_t has_channel = 0;
  };
  Result<std::vector<Offer>> offers = share(Offer{bytes, number, channel_ != nullptr ? 1u : 0u});
  if (!offers) return offers.status();
  auto state = std::make_shared<Window::State>();
  bool offered = false, some = false, all = true;
  for (Rank r = 0; r < ranks_; ++r) {
    const Offer& offer = (*offers)[r];
    if (offer.number != number)
      return Status(Code::invalid_usage,
                    fmt::format("rank {}: register_window: this is window {} here, but {} on rank "
                                "{}",
                                rank_, number, offer.number, r));
    state->bytes.push_back(offer.bytes);
    offered |= offer.bytes > 0;
    some |= offer.has_channel != 0;
    all &= offer.has_channel != 0;
  }
  if (some && !all)
    return Status(Code::invalid_usage,
                  fmt::format("rank {}: register_window: after some ranks, but not all, had failed "
                              "to connect for one-sided calls",
                              rank_));
  if (offered && !all) TUTTI_RETURN_IF_ERROR(open_channel(number, memory, bytes));
  state->channel = channel_.get();
  state->owner = window_owner_;
  state->number = number;
  return Window(std::move(state));
}

// Collective.
Status Communicator::Impl::open_channel(uint32_t number, void* memory, size_t bytes) {
  Descendant carrier = split(0, static_cast<int>(rank_), nullptr);
  if (!carrier)
    return carrier.status().with_context(
        fmt::format("rank {}: connections for one-sided calls", rank_));
  auto channel = std::make_unique<OneSidedChannel>(*this, std::move(*carrier));
  channel->add_window(number, memory, bytes);
  return one_sided("register_window", [&] {
    Status status = channel->open();
    if (status.ok()) channel_ = std::move(channel);
    return status;
  });
}

Status Communicator::Impl::open_one_sided() {
  TUTTI_RETURN_IF_ERROR(no_open_group("open_one_sided"));
  return channel_ != nullptr ? Status() : open_channel(0, nullptr, 0);
}

Status Communicator::Impl::check_window(const Window& window, const char* what) const {
  const Window::State* state = window.state_.get();
  const char* why = state == nullptr                ? "the window is none"
                    : state->owner != window_owner_ ? "the window is another communicator's"
                    : !state->registered.load()     ? "the window was deregistered"
                                                    : nullptr;
  if (why == nullptr) return {};
  return Status(Code::invalid_argument, fmt::format("rank {}: {}: {}", rank_, what, why));
}

Status Communicator::Impl::deregister_window(const Window& window) {
  TUTTI_RETURN_IF_ERROR(check_window(window, "deregister_window"));
  window.state_->registered.store(false);
  if (window.state_->channel != nullptr && usable().ok())
    window.state_->channel->remove_window(window.state_->number);
  return {};
}

Status Communicator::Impl::check_one_sided(const char* what, Rank peer) const {
  TUTTI_RETURN_IF_ERROR(no_open_group(what));
  if (peer >= ranks_)
    return Status(Code::invalid_argument,
                  fmt::format("rank {}: {}: peer {} of {} ranks", rank_, what, peer, ranks_));
  if (channel_ == nullptr)
    return Status(Code::invalid_usage,
                  fmt::format("rank {}: {}: before the first window with memory was registered",
                              rank_, what));
  return {};
}

Status Communicator::Impl::put_signal(const void* data, size_t bytes, Rank peer,
                                      const Window& window, size_t offset, uint64_t signal) {
  static constexpr const char* k_what = "put_signal";
  TUTTI_RETURN_IF_ERROR(check_window(window, k_what));
  TUTTI_RETURN_IF_ERROR(check_one_sided(k_what, peer));
  auto bad = [&](std::string why) {
    return Status(Code::invalid_argument, fmt::format("rank {}: {}: {}", rank_, k_what, why));
  };
  if (data == nullptr && bytes > 0) return bad("the buffer is null");
  const size_t room = window.bytes(peer);
  if (offset > room || bytes > room - offset)
    return bad(fmt::format("{} bytes at {} of the window of rank {}, which has {} bytes", bytes,
                           offset, peer, room));
  return in_turn([=, this, number = window.state_->number] {
    return one_sided(k_what, [&] {
      return channel_->put(
          {peer, number, offset, static_cast<const std::byte*>(data), bytes, signal});
    });
  });
}

Status Communicator::Impl::signal(Rank peer, uint64_t signal) {
  TUTTI_RETURN_IF_ERROR(check_one_sided("signal", peer));
  return in_turn([=, this] {
    return one_sided("signal", [&] { return channel_->put({peer, 0, 0, nullptr, 0, signal}); });
  });
}

Status Communicator::Impl::wait_signals(std::span<const SignalCount> counts) {
  static constexpr const char* k_what = "wait_signals";
  Signals wanted;
  for (const SignalCount& c : counts) {
    TUTTI_RETURN_IF_ERROR(check_one_sided(k_what, c.peer));
    if (c.count > 0) wanted[{c.peer, c.signal}] += c.count;
  }
  if (wanted.empty()) return {};
  return in_turn([this, wanted = std::move(wanted)] {
    Status own;
    Status status = one_sided(k_what, [&] {
      if (const uint64_t missing = channel_->missing_from_self(wanted); missing > 0) {
        own = Status(Code::invalid_usage,
                     fmt::format("rank {}: {}: for {} signals of this rank itself that it has not "
                                 "raised",
                                 rank_, k_what, missing));
        return Status();
      }
      return channel_->wait(wanted);
    });
    return own.ok() ? status : own;
  });
}

}  // namespace tutti
