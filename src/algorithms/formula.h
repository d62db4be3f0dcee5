// How an algorithm is written: a closed formula that answers "what is step i of (rank, lane)?".
//
// Every algorithm is a struct with one pure function
//
//   static Step walk(const Params& p, Rank rank, Lane lane, Cursor& at);
//
// that walks the segments of the lane's program. A segment of n steps is offered to the cursor with
// `at.take(n)`; where the wanted step lies inside, at.index() is its place in the segment and the
// function returns it. The same walk counts the steps: a cursor that is never satisfied has seen
// them all. So there is no table at 4096 ranks, nothing is allocated, and the walk can be compiled
// for a device.
#pragma once

#include <cstdint>

#include "src/base/host_device.h"
#include "src/plan/plan.h"

namespace tutti {

// The part of a Shape that regular algorithms depend on; plain data, for the device.
struct Params {
  uint32_t ranks = 1;
  uint32_t chunks = 1;
  Rank root = 0;
  bool in_place = false;
};

// A position in a lane's program.
class Cursor {
 public:
  TUTTI_HD explicit constexpr Cursor(uint32_t index) : left_(index) {}

  // True when the wanted step is in the next `steps` steps; index() is then its place there.
  TUTTI_HD constexpr bool take(uint32_t steps) {
    if (left_ < steps) return true;
    left_ -= steps;
    return false;
  }
  TUTTI_HD constexpr bool take_if(bool present, uint32_t steps = 1) {
    return present && take(steps);
  }
  TUTTI_HD constexpr uint32_t index() const { return left_; }

  // For counting: an index beyond every program, and the steps that such a cursor has passed.
  static constexpr uint32_t k_beyond = UINT32_MAX;
  TUTTI_HD constexpr uint32_t passed() const { return k_beyond - left_; }

 private:
  uint32_t left_;
};

// A chunk of a buffer.
struct Ref {
  Buffer buffer;
  uint32_t chunk;
};
TUTTI_HD constexpr Ref in(uint32_t chunk) { return {Buffer::input, chunk}; }
TUTTI_HD constexpr Ref out(uint32_t chunk) { return {Buffer::output, chunk}; }
TUTTI_HD constexpr Ref scratch(uint32_t chunk) { return {Buffer::scratch, chunk}; }

// The verbs. `count` is in chunks.
TUTTI_HD constexpr Step send(Rank peer, Ref src, uint32_t count = 1) {
  return {Op::send, Buffer::input, src.buffer, false, count, peer, 0, src.chunk};
}
TUTTI_HD constexpr Step recv(Rank peer, Ref dst, uint32_t count = 1) {
  return {Op::recv, dst.buffer, Buffer::input, false, count, peer, dst.chunk, 0};
}
TUTTI_HD constexpr Step recv_reduce(Rank peer, Ref dst, Ref src, uint32_t count, bool last) {
  return {Op::recv_reduce, dst.buffer, src.buffer, last, count, peer, dst.chunk, src.chunk};
}
TUTTI_HD constexpr Step copy(Ref dst, Ref src, uint32_t count = 1) {
  return {Op::copy, dst.buffer, src.buffer, false, count, 0, dst.chunk, src.chunk};
}
TUTTI_HD constexpr Step reduce(Ref dst, Ref src, uint32_t count, bool last) {
  return {Op::reduce, dst.buffer, src.buffer, last, count, 0, dst.chunk, src.chunk};
}
TUTTI_HD constexpr Step signal(Lane to) {
  return {Op::signal, Buffer::input, Buffer::input, false, 0, to, 0, 0};
}
TUTTI_HD constexpr Step wait(Lane from) {
  return {Op::wait, Buffer::input, Buffer::input, false, 0, from, 0, 0};
}
// Tokens: messages without payload, for order alone.
TUTTI_HD constexpr Step send_token(Rank peer) { return send(peer, in(0), 0); }
TUTTI_HD constexpr Step recv_token(Rank peer) { return recv(peer, in(0), 0); }
// What a lane has beyond its end.
TUTTI_HD constexpr Step no_step() { return {}; }

// a + b and a - b modulo n, for a < n and b <= n.
TUTTI_HD constexpr uint32_t add_mod(uint32_t a, uint32_t b, uint32_t n) {
  return a + b >= n ? a + b - n : a + b;
}
TUTTI_HD constexpr uint32_t sub_mod(uint32_t a, uint32_t b, uint32_t n) {
  return a >= b ? a - b : a + n - b;
}
// floor and ceiling of the binary logarithm of n >= 1.
TUTTI_HD constexpr uint32_t floor_log2(uint32_t n) {
  uint32_t log = 0;
  while (n >>= 1) ++log;
  return log;
}
TUTTI_HD constexpr uint32_t ceil_log2(uint32_t n) { return n <= 1 ? 0 : floor_log2(n - 1) + 1; }
TUTTI_HD constexpr uint32_t lowest_bit(uint32_t v) { return v & (0 - v); }

// The plan of a formula.
template <class Formula>
class FormulaPlan final : public Plan {
 public:
  FormulaPlan(std::string algorithm, Shape shape)
      : Plan(std::move(algorithm), std::move(shape)),
        params_{this->shape().ranks, this->shape().chunks, this->shape().root,
                this->shape().in_place} {}

  uint32_t steps(Rank rank, Lane lane) const override {
    Cursor at(Cursor::k_beyond);
    Formula::walk(params_, rank, lane, at);
    return at.passed();
  }
  Step step_at(Rank rank, Lane lane, uint32_t index) const override {
    Cursor at(index);
    return Formula::walk(params_, rank, lane, at);
  }

 private:
  Params params_;
};

}  // namespace tutti
