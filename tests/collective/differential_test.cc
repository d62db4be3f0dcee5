// Every collective, by every algorithm, through the real communicator: the bytes must be exactly
// those that the plan's interpreter computes, in place and out of place, whatever the count.
#include <random>
#include <tuple>

#include "tests/collective/world.h"

namespace tutti::testing_world {
namespace {

// Random but harmless: no NaN, and sums stay finite. Rounding differs with the order of operands,
// so equality with the interpreter is a statement about order.
Bytes random_elements(DType dtype, size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(count * size_of(dtype));
  for (size_t i = 0; i < count; ++i) {
    if (dtype == DType::float32 || dtype == DType::float64) {
      const double x = std::ldexp(static_cast<double>(random()) / 4294967296.0 - 0.5,
                                  static_cast<int>(random() % 8));
      const auto f = static_cast<float>(x);
      std::memcpy(&bytes[i * size_of(dtype)],
                  dtype == DType::float32 ? static_cast<const void*>(&f) : &x, size_of(dtype));
    } else {
      // Any bit pattern of an integer; halves and fp8 with a small exponent.
      uint64_t bits = random();
      if (dtype == DType::float16) bits = (bits & 0x83ff) | 0x3000;
      if (dtype == DType::bfloat16) bits = (bits & 0x807f) | 0x3f00;
      if (dtype == DType::float8_e4m3) bits = (bits & 0x87) | 0x28;
      if (dtype == DType::float8_e5m2) bits = (bits & 0x83) | 0x38;
      std::memcpy(&bytes[i * size_of(dtype)], &bits, size_of(dtype));
    }
  }
  return bytes;
}

struct Case {
  Collective collective;
  uint64_t count;
  DType dtype;
  ReduceOp op;
  Rank root;
  bool in_place;
};

// Memory of one rank for a case: in place, send points into recv's memory or the other way round.
struct RankMemory {
  Bytes storage;       // the larger buffer in place; the receive buffer otherwise
  Bytes send_storage;  // out of place
  std::byte* send = nullptr;
  std::byte* recv = nullptr;
};

bool has_input(Collective c, Rank r, Rank root) {
  return (c != Collective::broadcast && c != Collective::scatter) || r == root;
}
bool has_output(Collective c, Rank r, Rank root) {
  return (c != Collective::reduce && c != Collective::gather) || r == root;
}

RankMemory lay_out(const Case& k, uint32_t n, Rank r, const Bytes& input) {
  RankMemory m;
  const size_t block = k.count * size_of(k.dtype);
  const size_t in = input_blocks(k.collective, n) * block,
               out = output_blocks(k.collective, n) * block;
  const bool rooted = k.collective == Collective::broadcast || k.collective == Collective::reduce ||
                      k.collective == Collective::gather || k.collective == Collective::scatter;
  if (!k.in_place || (rooted && r != k.root)) {
    m.storage.assign(out + 64, std::byte{0xa5});
    m.send_storage = input;
    m.send_storage.resize(in + 64);
    m.send = m.send_storage.data();
    m.recv = m.storage.data();
    return m;
  }
  m.storage.assign(std::max(in, out) + 64, std::byte{0xa5});
  m.send = m.storage.data() + (out > in ? r * block : 0);
  m.recv = m.storage.data() + (in > out ? r * block : 0);
  if (in > 0) std::memcpy(m.send, input.data(), in);
  return m;
}

void run_case(Communicators& world, const Plan& oracle, const Case& k) {
  const auto n = static_cast<uint32_t>(world.size());
  const size_t block = k.count * size_of(k.dtype);
  std::vector<Bytes> inputs(n);
  std::vector<RankMemory> memory(n);
  for (Rank r = 0; r < n; ++r) {
    inputs[r] = random_elements(k.dtype, input_blocks(k.collective, n) * k.count, 17 * r + 1);
    memory[r] = lay_out(k, n, r, inputs[r]);
  }
  std::vector<Bytes> blank(n, Bytes(output_blocks(k.collective, n) * block));
  const std::vector<Bytes> expected =
      expected_outputs(oracle, k.count, k.dtype, k.op, inputs, std::move(blank));
  std::vector<Status> statuses(n);
  on_every_rank(world, [&](Communicator& c) {
    const Rank r = c.rank();
    statuses[r] =
        call(c, k.collective, has_input(k.collective, r, k.root) ? memory[r].send : nullptr,
             has_output(k.collective, r, k.root) ? memory[r].recv : nullptr, k.count, k.dtype, k.op,
             k.root);
  });
  for (Rank r = 0; r < n; ++r) {
    ASSERT_TRUE(statuses[r].ok()) << statuses[r].to_string();
    if (has_output(k.collective, r, k.root) && !expected[r].empty()) {
      ASSERT_EQ(std::memcmp(memory[r].recv, expected[r].data(), expected[r].size()), 0)
          << "rank " << r << " of " << n << ", " << name(k.collective) << " of " << k.count << " "
          << name(k.dtype) << " " << name(k.op) << " root " << k.root << " in place " << k.in_place;
    }
    if (!memory[r].send_storage.empty() && has_input(k.collective, r, k.root) &&
        !inputs[r].empty()) {
      ASSERT_EQ(std::memcmp(memory[r].send, inputs[r].data(), inputs[r].size()), 0)
          << "the send buffer of rank " << r << " was written";
    }
  }
}

// The plan whose order of operands the library promises for this case.
PlanPtr oracle_plan(std::string_view algorithm, const Case& k, uint32_t n) {
  PlanRequest request;
  request.collective = k.collective;
  request.ranks = n;
  request.root = k.root;
  request.in_place = k.in_place;
  // Shared windows join operands by rank, as direct_one_shot does.
  const bool shared = k.collective == Collective::all_reduce && n > 1 && n <= 64 &&
                      (algorithm == "direct_one_shot" || algorithm == "direct_two_shot");
  Result<PlanPtr> plan = make_plan(shared ? "direct_one_shot" : algorithm, request);
  EXPECT_TRUE(plan.ok()) << plan.status().to_string();
  return plan ? *plan : nullptr;
}

bool serves(const Algorithm& a, Collective c, uint32_t n) {
  for (bool in_place : {false, true}) {
    PlanRequest request;
    request.collective = c;
    request.ranks = n;
    request.in_place = in_place;
    if (!a.supports(request).ok()) return false;
  }
  return true;
}

// Ranks, and the slots' bytes: messages that are larger are read where they lie.
class EveryAlgorithm : public ::testing::TestWithParam<std::tuple<uint32_t, size_t>> {};

TEST_P(EveryAlgorithm, GivesTheInterpretersBytes) {
  const auto [n, slot_bytes] = GetParam();
  uint32_t turn = 0;  // walks through dtypes, ops and roots
  for (const Algorithm& a : algorithms()) {
    for (Collective c : {Collective::all_reduce, Collective::reduce_scatter, Collective::all_gather,
                         Collective::broadcast, Collective::reduce, Collective::all_to_all,
                         Collective::gather, Collective::scatter}) {
      if (!serves(a, c, n)) continue;
      Config config;
      config.tune = std::string(name(c)) + ":0-inf:" + std::string(a.name);
      config.slot_bytes = slot_bytes;
      Communicators world = make_world(n, config);
      ASSERT_EQ(world.size(), n);
      for (uint64_t count : {0u, 1u, 7u, 1000u, 20011u}) {
        for (bool in_place : {false, true}) {
          ++turn;
          const auto dtype = static_cast<DType>(turn % k_dtypes);
          const auto op = static_cast<ReduceOp>(turn / 3 % 5);
          const Case k{c, count, dtype, op, turn % n, in_place};
          SCOPED_TRACE(std::string(a.name));
          const PlanPtr oracle = oracle_plan(a.name, k, n);
          ASSERT_NE(oracle, nullptr);
          run_case(world, *oracle, k);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, EveryAlgorithm,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4, 5, 8, 13),
                                            ::testing::Values(size_t{4} << 10, size_t{256} << 10)),
                         [](const auto& scene) {
                           return std::to_string(std::get<0>(scene.param)) + "_slots_of_" +
                                  std::to_string(std::get<1>(scene.param) >> 10) + "K";
                         });

TEST(Differential, EveryTypeAndOperator) {
  Communicators world = make_world(3);
  ASSERT_EQ(world.size(), 3u);
  for (int d = 0; d < k_dtypes; ++d)
    for (int o = 0; o < 5; ++o)
      for (uint64_t count : {1u, 11u, 5000u, 70001u}) {
        const Case k{Collective::all_reduce,   count, static_cast<DType>(d),
                     static_cast<ReduceOp>(o), 0,     false};
        run_case(world, *oracle_plan("direct_one_shot", k, 3), k);
        if (HasFatalFailure()) return;
      }
}

TEST(Differential, PremulSumScalesEveryRanksInput) {
  Communicators world = make_world(4);
  std::vector<std::vector<float>> data(4, std::vector<float>(1000));
  for (Rank r = 0; r < 4; ++r)
    for (size_t i = 0; i < 1000; ++i) data[r][i] = static_cast<float>(r + i % 5);
  on_every_rank(world, [&](Communicator& c) {
    const auto scalar = static_cast<float>(c.rank() + 1);
    std::vector<float> out(1000);
    ASSERT_TRUE(c.all_reduce(data[c.rank()].data(), out.data(), 1000, DType::float32,
                             Reduction::premul_sum(DType::float32, &scalar))
                    .ok());
    for (size_t i = 0; i < 1000; ++i) {
      float expected = 0;
      for (Rank r = 0; r < 4; ++r) expected += static_cast<float>(r + 1) * data[r][i];
      ASSERT_EQ(out[i], expected) << i;
    }
  });
}

// Ranks may differ in whether they are in place: nobody told them to agree.
TEST(Differential, SomeRanksInPlaceOthersNot) {
  for (const Algorithm& a : algorithms()) {
    if (!serves(a, Collective::all_reduce, 5)) continue;
    Config config;
    config.tune = "all_reduce:0-inf:" + std::string(a.name);
    Communicators world = make_world(5, config);
    on_every_rank(world, [&](Communicator& c) {
      for (size_t count : {3u, 4000u}) {
        std::vector<int32_t> in(count, static_cast<int32_t>(c.rank()) + 1), out(count, -1);
        const bool in_place = c.rank() % 2 == 0;
        const Status s = c.all_reduce(in.data(), in_place ? in.data() : out.data(), count,
                                      DType::int32, ReduceOp::sum);
        ASSERT_TRUE(s.ok()) << a.name << ": " << s.to_string();
        for (int32_t x : in_place ? in : out) ASSERT_EQ(x, 15) << a.name;
      }
    });
  }
}

}  // namespace
}  // namespace tutti::testing_world
