// DeviceProxy: the thread that runs a rank's proxy (src/cuda/proxy.h), over connections of its own:
// a carrier, which is a communicator of the same ranks that does nothing else.
//
// While a kernel runs, or calls are captured, it polls as all waits of the library do. Else it
// looks now and then, so that what peers send has a place before this rank calls.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "src/communicator/impl.h"
#include "src/cuda/peer_world.h"
#include "src/cuda/proxy.h"

namespace tutti {

class DeviceProxy final : public Monitor {
 public:
  // `world` has mirrors, and outlives the proxy.
  DeviceProxy(std::unique_ptr<Communicator::Impl> carrier, const cuda::PeerWorld& world);
  // No kernel runs any more. Sends what they have written, as far as peers take it within a second,
  // and says goodbye.
  ~DeviceProxy() override;
  DeviceProxy(const DeviceProxy&) = delete;
  DeviceProxy& operator=(const DeviceProxy&) = delete;

  // Errors: those of the transport; system_error: no thread.
  Status open();
  // A kernel has been launched. From any thread.
  void wake();
  // Why nothing comes from the peer any more; ok while it is there. From any thread.
  Status status(Rank peer) const { return proxy_.status(peer); }
  // Those from which nothing more comes, of ranks that have `left` and of others: what a rank on
  // another host sent before it left may still be under way. On the thread of the watch.
  std::vector<Rank> ended(const std::vector<Rank>& left);

  // Monitor: while nothing moves.
  Status check(Clock::duration waited, Rank waiting_for) override;
  void block(Clock::duration timeout) override;

 private:
  void serve();
  void hand_over();
  bool turn();

  std::unique_ptr<Communicator::Impl> carrier_;
  const cuda::PeerWorld& world_;
  cuda::Proxy proxy_;
  std::map<Rank, Deadline> leaving_;  // of the watch: until when what they sent may come
  std::mutex mutex_;
  std::condition_variable changed_;
  bool woken_ = false, stopping_ = false;
  // Of the thread:
  bool resting_ = false;  // no kernel runs
  Clock::duration sleep_{};
  std::thread server_;
};

}  // namespace tutti
