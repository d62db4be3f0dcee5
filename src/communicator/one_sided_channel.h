// The way of one-sided calls: a carrier, which is a communicator of the same ranks with connections
// of its own, and a thread that serves what peers send while this rank is in no such call.
//
// One lock is around all that uses the carrier. A call holds it until it is through and drives the
// carrier itself; the thread polls in between, after ever longer sleeps while nothing comes.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "src/communicator/impl.h"
#include "src/executor/one_sided.h"

namespace tutti {

class Communicator::Impl::OneSidedChannel final : public Monitor {
 public:
  OneSidedChannel(Impl& owner, std::unique_ptr<Impl> carrier);
  ~OneSidedChannel() override = default;

  // Collective: connects all ranks and begins to serve. Windows that peers may know of by then have
  // been added.
  Status open();
  // Stops serving, says goodbye. `forked`: in a child, where there is nothing to stop.
  void close(Clock::duration patience, bool forked);

  // From any thread, also while a call waits.
  void add_window(uint32_t number, void* memory, uint64_t bytes) {
    engine_.add_window(number, memory, bytes);
  }
  void remove_window(uint32_t number) { engine_.remove_window(number); }

  // Called on the thread of a call of the owner. An error has broken the carrier on all ranks.
  Status put(const Put& put);
  Status wait(const Signals& wanted);
  // Signals of this rank to itself that nobody will raise while it waits; 0: none are missing.
  uint64_t missing_from_self(const Signals& wanted);

  // What broke the carrier; ok while healthy.
  Status error() const { return carrier_->first_error(); }

  // Monitor: while a call waits.
  Status check(Clock::duration waited, Rank waiting_for) override;
  void block(Clock::duration timeout) override { carrier_->block(timeout); }

 private:
  // Calls step(&moved, &status) until it says done, or something has failed.
  template <class Step>
  Status drive(const char* what, Rank waiting_for, Step&& step);
  Io find_absent(const Signals& wanted, Status* status);
  void serve();
  Clock::duration longest_sleep() const;

  Impl& owner_;
  std::unique_ptr<Impl> carrier_;
  std::mutex mutex_;  // around carrier_ and engine_, but for its windows
  OneSided engine_;
  const char* doing_ = "";
  Rank waiting_for_ = 0;
  bool late_ = false;  // the call has been reported
  Condition stop_;
  bool stopping_ = false;
  std::thread server_;
};

}  // namespace tutti
