// A CUDA driver made of threads: every stream is a thread that runs what was enqueued, device
// memory is the heap, kernels are the same code on the host or, with TUTTI_FAKE_PTX, what nvcc made
// of it (fake_compiled.h). Enough of the driver's rules to test
// the enqueue path: stream order, events, capture and replay, contexts, freed memory, and errors on
// demand.
//
// One fake at a time (the driver's functions take no object); it ends with its streams empty.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "src/cuda/runtime.h"
#include "tests/cuda/fake_compiled.h"

namespace tutti::cuda {

struct ContextHandle {
  int device;
};

struct FakeFunction;  // a kernel

// A grid of the kernel of transfers, with these arguments (fake_transfers.cc).
std::function<void()> transfer_grid(const void* launch, unsigned blocks);

// The same for one and two shots, with so many threads in a block (fake_shots.cc).
std::function<void()> shot_grid(DType dtype, Family family, const void* launch, unsigned blocks,
                                unsigned threads = 1);

class FakeCuda : private ptx::Memory {
 public:
  explicit FakeCuda(int devices = 2);
  ~FakeCuda() override;
  FakeCuda(const FakeCuda&) = delete;
  FakeCuda& operator=(const FakeCuda&) = delete;

  std::shared_ptr<const Driver> driver() const { return driver_; }

  // A runtime over it, with images that stand for the kernels (fake_images.cc).
  std::shared_ptr<Runtime> runtime() const;

  // After `after` calls of a driver function ("cuMemHostAlloc"), `times` of them fail with `code`.
  void fail(const std::string& function, int code, int times = 1, int after = 0);
  int calls(const std::string& function) const;

  Stream stream(int device = 0);
  std::byte* allocate(size_t bytes, int device = 0);
  void free(void* memory);
  void synchronize(Stream stream);

  // Null where the kernels are their code on the host.
  CompiledKernels* compiled() { return compiled_.get(); }

  // Settings.
  int version = 13000;
  int capability = 90;
  int multiprocessors = 4;
  int blocks_per_multiprocessor = 2;
  bool peers_reach = true;
  // Device memory from now on can be mapped again, here and in other processes, at other addresses.
  bool shared_memory = false;
  // Not empty: a device runs one grid at a time, from its first block's beginning to its last one's
  // end, among all fakes of all processes that give the same path: a grid that waits for another on
  // its device never ends. (A device that takes turns between processes would spin for long.)
  std::string time_slices;
  // Counts of what was launched, and of host memory that is registered.
  int kernels = 0, cooperative = 0, shots = 0, engine_copies = 0, mappings = 0, registered = 0;
  unsigned largest_grid = 0;

 private:
  friend struct FakeApi;
  using Work = std::function<void()>;
  struct FakeGraph {
    std::vector<Work> work;
  };
  struct FakeEvent {
    uint64_t recorded = 0, reached = 0;
    FakeGraph* captured_in = nullptr;
  };
  struct FakeStream {
    int device = 0;
    std::deque<Work> queue;
    bool running = false, ends = false;
    FakeGraph* capture = nullptr;
    bool origin = false;
    std::thread worker;
  };
  struct Allocated {
    size_t bytes;
    int device;       // -1: pinned host memory
    int file = -1;    // of shared memory
    bool own = true;  // not a mapping of other memory
  };

  int enter(const char* function);
  void count(int& what, unsigned grid = 0);
  FakeStream* start(int device);
  FakeStream* of(Stream stream);
  int device_of(Stream stream);
  void enqueue(Stream stream, Work work);
  void start_grid(Stream stream, const FakeFunction& function, const void* arguments,
                  ptx::Grid grid);
  void work_loop(FakeStream* stream);
  const Allocated* find(uint64_t address, uint64_t* begin) const;
  // What kernels may access.
  std::optional<Range> find(uint64_t address) const override;
  uint64_t frees() const override { return frees_.load(std::memory_order_relaxed); }
  std::byte* map(int file, size_t bytes);
  static void release(uint64_t address, const Allocated& memory);

  std::shared_ptr<Driver> driver_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<FakeStream>> streams_;
  std::map<int, FakeStream*> default_streams_;  // by device
  std::map<uint64_t, Allocated> memory_;
  std::map<uint64_t, size_t> registered_ranges_;  // of host memory
  std::atomic<uint64_t> frees_{0};
  std::unique_ptr<CompiledKernels> compiled_ = CompiledKernels::from_environment();
  struct Failure {
    int code, times, after;
  };
  std::map<std::string, Failure> failures_;
  std::map<std::string, int> calls_;
  std::vector<std::unique_ptr<ContextHandle>> contexts_;
};

}  // namespace tutti::cuda
