// Handles that a C program holds, and what they stand for.
//
// A handle is a number dressed as a pointer: kind, slot, and the slot's generation. Nothing is ever
// read through it, so that a null, stale or foreign one is recognised and never crashes. pin()
// keeps the object alive for a call; retire() makes the handle stale at once, and takes the object
// when the last call that runs on it has returned.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace tutti::nccl {

template <class T, uint64_t kind>
class HandleTable {
  struct Slot {
    std::atomic<uint64_t> word{0};  // generation << 32 | pins; odd generations are alive
    std::shared_ptr<T> object;
    uint32_t index = 0;
  };

 public:
  class Pin {
   public:
    explicit Pin(Slot* slot = nullptr) : slot_(slot) {}
    Pin(Pin&& other) noexcept : slot_(std::exchange(other.slot_, nullptr)) {}
    Pin& operator=(Pin&&) = delete;
    ~Pin() {
      if (slot_ != nullptr) slot_->word.fetch_sub(1, std::memory_order_acq_rel);
    }
    explicit operator bool() const { return slot_ != nullptr; }
    T& operator*() const { return *slot_->object; }
    T* operator->() const { return slot_->object.get(); }
    const std::shared_ptr<T>& shared() const { return slot_->object; }

   private:
    Slot* slot_;
  };

  // Null only when a million handles are in use.
  void* add(std::shared_ptr<T> object) {
    std::lock_guard lock(mutex_);
    Slot* slot = nullptr;
    if (!free_.empty()) {
      slot = free_.back();
      free_.pop_back();
    } else {
      const uint32_t index = size_.load(std::memory_order_relaxed);
      if (index == k_chunks * k_chunk) return nullptr;
      if (index % k_chunk == 0) chunks_[index / k_chunk] = new Slot[k_chunk];
      slot = &chunks_[index / k_chunk][index % k_chunk];
      slot->index = index;
      size_.store(index + 1, std::memory_order_release);
    }
    slot->object = std::move(object);
    const uint64_t word = slot->word.fetch_add(k_generation, std::memory_order_release);
    return encode(slot->index, static_cast<uint32_t>((word + k_generation) >> 32));
  }

  Pin pin(const void* handle) {
    Slot* slot = slot_of(handle);
    if (slot == nullptr) return Pin();
    const uint64_t word = slot->word.fetch_add(1, std::memory_order_acq_rel);
    if (word >> 32 == generation_of(handle)) return Pin(slot);
    slot->word.fetch_sub(1, std::memory_order_acq_rel);
    return Pin();
  }

  // Makes the handle stale; false when it already was. Who gets true calls take() afterwards.
  bool retire(const void* handle) {
    Slot* slot = slot_of(handle);
    if (slot == nullptr) return false;
    uint64_t word = slot->word.load(std::memory_order_acquire);
    while (word >> 32 == generation_of(handle))
      if (slot->word.compare_exchange_weak(word, word + k_generation, std::memory_order_acq_rel))
        return true;
    return false;
  }

  // The object of a retired handle, once no call uses it.
  std::shared_ptr<T> take(const void* handle) {
    Slot* slot = slot_of(handle);
    while ((slot->word.load(std::memory_order_acquire) & k_pins) != 0)
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    std::shared_ptr<T> object = std::move(slot->object);
    std::lock_guard lock(mutex_);
    free_.push_back(slot);
    return object;
  }

  // Around fork(), so that the child finds the table usable.
  std::mutex& mutex() { return mutex_; }

 private:
  static constexpr uint32_t k_chunk = 1024;
  static constexpr uint32_t k_chunks = 1024;
  static constexpr uint64_t k_generation = uint64_t{1} << 32;
  static constexpr uint64_t k_pins = k_generation - 1;

  // Bits: 0-3 kind, 4-23 slot, 24-55 generation.
  static void* encode(uint32_t index, uint32_t generation) {
    return reinterpret_cast<void*>(uint64_t{generation} << 24 | uint64_t{index} << 4 | kind);
  }
  static uint64_t generation_of(const void* handle) {
    return reinterpret_cast<uint64_t>(handle) >> 24 & 0xffffffff;
  }
  // Odd generations only: even ones are never handed out.
  Slot* slot_of(const void* handle) {
    const auto value = reinterpret_cast<uint64_t>(handle);
    const auto index = static_cast<uint32_t>(value >> 4 & 0xfffff);
    const bool sound = (value & 0xf) == kind && value >> 56 == 0 && (value >> 24 & 1) == 1 &&
                       index < size_.load(std::memory_order_acquire);
    return sound ? &chunks_[index / k_chunk][index % k_chunk] : nullptr;
  }

  std::mutex mutex_;
  std::array<Slot*, k_chunks> chunks_{};
  std::atomic<uint32_t> size_{0};
  std::vector<Slot*> free_;
};

}  // namespace tutti::nccl
