#include "src/planner/traffic.h"

#include <algorithm>
#include <map>

namespace tutti {
namespace {

bool over_network(LinkClass c) { return c == LinkClass::nic || c == LinkClass::network; }

// The ends' costs as so much a message and so much a byte, which is exact for messages of one size.
struct LinearEnds {
  double each = 0, send_byte = 0, recv_byte = 0;

  LinearEnds(const EndCost& ends, double bytes)
      : each(ends.sending(0) + ends.receiving(0)),
        send_byte(bytes > 0 ? (ends.sending(bytes) - ends.sending(0)) / bytes : ends.send_byte),
        recv_byte(bytes > 0 ? (ends.receiving(bytes) - ends.receiving(0)) / bytes
                            : ends.recv_byte) {}
};

// Collects the flows of a pattern.
struct Sums {
  TrafficPrice price;
  double alphas = 0, betas = 0;
  uint32_t flows = 0;

  void flow(double latency, double ends, uint32_t credits) {
    price.alpha = std::max(price.alpha, latency + ends);
    price.ends = std::max(price.ends, ends);
    price.credits = std::max(price.credits, 2 * latency / credits);
    alphas += latency + ends;
    ++flows;
  }
  void byte(double link, const LinearEnds& ends, double crowd) {
    const double busy = (ends.send_byte + ends.recv_byte) * crowd;
    price.beta = std::max(price.beta, link + busy);
    price.busy = std::max(price.busy, busy);
    price.sending = std::max(price.sending, ends.send_byte * crowd);
    betas += link + busy;
  }
  TrafficPrice done() {
    if (flows > 0) {
      price.mean_alpha = alphas / flows;
      price.mean_beta = betas / flows;
    }
    return price;
  }
};

}  // namespace

TopologyTraffic::TopologyTraffic(const Topology& topology, const Profile& profile, double crowd)
    : topology_(topology),
      profile_(profile),
      routes_(topology),
      crowd_(crowd),
      flows_(topology.links().size(), 0),
      by_size_(profile.by_size()) {}

TopologyTraffic::TopologyTraffic(const Topology& topology, const Profile& profile)
    : TopologyTraffic(topology, profile, 1) {
  if (profile.cpus == 0) return;
  std::map<NodeId, uint32_t> members;
  for (Rank r = 0; r < topology.ranks(); ++r)
    crowd_ =
        std::max(crowd_, static_cast<double>(++members[topology.host_of(topology.node_of(r))]) /
                             profile.cpus);
}

TrafficPrice TopologyTraffic::price(std::span<const std::vector<Rank>> patterns, double bytes) {
  if (!by_size_) bytes = 0;
  const LinearEnds ends[] = {{profile_.ends_of(false), bytes}, {profile_.ends_of(true), bytes}};
  std::vector<Rank> key;
  for (const std::vector<Rank>& to : patterns) key.insert(key.end(), to.begin(), to.end());
  const auto [known, fresh] = known_.try_emplace({bytes, std::move(key)});
  if (!fresh) return known->second;
  Sums sums;
  used_.clear();
  const double handover = crowd_ > 1 ? profile_.handover * crowd_ : 0;
  bool network = false;
  const auto each_way = [&](auto&& visit) {
    for (const std::vector<Rank>& to : patterns)
      for (Rank r = 0; r < to.size(); ++r) {
        if (to[r] == r || !routes_.find(r, to[r], &way_)) continue;
        network = std::any_of(way_.begin(), way_.end(), [&](LinkId l) {
          return over_network(topology_.links()[l].link_class);
        });
        visit();
      }
  };
  each_way([&] {
    double latency = handover;
    for (LinkId l : way_) {
      latency += profile_.alpha(topology_.links()[l], bytes);
      if (flows_[l]++ == 0) used_.push_back(l);
    }
    sums.flow(latency, ends[network].each * crowd_, profile_.credits);
  });
  each_way([&] {
    double beta = 0;
    for (LinkId l : way_)
      beta = std::max(beta, flows_[l] / profile_.bandwidth(topology_.links()[l]));
    sums.byte(beta, ends[network], crowd_);
  });
  for (LinkId l : used_) flows_[l] = 0;
  return known->second = sums.done();
}

PlacementTraffic::PlacementTraffic(const Placement& placement, const Profile& profile)
    : placement_(placement),
      crowd_(placement.crowd(profile.cpus)),
      handover_(crowd_ > 1 ? profile.handover * crowd_ : 0),
      credits_(profile.credits),
      leaving_(placement.hosts),
      entering_(placement.hosts),
      received_(placement.ranks) {
  const auto cost = [&](LinkClass c, bool out) {
    return profile.links[static_cast<int>(c)][out ? 0 : 1];
  };
  const LinkClass near = placement.sockets_inside ? LinkClass::nic : LinkClass::memory;
  const auto way = [&](LinkClass c) {
    const LinkCost out = cost(c, true), in = cost(c, false);
    const auto beta = [&](const LinkCost& link) {
      const bool known = c == LinkClass::network;
      return link.beta_beyond().value_or(known ? 1 / (placement.network_bandwidth * link.efficiency)
                                               : 0);
    };
    return Way{out, in, beta(out), beta(in), profile.ends_of(over_network(c))};
  };
  inside_ = way(near);
  across_ = way(LinkClass::network);
}

TrafficPrice PlacementTraffic::price(std::span<const std::vector<Rank>> patterns, double bytes) {
  const LinearEnds near(inside_.ends, bytes), far(across_.ends, bytes);
  const double near_alpha = inside_.alpha(bytes), far_alpha = across_.alpha(bytes);
  std::fill(leaving_.begin(), leaving_.end(), 0);
  std::fill(entering_.begin(), entering_.end(), 0);
  std::fill(received_.begin(), received_.end(), 0);
  Sums sums;
  const auto each = [&](auto&& visit) {
    for (const std::vector<Rank>& to : patterns)
      for (Rank r = 0; r < to.size(); ++r)
        if (to[r] != r) visit(to[r], placement_.host_of(r), placement_.host_of(to[r]));
  };
  each([&](Rank peer, uint32_t from, uint32_t into) {
    ++received_[peer];
    if (from != into) {
      ++leaving_[from];
      ++entering_[into];
    }
    sums.flow((from == into ? near_alpha : far_alpha) + handover_,
              (from == into ? near : far).each * crowd_, credits_);
  });
  each([&](Rank peer, uint32_t from, uint32_t into) {
    const Way& way = from == into ? inside_ : across_;
    const double link =
        from == into ? std::max(way.out_beta, way.in_beta * received_[peer])
                     : std::max(way.out_beta * leaving_[from], way.in_beta * entering_[into]);
    sums.byte(link, from == into ? near : far, crowd_);
  });
  return sums.done();
}

}  // namespace tutti
