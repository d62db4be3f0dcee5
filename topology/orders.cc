#include "topology/orders.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <set>

namespace tutti {
namespace {

using Capacity = std::vector<std::vector<uint32_t>>;
using Cycle = std::vector<uint32_t>;

// Depth-first search for `want` cycles at once, within so many steps.
class CycleSearch {
 public:
  CycleSearch(Capacity capacity, uint32_t want, uint64_t steps)
      : left_(std::move(capacity)),
        n_(static_cast<uint32_t>(left_.size())),
        steps_(steps),
        order_(n_),
        cycles_(want, Cycle(n_, 0)),
        visited_(want, std::vector<bool>(n_, false)) {
    std::iota(order_.begin(), order_.end(), 0u);
  }
  void shuffle(std::mt19937& random) {
    for (uint32_t i = n_ - 1; i > 0; --i) std::swap(order_[i], order_[random() % (i + 1)]);
  }
  bool run() { return search(0); }
  bool gave_up() const { return steps_ == 0; }
  std::vector<Cycle> take() { return std::move(cycles_); }

 private:
  // Every vertex needs two edges for each cycle to come.
  bool enough(uint32_t cycles) const {
    for (uint32_t v = 0; v < n_; ++v) {
      uint32_t degree = 0;
      for (uint32_t u = 0; u < n_; ++u) degree += std::min(left_[v][u], cycles);
      if (degree < 2 * cycles) return false;
    }
    return true;
  }
  // Cycle number c and all after it.
  bool search(uint32_t c) {
    if (c == cycles_.size()) return true;
    if (!enough(static_cast<uint32_t>(cycles_.size()) - c)) return false;
    visited_[c].assign(n_, false);
    visited_[c][0] = true;
    return extend(c, 1);
  }
  // The first `length` vertices of cycle c stand.
  bool extend(uint32_t c, uint32_t length) {
    if (steps_ == 0 || --steps_ == 0) return false;
    Cycle& cycle = cycles_[c];
    const uint32_t at = cycle[length - 1];
    if (length == n_) {
      // Each cycle in one of its two directions.
      if (left_[at][0] == 0 || cycle[1] > at) return false;
      use(at, 0);
      if (search(c + 1)) return true;
      give(at, 0);
      return false;
    }
    for (uint32_t to : order_) {
      if (visited_[c][to] || left_[at][to] == 0) continue;
      // Cycles in rising order of their second vertex: any set of them in one of its orders only.
      if (length == 1 && c > 0 && to < cycles_[c - 1][1]) continue;
      visited_[c][to] = true;
      cycle[length] = to;
      use(at, to);
      if (extend(c, length + 1)) return true;
      give(at, to);
      visited_[c][to] = false;
    }
    return false;
  }
  void use(uint32_t a, uint32_t b) {
    --left_[a][b];
    --left_[b][a];
  }
  void give(uint32_t a, uint32_t b) {
    ++left_[a][b];
    ++left_[b][a];
  }

  Capacity left_;
  uint32_t n_;
  uint64_t steps_;
  std::vector<uint32_t> order_;
  std::vector<Cycle> cycles_;
  std::vector<std::vector<bool>> visited_;  // by cycle
};

// The containers and what they hold, as a tree over the ranks.
struct Place {
  std::vector<uint32_t> inside;  // indexes of places, in order of their first rank
  std::vector<Rank> ranks;       // those directly here
  NodeId node = k_no_node;
};

class Orders {
 public:
  explicit Orders(const Topology& t) : t_(t) {
    std::map<NodeId, uint32_t> index, on_node;
    places_.emplace_back();  // everything
    for (Rank r = 0; r < t.ranks(); ++r) ++on_node[t.node_of(r)];
    for (Rank r = 0; r < t.ranks(); ++r) {
      std::vector<NodeId> chain;  // a node that several ranks share contains them
      NodeId n = t.node_of(r);
      for (n = on_node[n] > 1 ? n : t.nodes()[n].parent; n != k_no_node; n = t.nodes()[n].parent)
        chain.push_back(n);
      uint32_t at = 0;
      for (size_t i = chain.size(); i-- > 0;) {
        const auto [it, fresh] = index.try_emplace(chain[i], static_cast<uint32_t>(places_.size()));
        if (fresh) {
          places_.emplace_back();
          places_.back().node = chain[i];
          places_[at].inside.push_back(it->second);
        }
        at = it->second;
      }
      places_[at].ranks.push_back(r);
    }
    for (uint32_t p = 0; p < places_.size(); ++p)
      if (is_host(p)) hosts_.push_back(p);
  }

  RingOrders rings(uint32_t most) {
    RingOrders result;
    uint32_t count = most;
    bool meshes = false;
    for (uint32_t h : hosts_) {
      const Mesh& m = mesh(h, most, &result.complete);
      if (!m.direct) continue;
      meshes = true;
      result.disjoint = !m.cycles.empty() || m.best.size() == 2;
      count = std::min(
          count, std::max<uint32_t>(
                     1, m.best.size() == 2 ? m.pair : static_cast<uint32_t>(m.cycles.size())));
    }
    if (meshes)
      for (uint32_t h : hosts_) {
        const Mesh& m = mesh(h, most, &result.complete);
        result.disjoint &= !m.direct || !m.cycles.empty() || m.best.size() == 2;
      }
    if (!meshes) count = std::min(most, hosts_.size() > 1 ? rails() : 1);
    for (uint32_t j = 0; j < std::max(1u, count); ++j) {
      std::vector<Rank>& ring = result.rings.emplace_back();
      visit(0, j, most, &ring);
    }
    return result;
  }

  std::vector<Rank> tree() {
    std::vector<Rank> order;
    visit_tree(0, &order);
    return order;
  }

 private:
  // The direct links among the ranks of a host.
  struct Mesh {
    bool direct = false;
    std::vector<Cycle> cycles;  // indexes into seats_of()
    Cycle best;                 // where there are no cycles
    uint32_t pair = 1;          // links, where there are two seats
  };

  bool is_host(uint32_t place) const {
    return places_[place].node != k_no_node &&
           t_.nodes()[places_[place].node].kind == NodeKind::host;
  }

  void collect(uint32_t place, std::vector<Rank>* ranks) const {
    const Place& p = places_[place];
    ranks->insert(ranks->end(), p.ranks.begin(), p.ranks.end());
    for (uint32_t i : p.inside) collect(i, ranks);
  }
  const std::vector<Rank>& ranks_of(uint32_t host) {
    std::vector<Rank>& ranks = host_ranks_[host];
    if (ranks.empty()) {
      collect(host, &ranks);
      std::sort(ranks.begin(), ranks.end());
    }
    return ranks;
  }

  // The same by the nodes that they are on, in the order of these: equal hosts have equal meshes
  // however their ranks are numbered.
  const std::vector<std::vector<Rank>>& seats_of(uint32_t host) {
    std::vector<std::vector<Rank>>& seats = host_seats_[host];
    if (!seats.empty()) return seats;
    std::map<NodeId, std::vector<Rank>> on_node;
    for (const Rank r : ranks_of(host)) on_node[t_.node_of(r)].push_back(r);
    for (auto& [node, ranks] : on_node) seats.push_back(std::move(ranks));
    return seats;
  }

  // NICs in use on the host that uses most.
  uint32_t rails() {
    size_t most = 1;
    for (uint32_t h : hosts_) {
      std::set<NodeId> nics;
      for (Rank r : ranks_of(h)) nics.insert(t_.exit_of(r));
      most = std::max(most, nics.size());
    }
    return static_cast<uint32_t>(most);
  }

  const Mesh& mesh(uint32_t host, uint32_t most, bool* complete) {
    const auto known = mesh_of_host_.find(host);
    if (known != mesh_of_host_.end()) return meshes_[known->second];
    if (direct_.empty()) index_direct_links();
    std::vector<Rank> ranks;  // one for each seat
    for (const std::vector<Rank>& seat : seats_of(host)) ranks.push_back(seat.front());
    const size_t n = ranks.size();
    std::vector<std::vector<double>> width(n, std::vector<double>(n, 0));
    double unit = 0;
    if (n >= 2 && n <= k_most_in_mesh)
      for (size_t a = 0; a < n; ++a)
        for (size_t b = 0; b < n; ++b) {
          const auto link = direct_.find({t_.node_of(ranks[a]), t_.node_of(ranks[b])});
          if (a == b || link == direct_.end()) continue;
          width[a][b] = link->second;
          unit = unit == 0 ? link->second : std::min(unit, link->second);
        }
    const Capacity capacity = links_of(width, unit);
    // Equal hosts are searched once.
    const auto [same, fresh] = mesh_by_capacity_.try_emplace({capacity, unit > 0}, meshes_.size());
    mesh_of_host_[host] = same->second;
    if (!fresh) return meshes_[same->second];
    Mesh& m = meshes_.emplace_back();
    m.direct = unit > 0;
    if (!m.direct) return m;
    if (n >= 3) m.cycles = disjoint_cycles(capacity, most, complete);
    if (n == 2) m.pair = std::max(1u, capacity[0][1]);
    if (m.cycles.empty()) m.best = cheapest_cycle(ranks);
    return m;
  }

  // Widths in links of the narrowest.
  static Capacity links_of(const std::vector<std::vector<double>>& width, double unit) {
    Capacity capacity(width.size());
    for (size_t a = 0; a < width.size(); ++a)
      for (size_t b = 0; b < width.size(); ++b) {
        const double both_ways = std::min(width[a][b], width[b][a]);
        capacity[a].push_back(
            unit > 0 ? static_cast<uint32_t>(std::min(64.0, both_ways / unit + 1e-6)) : 0);
      }
    return capacity;
  }

  void index_direct_links() {
    direct_[{k_no_node, k_no_node}] = 0;  // looked at
    std::set<NodeId> endpoints;
    for (Rank r = 0; r < t_.ranks(); ++r) endpoints.insert(t_.node_of(r));
    for (const Link& l : t_.links())
      if (l.link_class == LinkClass::nvlink && endpoints.count(l.from) > 0 &&
          endpoints.count(l.to) > 0)
        direct_[{l.from, l.to}] += l.bandwidth;
  }

  // A mesh without a Hamiltonian cycle, such as pairs: the ring that is least slow, by its widths.
  Cycle cheapest_cycle(const std::vector<Rank>& ranks) const {
    const auto n = static_cast<uint32_t>(ranks.size());
    Cycle order(n);
    std::iota(order.begin(), order.end(), 0u);
    if (n < 4 || n > k_most_exact) return order;
    std::vector<std::vector<double>> cost(n, std::vector<double>(n, 0));
    Routes routes(t_);
    std::vector<LinkId> way;
    for (uint32_t a = 0; a < n; ++a)
      for (uint32_t b = 0; b < n; ++b)
        if (a != b && routes.find(ranks[a], ranks[b], &way))
          for (LinkId l : way)
            cost[a][b] += t_.links()[l].latency + 65536 / t_.links()[l].bandwidth;
    // Held and Karp: least cost of a path from 0 over a set to its last vertex.
    const uint32_t sets = 1u << n;
    std::vector<double> least(size_t{sets} * n, INFINITY);
    std::vector<uint32_t> before(size_t{sets} * n, 0);
    least[size_t{1} * n] = 0;
    for (uint32_t set = 1; set < sets; set += 2)
      for (uint32_t last = 0; last < n; ++last) {
        const double so_far = least[size_t{set} * n + last];
        if (!std::isfinite(so_far)) continue;
        for (uint32_t to = 1; to < n; ++to) {
          if (set >> to & 1) continue;
          const size_t next = size_t{set | 1u << to} * n + to;
          if (so_far + cost[last][to] >= least[next]) continue;
          least[next] = so_far + cost[last][to];
          before[next] = last;
        }
      }
    uint32_t set = sets - 1, last = 1;
    for (uint32_t v = 1; v < n; ++v)
      if (least[size_t{set} * n + v] + cost[v][0] < least[size_t{set} * n + last] + cost[last][0])
        last = v;
    for (uint32_t i = n; i-- > 0;) {
      order[i] = last;
      const uint32_t previous = before[size_t{set} * n + last];
      set &= ~(1u << last);
      last = previous;
    }
    return order;
  }

  // Appends the ranks of a place for ring j. Each level begins with another child as j grows, so
  // that rings enter and leave a host at different ranks.
  void visit(uint32_t place, uint32_t j, uint32_t most, std::vector<Rank>* ring) {
    if (is_host(place)) {
      bool complete = true;
      const Mesh& m = mesh(place, most, &complete);
      if (m.direct) return along(m, place, j, ring);
      if (hosts_.size() > 1) return through(place, most, ring);
    }
    turned(place, j, most, ring);
  }

  // All ranks of a host, from the one on at which the ring enters and leaves by the NICs that rings
  // have used least (a cable carries both ways at once).
  void through(uint32_t host, uint32_t most, std::vector<Rank>* ring) {
    constexpr size_t k_most_turns = 64;
    const size_t turns = std::min(ranks_of(host).size(), k_most_turns);
    std::vector<Rank> best, turn;
    uint32_t least = ~0u;
    for (uint32_t j = 0; j < turns && least > 0; ++j) {
      turn.clear();
      turned(host, j, most, &turn);
      const uint32_t use = entered_[t_.exit_of(turn.front())] + left_[t_.exit_of(turn.back())];
      if (use >= least) continue;
      least = use;
      best = turn;
    }
    ++entered_[t_.exit_of(best.front())];
    ++left_[t_.exit_of(best.back())];
    ring->insert(ring->end(), best.begin(), best.end());
  }

  // The j-th rotation of what is in a place, each container in one piece.
  void turned(uint32_t place, uint32_t j, uint32_t most, std::vector<Rank>* ring) {
    const Place& p = places_[place];
    const size_t children = p.inside.size(), own = p.ranks.size(), all = children + own;
    if (all == 0) return;
    // Racks and hosts come in the same order in all rings.
    const bool outside = p.node == k_no_node || t_.host_of(p.node) == k_no_node;
    const size_t start = outside ? 0 : j % all;
    const uint32_t inner = outside ? j : static_cast<uint32_t>(j / all);
    for (size_t i = 0; i < all; ++i) {
      const size_t at = (start + i) % all;
      if (at < own)
        ring->push_back(p.ranks[at]);
      else
        visit(p.inside[at - own], i == 0 || i + 1 == all || outside ? inner : 0, most, ring);
    }
  }

  // Along cycle j of a host's mesh. With other hosts in the ring, one of the cycle's links is left
  // out: the one whose ends have the NICs that rings have used least.
  void along(const Mesh& m, uint32_t host, uint32_t j, std::vector<Rank>* ring) {
    const std::vector<std::vector<Rank>>& seats = seats_of(host);
    const Cycle& cycle = m.cycles.empty() ? m.best : m.cycles[j % m.cycles.size()];
    const auto nic_in = [&](size_t i) { return t_.exit_of(seats[cycle[i]].front()); };
    const auto nic_out = [&](size_t i) {
      return t_.exit_of(seats[cycle[(i + cycle.size() - 1) % cycle.size()]].back());
    };
    size_t first = 0;
    if (hosts_.size() > 1) {
      uint32_t least = ~0u;
      for (size_t i = 0; i < cycle.size(); ++i) {
        const uint32_t use = used_[nic_in(i)] + used_[nic_out(i)];
        if (use >= least) continue;
        least = use;
        first = i;
      }
      ++used_[nic_in(first)];
      ++used_[nic_out(first)];
    }
    for (size_t i = 0; i < cycle.size(); ++i) {
      const std::vector<Rank>& seat = seats[cycle[(first + i) % cycle.size()]];
      ring->insert(ring->end(), seat.begin(), seat.end());
    }
  }

  void visit_tree(uint32_t place, std::vector<Rank>* order) {
    const Place& p = places_[place];
    const size_t begin = order->size();
    order->insert(order->end(), p.ranks.begin(), p.ranks.end());
    for (uint32_t i : p.inside) visit_tree(i, order);
    if (!is_host(place) || hosts_.size() < 2 || order->size() - begin < 2) return;
    // The rank that is nearest to its NIC comes first; its containers come with it, so that they
    // stay in one piece.
    Rank best = (*order)[begin];
    double least = INFINITY;
    for (size_t i = begin; i < order->size(); ++i)
      if (const double way = way_out((*order)[i], place); way < least * (1 - 1e-9)) {
        least = way;
        best = (*order)[i];
      }
    std::vector<Rank> led;
    lead(place, best, &led);
    std::copy(led.begin(), led.end(), order->begin() + static_cast<ptrdiff_t>(begin));
  }

  bool holds(uint32_t place, Rank rank) const {
    std::vector<Rank> ranks;
    collect(place, &ranks);
    return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
  }
  void lead(uint32_t place, Rank first, std::vector<Rank>* order) const {
    const Place& p = places_[place];
    std::vector<uint32_t> inside = p.inside;
    std::stable_partition(inside.begin(), inside.end(),
                          [&](uint32_t i) { return holds(i, first); });
    std::vector<Rank> own = p.ranks;
    std::stable_partition(own.begin(), own.end(), [&](Rank r) { return r == first; });
    const bool here = !own.empty() && own[0] == first;
    if (here) order->insert(order->end(), own.begin(), own.end());
    for (uint32_t i : inside) lead(i, first, order);
    if (!here) order->insert(order->end(), own.begin(), own.end());
  }

  // Seconds for 64 KiB from the rank to its NIC.
  double way_out(Rank rank, uint32_t host) {
    const uint32_t other = hosts_[0] == host ? hosts_[1] : hosts_[0];
    Routes routes(t_);
    std::vector<LinkId> way;
    if (!routes.find(rank, ranks_of(other)[0], &way)) return INFINITY;
    double seconds = 0;
    for (LinkId l : way) {
      const Link& link = t_.links()[l];
      if (t_.host_of(link.from) != t_.host_of(link.to)) break;
      seconds += link.latency + 65536 / link.bandwidth;
    }
    return seconds;
  }

  static constexpr size_t k_most_in_mesh = 64;
  static constexpr uint32_t k_most_exact = 12;
  const Topology& t_;
  std::vector<Place> places_;
  std::vector<uint32_t> hosts_;
  std::map<uint32_t, std::vector<Rank>> host_ranks_;
  std::map<uint32_t, std::vector<std::vector<Rank>>> host_seats_;
  std::map<std::pair<NodeId, NodeId>, double> direct_;
  std::vector<Mesh> meshes_;
  std::map<uint32_t, size_t> mesh_of_host_;
  std::map<std::pair<Capacity, bool>, size_t> mesh_by_capacity_;
  std::map<NodeId, uint32_t> used_, entered_, left_;
};

}  // namespace

std::vector<std::vector<uint32_t>> disjoint_cycles(const Capacity& capacity, uint32_t most,
                                                   bool* complete) {
  constexpr uint64_t k_steps = 200'000, k_steps_again = 10'000;
  constexpr int k_restarts = 8;
  *complete = true;
  const auto n = static_cast<uint32_t>(capacity.size());
  if (n < 3) return {};
  // Two edges of each vertex for each cycle, and none twice in one cycle.
  uint32_t want = most;
  for (bool fits = false; want > 0 && !fits;) {
    fits = true;
    for (uint32_t v = 0; v < n; ++v) {
      uint32_t degree = 0;
      for (uint32_t u = 0; u < n; ++u) degree += u == v ? 0 : std::min(capacity[v][u], want);
      fits &= degree >= 2 * want;
    }
    if (!fits) --want;
  }
  std::mt19937 random(1);
  for (; want > 0; --want) {
    CycleSearch search(capacity, want, k_steps);
    if (search.run()) return search.take();
    if (!search.gave_up()) continue;  // there are not so many
    for (int i = 0; i < k_restarts; ++i) {
      CycleSearch again(capacity, want, k_steps_again);
      again.shuffle(random);
      if (again.run()) return again.take();
    }
    *complete = false;
  }
  return {};
}

RingOrders ring_orders(const Topology& topology, uint32_t most) {
  return Orders(topology).rings(std::max(1u, most));
}

std::vector<Rank> tree_order(const Topology& topology) { return Orders(topology).tree(); }

uint32_t exits(const Topology& topology, const std::vector<Rank>& ring, NodeId container) {
  auto inside = [&](Rank r) {
    NodeId n = topology.node_of(r);
    while (n != k_no_node && n != container) n = topology.nodes()[n].parent;
    return n == container;
  };
  uint32_t count = 0;
  for (size_t i = 0; i < ring.size(); ++i)
    count += inside(ring[i]) && !inside(ring[(i + 1) % ring.size()]);
  return count;
}

}  // namespace tutti
