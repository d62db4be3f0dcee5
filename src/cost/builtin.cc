// Prices for hosts that nobody has measured.
#include "src/cost/profile.h"

namespace tutti {

Profile builtin_profile() {
  Profile p;
  p.name = "built in";
  p.source =
      "2-CPU virtual machine (AMD EPYC, Zen 3), tutti tune and docs/simulator.md, 2026-11-22";
  const auto link = [&](LinkClass c, int direction, double alpha, double beta) {
    LinkCost& cost = p.links[static_cast<int>(c)][direction];
    cost.alpha = alpha;
    cost.beta = beta;
  };
  // Shared memory: what a message costs is its ends' work.
  link(LinkClass::memory, 0, 0.1e-6, 1e-13);
  link(LinkClass::memory, 1, 0.1e-6, 1e-13);
  p.ends = {.send = 0.25e-6, .recv = 0.35e-6, .send_byte = 0, .recv_byte = 0.16e-9};
  // Loopback, and a network of Ethernet: 10 Gbit/s where nothing says how fast it is.
  link(LinkClass::nic, 0, 3e-6, 1e-13);
  link(LinkClass::nic, 1, 3e-6, 1e-13);
  for (LinkCost& network : p.links[static_cast<int>(LinkClass::network)]) {
    network.alpha = 10e-6;
    network.efficiency = 8.0 / 9;
  }
  p.network_ends = EndCost{.send = 6e-6, .recv = 4e-6, .send_byte = 0.25e-9, .recv_byte = 0.25e-9};
  p.call_overhead = 0.1e-6;
  p.copy = 0.09e-9;
  p.gamma = 0.09e-9;
  p.flag = 0.3e-6;
  p.flag_handover = 2.8e-6;
  p.handover = 5e-6;
  p.cache_bytes = 4 << 20;
  p.beyond_cache = 1.4;
  p.serial_lanes = false;
  return p;
}

}  // namespace tutti
