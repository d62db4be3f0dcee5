// Which machine this is, in words: what a profile was measured on, and whether it fits here.
#pragma once

#include <string>
#include <string_view>

namespace tutti {

// "AMD EPYC 7713; 2 CPUs; eth0 10000 Mb/s; Linux 6.1.0": the CPU's model, the CPUs that are online,
// the network interfaces that are up, but for loopback and those of containers, the kernel.
std::string describe_machine();

// Whether figures from `measured` count on `here`: everything but the kernel is the same, or the
// profile names no machine.
bool same_machine(std::string_view measured, std::string_view here);

}  // namespace tutti
