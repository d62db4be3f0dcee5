// The device interpreter as threads on the host: every algorithm, wire protocol and number of
// workers gives the bytes that the plan's own interpreter computes.
#include "src/cuda/interpreter.h"

#include <gtest/gtest.h>

#include "src/algorithms/algorithms.h"
#include "tests/cuda/host_world.h"
#include "tests/cuda/oracle.h"

namespace tutti::cuda {
namespace {

constexpr WindowShape k_small{1, 4, 3, 2, 512, 1024};

void run_case(HostWorld& world, HostWorld::Call call) {
  const Shape& shape = call.plan->shape();
  const uint32_t n = shape.ranks;
  const size_t block = call.count * size_of(call.dtype);
  std::vector<Bytes> inputs;
  std::vector<Memory> memory;
  for (Rank r = 0; r < n; ++r) {
    inputs.push_back(
        random_elements(call.dtype, input_blocks(shape.collective, n) * call.count, 7 * r + 1));
    memory.push_back(lay_out(shape.collective, shape.in_place, r, n, block, inputs[r]));
    call.inputs.push_back(memory[r].input);
    call.outputs.push_back(memory[r].output);
    call.factors.push_back(factor_of(call.op, call.dtype, r));
  }
  const Result<DeviceCut> cut = cut_of(call, world.shape());
  if (cut.status().code() == Code::unsupported) return;
  ASSERT_TRUE(cut.ok()) << cut.status().to_string();
  const Layout& layout = cut->layout;
  const std::vector<Bytes> want = expected(*call.plan, call.dtype, call.op, layout, inputs, block);
  const Status status = world.run(call);
  if (status.code() == Code::unsupported) return;
  ASSERT_TRUE(status.ok()) << status.to_string();
  for (Rank r = 0; r < n; ++r) {
    ASSERT_EQ(world.control(r).abort, 0u);
    if (shape.output_chunks(r) > 0 && block > 0) {
      ASSERT_EQ(std::memcmp(memory[r].output, want[r].data(), want[r].size()), 0)
          << call.plan->algorithm() << " " << name(shape.collective) << " rank " << r << " of " << n
          << " in place " << shape.in_place << ", " << call.count << " " << name(call.dtype) << " "
          << name(call.op) << " wire " << static_cast<int>(call.wire) << " workers " << call.workers
          << " threads " << call.threads << " rounds " << layout.rounds();
    }
  }
}

// Every algorithm on windows that stay from case to case, so that message numbers go on.
class DeviceInterpreter : public testing::TestWithParam<uint32_t> {};

TEST_P(DeviceInterpreter, EveryAlgorithmEqualsThePlan) {
  const uint32_t n = GetParam();
  HostWorld world(n, k_small);
  std::mt19937 random(n);
  size_t ran = 0;
  for_each_plan(n, random, [&](const PlanPtr& plan) {
    for (Wire wire : {Wire::packets, Wire::slots, Wire::direct}) {
      HostWorld::Call call;
      call.plan = plan;
      const uint64_t counts[] = {1, 3, 100, 777, 2500};
      call.count = counts[random() % 5];
      call.dtype = static_cast<DType>(random() % k_dtypes);
      call.op = static_cast<ReduceOp>(random() % k_reduce_ops);
      call.wire = wire;
      call.workers = 1 + random() % 2;
      call.threads = random() % 8 == 0 ? 3 : 1;
      run_case(world, call);
      if (HasFatalFailure()) return;
      ++ran;
    }
  });
  EXPECT_GT(ran, 50u);
}
INSTANTIATE_TEST_SUITE_P(Ranks, DeviceInterpreter, testing::Values(2, 3, 4, 5, 6, 7, 8));

// Rounds pipeline without a barrier while workers run apart: scratch must stay in one worker's
// hands.
TEST(DeviceInterpreterRounds, ShorterLastRound) {
  for (uint32_t n : {6u, 8u})
    for (uint32_t root = 0; root < n; root += 3)
      for (const char* algorithm : {"binomial", "ring"})
        for (Collective collective : {Collective::gather, Collective::reduce}) {
          PlanRequest request;
          request.collective = collective;
          request.ranks = n;
          request.root = root;
          Result<PlanPtr> plan = make_plan(algorithm, request);
          if (!plan) continue;
          for (Wire wire : {Wire::packets, Wire::slots}) {
            HostWorld world(n, k_small);
            HostWorld::Call call;
            call.plan = *plan;
            call.count = 2500;
            call.dtype = DType::uint8;
            call.wire = wire;
            call.workers = 2;
            run_case(world, call);
            if (HasFatalFailure()) return;
          }
        }
}

// The small sizes of every type and operator, through packets.
TEST(DeviceInterpreterTypes, EveryTypeAndOperator) {
  HostWorld world(3, k_small);
  for (const char* algorithm : {"direct_one_shot", "ring"}) {
    PlanRequest request;
    request.ranks = 3;
    Result<PlanPtr> plan = make_plan(algorithm, request);
    ASSERT_TRUE(plan.ok());
    for (int dtype = 0; dtype < k_dtypes; ++dtype)
      for (int op = 0; op < k_reduce_ops; ++op)
        for (Wire wire : {Wire::packets, Wire::slots, Wire::direct}) {
          HostWorld::Call call;
          call.plan = *plan;
          call.count = 37;
          call.dtype = static_cast<DType>(dtype);
          call.op = static_cast<ReduceOp>(op);
          call.wire = wire;
          call.workers = 3;
          run_case(world, call);
          if (HasFatalFailure()) return;
        }
  }
}

// Ranks whose calls differ find out by the signature that rides with the first message.
TEST(DeviceInterpreterErrors, MismatchNamesThePeerAndEveryoneLeaves) {
  for (Wire wire : {Wire::packets, Wire::slots, Wire::direct}) {
    HostWorld world(2, k_small);
    PlanRequest request;
    request.ranks = 2;
    HostWorld::Call call;
    call.plan = *make_plan("ring", request);
    call.count = 100;
    call.dtype = DType::float32;
    call.wire = wire;
    Bytes memory[4] = {Bytes(400), Bytes(400), Bytes(400), Bytes(400)};
    call.inputs = {memory[0].data(), memory[1].data()};
    call.outputs = {memory[2].data(), memory[3].data()};
    call.signatures = {1, 2};
    ASSERT_TRUE(world.run(call).ok());
    EXPECT_EQ(world.control(0).mismatch, 2u);
    EXPECT_EQ(world.control(0).their_signature, 2u);
    EXPECT_EQ(world.control(1).mismatch, 1u);
  }
}

// A rank that waits for a peer that never comes leaves when the host says so.
TEST(DeviceInterpreterErrors, AbortUnblocksEveryWait) {
  for (Wire wire : {Wire::packets, Wire::slots, Wire::direct}) {
    HostWorld world(2, k_small);
    PlanRequest request;
    request.ranks = 2;
    HostWorld::Call call;
    call.plan = *make_plan("ring", request);
    call.count = 1;  // chunk 0 holds it all: rank 0 only sends at first
    call.dtype = DType::float32;
    call.wire = wire;
    Bytes memory[4] = {Bytes(64), Bytes(64), Bytes(64), Bytes(64)};
    call.inputs = {memory[0].data(), memory[1].data()};
    call.outputs = {memory[2].data(), memory[3].data()};
    // Both see the flag at their first long wait; the call must end, whatever it has done.
    HostMemory::store(&world.control(0).abort, 1);
    HostMemory::store(&world.control(1).abort, 1);
    EXPECT_TRUE(world.run(call).ok());
  }
}

TEST(DeviceProgram, RefusalsNameThePlanAndTheLimit) {
  PlanRequest request;
  request.ranks = 2;
  PlanCall call;
  call.plan = *make_plan("ring", request);
  WindowShape window = k_small;
  call.workers = 99;
  Result<DeviceCut> cut = cut_of(call, window);
  ASSERT_FALSE(cut.ok());
  EXPECT_EQ(cut.status().code(), Code::unsupported);
  EXPECT_NE(cut.status().message().find("99 workers"), std::string::npos);
  call.workers = 1;
  call.wire = Wire::slots;
  window.slot_bytes = 0;
  EXPECT_NE(cut_of(call, window).status().message().find("no slots"), std::string::npos);
  window.lanes = 0;
  EXPECT_NE(cut_of(call, window).status().message().find("lanes"), std::string::npos);
}

// Workers' slices cover a chunk exactly once, in order.
TEST(Slices, CoverEveryExtent) {
  for (uint32_t workers = 1; workers < 20; ++workers)
    for (uint64_t bytes : {0u, 1u, 63u, 64u, 65u, 1000u, 4096u, 100003u}) {
      uint64_t at = 17;
      for (uint32_t w = 0; w < workers; ++w) {
        const Slice s = slice_of({17, bytes}, w, share_of(bytes, workers));
        ASSERT_TRUE(s.bytes == 0 || s.offset == at);
        at += s.bytes;
      }
      ASSERT_EQ(at, 17 + bytes);
    }
}

}  // namespace
}  // namespace tutti::cuda
