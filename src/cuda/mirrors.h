// Mirrors: host memory in place of windows, between ranks on different hosts.
//
// A kernel can neither write into a window on another host nor be written to from there. So for
// each such peer a rank has two pieces of pinned memory: `there` stands for the peer's window, its
// kernels write into it as they would into the window; `here` stands for the part of the own window
// that the peer would write. Proxies (proxy.h) keep them alike:
//
//   rank 0   kernel -> there   ~~ proxy ~~ network ~~ proxy ~~>   here -> kernel   rank 1
//            kernel <- here  <~~                            ~~    there <- kernel
//
// Kernels reach them over PCI: a byte is stored once on the way out, and read once where it is
// reduced or copied. A transport that could register memory of a device would have the slots of
// both pieces there; none of the library's can.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "src/cuda/allocation.h"
#include "src/cuda/window.h"

namespace tutti::cuda {

class Mirrors {
 public:
  // For every rank that `remote` says, zeroed. `shape`: of the windows. Errors: device_error, with
  // the bytes that could not be pinned.
  static Result<std::unique_ptr<Mirrors>> make(Runtime& runtime, Device& device,
                                               const WindowShape& shape,
                                               const std::vector<bool>& remote);

  // By rank; nothing for ranks of this host.
  const std::vector<Mirror>& all() const { return all_; }
  const WindowShape& shape() const { return shape_; }

  // Kernels from now on take so many lanes, and workers of each. From any thread.
  void use(uint32_t lanes, uint32_t workers);
  // The most of either so far.
  uint32_t lanes() const { return lanes_.load(std::memory_order_acquire); }
  uint32_t workers() const { return workers_.load(std::memory_order_acquire); }

 private:
  explicit Mirrors(const WindowShape& shape) : shape_(shape.between_two()) {}

  WindowShape shape_;
  std::unique_ptr<Allocation> memory_;
  std::vector<Mirror> all_;
  std::atomic<uint32_t> lanes_{0}, workers_{0};
};

}  // namespace tutti::cuda
