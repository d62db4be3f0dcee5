// Flags that kernels and threads of the host share: what the interpreter's Memory does, on the
// host.
#pragma once

#include <atomic>
#include <cstdint>

namespace tutti::cuda {

struct HostFlags {
  static uint64_t acquire(const uint64_t* p) {
    return std::atomic_ref<uint64_t>(*const_cast<uint64_t*>(p)).load(std::memory_order_acquire);
  }
  static void release(uint64_t* p, uint64_t v) {
    std::atomic_ref<uint64_t>(*p).store(v, std::memory_order_release);
  }
  static uint64_t load(const uint64_t* p) {
    return std::atomic_ref<uint64_t>(*const_cast<uint64_t*>(p)).load(std::memory_order_relaxed);
  }
  static void store(uint64_t* p, uint64_t v) {
    std::atomic_ref<uint64_t>(*p).store(v, std::memory_order_relaxed);
  }
  static void load_pair(const uint64_t* p, uint64_t& first, uint64_t& second) {
    first = load(p);
    second = load(p + 1);
  }
  static void store_pair(uint64_t* p, uint64_t first, uint64_t second) {
    store(p, first);
    store(p + 1, second);
  }
};

}  // namespace tutti::cuda
