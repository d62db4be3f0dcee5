// The ladder to the device kernels (kernels/cuda/ladder) on a device: every rung is checked against
// kernels/cpu bit for bit and timed beside the copy bandwidth of the same run: gpu_ladder
// [BLOCKS...]
//
// BLOCKS: the numbers of blocks to try (default: two per multiprocessor, and 16, as a collective
// that leaves the device to others would take). Ends with 2 where there is no device.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kernels/cuda/ladder/ladder.h"
#include "src/cuda/allocation.h"

extern "C" const std::byte tutti_ladder_image[];

namespace tutti::cuda {
namespace {

constexpr unsigned k_threads = 512;
constexpr size_t k_bytes = size_t{64} << 20;   // of a source
constexpr size_t k_checked = size_t{1} << 20;  // of the sums
constexpr uint32_t k_most = 8;

class GpuLadder {
 public:
  Status open() {
    auto runtime = Runtime::of_process();
    if (!runtime) return runtime.status();
    runtime_ = *runtime;
    auto device = runtime_->device(0);
    if (!device) return device.status();
    device_ = *device;
    driver_ = &runtime_->driver();
    scope_ = std::make_unique<Scope>(*driver_, device_->context());
    TUTTI_RETURN_IF_ERROR(
        check(driver_->stream_create(&stream_, k_stream_non_blocking), "cuStreamCreate"));
    TUTTI_RETURN_IF_ERROR(check(driver_->event_create(&begin_, 0), "cuEventCreate"));
    TUTTI_RETURN_IF_ERROR(check(driver_->event_create(&end_, 0), "cuEventCreate"));
    return check(driver_->module_load(&module_, tutti_ladder_image, 0, nullptr, nullptr),
                 "cuModuleLoadDataEx");
  }

  Status run(std::vector<unsigned> blocks) {
    if (blocks.empty()) blocks = {2 * device_->multiprocessors(), 16};
    for (uint32_t s = 0; s <= k_most; ++s) {
      auto memory = Allocation::on_device(*runtime_, *device_, k_bytes);
      if (!memory) return memory.status();
      memory_.push_back(std::move(*memory));
    }
    std::printf("device 0: %s, %u multiprocessors\n", device_->name().c_str(),
                device_->multiprocessors());
    TUTTI_RETURN_IF_ERROR(measure_copy());
    for (DType dtype : {DType::float32, DType::bfloat16}) {
      TUTTI_RETURN_IF_ERROR(fill(dtype));
      for (uint32_t k : {2u, 4u, 8u})
        for (unsigned b : blocks)
          for (int r = 0; r < ladder::k_rungs; ++r)
            TUTTI_RETURN_IF_ERROR(measure(static_cast<ladder::Rung>(r), dtype, k, b));
    }
    return wrong_ == 0 ? Status() : Status(Code::internal_error, "wrong sums, see above");
  }

 private:
  Status check(int result, const char* function) const { return driver_->check(result, function); }

  // Median seconds of `body`.
  Result<double> time(const std::function<Status()>& body) {
    std::vector<double> times;
    for (int turn = 0; turn < 13; ++turn) {
      float ms = 0;
      TUTTI_RETURN_IF_ERROR(check(driver_->event_record(begin_, stream_), "cuEventRecord"));
      TUTTI_RETURN_IF_ERROR(body());
      TUTTI_RETURN_IF_ERROR(check(driver_->event_record(end_, stream_), "cuEventRecord"));
      TUTTI_RETURN_IF_ERROR(check(driver_->event_synchronize(end_), "cuEventSynchronize"));
      TUTTI_RETURN_IF_ERROR(check(driver_->event_elapsed(&ms, begin_, end_), "cuEventElapsedTime"));
      if (turn >= 3) times.push_back(ms * 1e-3);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  Status measure_copy() {
    auto seconds = time([&] {
      return check(driver_->copy(memory_[0]->address(), memory_[1]->address(), k_bytes, stream_),
                   "cuMemcpyAsync");
    });
    if (!seconds) return seconds.status();
    copy_rate_ = 2.0 * k_bytes / *seconds;
    std::printf("copy of %zu MB: %.0f GB/s read + written\n", k_bytes >> 20, copy_rate_ * 1e-9);
    return {};
  }

  // Finite values of many exponents; what is checked stays here.
  Status fill(DType dtype) {
    host_.assign(k_most, std::vector<std::byte>(k_bytes));
    uint32_t x = 12345;
    for (auto& source : host_)
      for (size_t at = 0; at < k_bytes; at += 4) {
        x = x * 1664525 + 1013904223;
        const uint32_t word = dtype == DType::float32 ? x & 0xBF7FFFFF : x & 0xBF7FBF7F;
        std::memcpy(&source[at], &word, 4);
      }
    for (uint32_t s = 0; s < k_most; ++s) TUTTI_RETURN_IF_ERROR(memory_[s]->write(0, host_[s]));
    return {};
  }

  Status measure(ladder::Rung rung, DType dtype, uint32_t k, unsigned blocks) {
    const std::string symbol =
        std::string("tutti_ladder_") + ladder::name(rung) + "_" + std::string(name(dtype));
    Function function = nullptr;
    TUTTI_RETURN_IF_ERROR(
        check(driver_->module_function(&function, module_, symbol.c_str()), "cuModuleGetFunction"));
    ladder::Sum sum{};
    for (uint32_t s = 0; s < k; ++s) sum.sources[s] = memory_[s]->data();
    sum.destination = memory_[k_most]->data();
    sum.k = k;
    sum.bytes = k_bytes;
    void* parameters[] = {&sum};
    TUTTI_RETURN_IF_ERROR(memory_[k_most]->zero(0, k_bytes));
    auto seconds = time([&] {
      return check(
          driver_->launch(function, blocks, 1, 1, k_threads, 1, 1, 0, stream_, parameters, nullptr),
          "cuLaunchKernel");
    });
    if (!seconds) return seconds.status();
    const Result<bool> right = is_right(dtype, k);
    if (!right) return right.status();
    wrong_ += !*right;
    const double floor = static_cast<double>(k_bytes) * (k + 1) / copy_rate_;
    std::printf("%-9s %-9s k=%u %4u blocks %9.2f us  floor %9.2f us  %5.1f %%  %s\n",
                std::string(name(dtype)).c_str(), ladder::name(rung), k, blocks, *seconds * 1e6,
                floor * 1e6, 100 * floor / *seconds, *right ? "right" : "WRONG");
    return {};
  }

  Result<bool> is_right(DType dtype, uint32_t k) {
    std::vector<std::byte> got(k_checked), want(k_checked);
    for (size_t at : {size_t{0}, k_bytes - k_checked}) {
      TUTTI_RETURN_IF_ERROR(memory_[k_most]->read(at, got));
      std::vector<const void*> sources;
      for (uint32_t s = 0; s < k; ++s) sources.push_back(host_[s].data() + at);
      void* to = want.data();
      kernels::reduce(dtype, ReduceOp::sum, sources, {&to, 1}, k_checked / size_of(dtype), 0);
      if (got != want) return false;
    }
    return true;
  }

  std::shared_ptr<Runtime> runtime_;
  Device* device_ = nullptr;
  const Driver* driver_ = nullptr;
  std::unique_ptr<Scope> scope_;
  Stream stream_ = nullptr;
  Event begin_ = nullptr, end_ = nullptr;
  Module module_ = nullptr;
  std::vector<std::unique_ptr<Allocation>> memory_;  // sources, then the sum
  std::vector<std::vector<std::byte>> host_;
  double copy_rate_ = 0;
  int wrong_ = 0;
};

}  // namespace
}  // namespace tutti::cuda

int main(int argc, char** argv) {
  std::vector<unsigned> blocks;
  for (int i = 1; i < argc; ++i) blocks.push_back(static_cast<unsigned>(std::atoi(argv[i])));
  tutti::cuda::GpuLadder bench;
  tutti::Status status = bench.open();
  if (!status.ok()) {
    std::printf("no device here: %s\n", status.to_string().c_str());
    return 2;
  }
  status = bench.run(blocks);
  if (!status.ok()) std::printf("%s\n", status.to_string().c_str());
  return status.ok() ? 0 : 1;
}
