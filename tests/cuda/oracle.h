// What device ranks must compute: the plan's own meaning, cut into rounds and chunks as a device
// cuts it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "src/algorithms/algorithms.h"
#include "src/cuda/build.h"
#include "tests/collective/world.h"

namespace tutti::cuda {

using testing_world::Bytes;
using testing_world::input_blocks;
using testing_world::output_blocks;

// No NaN and no overflow: rounding then shows the order of operands.
inline Bytes random_elements(DType dtype, size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(count * size_of(dtype));
  for (size_t i = 0; i < count; ++i) {
    uint64_t bits = uint64_t{random()} << 32 | random();
    const auto real = static_cast<double>(static_cast<int>(bits % 2001) - 1000) / 999;
    const auto single = static_cast<float>(real);
    if (dtype == DType::float16) bits = (bits & 0x83ff) | 0x3000;
    if (dtype == DType::bfloat16) bits = (bits & 0x807f) | 0x3f00;
    if (dtype == DType::float8_e4m3) bits = (bits & 0x87) | 0x28;
    if (dtype == DType::float8_e5m2) bits = (bits & 0x83) | 0x38;
    if (dtype == DType::float32) std::memcpy(&bits, &single, 4);
    if (dtype == DType::float64) std::memcpy(&bits, &real, 8);
    std::memcpy(&bytes[i * size_of(dtype)], &bits, size_of(dtype));
  }
  return bytes;
}

// What premul_sum multiplies a rank's input by; nothing for other operators.
inline Factor factor_of(ReduceOp op, DType dtype, Rank rank) {
  Factor factor;
  if (op == ReduceOp::premul_sum)
    std::memcpy(&factor.bits, random_elements(dtype, 1, 100 + rank).data(), size_of(dtype));
  return factor;
}
inline Bytes times_factor(const Bytes& input, ReduceOp op, DType dtype, Rank rank) {
  if (op != ReduceOp::premul_sum) return input;
  Bytes scaled(input.size());
  kernels::scale(dtype, scaled.data(), input.data(), input.size() / size_of(dtype),
                 factor_of(op, dtype, rank).bits);
  return scaled;
}

struct DeviceElements : testing_world::Elements {
  Value read_input(Rank r, const Value& value) const { return times_factor(value, op, dtype, r); }
};

// What the plan means, cut as the device cuts it.
inline std::vector<Bytes> expected(const Plan& plan, DType dtype, ReduceOp op, const Layout& layout,
                                   const std::vector<Bytes>& inputs, size_t block) {
  const Shape& shape = plan.shape();
  DeviceElements elements{{layout, dtype, op, shape.ranks, inputs}};
  PlanIndex index(plan);
  Interpreter<DeviceElements> interpreter(index, elements,
                                          {.credits = shape.credits, .rounds = layout.rounds()});
  EXPECT_TRUE(interpreter.run());
  std::vector<Bytes> outputs;
  for (Rank r = 0; r < shape.ranks; ++r) {
    outputs.emplace_back(output_blocks(shape.collective, shape.ranks) * block);
    for (uint32_t round = 0; round < layout.rounds(); ++round)
      for (uint32_t c = 0; c < shape.output_chunks(r); ++c) {
        const Extent e = layout.chunk(Buffer::output, c, round);
        if (e.bytes > 0)
          std::memcpy(outputs[r].data() + e.offset,
                      interpreter.value(r, Buffer::output, c, round).data(), e.bytes);
      }
  }
  return outputs;
}

struct Memory {
  Bytes send, recv;  // in place: one of them is empty
  std::byte *input = nullptr, *output = nullptr;
};

inline Memory lay_out(Collective c, bool in_place, Rank r, uint32_t n, size_t block,
                      const Bytes& input) {
  Memory m;
  const size_t in = input_blocks(c, n) * block, out = output_blocks(c, n) * block;
  if (!in_place) {
    m.send = input;
    m.send.resize(in + 16);
    m.recv.assign(out + 16, std::byte{0xA5});
    m.input = m.send.data();
    m.output = m.recv.data();
    return m;
  }
  m.recv.assign(std::max(in, out) + 16, std::byte{0xA5});
  m.input = m.recv.data() + (out > in ? r * block : 0);
  m.output = m.recv.data() + (in > out ? r * block : 0);
  if (in > 0) std::memcpy(m.input, input.data(), in);
  return m;
}

// Every algorithm's plan of every collective of equal blocks among n ranks, in place and out, at
// random roots; a fatal failure ends it.
template <class See>
void for_each_plan(uint32_t n, std::mt19937& random, const See& see) {
  for (const Algorithm& algorithm : algorithms())
    for (int c = 0; c < k_collectives; ++c)
      for (bool in_place : {false, true}) {
        PlanRequest request;
        request.collective = static_cast<Collective>(c);
        request.ranks = n;
        request.root = random() % n;
        request.in_place = in_place;
        request.hierarchy = Hierarchy::even(n, {n > 4 ? 4u : 2u});
        const bool by_pairs = request.collective == Collective::all_to_all_v ||
                              request.collective == Collective::send_recv;
        if (by_pairs || !algorithm.supports(request).ok()) continue;
        see(PlanPtr(algorithm.make(request)));
        if (testing::Test::HasFatalFailure()) return;
      }
}

}  // namespace tutti::cuda
