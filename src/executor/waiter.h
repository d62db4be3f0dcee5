// Waiter: how a rank waits. It adapts: while ranks fit the CPUs it spins briefly, then yields, then
// blocks; when they do not, it yields after every poll, since the rank waited for needs this CPU.
#pragma once

#include <sched.h>

#include <cstdint>
#include <utility>

#include "transports/transport.h"

namespace tutti {

inline void cpu_relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// What must be looked at now and then while waiting: transports to drive, errors that peers have
// posted, abort, deadlines. Implemented by the communicator.
class Monitor {
 public:
  virtual ~Monitor() = default;
  // `waited`: how long nothing has moved. `waiting_for`: a peer that is waited for (for messages).
  virtual Status check(Clock::duration waited, Rank waiting_for) = 0;
  virtual void block(Clock::duration timeout) = 0;
};

struct WaitPolicy {
  uint32_t spins = 2000;      // polls before the first yield; 0 when ranks outnumber CPUs
  uint32_t check_every = 64;  // polls between Monitor::check
  Clock::duration block_after = std::chrono::milliseconds(2);
  Clock::duration block_for = std::chrono::milliseconds(1);
};

class Waiter {
 public:
  Waiter(const WaitPolicy& policy, Monitor& monitor) : policy_(policy), monitor_(monitor) {}

  void moved() { idle_ = 0; }

  // Call when a poll found nothing to do. Not ok: give up and return it.
  Status idle(Rank waiting_for) {
    const uint32_t n = ++idle_;
    if (n == 1) fresh_ = true;
    if (n % policy_.check_every == 0) return slow(Clock::now(), waiting_for);
    if (n < policy_.spins) {
      cpu_relax();
      return {};
    }
    sched_yield();
    // On a crowded machine a yield takes milliseconds; a round of them would be deaf for seconds.
    const Clock::time_point now = Clock::now(), before = std::exchange(yielded_, now);
    return now - before > k_long && n > policy_.spins + 1 ? slow(now, waiting_for) : Status();
  }

 private:
  static constexpr Clock::duration k_long = std::chrono::milliseconds(1);

  Status slow(Clock::time_point now, Rank waiting_for) {
    if (std::exchange(fresh_, false)) since_ = now;
    TUTTI_RETURN_IF_ERROR(monitor_.check(now - since_, waiting_for));
    if (now - since_ > policy_.block_after) {
      monitor_.block(policy_.block_for);
    } else if (idle_ >= policy_.spins) {
      sched_yield();
    }
    yielded_ = Clock::now();
    return {};
  }

  const WaitPolicy& policy_;
  Monitor& monitor_;
  uint32_t idle_ = 0;
  bool fresh_ = true;  // since_ is not of this wait
  Clock::time_point since_{}, yielded_{};
};

}  // namespace tutti
