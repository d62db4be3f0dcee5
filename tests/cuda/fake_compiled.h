// The kernels of a fake driver as nvcc compiled them, on the machine of tests/ptx: for
// TUTTI_FAKE_PTX=FOLDER, where a build leaves kernels_sum.compute_90.ptx and so on
// (TUTTI_FAKE_ARCHITECTURE: another than 90). A fault ends the process with what and where it was.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "tests/ptx/machine.h"

namespace tutti::cuda {

class CompiledKernels {
 public:
  // Null where the environment names no folder.
  static std::unique_ptr<CompiledKernels> from_environment();

  // A grid of "tutti_plan_sum_float32" with these arguments, which are copied.
  std::function<void()> grid(const std::string& kernel, const void* arguments, ptx::Grid grid,
                             const ptx::Memory& memory);
  // Of all grids since the last time.
  ptx::Counts take_counts();
  void count(bool yes) { counts_them_ = yes; }

 private:
  explicit CompiledKernels(std::string folder) : folder_(std::move(folder)) {}
  std::shared_ptr<const ptx::Program> find(const std::string& kernel);

  std::string folder_;
  std::mutex mutex_;
  std::atomic<bool> counts_them_{false};
  ptx::Counts counts_;
  std::map<std::string, std::shared_ptr<ptx::Machine>> machines_;  // by file
};

}  // namespace tutti::cuda
