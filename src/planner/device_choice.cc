#include "src/planner/device_choice.h"

#include <algorithm>

namespace tutti {
namespace {

// Assumed of a device. Seconds:
constexpr double k_launch = 4e-6;        // until the blocks of a grid run
constexpr double k_packet_end = 2e-7;    // a message of packets, at either end
constexpr double k_slot_end = 7e-7;      // blocks meet, a fence, a flag: at either end
constexpr double k_device_byte = 1e-12;  // a byte reduced or copied: terabytes a second
// Of an NVLink or PCI link, where neither profile nor topology has a latency.
constexpr double k_link_latency = 7e-7;
// Between devices of a host of several whose links are not known: PCI, fourth generation.
constexpr double k_near_byte = 1 / 25e9;
// At either end of a message over the network: a proxy finds it, a flag crosses PCI.
constexpr double k_relay = 2e-6;
// Half of the words of packets are flags.
constexpr double k_packet_share = 0.5;

void charge_link(LinkCost& cost, double share) {
  if (!cost.alpha && cost.curve.empty()) cost.alpha = k_link_latency;
  if (cost.beta) {
    *cost.beta /= share;
  } else {
    cost.efficiency *= share;
  }
  for (SizeCurve::Knot& knot : cost.curve.knots) {
    const double first = cost.curve.knots.front().seconds;
    knot.seconds = first + (knot.seconds - first) / share;
  }
}

EndCost relayed(EndCost ends) {
  ends.send += k_relay;
  ends.recv += k_relay;
  for (SizeCurve* curve : {&ends.send_curve, &ends.recv_curve})
    for (SizeCurve::Knot& knot : curve->knots) knot.seconds += k_relay;
  return ends;
}

bool all_at_devices(const Topology& topology) {
  for (Rank r = 0; r < topology.ranks(); ++r)
    if (topology.nodes()[topology.node_of(r)].kind != NodeKind::gpu) return false;
  return true;
}

}  // namespace

Placement device_placement(uint32_t ranks, std::shared_ptr<const Topology> topology) {
  Placement p;
  p.ranks = ranks;
  p.host.assign(ranks, 0);
  p.topology = std::move(topology);
  if (p.topology != nullptr) p.orders = link_orders(p);
  return p;
}

Placement device_placement(const Placement& ranks) {
  Placement p;
  p.ranks = ranks.ranks;
  p.hosts = ranks.hosts;
  p.host = ranks.host;
  p.hierarchy = ranks.hierarchy;
  p.network_bandwidth = ranks.network_bandwidth;
  if (ranks.topology != nullptr && all_at_devices(*ranks.topology)) p.topology = ranks.topology;
  p.orders = link_orders(p);
  return p;
}

Profile device_profile(const Profile& given, WireProtocol protocol) {
  const bool packets = protocol == WireProtocol::packets;
  Profile p;
  p.name = given.name + ", devices";
  p.source = given.source;
  for (LinkClass c : {LinkClass::nvlink, LinkClass::pci, LinkClass::interconnect})
    for (int way : {0, 1}) {
      LinkCost& cost = p.links[static_cast<int>(c)][way];
      cost = given.links[static_cast<int>(c)][way];
      charge_link(cost, packets ? k_packet_share : 1);
    }
  for (LinkClass c : {LinkClass::nic, LinkClass::network})
    for (int way : {0, 1})
      p.links[static_cast<int>(c)][way] = given.links[static_cast<int>(c)][way];
  p.network_ends = relayed(given.ends_of(true));
  p.call_overhead = k_launch;
  p.ends.send = p.ends.recv = packets ? k_packet_end : k_slot_end;
  // Through slots a byte is stored once more than it has to be, and read.
  p.ends.recv_byte = packets ? 0 : k_device_byte;
  p.copy = p.gamma = k_device_byte;
  p.serial_lanes = false;
  return p;
}

Result<std::vector<DeviceCandidate>> price_on_devices(const Placement& placement,
                                                      const Profile& given, Collective collective,
                                                      uint64_t bytes, DType dtype, ReduceOp op,
                                                      std::optional<WireProtocol> only) {
  PlanRequest request;
  request.collective = collective;
  request.ranks = placement.ranks;
  request.hierarchy = placement.hierarchy;
  std::vector<DeviceCandidate> all;
  for (WireProtocol protocol : {WireProtocol::packets, WireProtocol::slots}) {
    if (only && *only != protocol) continue;
    Profile profile = device_profile(given, protocol);
    if (placement.hosts > 1 && placement.topology == nullptr)
      for (LinkCost& near : profile.links[static_cast<int>(LinkClass::memory)]) {
        near.beta = k_near_byte;
        charge_link(near, protocol == WireProtocol::packets ? k_packet_share : 1);
      }
    Result<std::vector<Priced>> priced =
        price_candidates(placement, profile, request, bytes, dtype, op);
    if (!priced) return priced.status();
    for (const Priced& p : *priced)
      all.push_back({{std::string(p.candidate.algorithm->name), p.candidate.request.chunks,
                      p.candidate.mapping},
                     protocol,
                     p.seconds()});
  }
  std::stable_sort(all.begin(), all.end(), [](const DeviceCandidate& a, const DeviceCandidate& b) {
    return a.seconds < b.seconds;
  });
  return all;
}

}  // namespace tutti
