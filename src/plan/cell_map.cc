// CellMap: where chunks live, with the in-place table of plan.h.
#include <algorithm>

#include "src/plan/plan_index.h"

namespace tutti {

CellMap::CellMap(const Shape& shape, uint32_t rounds) : scratch_(shape.scratch) {
  memory_.resize(shape.ranks + 1);
  for (Rank r = 0; r < shape.ranks; ++r) {
    Memory& m = memory_[r];
    m.base = total_;
    const uint64_t in = shape.input_chunks(r), out = shape.output_chunks(r);
    if (shape.in_place && in > 0 && out > 0) {
      // The smaller buffer is the rank's own block of the larger one.
      if (in < out) m.input = uint64_t{r} * shape.chunks;
      if (out < in) m.output = uint64_t{r} * shape.chunks;
      m.io = std::max(in, out);
    } else {
      m.output = in;
      m.io = in + out;
    }
    total_ += scratch_ + rounds * m.io;
  }
  memory_[shape.ranks].base = total_;
}

bool CellMap::input_is_output(const Shape& shape, Rank rank, uint32_t chunk) const {
  const uint64_t out = shape.output_chunks(rank);
  if (!shape.in_place || out == 0) return false;
  const uint64_t cell = memory_[rank].input + chunk;
  return cell >= memory_[rank].output && cell < memory_[rank].output + out;
}

}  // namespace tutti
