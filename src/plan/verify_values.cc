// Progress, postcondition and same bits: the plan is run once on symbols, at the declared credits.
//
// A symbol is two 64-bit fingerprints. `sum` adds random leaves with wrapping addition: equal to
// the sum of all ranks' leaves exactly when every contribution is in it once (but for 2^-64).
// Reading `input` and dividing at `last` are random bijections, so doing either twice, never, or
// at the wrong place shows. `bits` hashes the expression: passes are n-ary nodes whose first two
// operands commute (IEEE addition commutes and does not associate; a pass accumulates in a wider
// type in step order and rounds once, so neither regrouping nor splitting it keeps the bits).
#include <fmt/format.h>

#include "src/plan/interpret.h"
#include "src/plan/step_check.h"
#include "src/plan/verify_parts.h"

namespace tutti {
namespace {

constexpr uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ULL;
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ULL;
  return x ^ (x >> 32);
}

struct Symbol {
  uint64_t sum = 0;
  uint64_t bits = 0;
};

uint64_t leaf(Rank rank, uint32_t chunk) {
  return mix((uint64_t{rank} << 32 | chunk) + 0x9e3779b97f4a7c15ULL);
}
uint64_t scaled(uint64_t v) { return mix(v ^ 0x5ca1ab1e0ddba11ULL); }
uint64_t divided(uint64_t v) { return mix(v ^ 0xd1571de0a5e5a3eULL); }

class Symbols {
 public:
  using Value = Symbol;
  explicit Symbols(Collective collective) : reducing_(reduces(collective)) {}

  Symbol input(Rank rank, uint32_t chunk, uint32_t) {
    const uint64_t v = leaf(rank, chunk);
    return {v, v};
  }
  Symbol blank(Rank rank, Buffer buffer, uint32_t chunk, uint32_t) {
    return blank_of(rank, buffer, chunk);
  }
  static Symbol blank_of(Rank rank, Buffer buffer, uint32_t chunk) {
    const uint64_t v = mix(leaf(rank, chunk) + 1 + static_cast<uint64_t>(buffer));
    return {v, v};
  }
  Symbol read_input(Rank, const Symbol& value) {
    if (!reducing_) return value;
    return {scaled(value.sum), scaled(value.bits)};
  }
  Symbol reduce(Rank, Buffer, uint32_t, std::span<const Symbol> operands, bool last) {
    uint64_t sum = operands[0].sum + operands[1].sum;
    const uint64_t a = operands[0].bits, b = operands[1].bits;
    uint64_t bits = mix(std::min(a, b) * 3 + mix(std::max(a, b)));
    for (size_t i = 2; i < operands.size(); ++i) {
      sum += operands[i].sum;
      bits = mix(bits * 5 + operands[i].bits);
    }
    bits = mix(bits + operands.size());  // a pass of three is not two passes
    if (!last) return {sum, bits};
    return {divided(sum), divided(bits)};
  }

 private:
  bool reducing_;
};

class Values {
 public:
  Values(const PlanIndex& index, VerifyReport& report)
      : index_(index), shape_(index.shape()), report_(report), symbols_(shape_.collective) {}

  void prove() {
    if (const uint64_t cells = CellMap(shape_).cells(); cells > k_max_verified_cells) {
      const std::string why = fmt::format("{} chunks are too many to run", cells);
      conclude(report_, &VerifyReport::progress, Verdict::unproven, why);
      return;
    }
    // Both limits at once are stricter than either form, so success here proves both.
    RunLimits limits{shape_.credits, 1, true, index_.publishes()};
    Interpreter<Symbols> world(index_, symbols_, limits);
    if (world.run()) {
      report_.progress = Verdict::ok;
      return check(world);
    }
    const auto stuck = world.runner().stuck();
    if (!index_.publishes()) return deadlock("", stuck);
    prove_forms_apart();
  }

 private:
  // The joint run was stuck: asks separate credits and shared outbox slots one by one.
  void prove_forms_apart() {
    Interpreter<Symbols> separate(index_, symbols_, {shape_.credits, 1, true, false});
    if (!separate.run()) return deadlock("", separate.runner().stuck());
    Interpreter<Symbols> shared(index_, symbols_, {shape_.credits, 1, false, true});
    if (!shared.run())
      deadlock(" when published runs share outbox slots", shared.runner().stuck());
    else
      report_.progress = Verdict::ok;
    check(separate);
  }

  template <class Where>
  void deadlock(const char* when, const Where& stuck) {
    conclude(report_, &VerifyReport::progress, Verdict::failed,
             fmt::format("with {} credits{}, {}", shape_.credits, when,
                         describe_stuck(index_, stuck.lane_id, stuck.index)));
  }

  void check(const Interpreter<Symbols>& world) {
    report_.postcondition = Verdict::ok;
    report_.same_bits = Verdict::ok;
    prepare_sums();
    for (Rank r = 0; r < shape_.ranks; ++r) {
      const uint32_t chunks = shape_.output_chunks(r);
      for (uint32_t c = 0; c < chunks; ++c) {
        const Symbol& got = world.value(r, Buffer::output, c);
        if (!holds(r, c, got)) return wrong(r, c, got);
        if (shape_.collective == Collective::all_reduce && report_.same_bits == Verdict::ok &&
            got.bits != world.value(0, Buffer::output, c).bits)
          conclude(
              report_, &VerifyReport::same_bits, Verdict::failed,
              fmt::format("output:{} is reduced in another order on rank {} than on rank 0", c, r));
      }
    }
  }

  // Sum of all contributions to every chunk that is reduced.
  void prepare_sums() {
    if (!reduces(shape_.collective)) return;
    sums_.assign(shape_.input_chunks(0), 0);
    for (Rank r = 0; r < shape_.ranks; ++r)
      for (uint32_t c = 0; c < sums_.size(); ++c) sums_[c] += scaled(leaf(r, c));
  }

  uint32_t reduced_chunk(Rank rank, uint32_t chunk) const {
    return shape_.collective == Collective::reduce_scatter ? rank * shape_.chunks + chunk : chunk;
  }

  // Rank and input chunk that an output chunk must hold, for the collectives that only move.
  std::pair<Rank, uint32_t> source(Rank rank, uint32_t chunk) const {
    const uint32_t block = chunk / shape_.chunks, in_block = chunk % shape_.chunks;
    switch (shape_.collective) {
      case Collective::all_gather:
      case Collective::gather:
        return {block, in_block};
      case Collective::broadcast:
        return {shape_.root, chunk};
      case Collective::scatter:
        return {shape_.root, rank * shape_.chunks + chunk};
      default:  // all_to_all, all_to_all_v, send_recv
        return {block, rank * shape_.chunks + in_block};
    }
  }

  bool holds(Rank rank, uint32_t chunk, const Symbol& got) const {
    if (reduces(shape_.collective)) {
      const uint64_t sum = sums_[reduced_chunk(rank, chunk)];
      return got.sum == (shape_.ranks > 1 ? divided(sum) : sum);
    }
    const auto [from, at] = source(rank, chunk);
    if (got.sum == leaf(from, at)) return true;
    // A send_recv plan may leave pairs out.
    return shape_.collective == Collective::send_recv &&
           got.sum == Symbols::blank_of(rank, Buffer::output, chunk).sum;
  }

  void wrong(Rank rank, uint32_t chunk, const Symbol& got) {
    std::string what = "the wrong value";
    if (got.sum == Symbols::blank_of(rank, Buffer::output, chunk).sum) what = "nothing";
    if (reduces(shape_.collective)) {
      const uint64_t sum = sums_[reduced_chunk(rank, chunk)];
      if (got.sum == leaf(rank, reduced_chunk(rank, chunk)))
        what = "the rank's own input, unread (pre-multiplier not applied)";
      if (shape_.ranks > 1 && got.sum == sum)
        what = "the full sum, but no step of it is marked last";
      if (got.sum == divided(divided(sum))) what = "the full sum, divided twice";
    } else {
      const auto [from, at] = source(rank, chunk);
      what += fmt::format(" instead of rank {}'s input:{}", from, at);
    }
    conclude(report_, &VerifyReport::postcondition, Verdict::failed,
             fmt::format("rank {} output:{} ends with {}", rank, chunk, what));
    report_.same_bits = Verdict::unproven;
  }

  const PlanIndex& index_;
  const Shape& shape_;
  VerifyReport& report_;
  Symbols symbols_;
  std::vector<uint64_t> sums_;
};

}  // namespace

void prove_values(const PlanIndex& index, VerifyReport& report) { Values(index, report).prove(); }

}  // namespace tutti
