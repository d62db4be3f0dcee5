#include "src/cost/machine.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

namespace tutti {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Of the first CPU: "model name" on x86, "CPU part" on Arm, "cpu" on POWER.
std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    for (const char* key : {"model name", "CPU part", "cpu\t"})
      if (line.starts_with(key))
        if (const size_t colon = line.find(": "); colon != std::string::npos)
          return line.substr(colon + 2);
  return "unknown CPU";
}

// By name, those that come and go with containers left out.
std::set<std::string> interfaces() {
  std::set<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/sys/class/net", error)) {
    const std::string name = entry.path().filename();
    bool skip = name == "lo" || first_line(entry.path() / "operstate") == "down";
    for (const char* virtual_one : {"veth", "docker", "br-", "virbr", "cni", "tun", "tap", "tutti"})
      skip |= name.starts_with(virtual_one);
    if (skip) continue;
    const std::string speed = first_line(entry.path() / "speed");
    const bool known = !speed.empty() && speed[0] != '-';
    found.insert(known ? name + " " + speed + " Mb/s" : name);
  }
  return found;
}

}  // namespace

std::string describe_machine() {
  std::string text = fmt::format("{}; {} CPUs", cpu_model(), sysconf(_SC_NPROCESSORS_ONLN));
  for (const std::string& i : interfaces()) text += "; " + i;
  utsname kernel{};
  uname(&kernel);
  return text + fmt::format("; {} {}", kernel.sysname, kernel.release);
}

bool same_machine(std::string_view measured, std::string_view here) {
  return measured.empty() ||
         measured.substr(0, measured.rfind(';')) == here.substr(0, here.rfind(';'));
}

}  // namespace tutti
