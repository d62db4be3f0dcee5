#include "tests/cuda/fake_compiled.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

namespace tutti::cuda {
namespace {

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "compiled kernels: %s\n", what.c_str());
  std::abort();
}

}  // namespace

std::unique_ptr<CompiledKernels> CompiledKernels::from_environment() {
  const char* folder = std::getenv("TUTTI_FAKE_PTX");
  if (folder == nullptr || *folder == '\0') return nullptr;
  return std::unique_ptr<CompiledKernels>(new CompiledKernels(folder));
}

std::shared_ptr<const ptx::Program> CompiledKernels::find(const std::string& kernel) {
  std::string family = "sum";  // the file of kernels without one as well
  for (const char* other : {"prod", "extremum"})
    if (kernel.find(std::string("_") + other + "_") != std::string::npos) family = other;
  const char* architecture = std::getenv("TUTTI_FAKE_ARCHITECTURE");
  const std::string file =
      "kernels_" + family + ".compute_" + (architecture == nullptr ? "90" : architecture) + ".ptx";
  std::lock_guard lock(mutex_);
  std::shared_ptr<ptx::Machine>& machine = machines_[file];
  if (machine == nullptr) {
    std::ifstream in(folder_ + "/" + file);
    std::stringstream text;
    text << in.rdbuf();
    auto loaded = ptx::Machine::load(text.str());
    if (!loaded) die(folder_ + "/" + file + ": " + loaded.status().message());
    machine = *loaded;
  }
  auto program = machine->kernel(kernel);
  if (!program) die(folder_ + "/" + file + ": " + program.status().message());
  return *program;
}

std::function<void()> CompiledKernels::grid(const std::string& kernel, const void* arguments,
                                            ptx::Grid grid, const ptx::Memory& memory) {
  auto program = find(kernel);
  std::vector<std::byte> copy(ptx::Machine::parameter_bytes(*program));
  std::memcpy(copy.data(), arguments, copy.size());
  return [this, program, copy = std::move(copy), grid, &memory] {
    ptx::Counts counts;
    const bool counted = counts_them_;
    if (const auto fault = ptx::run_grid(*program, grid, copy, memory, counted ? &counts : nullptr))
      die(fault->to_string());
    std::lock_guard lock(mutex_);
    counts_ += counts;
  };
}

ptx::Counts CompiledKernels::take_counts() {
  std::lock_guard lock(mutex_);
  return std::exchange(counts_, {});
}

}  // namespace tutti::cuda
