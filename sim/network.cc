// Max-min fair shares, component by component; see network.h.
#include "sim/network.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace tutti::sim {
namespace {

// Rates that differ by less are the same but for the order of additions.
constexpr double k_same = 1e-12;

}  // namespace

Network::Network(std::span<const double> capacity) : links_(capacity.size()) {
  for (size_t i = 0; i < capacity.size(); ++i)
    links_[i].capacity = std::max(1.0, std::round(capacity[i]));
}

uint32_t Network::add_flow(std::span<const uint32_t> path) {
  Flow f;
  f.begin = static_cast<uint32_t>(link_.size());
  f.hops = static_cast<uint32_t>(path.size());
  f.solo = path.empty() ? 0 : links_[path[0]].capacity;
  for (uint32_t l : path) f.solo = std::min(f.solo, links_[l].capacity);
  link_.insert(link_.end(), path.begin(), path.end());
  place_.resize(link_.size());
  flows_.push_back(f);
  fixed_.push_back(0);
  return static_cast<uint32_t>(flows_.size() - 1);
}

void Network::soil(uint32_t link) {
  if (links_[link].dirty == mark_) return;
  links_[link].dirty = mark_;
  dirty_.push_back(link);
}

void Network::start(uint32_t flow, double bytes, Time now) {
  Flow& f = flows_[flow];
  f.active = true;
  f.rate = 0;
  f.left = bytes;
  f.since = now;
  f.end = k_never;
  for (uint32_t h = f.begin; h < f.begin + f.hops; ++h) {
    Link& l = links_[link_[h]];
    place_[h] = static_cast<uint32_t>(l.flows.size());
    l.flows.push_back({flow, h});
    l.demand += f.solo;
    if (l.contended()) soil(link_[h]);
  }
  started_.push_back(flow);
}

void Network::finish(uint32_t flow) {
  Flow& f = flows_[flow];
  f.active = false;
  f.end = k_never;
  for (uint32_t h = f.begin; h < f.begin + f.hops; ++h) {
    Link& l = links_[link_[h]];
    if (l.contended()) soil(link_[h]);
    l.demand -= f.solo;
    const Entry last = l.flows.back();
    l.flows[place_[h]] = last;
    place_[last.hop] = place_[h];
    l.flows.pop_back();
  }
}

void Network::visit(uint32_t flow) {
  if (flows_[flow].mark == mark_) return;
  flows_[flow].mark = mark_;
  members_.push_back(flow);
}

void Network::find_changed() {
  members_.clear();
  bound_.clear();
  for (uint32_t link : dirty_)
    for (const Entry& e : links_[link].flows) visit(e.flow);
  for (uint32_t flow : started_)
    if (flows_[flow].active) visit(flow);
  started_.clear();
  dirty_.clear();
  for (size_t i = 0; i < members_.size(); ++i)
    for (uint32_t l : path(members_[i])) {
      Link& link = links_[l];
      if (!link.contended() || link.mark == mark_) continue;
      link.mark = mark_;
      bound_.push_back(l);
      for (const Entry& e : link.flows) visit(e.flow);
    }
  share();
  ++mark_;
}

void Network::fix(uint32_t flow, double rate) {
  fixed_[flow] = mark_;
  changed_.emplace_back(flow, rate);
  for (uint32_t l : path(flow)) {
    Link& link = links_[l];
    if (link.mark != mark_) continue;
    link.left -= rate;
    --link.unfixed;
  }
}

// Water rises in all flows alike. What stops a flow is its solo rate or a link that is full.
void Network::share() {
  work_ += members_.size();
  if (bound_.empty()) {
    for (uint32_t flow : members_) changed_.emplace_back(flow, flows_[flow].solo);
    return;
  }
  const auto by_share = std::greater<std::pair<double, uint32_t>>();
  shares_.clear();
  for (uint32_t l : bound_) {
    Link& link = links_[l];
    link.left = link.capacity;
    link.unfixed = static_cast<uint32_t>(link.flows.size());
    shares_.emplace_back(link.left / link.unfixed, l);
  }
  std::make_heap(shares_.begin(), shares_.end(), by_share);
  by_solo_ = members_;
  std::sort(by_solo_.begin(), by_solo_.end(), [this](uint32_t a, uint32_t b) {
    return flows_[a].solo != flows_[b].solo ? flows_[a].solo < flows_[b].solo : a < b;
  });
  size_t next = 0;
  while (true) {
    while (next < by_solo_.size() && fixed_[by_solo_[next]] == mark_) ++next;
    if (next == by_solo_.size()) return;
    // The fullest link; a share in the heap may be out of date, but only too small.
    while (!shares_.empty()) {
      const auto [share, l] = shares_.front();
      const Link& link = links_[l];
      const double now = link.unfixed == 0 ? 0 : std::max(0.0, link.left / link.unfixed);
      if (link.unfixed > 0 && now <= share) break;
      std::pop_heap(shares_.begin(), shares_.end(), by_share);
      shares_.pop_back();
      if (link.unfixed == 0) continue;
      shares_.emplace_back(now, l);
      std::push_heap(shares_.begin(), shares_.end(), by_share);
    }
    const double solo = flows_[by_solo_[next]].solo;
    if (shares_.empty() || solo <= shares_.front().first) {
      fix(by_solo_[next], solo);
      continue;
    }
    const auto [share, l] = shares_.front();
    for (const Entry& e : links_[l].flows)
      if (fixed_[e.flow] != mark_) fix(e.flow, share);
  }
}

bool Network::set_rate(uint32_t flow, double rate, Time now) {
  Flow& f = flows_[flow];
  if (std::abs(rate - f.rate) <= k_same * rate) return false;
  f.left = std::max(0.0, f.left - f.rate * (static_cast<double>(now - f.since) / k_per_second));
  f.rate = rate;
  f.since = now;
  const double takes = f.left / rate * k_per_second;
  constexpr double k_most = 9e18;
  const Time end = takes > k_most - static_cast<double>(now)
                       ? k_never
                       : now + std::max<Time>(1, std::llround(takes));
  if (end == f.end && end != k_never) return false;
  f.end = end;
  return true;
}

}  // namespace tutti::sim
