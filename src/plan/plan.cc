#include "src/plan/plan.h"

#include <algorithm>

namespace tutti {
namespace {

// FNV-1a over 64-bit words, finished with a strong mix: stable across machines and builds.
class Hash {
 public:
  void add(uint64_t word) {
    for (int i = 0; i < 8; ++i, word >>= 8) h_ = (h_ ^ (word & 0xff)) * 0x100000001b3ULL;
  }
  void add(std::string_view text) {
    add(text.size());
    for (char c : text) add(static_cast<unsigned char>(c));
  }
  uint64_t value() const {
    uint64_t x = h_;
    x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdULL;
    x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ULL;
    return x ^ (x >> 33);
  }

 private:
  uint64_t h_ = 0xcbf29ce484222325ULL;
};

}  // namespace

std::string_view name(Op op) {
  constexpr std::string_view k_names[k_ops] = {"send",   "recv",   "recv_reduce", "copy",
                                               "reduce", "signal", "wait"};
  return static_cast<int>(op) < k_ops ? k_names[static_cast<int>(op)] : "?";
}

std::string_view name(Buffer buffer) {
  constexpr std::string_view k_names[k_buffers] = {"input", "output", "scratch"};
  return static_cast<int>(buffer) < k_buffers ? k_names[static_cast<int>(buffer)] : "?";
}

Hierarchy Hierarchy::even(uint32_t ranks, const std::vector<uint32_t>& group_sizes) {
  Hierarchy h;
  uint64_t size = 1;
  for (uint32_t g : group_sizes) {
    size *= std::max<uint32_t>(g, 1);
    std::vector<uint32_t> level(ranks);
    for (uint32_t r = 0; r < ranks; ++r) level[r] = static_cast<uint32_t>(r / size);
    h.level.push_back(std::move(level));
  }
  return h;
}

uint32_t Shape::input_chunks(Rank rank) const {
  switch (collective) {
    case Collective::all_reduce:
    case Collective::all_gather:
    case Collective::reduce:
    case Collective::gather:
      return chunks;
    case Collective::reduce_scatter:
    case Collective::all_to_all:
    case Collective::all_to_all_v:
    case Collective::send_recv:
      return ranks * chunks;
    case Collective::broadcast:
      return rank == root ? chunks : 0;
    case Collective::scatter:
      return rank == root ? ranks * chunks : 0;
    case Collective::barrier:
      return 0;
  }
  return 0;
}

uint32_t Shape::output_chunks(Rank rank) const {
  switch (collective) {
    case Collective::all_reduce:
    case Collective::reduce_scatter:
    case Collective::broadcast:
    case Collective::scatter:
      return chunks;
    case Collective::all_gather:
    case Collective::all_to_all:
    case Collective::all_to_all_v:
    case Collective::send_recv:
      return ranks * chunks;
    case Collective::reduce:
      return rank == root ? chunks : 0;
    case Collective::gather:
      return rank == root ? ranks * chunks : 0;
    case Collective::barrier:
      return 0;
  }
  return 0;
}

Plan::Plan(std::string algorithm, Shape shape)
    : algorithm_(std::move(algorithm)), shape_(std::move(shape)) {
  Hash h;
  h.add(k_plan_format);
  h.add(algorithm_);
  for (uint64_t word :
       {uint64_t{static_cast<uint8_t>(shape_.collective)}, uint64_t{shape_.ranks},
        uint64_t{shape_.chunks}, uint64_t{shape_.lanes}, uint64_t{shape_.root},
        uint64_t{shape_.in_place}, uint64_t{shape_.scratch}, uint64_t{shape_.credits},
        uint64_t{shape_.longest}, uint64_t{shape_.hierarchy.level.size()}})
    h.add(word);
  for (const auto& level : shape_.hierarchy.level)
    for (uint32_t group : level) h.add(group);
  id_ = h.value();
}

TablePlan::TablePlan(std::string algorithm, Shape shape, Table table)
    : Plan(std::move(algorithm), std::move(shape)), table_(std::move(table)) {}

uint32_t TablePlan::steps(Rank rank, Lane lane) const {
  if (rank >= table_.size() || lane >= table_[rank].size()) return 0;
  return static_cast<uint32_t>(table_[rank][lane].size());
}

Step TablePlan::step_at(Rank rank, Lane lane, uint32_t index) const {
  return table_[rank][lane][index];
}

}  // namespace tutti
