// CPU limits of control groups, read from made-up file systems.
#include "src/base/cpus.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cmath>
#include <filesystem>
#include <fstream>

namespace tutti {
namespace {

namespace fs = std::filesystem;

class CgroupCpus : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "cgroupXXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }
  void file(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text << "\n";
  }
  std::string root_;
};

TEST_F(CgroupCpus, NoFilesNoLimit) { EXPECT_TRUE(std::isinf(cgroup_cpus(root_))); }

TEST_F(CgroupCpus, TheLeastOfTheWayToTheRootCounts) {
  file("/proc/self/cgroup", "0::/pod/box/job");
  file("/sys/fs/cgroup/pod/cpu.max", "300000 100000");
  file("/sys/fs/cgroup/pod/box/cpu.max", "150000 100000");
  file("/sys/fs/cgroup/pod/box/job/cpu.max", "max 100000");
  EXPECT_DOUBLE_EQ(cgroup_cpus(root_), 1.5);
}

TEST_F(CgroupCpus, AContainerSeesItsGroupAtTheRoot) {
  file("/proc/self/cgroup", "0::/");
  file("/sys/fs/cgroup/cpu.max", "50000 100000");
  EXPECT_DOUBLE_EQ(cgroup_cpus(root_), 0.5);
}

TEST_F(CgroupCpus, VersionOneIsReadUnderItsControllersMount) {
  file("/proc/self/cgroup", "5:memory:/m\n3:cpu,cpuacct:/docker/1\n1:name=systemd:/x");
  file("/sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us", "400000");
  file("/sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000");
  EXPECT_DOUBLE_EQ(cgroup_cpus(root_), 4.0);
  file("/sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us", "-1");
  EXPECT_TRUE(std::isinf(cgroup_cpus(root_)));
}

TEST_F(CgroupCpus, NonsenseIsNoLimit) {
  file("/proc/self/cgroup", "nonsense\n0:\n::\n0::relative");
  file("/sys/fs/cgroup/cpu.max", "many few");
  EXPECT_TRUE(std::isinf(cgroup_cpus(root_)));
}

TEST(AvailableCpus, FollowsTheAffinityMask) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &before)) {
      CPU_SET(cpu, &one);
      break;
    }
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(available_cpus(), 1u);
  ASSERT_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
  EXPECT_LE(available_cpus(), static_cast<uint32_t>(CPU_COUNT(&before)));
}

}  // namespace
}  // namespace tutti
