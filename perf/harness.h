// Harness: the thin seam between the measuring loop and whatever library runs the collectives, so
// that tutti and its peers (Open MPI, MPICH, Gloo) share one loop, one data check and one table.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "tutti/types.h"

namespace tutti::perf {

// One collective. `count` as in tutti/communicator.h: elements of one block. all_to_all_v exchanges
// `count` elements with every peer through the vector interface; send_recv sends to the next rank
// while receiving from the previous one.
struct Call {
  Collective collective = Collective::all_reduce;
  const void* send = nullptr;
  void* recv = nullptr;
  size_t count = 0;
  DType dtype = DType::float32;
  ReduceOp op = ReduceOp::sum;
  Rank root = 0;
};

enum class BufferKind : unsigned char { private_memory, mem_alloc, device };

class Harness {
 public:
  virtual ~Harness() = default;
  virtual Rank rank() const = 0;
  virtual uint32_t ranks() const = 0;
  // False when this library cannot do the call; the same answer on every rank.
  virtual bool supports(const Call& call) const = 0;
  // Runs one collective to its end; on device buffers it only enqueues. False on failure, which
  // error() then explains.
  virtual bool run(const Call& call) = 0;
  // Waits until all that was enqueued has ended.
  virtual bool synchronize() { return true; }
  // What `body` runs becomes a CUDA graph that replay() launches; of device buffers only.
  virtual bool record(const std::function<bool()>&) { return false; }
  virtual bool replay() { return false; }
  virtual bool barrier() = 0;
  // Every rank gives the same number of values and gets all, in rank order. Empty on failure.
  virtual std::vector<double> all_gather(const std::vector<double>& mine) = 0;
  virtual const std::string& error() const = 0;
  // Page-aligned memory, touched; null when there is none. release() takes what allocate() gave.
  virtual void* allocate(size_t bytes, BufferKind kind) = 0;
  virtual void release(void* memory, size_t bytes, BufferKind kind) = 0;
  // Between the host's memory and allocate()d device memory.
  virtual bool put(void*, const void*, size_t) { return false; }
  virtual bool get(void*, const void*, size_t) { return false; }
  // How the call would run, in words, for the report; empty when the library does not tell.
  virtual std::string path(const Call& call) = 0;
};

// allocate() and release() for libraries without a memory kind of their own.
void* allocate_pages(size_t bytes);
void release_pages(void* memory, size_t bytes);

}  // namespace tutti::perf
