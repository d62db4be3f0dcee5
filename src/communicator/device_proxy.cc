#include "src/communicator/device_proxy.h"

#include <algorithm>
#include <utility>

#include "src/base/thread.h"

namespace tutti {
namespace {

// Between two looks while a kernel waits for long: from, to.
constexpr Clock::duration k_first_sleep = std::chrono::microseconds(20);
constexpr Clock::duration k_longest_sleep = std::chrono::microseconds(500);
// And while none runs.
constexpr Clock::duration k_rest = std::chrono::milliseconds(20);
// What a rank sent before it left has come by then, or never will.
constexpr Clock::duration k_under_way = std::chrono::seconds(5);
// For what is still under way when the communicator ends.
constexpr Clock::duration k_patience = std::chrono::seconds(1);
constexpr Clock::duration k_goodbye = std::chrono::milliseconds(500);

}  // namespace

DeviceProxy::DeviceProxy(std::unique_ptr<Communicator::Impl> carrier, const cuda::PeerWorld& world)
    : carrier_(std::move(carrier)), world_(world), proxy_(carrier_->router(), *world.mirrors()) {}

Status DeviceProxy::open() {
  TUTTI_RETURN_IF_ERROR(proxy_.open());
  Result<std::thread> started = start_thread([this] { serve(); });
  if (!started) return started.status();
  server_ = std::move(*started);
  return {};
}

DeviceProxy::~DeviceProxy() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  if (server_.joinable()) server_.join();
  static_cast<void>(carrier_->finalize(k_goodbye));
}

void DeviceProxy::wake() {
  {
    std::lock_guard lock(mutex_);
    woken_ = true;
  }
  changed_.notify_one();
}

// A peer that has gone is the matter of its endpoint, which still gives what has come from it.
bool DeviceProxy::turn() {
  for (const auto& transport : carrier_->router().transports())
    static_cast<void>(transport->progress());
  return proxy_.turn();
}

std::vector<Rank> DeviceProxy::ended(const std::vector<Rank>& left) {
  const Clock::time_point now = Clock::now();
  std::vector<Rank> all;
  for (Rank r = 0; r < carrier_->ranks(); ++r) {
    bool ends = std::count(left.begin(), left.end(), r) > 0;
    if (world_.mirrors()->all()[r].here != nullptr)
      ends = !status(r).ok() ||
             (ends && now > leaving_.try_emplace(r, now + k_under_way).first->second);
    if (ends) all.push_back(r);
  }
  return all;
}

void DeviceProxy::serve() {
  Waiter waiter(carrier_->waiting(), *this);
  while (true) {
    const bool moved = turn();
    {
      std::lock_guard lock(mutex_);
      if (stopping_) break;
      if (std::exchange(woken_, false) || moved) {
        waiter.moved();
        sleep_ = k_first_sleep;
        resting_ = false;
        continue;
      }
    }
    static_cast<void>(waiter.idle(carrier_->rank()));
  }
  hand_over();
}

void DeviceProxy::hand_over() {
  const Deadline enough = Clock::now() + k_patience;
  while (turn() || (proxy_.holds_back() && Clock::now() < enough))
    std::this_thread::sleep_for(k_first_sleep);
}

Status DeviceProxy::check(Clock::duration, Rank) {
  resting_ = !world_.outstanding();
  return {};
}

void DeviceProxy::block(Clock::duration) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, resting_ ? k_rest : sleep_, [this] { return woken_ || stopping_; });
  sleep_ = std::min(sleep_ * 2, k_longest_sleep);
}

}  // namespace tutti
