// The enqueue path over the fake driver: launches for groups, staging, capture, errors.
#include <gtest/gtest.h>

#include <random>

#include "src/algorithms/algorithms.h"
#include "src/cuda/group_launch.h"
#include "src/cuda/plan_world.h"
#include "src/cuda/staging.h"
#include "tests/collective/world.h"
#include "tests/cuda/fake_cuda.h"
#include "tests/cuda/oracle.h"

namespace tutti::cuda {
namespace {

using testing_world::Bytes;
using testing_world::input_blocks;
using testing_world::output_blocks;

// A group's call with everybody's buffers in fake device memory.
struct World {
  FakeCuda& fake;
  GroupCall call;
  std::vector<Bytes> inputs;
  size_t send_bytes = 0, recv_bytes = 0;

  World(FakeCuda& f, Collective c, uint32_t n, uint64_t count, DType dtype, ReduceOp op,
        bool in_place, int devices = 1)
      : fake(f) {
    call.collective = c;
    call.count = count;
    call.dtype = dtype;
    call.op = op;
    call.root = n / 2;
    const size_t block = count * size_of(dtype);
    send_bytes = input_blocks(c, n) * block;
    recv_bytes = output_blocks(c, n) * block;
    std::mt19937 random(n);
    for (Rank r = 0; r < n; ++r) {
      Bytes input(send_bytes);
      // No NaN in any type; sums of floats show the order of operands.
      for (size_t i = 0; i < input.size(); ++i) input[i] = static_cast<std::byte>(random() % 3);
      const int device = static_cast<int>(r) % devices;
      GroupRank rank;
      rank.device = device;
      rank.stream = fake.stream(device);
      const size_t most = std::max(send_bytes, recv_bytes);
      auto* memory = fake.allocate(in_place ? most : recv_bytes, device);
      rank.recv = memory + (in_place && send_bytes > recv_bytes ? r * block : 0);
      std::byte* send = in_place ? memory + (recv_bytes > send_bytes ? r * block : 0)
                                 : fake.allocate(send_bytes, device);
      if (send_bytes > 0) std::memcpy(send, input.data(), send_bytes);
      rank.send = send;
      rank.factor = factor_of(op, dtype, r);
      if (r % 2 == 1 && op == ReduceOp::premul_sum) {  // read when the call runs
        rank.factor.at = fake.allocate(size_of(dtype), device);
        std::memcpy(const_cast<std::byte*>(rank.factor.at), &rank.factor.bits, size_of(dtype));
        rank.factor.bits = 0;
      }
      call.ranks.push_back(rank);
      inputs.push_back(std::move(input));
    }
  }
  void synchronize() {
    for (const GroupRank& r : call.ranks) fake.synchronize(r.stream);
  }
  // Reductions join operands in the order of the ranks; what only copies is what its plan says.
  std::vector<Bytes> expected() const {
    const auto n = static_cast<uint32_t>(call.ranks.size());
    const Collective c = call.collective;
    if (c != Collective::all_reduce && c != Collective::reduce && c != Collective::reduce_scatter)
      return by_plan(n);
    Bytes whole(send_bytes);
    std::vector<const void*> sources;
    std::vector<Bytes> scaled;
    for (Rank r = 0; r < n; ++r) scaled.push_back(times_factor(inputs[r], call.op, call.dtype, r));
    for (const Bytes& input : scaled) sources.push_back(input.data());
    void* to = whole.data();
    kernels::reduce(call.dtype, call.op, sources, {&to, 1}, send_bytes / size_of(call.dtype),
                    call.op == ReduceOp::avg ? n : 0);
    std::vector<Bytes> outputs;
    for (Rank r = 0; r < n; ++r) {
      const auto begin =
          whole.begin() + static_cast<ptrdiff_t>(send_bytes > recv_bytes ? r * recv_bytes : 0);
      outputs.emplace_back(begin, begin + static_cast<ptrdiff_t>(recv_bytes));
    }
    return outputs;
  }
  std::vector<Bytes> by_plan(uint32_t n) const {
    PlanRequest request;
    request.collective = call.collective;
    request.ranks = n;
    request.root = call.root;
    Result<PlanPtr> plan = make_plan("direct", request);
    EXPECT_TRUE(plan.ok()) << plan.status().to_string();
    return testing_world::expected_outputs(**plan, call.count, call.dtype, call.op, inputs,
                                           std::vector<Bytes>(n, Bytes(recv_bytes)));
  }
};

bool has_output(Collective c, Rank r, Rank root) {
  return (c != Collective::reduce && c != Collective::gather) || r == root;
}

TEST(GroupLaunch, EveryCollectiveInPlaceAndOut) {
  const Collective collectives[] = {Collective::all_reduce, Collective::reduce_scatter,
                                    Collective::all_gather, Collective::broadcast,
                                    Collective::reduce,     Collective::all_to_all,
                                    Collective::gather,     Collective::scatter};
  for (Collective c : collectives)
    for (uint32_t n : {2u, 3u, 8u})
      for (bool in_place : {false, true})
        for (uint64_t count : {uint64_t{1}, uint64_t{77}, uint64_t{5000}})
          for (int devices : {1, 2}) {
            FakeCuda fake;
            auto runtime = fake.runtime();
            ASSERT_NE(runtime, nullptr);
            const DType dtype = static_cast<DType>((n + count) % k_dtypes);
            const bool reduces = c == Collective::all_reduce || c == Collective::reduce ||
                                 c == Collective::reduce_scatter;
            const ReduceOp op = count == 1               ? ReduceOp::sum
                                : reduces && count == 77 ? ReduceOp::premul_sum
                                                         : ReduceOp::max;
            World w(fake, c, n, count, dtype, op, in_place, devices);
            if (in_place && c == Collective::all_to_all) {
              EXPECT_FALSE(group_serves(w.call));
              continue;
            }
            ASSERT_TRUE(group_serves(w.call));
            const Status status = launch_group(*runtime, w.call, {0, size_t{1} << 30});
            ASSERT_TRUE(status.ok()) << status.to_string();
            w.synchronize();
            EXPECT_EQ(fake.kernels, std::min<int>(devices, static_cast<int>(n)));
            const std::vector<Bytes> want = w.expected();
            for (Rank r = 0; r < n; ++r) {
              if (!has_output(c, r, w.call.root)) continue;
              ASSERT_EQ(std::memcmp(w.call.ranks[r].recv, want[r].data(), want[r].size()), 0)
                  << name(c) << " rank " << r << " of " << n << " in place " << in_place
                  << " count " << count << " " << name(dtype);
            }
          }
}

// Other work of every rank's stream comes before the collective, and what follows comes after.
TEST(GroupLaunch, IsStreamOrdered) {
  for (int devices : {1, 2}) {
    FakeCuda fake;
    auto runtime = fake.runtime();
    World w(fake, Collective::all_reduce, 4, 1000, DType::float32, ReduceOp::sum, false, devices);
    const std::vector<Bytes> want = w.expected();
    std::vector<std::byte*> inputs;
    for (Rank r = 0; r < 4; ++r) {
      auto* source = fake.allocate(4000, -1);
      std::memcpy(source, w.inputs[r].data(), 4000);
      auto* to = static_cast<std::byte*>(const_cast<void*>(w.call.ranks[r].send));
      std::memset(to, 0xFF, 4000);
      fake.driver()->launch_host(
          w.call.ranks[r].stream,
          [](void*) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }, nullptr);
      fake.driver()->copy_to_device(reinterpret_cast<DevicePtr>(to), source, 4000,
                                    w.call.ranks[r].stream);
    }
    ASSERT_TRUE(launch_group(*runtime, w.call, {}).ok());
    std::vector<std::byte*> after;
    for (const GroupRank& r : w.call.ranks) {
      after.push_back(fake.allocate(4000, -1));
      fake.driver()->copy_to_host(after.back(), reinterpret_cast<DevicePtr>(r.recv), 4000,
                                  r.stream);
    }
    w.synchronize();
    for (Rank r = 0; r < 4; ++r) EXPECT_EQ(std::memcmp(after[r], want[r].data(), 4000), 0) << r;
  }
}

TEST(GroupLaunch, CapturesAndReplays) {
  FakeCuda fake;
  auto runtime = fake.runtime();
  World w(fake, Collective::all_reduce, 3, 500, DType::int32, ReduceOp::sum, true);
  const Driver& driver = *fake.driver();
  const Stream first = w.call.ranks[0].stream;
  // The others join the capture as programs make them join: by an event.
  driver.stream_begin_capture(first, 0);
  Event fork = nullptr;
  driver.event_create(&fork, 0);
  driver.event_record(fork, first);
  for (Rank r = 1; r < 3; ++r) driver.stream_wait_event(w.call.ranks[r].stream, fork, 0);
  ASSERT_TRUE(launch_group(*runtime, w.call, {}).ok());
  Graph graph = nullptr;
  GraphExec exec = nullptr;
  driver.stream_end_capture(first, &graph);
  ASSERT_EQ(driver.graph_instantiate(&exec, graph, 0), 0);
  for (int replay = 0; replay < 3; ++replay) ASSERT_EQ(driver.graph_launch(exec, first), 0);
  fake.synchronize(first);
  // In place, each replay triples: 3 * 3 * sum of inputs.
  for (size_t i = 0; i < 500; ++i) {
    uint32_t sum = 0, got = 0;
    for (const Bytes& input : w.inputs) {
      uint32_t x = 0;
      std::memcpy(&x, input.data() + 4 * i, 4);
      sum += x;
    }
    std::memcpy(&got, static_cast<std::byte*>(w.call.ranks[2].recv) + 4 * i, 4);
    ASSERT_EQ(got, sum * 9);
  }
  driver.graph_exec_destroy(exec);
  driver.graph_destroy(graph);
  driver.event_destroy(fork);
}

TEST(GroupLaunch, BlocksStayWithinTheLimit) {
  FakeCuda fake;
  auto runtime = fake.runtime();
  World w(fake, Collective::all_reduce, 4, 3000000, DType::uint8, ReduceOp::sum, true);
  ASSERT_TRUE(launch_group(*runtime, w.call, {4, size_t{1} << 40}).ok());
  w.synchronize();
  EXPECT_LE(fake.largest_grid, 4u);
}

TEST(GroupLaunch, LargeCopiesUseTheCopyEngine) {
  FakeCuda fake;
  auto runtime = fake.runtime();
  World w(fake, Collective::all_gather, 4, 3000, DType::uint8, ReduceOp::sum, true);
  const std::vector<Bytes> want = w.expected();
  ASSERT_TRUE(launch_group(*runtime, w.call, {0, 1000}).ok());
  w.synchronize();
  EXPECT_EQ(fake.kernels, 0);
  EXPECT_EQ(fake.engine_copies, 12);  // in place: a rank's own block is where it belongs
  for (Rank r = 0; r < 4; ++r)
    EXPECT_EQ(std::memcmp(w.call.ranks[r].recv, want[r].data(), want[r].size()), 0);
}

TEST(GroupLaunch, ErrorsOfTheDriverComeBackWithTheirName) {
  for (const char* function :
       {"cuLaunchKernel", "cuEventCreate", "cuEventRecord", "cuStreamWaitEvent",
        "cuModuleLoadDataEx", "cuModuleGetFunction", "cuDevicePrimaryCtxRetain"}) {
    FakeCuda fake;
    auto runtime = fake.runtime();
    World w(fake, Collective::all_reduce, 2, 10, DType::float32, ReduceOp::sum, true);
    fake.fail(function, k_out_of_memory);
    const Status status = launch_group(*runtime, w.call, {});
    EXPECT_EQ(status.code(), Code::device_error) << function;
    EXPECT_NE(status.message().find(function), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("CUDA_ERROR_OUT_OF_MEMORY"), std::string::npos)
        << status.message();
    EXPECT_TRUE(launch_group(*runtime, w.call, {}).ok()) << "the next call works again";
    w.synchronize();
  }
}

TEST(GroupLaunch, StreamOfAnotherContextNamesTheRank) {
  FakeCuda fake;
  auto runtime = fake.runtime();
  World w(fake, Collective::all_reduce, 2, 10, DType::float32, ReduceOp::sum, true);
  w.call.ranks[1].stream = fake.stream(1);
  const Status status = launch_group(*runtime, w.call, {});
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("rank 1"), std::string::npos) << status.message();
}

TEST(GroupLaunch, DevicesThatCannotReachEachOther) {
  FakeCuda fake;
  fake.peers_reach = false;
  auto runtime = fake.runtime();
  World w(fake, Collective::all_reduce, 2, 10, DType::float32, ReduceOp::sum, true, 2);
  EXPECT_EQ(launch_group(*runtime, w.call, {}).code(), Code::unsupported);
}

// --- one grid for all ranks

TEST(PlanWorldTest, RunsPlansAndReplays) {
  FakeCuda fake;
  fake.multiprocessors = 32;
  auto runtime = fake.runtime();
  Device& device = **runtime->device(0);
  auto world = PlanWorld::make(*runtime, device, {4, 4, 2, 4, 2048, 4096});
  ASSERT_TRUE(world.ok()) << world.status().to_string();
  World w(fake, Collective::all_reduce, 4, 900, DType::int32, ReduceOp::sum, false);
  const std::vector<Bytes> want = w.expected();
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
  for (const GroupRank& r : w.call.ranks) {
    inputs.push_back(r.send);
    outputs.push_back(r.recv);
  }
  const Stream stream = w.call.ranks[0].stream;
  for (const char* algorithm : {"ring", "direct_two_shot", "double_binary_tree"})
    for (Wire wire : {Wire::packets, Wire::slots, Wire::direct}) {
      PlanRequest request;
      request.ranks = 4;
      const PlanPtr plan = *make_plan(algorithm, request);
      auto bound = (*world)->bind({plan, 900, DType::int32, ReduceOp::sum, wire, 2});
      if (wire == Wire::packets && plan->shape().lanes > 1) {
        EXPECT_NE(bound.status().message().find("no order among"), std::string::npos);
        continue;
      }
      ASSERT_TRUE(bound.ok()) << bound.status().to_string();
      for (void* out : outputs) std::memset(out, 0xCD, 3600);
      const Driver& driver = *fake.driver();
      driver.stream_begin_capture(stream, 0);
      ASSERT_TRUE((*world)->launch(**bound, inputs, outputs, stream).ok());
      Graph graph = nullptr;
      GraphExec exec = nullptr;
      driver.stream_end_capture(stream, &graph);
      driver.graph_instantiate(&exec, graph, 0);
      for (int replay = 0; replay < 3; ++replay) driver.graph_launch(exec, stream);
      fake.synchronize(stream);
      for (Rank r = 0; r < 4; ++r)
        ASSERT_EQ(std::memcmp(outputs[r], want[r].data(), 3600), 0) << algorithm << " rank " << r;
      driver.graph_exec_destroy(exec);
      driver.graph_destroy(graph);
    }
}

TEST(PlanWorldTest, WhatDoesNotFitIsAnError) {
  FakeCuda fake;  // 8 blocks at once
  auto runtime = fake.runtime();
  Device& device = **runtime->device(0);
  auto world = PlanWorld::make(*runtime, device, {8, 4, 4, 4, 2048, 0});
  ASSERT_TRUE(world.ok());
  PlanRequest request;
  request.ranks = 8;
  auto bound = (*world)->bind(
      {*make_plan("ring", request), 900, DType::int32, ReduceOp::sum, Wire::direct, 4});
  ASSERT_FALSE(bound.ok());
  EXPECT_EQ(bound.status().code(), Code::unsupported);
  EXPECT_NE(bound.status().message().find("32 blocks"), std::string::npos)
      << bound.status().message();
  fake.fail("cuMemAlloc", k_out_of_memory);
  EXPECT_EQ(PlanWorld::make(*runtime, device, {8, 4, 4, 4, 2048, 0}).status().code(),
            Code::device_error);
}

// --- the runtime

TEST(Runtime, NoDriverIsAnErrorThatNamesIt) {
  const auto driver = load_driver("libcuda-that-is-not-there.so.1");
  ASSERT_FALSE(driver.ok());
  EXPECT_EQ(driver.status().code(), Code::device_error);
  EXPECT_NE(driver.status().message().find("libcuda-that-is-not-there"), std::string::npos);
}

TEST(Runtime, ALibraryThatIsNoDriver) {
  const auto driver = load_driver("libm.so.6");
  ASSERT_FALSE(driver.ok());
  EXPECT_NE(driver.status().message().find("cuInit"), std::string::npos)
      << driver.status().message();
}

TEST(Runtime, DriverTooOldForTheKernels) {
  FakeCuda fake;
  fake.version = 12040;
  const auto runtime = Runtime::open(fake.driver());
  ASSERT_FALSE(runtime.ok());
  EXPECT_EQ(runtime.status().code(), Code::device_error);
  EXPECT_NE(runtime.status().message().find("12.4"), std::string::npos)
      << runtime.status().message();
  EXPECT_NE(runtime.status().message().find("13.0"), std::string::npos);
}

TEST(Runtime, DriverThatFailsOrHasNoDevice) {
  {
    FakeCuda fake;
    fake.fail("cuInit", k_no_device);
    EXPECT_EQ(Runtime::open(fake.driver()).status().code(), Code::device_error);
    fake.fail("cuInit",
              k_stub_library);  // the toolkit's stub for linking, found instead of a driver
    EXPECT_NE(Runtime::open(fake.driver()).status().message().find("stub for linking"),
              std::string::npos);
  }
  FakeCuda none(0);
  EXPECT_EQ(Runtime::open(none.driver()).status().code(), Code::device_error);
}

TEST(Runtime, SaysWhereDevicesAreOnPci) {
  FakeCuda fake(2);
  const auto runtime = Runtime::open(fake.driver());
  ASSERT_TRUE(runtime.ok());
  EXPECT_EQ((*runtime)->bus_id(0), "0000:07:00.0");
  EXPECT_EQ((*runtime)->bus_id(1), "0000:0f:00.0");
}

TEST(Runtime, NoKernelsInThisBuild) {
  FakeCuda fake;
  const Images empty{[](Family) { return std::span<const std::byte>(); }, 0};
  auto runtime = Runtime::open(fake.driver(), empty);
  ASSERT_TRUE(runtime.ok());
  World w(fake, Collective::all_reduce, 2, 10, DType::float32, ReduceOp::sum, true);
  const Status status = launch_group(**runtime, w.call, {});
  EXPECT_EQ(status.code(), Code::device_error);
  EXPECT_NE(status.message().find("without nvcc"), std::string::npos);
}

TEST(Runtime, KernelsForAnotherDevice) {
  FakeCuda fake;
  auto runtime = fake.runtime();
  World w(fake, Collective::all_reduce, 2, 10, DType::float32, ReduceOp::sum, true);
  fake.fail("cuModuleLoadDataEx", k_no_binary);
  const Status status = launch_group(*runtime, w.call, {});
  EXPECT_NE(status.message().find("Fake GPU"), std::string::npos) << status.message();
}

TEST(Runtime, ChecksBuffers) {
  FakeCuda fake;
  auto runtime = fake.runtime();
  std::byte* memory = fake.allocate(1000, 0);
  std::byte* other = fake.allocate(1000, 1);
  std::byte* pinned = fake.allocate(1000, -1);
  EXPECT_TRUE(runtime->check_buffer("send", memory + 10, 990, 0).ok());
  EXPECT_NE(runtime->check_buffer("send", memory + 10, 991, 0).message().find("990 bytes left"),
            std::string::npos);
  EXPECT_NE(runtime->check_buffer("send", other, 10, 0).message().find("device 1"),
            std::string::npos);
  EXPECT_NE(runtime->check_buffer("receive", pinned, 10, 0).message().find("host memory"),
            std::string::npos);
  fake.free(memory);
  EXPECT_EQ(runtime->check_buffer("send", memory, 10, 0).code(), Code::invalid_argument);
  EXPECT_FALSE(runtime->device(7).ok());
}

// --- staging

struct Staged {
  FakeCuda fake;
  std::shared_ptr<Runtime> runtime = fake.runtime();
  Device* device = *runtime->device(0);
  Stream stream = fake.stream(0);
  std::byte* in = fake.allocate(1000);
  std::byte* out = fake.allocate(1000);
  std::vector<Staging::Buffer> buffers() const {
    return {{reinterpret_cast<DevicePtr>(in), 1000, true, false},
            {reinterpret_cast<DevicePtr>(out), 1000, false, true}};
  }
};

// The host of these tests: out = in + 1, on threads of its own and late.
class LateHost {
 public:
  ~LateHost() {
    for (std::thread& t : threads_) t.join();
  }
  // One call, enqueued; null when it could not be.
  Staging::Ticket* enqueue(Staging& staging, Staged& s) {
    auto ticket = staging.prepare(s.stream, s.buffers());
    EXPECT_TRUE(ticket.ok()) << ticket.status().to_string();
    if (!ticket) return nullptr;
    EXPECT_TRUE(staging.post(**ticket, s.stream, [this, t = *ticket] { answer(t); }).ok());
    EXPECT_TRUE(staging.finish(**ticket, s.stream).ok());
    return *ticket;
  }

 private:
  void answer(Staging::Ticket* ticket) {
    std::lock_guard lock(mutex_);
    threads_.emplace_back([ticket] {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      for (size_t i = 0; i < 1000; ++i)
        ticket->host(1)[i] = static_cast<std::byte>(std::to_integer<int>(ticket->host(0)[i]) + 1);
      ticket->answer();
    });
  }
  std::mutex mutex_;
  std::vector<std::thread> threads_;
};

TEST(StagingTest, StreamOrderedAndReused) {
  Staged s;
  LateHost host;
  Staging staging(*s.runtime, *s.device);
  for (int call = 0; call < 4; ++call) {
    s.fake.driver()->memory_set(reinterpret_cast<DevicePtr>(s.in), static_cast<unsigned char>(call),
                                1000, s.stream);
    ASSERT_NE(host.enqueue(staging, s), nullptr);
    if (call % 2 == 0) continue;
    s.fake.synchronize(s.stream);
    EXPECT_EQ(std::to_integer<int>(s.out[999]), call + 1);
  }
  EXPECT_LE(s.fake.calls("cuMemHostAlloc"), 2) << "tickets are used again";
}

// Each call on the stream that the one before was not on, its input the output of that one.
TEST(StagingTest, CallsOnSeveralStreamsKeepTheirOrder) {
  Staged s;
  LateHost host;
  Staging staging(*s.runtime, *s.device);
  const Stream streams[] = {s.stream, s.fake.stream(0), s.fake.stream(0)};
  std::memset(s.in, 5, 1000);
  for (size_t call = 0; call < 9; ++call) {
    s.stream = streams[call % 3];
    ASSERT_NE(host.enqueue(staging, s), nullptr);
    std::swap(s.in, s.out);
  }
  s.fake.synchronize(s.stream);
  EXPECT_EQ(std::to_integer<int>(s.in[999]), 5 + 9);
}

TEST(StagingTest, CapturedCallsReplay) {
  Staged s;
  LateHost host;
  Staging staging(*s.runtime, *s.device);
  const Driver& driver = *s.fake.driver();
  driver.stream_begin_capture(s.stream, 0);
  Staging::Ticket* captured = host.enqueue(staging, s);
  ASSERT_NE(captured, nullptr);
  Graph graph = nullptr;
  GraphExec exec = nullptr;
  driver.stream_end_capture(s.stream, &graph);
  driver.graph_instantiate(&exec, graph, 0);
  for (int replay = 0; replay < 3; ++replay) {
    std::memset(s.in, replay * 10, 1000);
    driver.graph_launch(exec, s.stream);
    s.fake.synchronize(s.stream);
    EXPECT_EQ(std::to_integer<int>(s.out[500]), replay * 10 + 1);
  }
  auto next = staging.prepare(s.stream, s.buffers());
  ASSERT_TRUE(next.ok());
  EXPECT_NE(*next, captured) << "a captured ticket is never handed out again";
  driver.graph_exec_destroy(exec);
  driver.graph_destroy(graph);
}

TEST(StagingTest, OutOfMemoryAndOtherErrors) {
  Staged s;
  Staging staging(*s.runtime, *s.device);
  s.fake.fail("cuMemHostAlloc", k_out_of_memory);
  auto ticket = staging.prepare(s.stream, s.buffers());
  ASSERT_FALSE(ticket.ok());
  EXPECT_EQ(ticket.status().code(), Code::device_error);
  ticket = staging.prepare(s.stream, s.buffers());
  ASSERT_TRUE(ticket.ok());
  s.fake.fail("cuMemcpyDtoHAsync", k_invalid_value);
  EXPECT_NE(staging.post(**ticket, s.stream, [] {}).message().find("cuMemcpyDtoHAsync"),
            std::string::npos);
  s.fake.fail("cuStreamBatchMemOp", 801);
  EXPECT_NE(staging.finish(**ticket, s.stream).message().find("cuStreamBatchMemOp"),
            std::string::npos);
}

}  // namespace
}  // namespace tutti::cuda
