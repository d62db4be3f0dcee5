// Ranks whose numbers do not follow the links: rings do, and give the bits of the plan that says
// so.
#include <gmock/gmock.h>
#include <sched.h>
#include <unistd.h>

#include <fstream>
#include <random>

#include "src/algorithms/on_orders.h"
#include "src/base/cpus.h"
#include "tests/collective/world.h"
#include "tutti/unique_id.h"

namespace tutti::testing_world {
namespace {

constexpr size_t k_count = 36 * 1024;  // cut into chunks alike over memory and sockets

Bytes random_floats(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(count * sizeof(float));
  for (size_t i = 0; i < count; ++i) {
    const float x =
        std::ldexp(static_cast<float>(random()) * 0x1p-32f - 0.5f, static_cast<int>(random() % 8));
    std::memcpy(&bytes[i * sizeof(float)], &x, sizeof(x));
  }
  return bytes;
}

// A communicator whose ranks have settings of their own; `enter` runs first in each rank's thread.
Communicators join(uint32_t ranks, const std::function<Config(Rank)>& enter) {
  const Result<UniqueId> id = UniqueId::create();
  EXPECT_TRUE(id.ok()) << id.status().message();
  Communicators world(ranks);
  std::vector<std::thread> threads;
  for (Rank r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      Config config = enter(r);
      config.init_timeout = 60;
      config.tune =
          "all_reduce:0-inf:ring;reduce_scatter:0-inf:ring;all_gather:0-inf:ring;broadcast:0-inf:"
          "ring";
      auto made = Communicator::create(*id, r, ranks, config);
      EXPECT_TRUE(made.ok()) << made.status().message();
      if (made) world[r] = std::move(*made);
    });
  for (std::thread& t : threads) t.join();
  return world;
}

// All collectives of the rule against the interpreter of the ring on that order.
void expect_on(Communicators& world, const std::vector<Rank>& order) {
  const auto n = static_cast<uint32_t>(world.size());
  for (const auto& c : world) ASSERT_NE(c, nullptr);
  for (const Collective collective : {Collective::all_reduce, Collective::reduce_scatter,
                                      Collective::all_gather, Collective::broadcast}) {
    const PlanRequest request{collective, n, 1, false, 0, {}};
    const Result<PlanPtr> plan = make_on_orders(*find_algorithm("ring"), request, {order});
    ASSERT_TRUE(plan.ok()) << plan.status().message();
    std::vector<Bytes> inputs(n), outputs(n);
    for (Rank r = 0; r < n; ++r) {
      inputs[r] = random_floats(input_blocks(collective, n) * k_count, r + 1);
      outputs[r].resize(output_blocks(collective, n) * k_count * sizeof(float));
    }
    const auto expected = [&](const Plan& p) {
      return expected_outputs(p, k_count, DType::float32, ReduceOp::sum, inputs, outputs);
    };
    std::vector<Bytes> got = outputs;
    on_every_rank(world, [&](Communicator& c) {
      const Rank r = c.rank();
      const bool gives = collective != Collective::broadcast || r == request.root;
      const Status s = call(c, collective, gives ? inputs[r].data() : nullptr, got[r].data(),
                            k_count, DType::float32, ReduceOp::sum, request.root);
      EXPECT_TRUE(s.ok()) << s.to_string();
    });
    EXPECT_TRUE(got == expected(**plan)) << name(collective);
    // The bits of the ranks' own order are others, so this was not it.
    if (collective == Collective::all_reduce) {
      EXPECT_FALSE(got == expected(**make_plan("ring", request)));
    }
  }
}

TEST(AlongLinks, RingsStayOnAHostAsLongAsTheyCan) {
  Communicators world = join(6, [](Rank r) {
    Config config;
    config.host_id = "host " + std::to_string(r % 3);  // dealt in turns
    return config;
  });
  expect_on(world, {0, 3, 1, 4, 2, 5});
}

TEST(AlongLinks, RingsFollowATopologyFile) {
  if (available_cpus() < 2) GTEST_SKIP() << "two CPUs are needed to bind ranks to two sockets";
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  std::vector<int> cpus;
  for (int c = 0; c < 32; ++c)
    if (CPU_ISSET(c, &allowed)) cpus.push_back(c);
  if (cpus.size() < 2) GTEST_SKIP() << "two of the first 32 CPUs are needed";
  char path[] = "/tmp/tutti-topo-XXXXXX";
  const int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  close(fd);
  std::ofstream file(path);
  file << "<system version=\"1\">\n";
  for (int socket = 0; socket < 2; ++socket) {
    char mask[16];
    snprintf(mask, sizeof(mask), "%08x", 1u << cpus[static_cast<size_t>(socket)]);
    file << "  <cpu numaid=\"" << socket << "\" affinity=\"" << mask << "\"/>\n";
  }
  file << "</system>\n";
  file.close();
  Communicators world = join(4, [&](Rank r) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpus[r % 2], &one);
    EXPECT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    Config config;
    config.topology = path;
    return config;
  });
  unlink(path);
  expect_on(world, {0, 2, 1, 3});
}

TEST(AlongLinks, RanksKeepTheirPlaceInASpecWhenTheyAreSplit) {
  Communicators world = join(8, [](Rank) {
    Config config;
    config.topology = "node:2{bw=10Gb/s} core:4{bw=10GB/s}";
    return config;
  });
  for (const auto& c : world) ASSERT_NE(c, nullptr);
  // Child ranks 0, 2, 4, 6 are on the first node.
  Communicators children(8);
  on_every_rank(world, [&](Communicator& c) {
    const int key = static_cast<int>(c.rank() % 4 * 2 + c.rank() / 4);
    auto made = c.split(0, key);
    ASSERT_TRUE(made.ok()) << made.status().message();
    children[(*made)->rank()] = std::move(*made);
  });
  expect_on(children, {0, 2, 4, 6, 1, 3, 5, 7});
}

}  // namespace
}  // namespace tutti::testing_world
