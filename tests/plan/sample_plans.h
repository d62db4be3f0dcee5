// Small plans built by hand for the tests of src/plan, independent of src/algorithms.
#pragma once

#include <memory>
#include <utility>

#include "src/plan/plan.h"

namespace tutti::sample {

inline Step send(Rank peer, Buffer b, uint32_t chunk, uint32_t count = 1) {
  return {Op::send, Buffer::input, b, false, count, peer, 0, chunk};
}
inline Step recv(Rank peer, Buffer b, uint32_t chunk, uint32_t count = 1) {
  return {Op::recv, b, Buffer::input, false, count, peer, chunk, 0};
}
inline Step recv_reduce(Rank peer, Buffer d, uint32_t dst, Buffer s, uint32_t src,
                        bool last = false, uint32_t count = 1) {
  return {Op::recv_reduce, d, s, last, count, peer, dst, src};
}
inline Step copy(Buffer d, uint32_t dst, Buffer s, uint32_t src, uint32_t count = 1) {
  return {Op::copy, d, s, false, count, 0, dst, src};
}
inline Step reduce(Buffer d, uint32_t dst, Buffer s, uint32_t src, bool last = false,
                   uint32_t count = 1) {
  return {Op::reduce, d, s, last, count, 0, dst, src};
}
inline Step signal(Lane lane) {
  return {Op::signal, Buffer::input, Buffer::input, false, 0, lane, 0, 0};
}
inline Step wait(Lane lane) {
  return {Op::wait, Buffer::input, Buffer::input, false, 0, lane, 0, 0};
}

// Ring all-reduce in closed form: 2(n-1) sends and receives per rank, one chunk per rank.
class Ring final : public Plan {
 public:
  explicit Ring(uint32_t ranks, bool in_place = false)
      : Plan("sample_ring", shape_of(ranks, in_place)) {}
  uint32_t steps(Rank, Lane) const override { return 4 * (shape().ranks - 1); }
  Step step_at(Rank r, Lane, uint32_t i) const override {
    const uint32_t n = shape().ranks, half = 2 * (n - 1);
    const uint32_t next = r + 1 == n ? 0 : r + 1, prev = r == 0 ? n - 1 : r - 1;
    const uint32_t k = (i % half) / 2;
    auto mod = [n](uint32_t x) { return x >= n ? x - n : x; };
    if (i < half) {
      const uint32_t out = mod(r + n - k), in = mod(prev + n - k);
      if (i % 2 == 0) return send(next, k == 0 ? Buffer::input : Buffer::output, out);
      return recv_reduce(prev, Buffer::output, in, Buffer::input, in, k == n - 2);
    }
    const uint32_t out = mod(mod(r + 1) + n - k), in = mod(r + n - k);
    return i % 2 == 0 ? send(next, Buffer::output, out) : recv(prev, Buffer::output, in);
  }

 private:
  static Shape shape_of(uint32_t ranks, bool in_place) {
    Shape shape;
    shape.ranks = shape.chunks = ranks;
    shape.in_place = in_place;
    return shape;
  }
};

inline TablePlan::Table table_of(const Plan& plan) {
  TablePlan::Table table(plan.shape().ranks);
  for (Rank r = 0; r < plan.shape().ranks; ++r) {
    table[r].resize(plan.shape().lanes);
    for (Lane l = 0; l < plan.shape().lanes; ++l)
      for (uint32_t i = 0; i < plan.steps(r, l); ++i) table[r][l].push_back(plan.step_at(r, l, i));
  }
  return table;
}

}  // namespace tutti::sample
