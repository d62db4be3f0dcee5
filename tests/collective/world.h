// A world of ranks as threads, and what a collective must give according to its plan.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "src/algorithms/algorithms.h"
#include "src/plan/interpret.h"
#include "src/plan/layout.h"
#include "tutti/communicator.h"

namespace tutti::testing_world {

using Bytes = std::vector<std::byte>;
using Communicators = std::vector<std::unique_ptr<Communicator>>;

// Runs `body(communicator)` on every rank, each in a thread of its own.
inline void on_every_rank(Communicators& world, const std::function<void(Communicator&)>& body) {
  std::vector<std::thread> threads;
  for (auto& c : world) threads.emplace_back([&] { body(*c); });
  for (std::thread& t : threads) t.join();
}

inline Communicators make_world(uint32_t ranks, const Config& config = {}) {
  Result<Communicators> world = Communicator::create_local(ranks, config);
  EXPECT_TRUE(world.ok()) << world.status().to_string();
  return world ? std::move(*world) : Communicators();
}

// Interpreter semantics over the elements of a chunk.
struct Elements {
  using Value = Bytes;
  const Layout& layout;
  DType dtype;
  ReduceOp op;
  uint32_t ranks;
  const std::vector<Bytes>& inputs;  // by rank: the whole send buffer

  Value input(Rank r, uint32_t chunk, uint32_t round) const {
    const Extent e = layout.chunk(Buffer::input, chunk, round);
    return {inputs[r].begin() + static_cast<ptrdiff_t>(e.offset),
            inputs[r].begin() + static_cast<ptrdiff_t>(e.offset + e.bytes)};
  }
  Value blank(Rank, Buffer buffer, uint32_t chunk, uint32_t round) const {
    return Value(layout.chunk(buffer, chunk, round).bytes);
  }
  Value read_input(Rank, const Value& value) const { return value; }
  Value reduce(Rank, Buffer, uint32_t, std::span<const Value> operands, bool last) const {
    std::vector<const void*> sources;
    for (const Value& o : operands) sources.push_back(o.data());
    Value result(operands[0].size());
    void* destination = result.data();
    kernels::reduce(dtype, op, sources, {&destination, 1}, result.size() / size_of(dtype),
                    last && op == ReduceOp::avg ? ranks : 0);
    return result;
  }
};

// What every rank's output must hold, by the plan's own meaning. (Rounds do not matter: a chunk of
// a round meets the same operands in the same order. But which rank owns an element does: one
// round.)
inline std::vector<Bytes> expected_outputs(const Plan& plan, uint64_t count, DType dtype,
                                           ReduceOp op, const std::vector<Bytes>& inputs,
                                           std::vector<Bytes> outputs) {
  const Layout layout(plan.shape(), count, size_of(dtype), 0);
  Elements elements{layout, dtype, op, plan.shape().ranks, inputs};
  PlanIndex index(plan);
  Interpreter<Elements> interpreter(index, elements, {.credits = plan.shape().credits});
  EXPECT_TRUE(interpreter.run()) << "the interpreter is stuck";
  for (Rank r = 0; r < plan.shape().ranks; ++r)
    for (uint32_t c = 0; c < plan.shape().output_chunks(r); ++c) {
      const Extent e = layout.chunk(Buffer::output, c, 0);
      if (e.bytes > 0)
        std::memcpy(outputs[r].data() + e.offset, interpreter.value(r, Buffer::output, c).data(),
                    e.bytes);
    }
  return outputs;
}

inline size_t input_blocks(Collective c, uint32_t n) {
  return c == Collective::reduce_scatter || c == Collective::scatter || c == Collective::all_to_all
             ? n
             : 1;
}
inline size_t output_blocks(Collective c, uint32_t n) {
  return c == Collective::all_gather || c == Collective::gather || c == Collective::all_to_all ? n
                                                                                               : 1;
}

inline Status call(Communicator& comm, Collective c, const void* send, void* recv, size_t count,
                   DType dtype, Reduction op, Rank root) {
  switch (c) {
    case Collective::all_reduce:
      return comm.all_reduce(send, recv, count, dtype, op);
    case Collective::reduce_scatter:
      return comm.reduce_scatter(send, recv, count, dtype, op);
    case Collective::all_gather:
      return comm.all_gather(send, recv, count, dtype);
    case Collective::broadcast:
      return comm.broadcast(send, recv, count, dtype, root);
    case Collective::reduce:
      return comm.reduce(send, recv, count, dtype, op, root);
    case Collective::all_to_all:
      return comm.all_to_all(send, recv, count, dtype);
    case Collective::gather:
      return comm.gather(send, recv, count, dtype, root);
    case Collective::scatter:
      return comm.scatter(send, recv, count, dtype, root);
    default:
      return comm.barrier();
  }
}

}  // namespace tutti::testing_world
