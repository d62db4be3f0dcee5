#include "src/base/cpus.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>
#include <thread>

namespace tutti {
namespace {

constexpr double k_unlimited = std::numeric_limits<double>::infinity();

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// What one group's folder says: "max 100000" or "200000 100000" in version 2, two files in 1.
double quota_of(const std::string& folder) {
  double quota = 0, period = 0;
  std::istringstream v2(first_line(folder + "/cpu.max"));
  if (!(v2 >> quota >> period)) {
    quota = std::atof(first_line(folder + "/cpu.cfs_quota_us").c_str());
    period = std::atof(first_line(folder + "/cpu.cfs_period_us").c_str());
  }
  return quota > 0 && period > 0 ? quota / period : k_unlimited;
}

double least_quota(const std::string& mount, std::string group) {
  double least = k_unlimited;
  for (;;) {
    least = std::min(least, quota_of(mount + group));
    if (group.empty()) return least;
    const size_t parent = group.rfind('/');
    group.resize(parent == std::string::npos ? 0 : parent);
  }
}

bool has_cpu_controller(std::string controllers) {
  std::istringstream list(std::move(controllers));
  for (std::string one; std::getline(list, one, ',');)
    if (one == "cpu") return true;
  return false;
}

}  // namespace

double cgroup_cpus(const std::string& root) {
  const std::string mount = root + "/sys/fs/cgroup";
  double least = quota_of(mount);
  // "0::/a/b" in version 2; "3:cpu,cpuacct:/a/b" in version 1, mounted at cpu,cpuacct or cpu. In a
  // container the path may be the host's and not exist here; then only the mount's root speaks.
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string group = line.substr(second + 1);
    if (group == "/") group.clear();
    if (controllers.empty()) {
      least = std::min(least, least_quota(mount, group));
    } else if (has_cpu_controller(controllers)) {
      least = std::min(least, least_quota(mount + "/" + controllers, group));
      least = std::min(least, least_quota(mount + "/cpu", group));
    }
  }
  return least;
}

uint32_t available_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const uint32_t cpus = sched_getaffinity(0, sizeof(set), &set) == 0
                            ? static_cast<uint32_t>(CPU_COUNT(&set))
                            : std::thread::hardware_concurrency();
  const double granted = std::min(static_cast<double>(cpus), std::ceil(cgroup_cpus()));
  return std::max(1u, static_cast<uint32_t>(granted));
}

}  // namespace tutti
