// What only a device can show: its kernels against the CPU kernels and the plan's interpreter, bit
// for bit; graphs; abort; overlapping grids; the stream's memory operations. Skipped, with the
// reason, where there is none. Runs on the fake driver as well (twin.gpu), which tests the
// tests.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "src/algorithms/algorithms.h"
#include "src/cuda/group_launch.h"
#include "src/cuda/plan_world.h"
#include "src/cuda/staging.h"
#include "tests/cuda/oracle.h"
#include "tests/gpu/device.h"

namespace tutti::cuda {
namespace {

class Gpu : public testing::Test {
 protected:
  void SetUp() override {
    const FoundDevice found = find_device();
    if (found.device == nullptr) GTEST_SKIP() << found.missing;
    driver_ = found.driver;
    runtime_ = found.runtime;
    device_ = found.device;
    scope_ = std::make_unique<Scope>(*driver_, device_->context());
    ASSERT_EQ(driver_->stream_create(&stream_, k_stream_non_blocking), 0);
  }
  void TearDown() override {
    if (stream_ == nullptr) return;
    EXPECT_EQ(driver_->stream_synchronize(stream_), 0);
    kept_.clear();
    driver_->stream_destroy(stream_);
    scope_.reset();
  }

  std::byte* allocate(size_t bytes) {
    auto memory = Allocation::on_device(*runtime_, *device_, bytes);
    EXPECT_TRUE(memory.ok()) << memory.status().to_string();
    kept_.push_back(std::move(*memory));
    return kept_.back()->data();
  }
  std::byte* upload(const Bytes& bytes, size_t offset = 0) {
    std::byte* p = allocate(bytes.size() + offset + 16) + offset;
    if (!bytes.empty()) {
      EXPECT_EQ(driver_->copy_to_device(reinterpret_cast<DevicePtr>(p), bytes.data(), bytes.size(),
                                        stream_),
                0);
      EXPECT_EQ(driver_->stream_synchronize(stream_), 0);
    }
    return p;
  }
  Bytes download(const void* p, size_t bytes) {
    Bytes out(bytes);
    if (bytes > 0) {
      EXPECT_EQ(driver_->copy_to_host(out.data(), reinterpret_cast<DevicePtr>(p), bytes, stream_),
                0);
    }
    EXPECT_EQ(driver_->stream_synchronize(stream_), 0);
    return out;
  }
  void poison(void* p, size_t bytes) {
    EXPECT_EQ(driver_->memory_set(reinterpret_cast<DevicePtr>(p), 0xC5, bytes, stream_), 0);
  }

  // One pass of the device over `sources`, against the CPU kernels.
  void check_pass(DType dtype, ReduceOp op, const std::vector<Bytes>& sources, size_t offset) {
    const size_t size = size_of(dtype), bytes = sources[0].size();
    GroupCall call;
    call.collective = Collective::reduce;
    call.count = bytes / size;
    call.dtype = dtype;
    call.op = op;
    std::vector<const void*> host;
    for (size_t r = 0; r < sources.size(); ++r) {
      host.push_back(sources[r].data());
      call.ranks.push_back(
          {0, stream_, upload(sources[r], (offset + r % 2 * (offset % 3)) * size), nullptr});
    }
    std::byte* out = allocate(bytes + (offset + 1) * size) + offset * size;
    poison(out - offset * size, bytes + (offset + 1) * size);
    call.ranks[0].recv = out;
    const Status status = launch_group(*runtime_, call, {});
    ASSERT_TRUE(status.ok()) << status.to_string();
    Bytes expected(bytes);
    void* to = expected.data();
    kernels::reduce(dtype, op, host, {&to, 1}, call.count,
                    op == ReduceOp::avg ? static_cast<uint32_t>(sources.size()) : 0);
    const Bytes got = download(out, bytes + size);
    ASSERT_EQ(std::memcmp(got.data(), expected.data(), bytes), 0)
        << name(dtype) << " " << name(op) << " k=" << sources.size() << " bytes " << bytes
        << " offset " << offset;
    for (size_t i = bytes; i < bytes + size; ++i) ASSERT_EQ(std::to_integer<int>(got[i]), 0xC5);
    kept_.clear();
  }

  std::shared_ptr<const Driver> driver_;
  std::shared_ptr<Runtime> runtime_;
  Device* device_ = nullptr;
  std::unique_ptr<Scope> scope_;
  Stream stream_ = nullptr;
  std::vector<std::unique_ptr<Allocation>> kept_;
};

Bytes any_bits(size_t bytes, uint32_t seed) {
  std::mt19937 random(seed);
  Bytes out(bytes);
  for (auto& b : out) b = static_cast<std::byte>(random());
  return out;
}

TEST_F(Gpu, EveryTypeOperatorSizeAndMisalignment) {
  for (int dtype = 0; dtype < k_dtypes; ++dtype)
    for (int op = 0; op < 5; ++op)
      for (size_t count : {1, 15, 64, 1000, 70001})
        for (size_t offset : {0, 1, 3, 7}) {
          if (count > 1000 && offset == 7) continue;
          const auto type = static_cast<DType>(dtype);
          std::vector<Bytes> sources;
          for (uint32_t k = 0; k < 2 + count % 7; ++k)
            sources.push_back(
                any_bits(count * size_of(type), 31 * k + static_cast<uint32_t>(count)));
          check_pass(type, static_cast<ReduceOp>(op), sources, offset);
          if (HasFatalFailure()) return;
        }
}

// The conversions in hardware: all pairs of 8-bit codes, all 16-bit codes against several partners.
TEST_F(Gpu, EveryCodeOfTheNarrowFloats) {
  for (DType dtype : {DType::float8_e4m3, DType::float8_e5m2, DType::float16, DType::bfloat16}) {
    const size_t size = size_of(dtype);
    std::vector<Bytes> sources(2);
    std::mt19937 random(5);
    for (uint32_t a = 0; a < (size == 1 ? 256u : 65536u); ++a)
      for (uint32_t b = 0; b < (size == 1 ? 256u : 5u); ++b) {
        const uint32_t other = size == 1 ? b
                               : b < 3   ? static_cast<uint32_t>(random())
                                         : (a ^ 0x8000) + b - 3;
        for (size_t i = 0; i < size; ++i) {
          sources[0].push_back(static_cast<std::byte>(a >> (8 * i)));
          sources[1].push_back(static_cast<std::byte>(other >> (8 * i)));
        }
      }
    for (ReduceOp op :
         {ReduceOp::sum, ReduceOp::prod, ReduceOp::min, ReduceOp::max, ReduceOp::avg}) {
      check_pass(dtype, op, sources, 0);
      if (HasFatalFailure()) return;
    }
  }
}

// --- plans as one grid

struct Ranks {
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
};

class GpuPlans : public Gpu {
 protected:
  static constexpr WindowShape k_window{1, 4, 2, 4, 4096, 65536};

  std::unique_ptr<PlanWorld> world(uint32_t n, bool shots = false) {
    WindowShape shape = k_window;
    shape.ranks = n;
    if (shots) shape.shot_blocks = 4, shape.shot_bytes = 4096;
    auto made = PlanWorld::make(*runtime_, *device_, shape);
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    return made ? std::move(*made) : nullptr;
  }

  // One plan, twice on the same windows, against its interpreter.
  void check(PlanWorld& ranks, const PlanCall& request) {
    const Shape& shape = request.plan->shape();
    const uint32_t n = shape.ranks;
    const size_t block = request.count * size_of(request.dtype);
    auto bound = ranks.bind(request);
    if (bound.status().code() == Code::unsupported) return;
    ASSERT_TRUE(bound.ok()) << bound.status().to_string();
    WindowShape window = k_window;
    window.ranks = n;
    const Layout layout = cut_of(request, window)->layout;
    std::vector<Bytes> inputs;
    for (Rank r = 0; r < n; ++r)
      inputs.push_back(
          random_elements(request.dtype, input_blocks(shape.collective, n) * request.count, r + 1));
    const auto want = expected(*request.plan, request.dtype, request.op, layout, inputs, block);
    for (int turn = 0; turn < 2; ++turn) {
      std::vector<const void*> in;
      std::vector<void*> out;
      for (Rank r = 0; r < n; ++r) {
        Memory m = lay_out(shape.collective, shape.in_place, r, n, block, inputs[r]);
        std::byte* recv = upload(m.recv);
        std::byte* send = m.send.empty() ? recv + (m.input - m.recv.data()) : upload(m.send);
        in.push_back(send);
        out.push_back(recv + (m.output - m.recv.data()));
      }
      const Status status = ranks.launch(**bound, in, out, stream_);
      ASSERT_TRUE(status.ok()) << status.to_string();
      ASSERT_EQ(driver_->stream_synchronize(stream_), 0);  // what runs on it is about to go
      for (Rank r = 0; r < n; ++r) {
        if (shape.output_chunks(r) == 0) continue;
        const Bytes got = download(out[r], want[r].size());
        ASSERT_EQ(std::memcmp(got.data(), want[r].data(), want[r].size()), 0)
            << request.plan->algorithm() << " " << name(shape.collective) << " rank " << r << " of "
            << n << " in place " << shape.in_place << " count " << request.count << " "
            << name(request.dtype) << " " << name(request.op) << " wire "
            << static_cast<int>(request.wire) << " workers " << request.workers << " turn " << turn;
      }
      kept_.clear();
    }
  }
};

TEST_F(GpuPlans, EveryAlgorithmEqualsTheInterpreter) {
  std::mt19937 random(3);
  const bool twin = device_->name() == "Fake GPU";  // of threads, which take turns on a few cores
  for (uint32_t n : {2u, 3u, 5u, 8u}) {
    if (twin && n > 3) break;
    auto ranks = world(n);
    ASSERT_NE(ranks, nullptr);
    for_each_plan(n, random, [&](const PlanPtr& plan) {
      for (Wire wire : {Wire::packets, Wire::slots, Wire::direct}) {
        const uint64_t counts[] = {1, 77, 2000, 60000};
        check(*ranks,
              {plan, counts[random() % (twin ? 3 : 4)], static_cast<DType>(random() % k_dtypes),
               static_cast<ReduceOp>(random() % 5), wire, 1 + static_cast<uint32_t>(random() % 2)});
        if (HasFatalFailure()) return;
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(GpuPlans, GraphsReplay) {
  auto ranks = world(4);
  ASSERT_NE(ranks, nullptr);
  PlanRequest request;
  request.ranks = 4;
  request.in_place = true;
  auto bound = ranks->bind(
      {*make_plan("ring", request), 3000, DType::int32, ReduceOp::sum, Wire::direct, 2});
  ASSERT_TRUE(bound.ok()) << bound.status().to_string();
  Bytes ones(12000);
  for (size_t i = 0; i < ones.size(); i += 4) ones[i] = std::byte{1};
  std::vector<const void*> in;
  std::vector<void*> out;
  for (Rank r = 0; r < 4; ++r) {
    out.push_back(upload(ones));
    in.push_back(out.back());
  }
  Graph graph = nullptr;
  GraphExec exec = nullptr;
  ASSERT_EQ(driver_->stream_begin_capture(stream_, k_capture_relaxed), 0);
  ASSERT_TRUE(ranks->launch(**bound, in, out, stream_).ok());
  ASSERT_EQ(driver_->stream_end_capture(stream_, &graph), 0);
  ASSERT_EQ(driver_->graph_instantiate(&exec, graph, 0), 0);
  for (int replay = 0; replay < 5; ++replay) ASSERT_EQ(driver_->graph_launch(exec, stream_), 0);
  const Bytes got = download(out[2], 12000);
  for (size_t i = 0; i < 3000; ++i) {
    uint32_t value = 0;
    std::memcpy(&value, got.data() + 4 * i, 4);
    ASSERT_EQ(value, 1024u) << "4 to the 5th, element " << i;
  }
  driver_->graph_exec_destroy(exec);
  driver_->graph_destroy(graph);
}

// Small sizes in any order on windows that stay, each before and after it goes by plan.
TEST_F(GpuPlans, ShotsEqualTheInterpreter) {
  std::mt19937 random(4);
  const bool twin = device_->name() == "Fake GPU";
  for (uint32_t n : {2u, 3u, 5u, 8u}) {
    if (twin && n > 3) break;
    auto ranks = world(n, true);
    ASSERT_NE(ranks, nullptr);
    int ran = 0;
    for (int turn = 0; turn < (twin ? 12 : 300); ++turn) {
      PlanRequest request;
      request.ranks = n;
      request.in_place = true;
      const PlanPtr plan =
          *make_plan(random() % 2 == 0 ? "direct_one_shot" : "direct_two_shot", request);
      const auto dtype = static_cast<DType>(random() % k_dtypes);
      const auto op = static_cast<ReduceOp>(random() % 5);
      const size_t bytes = random() % (turn % 3 == 0 ? 12000 : 600);
      const uint64_t count = bytes / size_of(dtype);
      const PlanCall call{plan, count, dtype, op, Wire::packets, 2};
      WindowShape window = k_window;
      window.ranks = n;
      const auto cut = cut_of(call, window);
      ASSERT_TRUE(cut.ok()) << cut.status().to_string();
      if (cut->layout.rounds() > 1) continue;
      std::vector<Bytes> inputs;
      for (Rank r = 0; r < n; ++r)
        inputs.push_back(random_elements(dtype, count, static_cast<uint32_t>(random())));
      const auto want = expected(*plan, dtype, op, cut->layout, inputs, count * size_of(dtype));
      auto bound = ranks->bind(call);
      ASSERT_TRUE(bound.ok()) << bound.status().to_string();
      for (bool by_plan : {false, true, false}) {
        std::vector<const void*> in;
        std::vector<void*> out;
        const bool in_place = random() % 2 == 0;
        for (Rank r = 0; r < n; ++r) {
          const size_t offset = random() % 3 * size_of(dtype);
          std::byte* send = upload(inputs[r], offset);
          in.push_back(send);
          out.push_back(in_place ? send : upload(Bytes(inputs[r].size()), random() % 2 * 8));
        }
        const Status status = by_plan ? ranks->launch(**bound, in, out, stream_)
                                      : ranks->launch_shots(call, in, out, stream_);
        if (status.code() == Code::unsupported) break;  // a device of few blocks
        ASSERT_TRUE(status.ok()) << status.to_string();
        ASSERT_EQ(driver_->stream_synchronize(stream_), 0);
        ++ran;
        for (Rank r = 0; r < n; ++r)
          ASSERT_EQ(download(out[r], want[r].size()), want[r])
              << plan->algorithm() << " rank " << r << " of " << n << ", " << count << " "
              << name(dtype) << " " << name(op) << " by plan " << by_plan;
      }
      kept_.clear();
    }
    EXPECT_GT(ran, twin ? 12 : 300);
  }
}

// Small, larger and small calls in a graph, on halves that go on in turns from replay to replay.
TEST_F(GpuPlans, ShotsReplay) {
  auto ranks = world(2, true);
  ASSERT_NE(ranks, nullptr);
  PlanRequest request;
  request.ranks = 2;
  request.in_place = true;
  const PlanPtr one = *make_plan("direct_one_shot", request),
                two = *make_plan("direct_two_shot", request);
  Bytes ones(8000);
  for (size_t i = 0; i < ones.size(); i += 4) ones[i] = std::byte{1};
  const std::vector<void*> out{upload(ones), upload(ones)};
  const std::vector<const void*> in{out[0], out[1]};
  Graph graph = nullptr;
  GraphExec exec = nullptr;
  ASSERT_EQ(driver_->stream_begin_capture(stream_, k_capture_relaxed), 0);
  for (const auto& [plan, count] :
       {std::pair(one, 2u), std::pair(two, 2000u), std::pair(two, 2u)}) {
    const Status status = ranks->launch_shots(
        {plan, count, DType::int32, ReduceOp::sum, Wire::packets, 1}, in, out, stream_);
    ASSERT_TRUE(status.ok()) << status.to_string();
  }
  ASSERT_EQ(driver_->stream_end_capture(stream_, &graph), 0);
  ASSERT_EQ(driver_->graph_instantiate(&exec, graph, 0), 0);
  for (int replay = 0; replay < 5; ++replay) ASSERT_EQ(driver_->graph_launch(exec, stream_), 0);
  const Bytes got = download(out[1], 8000);
  for (size_t i = 0; i < 2000; ++i) {
    uint32_t value = 0;
    std::memcpy(&value, got.data() + 4 * i, 4);
    ASSERT_EQ(value, i < 2 ? 32768u : 32u) << "element " << i;
  }
  driver_->graph_exec_destroy(exec);
  driver_->graph_destroy(graph);
}

TEST_F(GpuPlans, AbortEndsShotsThatWait) {
  auto ranks = world(2, true);
  ASSERT_NE(ranks, nullptr);
  PlanRequest request;
  request.ranks = 2;
  const PlanPtr plan = *make_plan("direct_one_shot", request);
  const Bytes zero(400);
  const std::vector<const void*> in{upload(zero), upload(zero)};
  const std::vector<void*> out{upload(zero), upload(zero)};
  const Status status = ranks->launch_shots(
      {plan, 100, DType::float32, ReduceOp::sum, Wire::packets, 1}, in, out, stream_, 1);
  ASSERT_TRUE(status.ok()) << status.to_string();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(driver_->stream_query(stream_), k_not_ready);
  ranks->abort();
  EXPECT_EQ(driver_->stream_synchronize(stream_), 0);
}

// A grid of half the ranks waits for the other half, until the host tells it to leave.
TEST_F(GpuPlans, AbortEndsARunningGrid) {
  auto ranks = world(2);
  ASSERT_NE(ranks, nullptr);
  PlanRequest request;
  request.ranks = 2;
  auto bound = ranks->bind(
      {*make_plan("ring", request), 1000, DType::float32, ReduceOp::sum, Wire::direct, 1});
  ASSERT_TRUE(bound.ok()) << bound.status().to_string();
  const Bytes zero(4000);
  const std::vector<const void*> in{upload(zero), upload(zero)};
  const std::vector<void*> out{upload(zero), upload(zero)};
  ASSERT_TRUE(ranks->launch(**bound, in, out, stream_, 1).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(driver_->stream_query(stream_), k_not_ready);
  ranks->abort();
  EXPECT_EQ(driver_->stream_synchronize(stream_), 0);
}

// Two communicators at the same time on streams of their own.
TEST_F(GpuPlans, TwoGridsOverlap) {
  auto a = world(2), b = world(3);
  ASSERT_TRUE(a != nullptr && b != nullptr);
  Stream second = nullptr;
  ASSERT_EQ(driver_->stream_create(&second, k_stream_non_blocking), 0);
  struct Job {
    PlanWorld* world;
    Stream stream;
    uint32_t n;
    std::shared_ptr<PlanWorld::Bound> bound;
    Ranks ranks;
  };
  Job jobs[] = {{a.get(), stream_, 2, nullptr, {}}, {b.get(), second, 3, nullptr, {}}};
  Bytes ones(400000);
  for (size_t i = 0; i < ones.size(); i += 4) ones[i] = std::byte{1};
  for (Job& job : jobs) {
    PlanRequest request;
    request.ranks = job.n;
    auto bound = job.world->bind({*make_plan("direct_two_shot", request), 100000, DType::int32,
                                  ReduceOp::sum, Wire::direct, 2});
    ASSERT_TRUE(bound.ok()) << bound.status().to_string();
    job.bound = *bound;
    for (Rank r = 0; r < job.n; ++r) {
      job.ranks.inputs.push_back(upload(ones));
      job.ranks.outputs.push_back(upload(ones));
    }
  }
  for (int turn = 0; turn < 20; ++turn)
    for (Job& job : jobs)
      ASSERT_TRUE(
          job.world->launch(*job.bound, job.ranks.inputs, job.ranks.outputs, job.stream).ok());
  EXPECT_EQ(driver_->stream_synchronize(second), 0);
  for (Job& job : jobs) {
    const Bytes got = download(job.ranks.outputs[0], 400000);
    uint32_t value = 0;
    std::memcpy(&value, got.data() + 399996, 4);
    EXPECT_EQ(value, job.n);
  }
  driver_->stream_destroy(second);
}

// The stream's wait for the host, and its flag that returns to zero: twice as a call, then in a
// graph.
TEST_F(Gpu, StagingWaitsInTheStream) {
  std::byte* in = upload(any_bits(5000, 1));
  std::byte* out = allocate(5000);
  std::vector<std::thread> threads;
  {
    Staging staging(*runtime_, *device_);
    for (int turn = 0; turn < 3; ++turn) {
      poison(out, 5000);
      Graph graph = nullptr;
      GraphExec exec = nullptr;
      const bool captured = turn == 2;
      if (captured) {
        ASSERT_EQ(driver_->stream_begin_capture(stream_, k_capture_relaxed), 0);
      }
      auto ticket =
          staging.prepare(stream_, {{reinterpret_cast<DevicePtr>(in), 5000, true, false},
                                    {reinterpret_cast<DevicePtr>(out), 5000, false, true}});
      ASSERT_TRUE(ticket.ok()) << ticket.status().to_string();
      const auto answer = [t = *ticket, &threads] {
        threads.emplace_back([t] {
          std::memcpy(t->host(1), t->host(0), 5000);
          t->answer();
        });
      };
      ASSERT_TRUE(staging.post(**ticket, stream_, answer).ok());
      const Status status = staging.finish(**ticket, stream_);
      ASSERT_TRUE(status.ok()) << status.to_string();
      if (captured) {
        ASSERT_EQ(driver_->stream_end_capture(stream_, &graph), 0);
        ASSERT_EQ(driver_->graph_instantiate(&exec, graph, 0), 0);
        for (int replay = 0; replay < 3; ++replay)
          ASSERT_EQ(driver_->graph_launch(exec, stream_), 0);
      }
      EXPECT_EQ(download(out, 5000), any_bits(5000, 1)) << "turn " << turn;
      if (captured) {
        driver_->graph_exec_destroy(exec);
        driver_->graph_destroy(graph);
      }
    }
  }
  for (std::thread& t : threads) t.join();
}

}  // namespace
}  // namespace tutti::cuda
