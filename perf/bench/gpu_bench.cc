// Figures of a GPU, each beside its floor from the same run: gpu_bench [--quick]
//
//   k-way reduction            floor: bytes read and written over the measured copy bandwidth
//   8 ranks, all-reduce 256 MB floor: each input byte read once, each output byte written once
//   8 ranks, small blocks      floor: one launch in a graph
//   the same with flags, in shots and by plans: all ranks on one device; likewise
//   enqueue                    host time of one call
//
// Ends with 2 where there is no device.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "src/algorithms/algorithms.h"
#include "src/cuda/group_launch.h"
#include "src/cuda/peer_world.h"
#include "src/cuda/plan_world.h"

namespace tutti::cuda {
namespace {

class GpuBench {
 public:
  Status open() {
    auto driver = load_driver();
    if (!driver) return driver.status();
    auto runtime = Runtime::open(*driver);
    if (!runtime) return runtime.status();
    driver_ = *driver;
    runtime_ = *runtime;
    auto device = runtime_->device(0);
    if (!device) return device.status();
    device_ = *device;
    scope_ = std::make_unique<Scope>(*driver_, device_->context());
    TUTTI_RETURN_IF_ERROR(
        check(driver_->stream_create(&stream_, k_stream_non_blocking), "cuStreamCreate"));
    TUTTI_RETURN_IF_ERROR(check(driver_->event_create(&begin_, 0), "cuEventCreate"));
    return check(driver_->event_create(&end_, 0), "cuEventCreate");
  }

  Status run(bool quick) {
    std::printf("device 0: %s, %u multiprocessors\n", device_->name().c_str(),
                device_->multiprocessors());
    const size_t large = quick ? size_t{64} << 20 : size_t{256} << 20;
    TUTTI_RETURN_IF_ERROR(measure_copy(large * 4));
    for (uint32_t k : {2u, 4u, 8u}) TUTTI_RETURN_IF_ERROR(measure_reduce(k, size_t{64} << 20));
    for (DType dtype : {DType::bfloat16, DType::float8_e4m3, DType::float64})
      TUTTI_RETURN_IF_ERROR(measure_reduce(4, size_t{64} << 20, dtype));
    TUTTI_RETURN_IF_ERROR(measure_all_reduce(8, large));
    for (size_t bytes = 8; bytes <= 32768; bytes *= 8)
      TUTTI_RETURN_IF_ERROR(measure_small(8, bytes));
    TUTTI_RETURN_IF_ERROR(measure_plans(8));
    TUTTI_RETURN_IF_ERROR(measure_shots(8));
    return measure_enqueue(8);
  }

 private:
  Status check(int result, const char* function) { return driver_->check(result, function); }

  // Median seconds of one `body`, by events around a graph of `many`.
  Result<double> time(int many, const std::function<Status()>& body) {
    Graph graph = nullptr;
    GraphExec exec = nullptr;
    TUTTI_RETURN_IF_ERROR(body());  // loads what is loaded at first use
    TUTTI_RETURN_IF_ERROR(check(driver_->stream_synchronize(stream_), "cuStreamSynchronize"));
    TUTTI_RETURN_IF_ERROR(
        check(driver_->stream_begin_capture(stream_, k_capture_relaxed), "cuStreamBeginCapture"));
    for (int i = 0; i < many; ++i) TUTTI_RETURN_IF_ERROR(body());
    TUTTI_RETURN_IF_ERROR(
        check(driver_->stream_end_capture(stream_, &graph), "cuStreamEndCapture"));
    TUTTI_RETURN_IF_ERROR(check(driver_->graph_instantiate(&exec, graph, 0), "cuGraphInstantiate"));
    std::vector<double> times;
    for (int turn = 0; turn < 13; ++turn) {
      float ms = 0;
      TUTTI_RETURN_IF_ERROR(check(driver_->event_record(begin_, stream_), "cuEventRecord"));
      TUTTI_RETURN_IF_ERROR(check(driver_->graph_launch(exec, stream_), "cuGraphLaunch"));
      TUTTI_RETURN_IF_ERROR(check(driver_->event_record(end_, stream_), "cuEventRecord"));
      TUTTI_RETURN_IF_ERROR(check(driver_->event_synchronize(end_), "cuEventSynchronize"));
      TUTTI_RETURN_IF_ERROR(check(driver_->event_elapsed(&ms, begin_, end_), "cuEventElapsedTime"));
      if (turn >= 3) times.push_back(ms * 1e-3 / many);
    }
    driver_->graph_exec_destroy(exec);
    driver_->graph_destroy(graph);
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  // Random-looking, finite bytes: memory of one value can be faster than real data.
  Result<std::unique_ptr<Allocation>> filled(size_t bytes) {
    auto memory = Allocation::on_device(*runtime_, *device_, bytes);
    if (!memory) return memory;
    std::vector<uint32_t> block(1 << 20);
    uint32_t x = static_cast<uint32_t>(bytes) | 1;
    for (uint32_t& word : block) word = (x = x * 1664525 + 1013904223) & 0x3F3F3F3F;
    for (size_t at = 0; at < bytes; at += block.size() * 4)
      TUTTI_RETURN_IF_ERROR(
          check(driver_->copy_to_device((*memory)->address() + at, block.data(),
                                        std::min(bytes - at, block.size() * 4), stream_),
                "cuMemcpyHtoDAsync"));
    TUTTI_RETURN_IF_ERROR(check(driver_->stream_synchronize(stream_), "cuStreamSynchronize"));
    return memory;
  }

  Status measure_copy(size_t bytes) {
    auto a = filled(bytes), b = filled(bytes);
    if (!a || !b) return a ? b.status() : a.status();
    auto seconds = time(4, [&] {
      return check(driver_->copy((*b)->address(), (*a)->address(), bytes, stream_),
                   "cuMemcpyAsync");
    });
    if (!seconds) return seconds.status();
    copy_rate_ = 2.0 * static_cast<double>(bytes) / *seconds;
    std::printf("copy of %zu MB: %.0f GB/s read + written\n", bytes >> 20, copy_rate_ * 1e-9);
    return {};
  }

  void report(const std::string& what, double seconds, double floor) {
    std::printf("%-44s %10.2f us  floor %10.2f us  %5.1f %%\n", what.c_str(), seconds * 1e6,
                floor * 1e6, 100 * floor / seconds);
  }

  Status measure_reduce(uint32_t k, size_t bytes, DType dtype = DType::float32) {
    std::vector<std::unique_ptr<Allocation>> memory;
    GroupCall call;
    call.collective = Collective::reduce;
    call.count = bytes / size_of(dtype);
    call.dtype = dtype;
    for (uint32_t i = 0; i < k; ++i) {
      auto m = filled(bytes);
      if (!m) return m.status();
      memory.push_back(std::move(*m));
      call.ranks.push_back({0, stream_, memory.back()->data(), nullptr});
    }
    auto out = filled(bytes);
    if (!out) return out.status();
    call.ranks[0].recv = (*out)->data();
    auto seconds = time(8, [&] { return launch_group(*runtime_, call, {0, size_t{1} << 60}); });
    if (!seconds) return seconds.status();
    report(std::to_string(k) + "-way sum of 64 MB " + std::string(name(dtype)), *seconds,
           static_cast<double>(bytes) * (k + 1) / copy_rate_);
    return {};
  }

  Result<GroupCall> ranks_of(uint32_t n, size_t bytes,
                             std::vector<std::unique_ptr<Allocation>>* memory) {
    GroupCall call;
    call.count = bytes / 4;
    call.dtype = DType::float32;
    for (uint32_t r = 0; r < n; ++r) {
      auto in = filled(bytes), out = filled(bytes);
      if (!in || !out) return in ? out.status() : in.status();
      call.ranks.push_back({0, stream_, (*in)->data(), (*out)->data()});
      memory->push_back(std::move(*in));
      memory->push_back(std::move(*out));
    }
    return call;
  }

  Status measure_all_reduce(uint32_t n, size_t bytes) {
    std::vector<std::unique_ptr<Allocation>> memory;
    auto call = ranks_of(n, bytes, &memory);
    if (!call) return call.status();
    auto seconds = time(4, [&] { return launch_group(*runtime_, *call, {0, size_t{1} << 60}); });
    if (!seconds) return seconds.status();
    report(std::to_string(n) + " ranks, all-reduce of " + std::to_string(bytes >> 20) + " MB each",
           *seconds, 2.0 * n * static_cast<double>(bytes) / copy_rate_);
    return {};
  }

  Status measure_small(uint32_t n, size_t bytes) {
    std::vector<std::unique_ptr<Allocation>> memory, one;
    auto call = ranks_of(n, bytes, &memory);
    auto alone = ranks_of(1, 8, &one);
    if (!call || !alone) return call ? alone.status() : call.status();
    auto seconds = time(100, [&] { return launch_group(*runtime_, *call, {0, size_t{1} << 60}); });
    if (!seconds) return seconds.status();
    auto floor = time(100, [&] { return launch_group(*runtime_, *alone, {0, size_t{1} << 60}); });
    if (!floor) return floor.status();
    report(std::to_string(n) + " ranks, all-reduce of " + std::to_string(bytes) + " B in a graph",
           *seconds, *floor);
    return {};
  }

  // The interpreter as one grid: what flags cost against the launch without them.
  Status measure_plans(uint32_t n) {
    auto world = PlanWorld::make(*runtime_, *device_, {n, 4, 8, 4, 16384, 0});
    if (!world) return world.status();
    struct Case {
      const char* algorithm;
      Wire wire;
      size_t bytes;
      uint32_t workers;
    };
    for (const Case& c : {Case{"direct_one_shot", Wire::packets, 8, 1},
                          Case{"direct_one_shot", Wire::packets, 8192, 1},
                          Case{"direct_two_shot", Wire::packets, 32768, 2},
                          Case{"direct_two_shot", Wire::direct, size_t{16} << 20, 8},
                          Case{"ring", Wire::direct, size_t{64} << 20, 8}}) {
      std::vector<std::unique_ptr<Allocation>> memory;
      auto call = ranks_of(n, c.bytes, &memory);
      if (!call) return call.status();
      PlanRequest request;
      request.ranks = n;
      auto bound = (*world)->bind({*make_plan(c.algorithm, request), c.bytes / 4, DType::float32,
                                   ReduceOp::sum, c.wire, c.workers});
      if (!bound) return bound.status();
      std::vector<const void*> in;
      std::vector<void*> out;
      for (const GroupRank& r : call->ranks) in.push_back(r.send), out.push_back(r.recv);
      auto seconds = time(10, [&] { return (*world)->launch(**bound, in, out, stream_); });
      if (!seconds) return seconds.status();
      report(std::string("plan ") + c.algorithm + " of " + std::to_string(c.bytes) + " B", *seconds,
             2.0 * n * static_cast<double>(c.bytes) / copy_rate_);
    }
    return {};
  }

  // Small all_reduces in shots and by plans, each pair on the same windows, in a graph: what a call
  // costs a stream. The floor is one launch that waits for nobody.
  Status measure_shots(uint32_t n) {
    auto world = PlanWorld::make(*runtime_, *device_, PeerWorld::default_shape(n));
    if (!world) return world.status();
    std::vector<std::unique_ptr<Allocation>> one;
    auto alone = ranks_of(1, 8, &one);
    if (!alone) return alone.status();
    auto floor = time(100, [&] { return launch_group(*runtime_, *alone, {0, size_t{1} << 60}); });
    if (!floor) return floor.status();
    for (const char* algorithm : {"direct_one_shot", "direct_two_shot"})
      for (size_t bytes = 8; bytes <= 32768; bytes *= 8) {
        std::vector<std::unique_ptr<Allocation>> memory;
        auto call = ranks_of(n, bytes, &memory);
        if (!call) return call.status();
        std::vector<const void*> in;
        std::vector<void*> out;
        for (const GroupRank& r : call->ranks) in.push_back(r.send), out.push_back(r.recv);
        PlanRequest request;
        request.ranks = n;
        PlanCall plan{*make_plan(algorithm, request),
                      bytes / 4,
                      DType::float32,
                      ReduceOp::sum,
                      Wire::packets,
                      1};
        while (plan.workers < 8 && cut_of(plan, PeerWorld::default_shape(n))->layout.rounds() > 1)
          plan.workers *= 2;
        auto bound = (*world)->bind(plan);
        if (!bound) return bound.status();
        auto shots = time(100, [&] { return (*world)->launch_shots(plan, in, out, stream_); });
        if (!shots) return shots.status();
        auto planned = time(100, [&] { return (*world)->launch(**bound, in, out, stream_); });
        if (!planned) return planned.status();
        const std::string what = std::string(algorithm) + " of " + std::to_string(bytes) +
                                 " B among " + std::to_string(n);
        report(what + ", shots", *shots, *floor);
        report(what + ", plan", *planned, *floor);
      }
    return {};
  }

  Status measure_enqueue(uint32_t n) {
    std::vector<std::unique_ptr<Allocation>> memory;
    auto call = ranks_of(n, 1024, &memory);
    if (!call) return call.status();
    std::vector<double> times;
    for (int turn = 0; turn < 200; ++turn) {
      const auto before = std::chrono::steady_clock::now();
      TUTTI_RETURN_IF_ERROR(launch_group(*runtime_, *call, {0, size_t{1} << 60}));
      times.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count());
      if (turn % 20 == 0)
        TUTTI_RETURN_IF_ERROR(check(driver_->stream_synchronize(stream_), "cuStreamSynchronize"));
    }
    std::sort(times.begin(), times.end());
    std::printf("enqueue of one call of %u ranks: %.2f us (goal 3 us a rank)\n", n,
                times[100] * 1e6);
    return check(driver_->stream_synchronize(stream_), "cuStreamSynchronize");
  }

  std::shared_ptr<const Driver> driver_;
  std::shared_ptr<Runtime> runtime_;
  Device* device_ = nullptr;
  std::unique_ptr<Scope> scope_;
  Stream stream_ = nullptr;
  Event begin_ = nullptr, end_ = nullptr;
  double copy_rate_ = 1;
};

}  // namespace
}  // namespace tutti::cuda

int main(int argc, char** argv) {
  tutti::cuda::GpuBench bench;
  tutti::Status status = bench.open();
  if (!status.ok()) {
    std::fprintf(stderr, "no figures: %s\n", status.message().c_str());
    return 2;
  }
  status = bench.run(argc > 1 && std::strcmp(argv[1], "--quick") == 0);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
