// The meaning of a plan, executed: a whole world of ranks in one thread, over any kind of value.
// verify() runs it with symbols; tests run it with vectors of elements and compare every executor
// with it bit for bit. A send buffers its value (later writes do not reach it).
//
// Semantics must have
//   using Value;                                                   // what a chunk holds; copyable
//   Value input(Rank, uint32_t chunk, uint32_t round);             // a rank's contribution
//   Value blank(Rank, Buffer, uint32_t chunk, uint32_t round);     // output or scratch, before
//   Value read_input(Rank, const Value&);                          // the owner's pre-multiplier
//   Value reduce(Rank, Buffer dst, uint32_t dst_chunk, std::span<const Value> operands, bool last);
// reduce() is one pass on one chunk: operands in step order, rounded once; `last`: avg divides.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/plan/kahn.h"
#include "src/plan/plan_index.h"
#include "tutti/status.h"

namespace tutti {

template <class Semantics>
class Interpreter {
 public:
  using Value = typename Semantics::Value;

  // `index` must be of a plan whose structure and matching are ok; both outlive the interpreter.
  Interpreter(const PlanIndex& index, Semantics& semantics, const RunLimits& limits)
      : shape_(index.shape()),
        semantics_(semantics),
        map_(index.shape(), limits.rounds),
        runner_(index, *this, limits),
        rounds_(limits.rounds) {
    fill();
    payload_begin_.reserve(index.channels().size());
    uint64_t total = 0;
    for (uint32_t c = 0; c < index.channels().size(); ++c) {
      stride_.push_back(index.channels()[c].max_count);
      payload_begin_.push_back(total);
      total += uint64_t{stride_[c]} * runner_.layout().capacity(c);
    }
    payload_.resize(total);
  }

  // False: deadlock; see runner().stuck().
  bool run() { return runner_.run(); }
  const KahnRunner<Interpreter>& runner() const { return runner_; }

  // What a rank's buffer holds now.
  const Value& value(Rank rank, Buffer buffer, uint32_t chunk, uint32_t round = 0) const {
    return cells_[map_.cell(rank, buffer, chunk, round)];
  }

  // Hooks of the runner.
  void send(const At& at, const Step& step, uint32_t channel, uint64_t slot) {
    Value* message = payload(channel, slot);
    for (uint32_t k = 0; k < step.count; ++k) message[k] = read(at, step.src_buffer, step.src + k);
  }
  void recv(const At& at, const Step& step, uint32_t channel, uint64_t slot) {
    if (step.op == Op::wait) return;
    Value* message = payload(channel, slot);
    for (uint32_t k = 0; k < step.count; ++k)
      cell(at, step.dst_buffer, step.dst + k) = std::move(message[k]);
  }
  void copy(const At& at, const Step& step) {
    operands_.clear();  // all reads before the first write
    for (uint32_t k = 0; k < step.count; ++k)
      operands_.push_back(read(at, step.src_buffer, step.src + k));
    for (uint32_t k = 0; k < step.count; ++k)
      cell(at, step.dst_buffer, step.dst + k) = std::move(operands_[k]);
  }
  void pass(const At& at, std::span<const Step> steps, std::span<const Arrival> arrivals) {
    const Step& first = steps.front();
    for (uint32_t k = 0; k < first.count; ++k) {
      operands_.clear();
      operands_.push_back(first.op == Op::reduce ? read(at, first.dst_buffer, first.dst + k)
                                                 : read(at, first.src_buffer, first.src + k));
      size_t next = 0;
      for (const Step& step : steps) {
        if (step.op == Op::reduce) {
          operands_.push_back(read(at, step.src_buffer, step.src + k));
        } else {
          const Arrival& a = arrivals[next++];
          operands_.push_back(std::move(payload(a.channel, a.slot)[k]));
        }
      }
      cell(at, first.dst_buffer, first.dst + k) =
          semantics_.reduce(at.rank, first.dst_buffer, first.dst + k, operands_, steps.back().last);
    }
  }

 private:
  void fill() {
    cells_.resize(map_.cells());
    for (Rank r = 0; r < shape_.ranks; ++r) {
      for (uint32_t c = 0; c < shape_.scratch; ++c)
        cells_[map_.cell(r, Buffer::scratch, c)] = semantics_.blank(r, Buffer::scratch, c, 0);
      for (uint32_t round = 0; round < rounds_; ++round) {
        for (uint32_t c = 0; c < shape_.output_chunks(r); ++c)
          cells_[map_.cell(r, Buffer::output, c, round)] =
              semantics_.blank(r, Buffer::output, c, round);
        // After the outputs: in place, the input is what the bytes hold at the start.
        for (uint32_t c = 0; c < shape_.input_chunks(r); ++c)
          cells_[map_.cell(r, Buffer::input, c, round)] = semantics_.input(r, c, round);
      }
    }
  }
  Value* payload(uint32_t channel, uint64_t slot) {
    return payload_.data() + payload_begin_[channel] +
           (slot - runner_.layout().begin(channel)) * stride_[channel];
  }
  Value& cell(const At& at, Buffer buffer, uint32_t chunk) {
    return cells_[map_.cell(at.rank, buffer, chunk, at.round)];
  }
  Value read(const At& at, Buffer buffer, uint32_t chunk) {
    const Value& value = cell(at, buffer, chunk);
    return buffer == Buffer::input ? semantics_.read_input(at.rank, value) : value;
  }

  const Shape& shape_;
  Semantics& semantics_;
  CellMap map_;
  KahnRunner<Interpreter> runner_;
  uint32_t rounds_;
  std::vector<Value> cells_;
  std::vector<Value> payload_;           // values in flight
  std::vector<uint64_t> payload_begin_;  // per channel
  std::vector<uint32_t> stride_;         // chunks of a message slot, per channel
  std::vector<Value> operands_;
};

}  // namespace tutti
