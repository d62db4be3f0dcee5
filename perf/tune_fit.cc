#include "perf/tune_fit.h"

#include <algorithm>
#include <cmath>

namespace tutti::perf {
namespace {

constexpr double k_first_step = 2.5, k_last_step = 1.06;
constexpr int k_passes = 40;

Knob plain(std::string name, double least, double most, double Profile::*field) {
  return {std::move(name), least, most, [field](Profile& p, double v) { p.*field = v; },
          [field](const Profile& p) { return p.*field; }};
}
EndCost& ends_of(Profile& p, bool network) {
  if (!network) return p.ends;
  return p.network_ends ? *p.network_ends : p.network_ends.emplace(p.ends);
}
Knob end(std::string name, double least, double most, bool network, double EndCost::*field) {
  return {std::move(name), least, most,
          [=](Profile& p, double v) { ends_of(p, network).*field = v; },
          [=](const Profile& p) { return p.ends_of(network).*field; }};
}
// Alpha or beta of both directions of a class.
Knob link(std::string name, double least, double most, LinkClass c,
          std::optional<double> LinkCost::*field) {
  return {std::move(name), least, most,
          [=](Profile& p, double v) {
            for (LinkCost& cost : p.links[static_cast<int>(c)]) {
              cost.*field = v;
              cost.curve = {};
              if (field == &LinkCost::beta) cost.efficiency = 1;
            }
          },
          [=](const Profile& p) {
            const LinkCost& cost = p.links[static_cast<int>(c)][0];
            const bool network_beta = c == LinkClass::network && field == &LinkCost::beta;
            return (cost.*field)
                .value_or(network_beta ? 1 / (k_network_bandwidth * cost.efficiency) : least);
          }};
}

}  // namespace

std::vector<Knob> memory_knobs() {
  return {plain("call", 1e-8, 1e-3, &Profile::call_overhead),
          end("send", 1e-8, 1e-3, false, &EndCost::send),
          end("recv", 1e-8, 1e-3, false, &EndCost::recv),
          end("recv_byte", 1e-12, 1e-7, false, &EndCost::recv_byte),
          plain("handover", 1e-8, 1e-3, &Profile::handover)};
}
std::vector<Knob> window_knobs() {
  return {plain("flag", 1e-8, 1e-3, &Profile::flag),
          plain("flag_handover", 1e-8, 1e-3, &Profile::flag_handover),
          plain("copy", 1e-12, 1e-7, &Profile::copy)};
}
std::vector<Knob> loopback_knobs() {
  return {link("alpha", 1e-8, 1e-2, LinkClass::nic, &LinkCost::alpha),
          end("send", 1e-8, 1e-2, true, &EndCost::send),
          end("recv", 1e-8, 1e-2, true, &EndCost::recv),
          end("send_byte", 1e-12, 1e-6, true, &EndCost::send_byte),
          end("recv_byte", 1e-12, 1e-6, true, &EndCost::recv_byte)};
}
std::vector<Knob> network_knobs() {
  std::vector<Knob> knobs = loopback_knobs();
  knobs[0] = link("alpha", 1e-8, 1e-1, LinkClass::network, &LinkCost::alpha);
  knobs.push_back(link("beta", 1e-12, 1e-5, LinkClass::network, &LinkCost::beta));
  return knobs;
}

Profile with_curves(const Profile& profile, bool network, const std::vector<uint64_t>& sizes) {
  Profile curved = profile;
  EndCost& ends = ends_of(curved, network);
  const EndCost straight = ends;
  ends = {};
  for (const uint64_t bytes : sizes) {
    const double size = static_cast<double>(bytes);
    ends.send_curve.knots.push_back({bytes, straight.sending(size)});
    ends.recv_curve.knots.push_back({bytes, straight.receiving(size)});
  }
  return curved;
}

std::vector<Knob> curve_knobs(const Profile& straight, bool network,
                              const std::vector<uint64_t>& sizes) {
  constexpr double k_most_factor = 30;
  std::vector<Knob> knobs;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const double size = static_cast<double>(sizes[i]);
    const double send = straight.ends_of(network).sending(size);
    const double recv = straight.ends_of(network).receiving(size);
    const auto bend = [i](SizeCurve& curve, double seconds) {
      for (size_t k = 0; k < curve.knots.size(); ++k) {
        double& knot = curve.knots[k].seconds;
        knot = k < i ? std::min(knot, seconds) : k > i ? std::max(knot, seconds) : seconds;
      }
    };
    knobs.push_back(
        {std::to_string(sizes[i]) + "_bytes", 1 / k_most_factor, k_most_factor,
         [=](Profile& p, double factor) {
           EndCost& ends = ends_of(p, network);
           bend(ends.send_curve, send * factor);
           bend(ends.recv_curve, recv * factor);
         },
         [=](const Profile& p) { return p.ends_of(network).recv_curve.knots[i].seconds / recv; }});
  }
  return knobs;
}

double misfit(const Profile& profile, const std::vector<ProbeSet>& sets) {
  double sum = 0, weights = 0;
  for (const ProbeSet& set : sets)
    for (const Probe& probe : set.probes) {
      const double p = predict_probe(set.placement, profile, probe, false).simulated;
      if (p <= 0 || probe.seconds <= 0) continue;
      const double weight = 1 / std::max(probe.spread, 1.0);
      sum += weight * std::abs(std::log(p / probe.seconds));
      weights += weight;
    }
  return weights > 0 ? sum / weights : 0;
}

Profile fit(const Profile& start, const std::vector<Knob>& knobs,
            const std::vector<ProbeSet>& sets) {
  Profile best = start;
  for (const Knob& k : knobs) k.set(best, std::clamp(k.get(best), k.least, k.most));
  double least = misfit(best, sets);
  double step = k_first_step;
  for (int pass = 0; pass < k_passes && step > k_last_step; ++pass) {
    bool better = false;
    for (const Knob& k : knobs)
      for (const double factor : {step, 1 / step}) {
        Profile changed = best;
        k.set(changed, std::clamp(k.get(best) * factor, k.least, k.most));
        const double m = misfit(changed, sets);
        if (m >= least - 1e-4) continue;
        best = std::move(changed);
        least = m;
        better = true;
        break;
      }
    if (!better) step = std::sqrt(step);
  }
  return best;
}

Profile fit_curves(const Profile& start, bool network, const std::vector<ProbeSet>& sets) {
  // From a line of cache to what a slot carries.
  const std::vector<uint64_t> sizes = {64, 1024, 16 << 10, 256 << 10};
  constexpr double k_worth = 0.95;
  const Profile curved =
      fit(with_curves(start, network, sizes), curve_knobs(start, network, sizes), sets);
  return misfit(curved, sets) < k_worth * misfit(start, sets) ? curved : start;
}

Profile corrected(const Profile& profile, const ProbeSet& measured) {
  const std::string world = world_of(measured.placement);
  Profile with = profile;
  with.corrections.forget(world, measured.placement.ranks);
  Profile plain = profile;
  plain.corrections = {};
  const auto factor = [](double seconds, double predicted) {
    return seconds > 0 && predicted > 0 ? seconds / predicted : 1.0;
  };
  for (const Probe& p : measured.probes) {
    if (p.algorithm.empty() || p.seconds <= 0) continue;
    const Predicted model = predict_probe(measured.placement, plain, p);
    with.corrections.set({world, p.collective, p.algorithm}, measured.placement.ranks, p.bytes,
                         {factor(p.seconds, model.simulated), factor(p.seconds, model.closed)});
  }
  return with;
}

}  // namespace tutti::perf
