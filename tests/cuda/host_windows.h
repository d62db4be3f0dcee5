// Windows of ranks in plain memory, zeroed and aligned as on a device.
#pragma once

#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "src/cuda/window.h"

namespace tutti::cuda {

class HostWindows {
 public:
  HostWindows(WindowShape shape, uint32_t ranks) {
    shape.ranks = ranks;
    for (uint32_t r = 0; r < ranks; ++r) {
      memory_.emplace_back(
          static_cast<std::byte*>(::operator new (shape.bytes(), std::align_val_t{128})));
      std::memset(memory_.back().get(), 0, shape.bytes());
      all_.push_back(memory_.back().get());
    }
  }
  const std::vector<std::byte*>& all() const { return all_; }  // by rank

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{128}); }
  };
  std::vector<std::unique_ptr<std::byte, Free>> memory_;
  std::vector<std::byte*> all_;
};

}  // namespace tutti::cuda
