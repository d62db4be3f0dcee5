#include "src/planner/device_choice.h"

#include <fmt/format.h>

#include <algorithm>

namespace tutti {
namespace {

// Assumed where the profile has no price. Seconds:
constexpr double k_launch = 4e-6;        // until the blocks of a grid run
constexpr double k_packet_end = 2e-7;    // a message of packets, at either end
constexpr double k_slot_end = 7e-7;      // blocks meet, a fence, a flag: at either end
constexpr double k_device_byte = 1e-12;  // a byte reduced or copied: terabytes a second
// Between two devices of a host, up and down: where neither profile nor topology has a latency.
constexpr double k_peer = 1.4e-6;
// Between devices of a host whose links are not known: PCI, fourth generation.
constexpr double k_peer_byte = 1 / 25e9;
// At either end of a message over the network: a proxy finds it, a flag crosses PCI.
constexpr double k_proxy = 2e-6;
// Half of the words of packets are flags.
constexpr double k_packet_share = 0.5;

DevicePrice price(const std::optional<double>& measured, double assumed) {
  return {measured.value_or(assumed), measured.has_value()};
}

void charge_link(LinkCost& cost, double alpha, double share) {
  if (!cost.alpha && cost.curve.empty()) cost.alpha = alpha;
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

EndCost relayed(EndCost ends, double proxy) {
  ends.send += proxy;
  ends.recv += proxy;
  for (SizeCurve* curve : {&ends.send_curve, &ends.recv_curve})
    for (SizeCurve::Knot& knot : curve->knots) knot.seconds += proxy;
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

DevicePrices::DevicePrices(const DeviceCost& given)
    : launch(price(given.launch, k_launch)),
      packet(price(given.packet, k_packet_end)),
      slot(price(given.slot, k_slot_end)),
      copy(price(given.copy, k_device_byte)),
      reduce(price(given.reduce, k_device_byte)),
      peer(price(given.peer, k_peer)),
      peer_byte(price(given.peer_byte, k_peer_byte)),
      proxy(price(given.proxy, k_proxy)) {}

std::string to_text(const DevicePrices& prices) {
  std::string text;
  const auto line = [&](std::string_view what, const DevicePrice& p, bool per_byte = false) {
    text += fmt::format("  {:<44} {:>10.2f} {:<4}  {}\n", what,
                        per_byte ? 1e-9 / p.value : p.value * 1e6, per_byte ? "GB/s" : "us",
                        p.measured ? "measured" : "assumed");
  };
  line("a launch", prices.launch);
  line("a message of packets, at either end", prices.packet);
  line("a message through a slot, at either end", prices.slot);
  line("a byte copied", prices.copy, true);
  line("a byte reduced", prices.reduce, true);
  line("from window to window", prices.peer);
  line("a byte from window to window (unknown links)", prices.peer_byte, true);
  line("the proxy, at either end of a message", prices.proxy);
  return text;
}

Profile device_profile(const Profile& given, WireProtocol protocol) {
  const bool packets = protocol == WireProtocol::packets;
  const DevicePrices prices(given.device);
  Profile p;
  p.name = given.name + ", devices";
  p.source = given.source;
  for (LinkClass c : {LinkClass::nvlink, LinkClass::pci, LinkClass::interconnect})
    for (int way : {0, 1}) {
      LinkCost& cost = p.links[static_cast<int>(c)][way];
      cost = given.links[static_cast<int>(c)][way];
      charge_link(cost, prices.peer.value / 2, packets ? k_packet_share : 1);
    }
  for (LinkClass c : {LinkClass::nic, LinkClass::network})
    for (int way : {0, 1})
      p.links[static_cast<int>(c)][way] = given.links[static_cast<int>(c)][way];
  p.network_ends = relayed(given.ends_of(true), prices.proxy.value);
  p.call_overhead = prices.launch.value;
  p.ends.send = p.ends.recv = packets ? prices.packet.value : prices.slot.value;
  // Through slots a byte is stored once more than it has to be, and read.
  p.ends.recv_byte = packets ? 0 : prices.copy.value;
  p.copy = prices.copy.value;
  p.gamma = prices.reduce.value;
  p.device = given.device;
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
  const DevicePrices prices(given.device);
  for (WireProtocol protocol : {WireProtocol::packets, WireProtocol::slots}) {
    if (only && *only != protocol) continue;
    Profile profile = device_profile(given, protocol);
    if (placement.topology == nullptr)
      for (LinkCost& near : profile.links[static_cast<int>(LinkClass::memory)]) {
        near.beta = prices.peer_byte.value;
        charge_link(near, prices.peer.value / 2,
                    protocol == WireProtocol::packets ? k_packet_share : 1);
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
