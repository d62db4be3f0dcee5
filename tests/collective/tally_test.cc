// The tallies by which ranks find out that one of them is on host buffers and another on devices.
#include <optional>
#include <thread>

#include "src/communicator/impl.h"
#include "tests/collective/world.h"

namespace tutti {
namespace {

using testing_world::Communicators;

// What streams leave to the host runs on another thread, at any time.
TEST(Tallies, OnlyCallsOfTheThreadThatStandsForOthersAreLeftOut) {
  const Communicators world = testing_world::make_world(2);
  ASSERT_EQ(world.size(), 2u);
  Communicator::Impl &zero = world[0]->impl(), &one = world[1]->impl();
  const float input[2] = {1, 2};
  float output[2] = {0, 0};
  const auto call = [&](Rank r) {
    return Communicator::Impl::Call{Collective::all_reduce, &input[r], &output[r], 1,
                                    DType::float32,         {},        0};
  };
  // `by_one`: on the thread of rank 1, before its call.
  const auto all_reduce = [&](const auto& by_one) {
    std::thread other([&] {
      by_one();
      EXPECT_TRUE(one.run(call(1)).ok());
    });
    EXPECT_TRUE(zero.run(call(0)).ok());
    other.join();
    EXPECT_EQ(output[0], 3);
  };
  std::thread other([&] { EXPECT_TRUE(one.open_tallies(1).ok()); });
  EXPECT_TRUE(zero.open_tallies(1).ok());
  other.join();
  for (Communicator::Impl* rank : {&zero, &one}) rank->count_calls(true);

  std::optional<Communicator::Impl::Uncounted> held;
  std::thread([&] { held.emplace(zero); }).join();
  all_reduce([] {});
  held.reset();
  zero.tally_device_call(call(0));
  for (Communicator::Impl* rank : {&zero, &one})
    EXPECT_FALSE(rank->contradiction(nullptr)) << rank->contradiction(nullptr)->to_string();

  all_reduce([&] { held.emplace(one); });
  held.reset();
  for (int i = 0; i < 2; ++i) one.tally_device_call(call(1));
  ASSERT_TRUE(zero.contradiction(nullptr));
  EXPECT_EQ(zero.contradiction(nullptr)->message(),
            "rank 0 calls a collective on host buffers, but rank 1 calls all_reduce #2 of 1 "
            "float32 sum on device buffers");
}

}  // namespace
}  // namespace tutti
