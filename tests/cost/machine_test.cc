// Which machine a profile is from.
#include "src/cost/machine.h"

#include <gtest/gtest.h>

#include "src/cost/profile.h"

namespace tutti {
namespace {

TEST(Machine, IsTheSameUntilItsHardwareChanges) {
  const std::string here = describe_machine();
  EXPECT_NE(here.find(" CPUs;"), std::string::npos) << here;
  EXPECT_EQ(here, describe_machine());
  EXPECT_TRUE(same_machine(here, here));
  EXPECT_TRUE(same_machine("", here)) << "a profile that names no machine";
  EXPECT_TRUE(
      same_machine("X; 2 CPUs; eth0 100 Mb/s; Linux 5.1", "X; 2 CPUs; eth0 100 Mb/s; Linux 6.2"));
  EXPECT_FALSE(
      same_machine("X; 2 CPUs; eth0 100 Mb/s; Linux 6.2", "X; 4 CPUs; eth0 100 Mb/s; Linux 6.2"));
  EXPECT_FALSE(same_machine("X; 2 CPUs; eth0 100 Mb/s; Linux 6.2", "X; 2 CPUs; Linux 6.2"));
}

TEST(Machine, TheBuiltInProfileIsWholeAndNamesItsSource) {
  const Profile p = builtin_profile();
  EXPECT_FALSE(p.source.empty());
  EXPECT_TRUE(p.machine.empty());
  for (LinkClass c : {LinkClass::memory, LinkClass::nic})
    for (const LinkCost& cost : p.links[static_cast<int>(c)]) EXPECT_TRUE(cost.alpha && cost.beta);
  // How fast a network is the topology says, by its NICs.
  for (const LinkCost& cost : p.links[static_cast<int>(LinkClass::network)]) {
    EXPECT_TRUE(cost.alpha && !cost.beta);
    EXPECT_GT(cost.efficiency, 0.5);
    EXPECT_LT(cost.efficiency, 1);
  }
  const Result<Profile> again = parse_profile(to_json(p));
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(*again, p);
}

}  // namespace
}  // namespace tutti
