#include "src/plan/clocks.h"

#include <algorithm>

namespace tutti {
namespace {

// to = max(a, b), component by component; `to` may be `a`.
template <class T>
void join(T* to, const T* a, const T* b, uint32_t width) {
  for (uint32_t i = 0; i < width; ++i) to[i] = std::max(a[i], b[i]);
}

}  // namespace

uint32_t NeighbourClocks::channel_between(uint32_t from, uint32_t to) const {
  const uint32_t lanes = index_.shape().lanes;
  const uint32_t from_rank = from / lanes, to_rank = to / lanes;
  if (from_rank == to_rank) return index_.find_out(from, index_.shape().ranks + to % lanes);
  if (from % lanes != to % lanes) return PlanIndex::k_none;
  return index_.find_out(from, to_rank);
}

template <class T>
VectorClocks<T>::VectorClocks(const PlanIndex& index, const KahnLayout& layout)
    : index_(index),
      position_(index.lanes()),
      lane_clock_(index.lanes(), k_zero),
      messages_(layout.slots()) {
  const uint32_t per_rank = index.shape().lanes;
  for (uint32_t id = 0; id < index.lanes(); ++id)
    if (index.plan().steps(id / per_rank, id % per_rank) > 0) position_[id] = width_++;
}

template <class T>
void VectorClocks<T>::receive(const At& at, uint32_t channel, uint64_t slot) {
  if (overflow_) return;
  const Message m = messages_[slot];
  uint32_t& mine = lane_clock_[at.lane_id];
  uint32_t to = mine;
  if (mine == k_zero || references_[mine] > 1) to = allocate();
  if (overflow_) return;
  if (mine == k_zero && m.clock == k_zero) {
    std::fill_n(data(to), width_, T{0});
  } else if (mine == k_zero || m.clock == k_zero) {
    const uint32_t known = mine == k_zero ? m.clock : mine;
    if (to != known) std::copy_n(data(known), width_, data(to));
  } else {
    join(data(to), data(mine), data(m.clock), width_);
  }
  T& sender = data(to)[position_[index_.channels()[channel].from]];
  sender = std::max(sender, static_cast<T>(m.time));
  if (to != mine) release(mine);
  // Only let go of it: before_send() may still ask for this message, until the next receive.
  release(m.clock);
  mine = to;
}

template <class T>
uint32_t VectorClocks<T>::allocate() {
  if (!free_.empty()) {
    const uint32_t clock = free_.back();
    free_.pop_back();
    references_[clock] = 1;
    return clock;
  }
  if ((clocks_.size() + 1) * width_ * sizeof(T) > k_max_bytes) {
    overflow_ = true;
    return k_zero;
  }
  clocks_.push_back(std::make_unique_for_overwrite<T[]>(width_));
  references_.push_back(1);
  return static_cast<uint32_t>(clocks_.size() - 1);
}

template <class T>
void VectorClocks<T>::release(uint32_t clock) {
  if (clock != k_zero && --references_[clock] == 0) free_.push_back(clock);
}

template class VectorClocks<int16_t>;
template class VectorClocks<int32_t>;

}  // namespace tutti
