// The interpreter's Memory and Block on the host: flags as atomics, the threads of a block as
// threads of the process. For tests: the same interpreter that runs on devices, under any
// sanitizer.
#pragma once

#include <sched.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <thread>

#include "src/cuda/host_flags.h"

namespace tutti::cuda {

struct HostMemory : HostFlags {
  // Beside other programs a poll takes as long as a thousand on a device.
  static constexpr uint32_t k_long_wait = 64;
  // Others may have to run first, on few cores beside other programs: now and then the thread
  // sleeps.
  static void pause() {
    thread_local uint32_t turns = 0;
    if (++turns % 16 != 0) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(1));
    }
  }
};

// What the threads of a block meet at.
class HostBarrier {
 public:
  explicit HostBarrier(uint32_t threads) : threads_(threads), barrier_(threads) {}
  uint32_t threads() const { return threads_; }
  void sync() {
    if (threads_ > 1) barrier_.arrive_and_wait();
  }
  // Votes rotate among three cells, so that a fast thread's next vote meets no slow reader.
  bool any(bool vote, uint32_t turn) {
    if (vote) votes_[turn % 3].store(true, std::memory_order_relaxed);
    votes_[(turn + 1) % 3].store(false, std::memory_order_relaxed);
    sync();
    return votes_[turn % 3].load(std::memory_order_relaxed);
  }

 private:
  uint32_t threads_;
  std::barrier<> barrier_;
  std::atomic<bool> votes_[3] = {};
};

class HostBlock {
 public:
  HostBlock(HostBarrier& barrier, uint32_t thread) : barrier_(&barrier), thread_(thread) {}
  uint32_t thread() const { return thread_; }
  uint32_t threads() const { return barrier_->threads(); }
  void sync() { barrier_->sync(); }
  bool any(bool vote) { return barrier_->any(vote, turn_++); }

 private:
  HostBarrier* barrier_;
  uint32_t thread_;
  uint32_t turn_ = 0;
};

}  // namespace tutti::cuda
