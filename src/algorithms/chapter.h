// Chapters: what each algorithm serves, with what shape and at what cost. algorithms.cc is the
// table.
#pragma once

#include <bit>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "src/algorithms/algorithms.h"
#include "src/algorithms/formula.h"

namespace tutti::chapters {

// How an algorithm serves one collective, for two ranks and more.
struct Entry {
  Collective collective;
  PlanPtr (*make)(std::string_view algorithm, Shape shape);
  // Fills chunks, lanes, scratch, credits and longest, where they differ from 1, 1, 0, 1 and 1.
  void (*form)(const PlanRequest& request, Shape& shape);
  Cost (*cost)(double n, double chunks, const PlanRequest& request);
  // In place exchanges other messages than out of place (with two ranks and more).
  bool in_place_differs = false;
};
inline constexpr bool k_in_place_differs = true;

std::span<const Entry> ring();
std::span<const Entry> direct_one_shot();
std::span<const Entry> direct_two_shot();
std::span<const Entry> direct();
std::span<const Entry> pairwise();
std::span<const Entry> double_binary_tree();
std::span<const Entry> binomial();
std::span<const Entry> recursive_doubling();
std::span<const Entry> halving_doubling();
std::span<const Entry> bruck();
std::span<const Entry> dissemination();
std::span<const Entry> hierarchical_leader();
std::span<const Entry> hierarchical_leader_doubling();
std::span<const Entry> hierarchical_scatter();
std::span<const Entry> hierarchical_scatter_doubling();
std::span<const Entry> hierarchical_scatter_direct();

template <class Formula>
PlanPtr formula(std::string_view algorithm, Shape shape) {
  return std::make_shared<FormulaPlan<Formula>>(std::string(algorithm), std::move(shape));
}

inline constexpr uint32_t k_pipeline_chunks = 16;  // default depth of a pipelined chain or tree

inline void one_chunk(const PlanRequest&, Shape&) {}
inline void chunk_per_rank(const PlanRequest& request, Shape& shape) {
  shape.chunks = request.ranks;
}
inline void pipelined(const PlanRequest& request, Shape& shape) {
  shape.chunks = request.chunks > 0 ? request.chunks : k_pipeline_chunks;
}

// The largest power of two below n; 1 for n = 1: what doubling and halving move at most.
inline uint32_t half(uint32_t n) { return n > 2 ? std::bit_floor(n - 1) : 1; }

inline double levels(double n) { return ceil_log2(static_cast<uint32_t>(n)); }
inline Cost one_message_each(double n, double, const PlanRequest&) { return {1, n - 1, 0}; }
inline Cost one_message_each_reduced(double n, double, const PlanRequest&) {
  return {1, n - 1, n - 1};
}

}  // namespace tutti::chapters
