// The profiles beside the recorded machines.
#include <gtest/gtest.h>

#include <cmath>

#include "src/cost/profile.h"
#include "topology/load.h"

namespace tutti {
namespace {

TEST(RecordedProfiles, ParseAndSayWhereTheyComeFrom) {
  for (const RecordedMachine& m : recorded_machines()) {
    ASSERT_FALSE(m.profile.empty()) << m.name;
    const Result<Profile> p = parse_profile(m.profile);
    ASSERT_TRUE(p.ok()) << m.name << ": " << p.status().message();
    EXPECT_EQ(p->name, m.name);
    const Result<Cluster> cluster = load_cluster(std::string(m.name));
    ASSERT_TRUE(cluster.ok());
    // Every class of link on the machine has a latency, and the source speaks of it.
    for (const Link& l : cluster->topology.links()) {
      EXPECT_GT(p->alpha(l), 0) << m.name << ": " << name(l.link_class);
      EXPECT_NE(p->source.find(std::string(name(l.link_class)) +
                               (l.link_class == LinkClass::nvlink ? "" : ":")),
                std::string::npos)
          << m.name << ": " << name(l.link_class);
      EXPECT_LE(p->bandwidth(l), l.bandwidth);
    }
    EXPECT_GT(p->reduce_cost(DType::float32, ReduceOp::sum), 0);
  }
}

}  // namespace
}  // namespace tutti
