// A network of links that flows share max-min fairly: the fluid model. Every flow gets as much as
// it can without taking from one that has less; a link that nobody would fill divides nothing.
//
// Exact and incremental. A link whose flows together could not fill it even if each ran at the
// speed that its path allows alone (its *solo* rate) binds nobody. Only the others, the contended
// links, join flows into components, and when flows come or go only the components of their
// contended links are computed anew. A flow that meets nobody costs its hops and a heap entry.
//
// Time is in whole picoseconds, so that what happens at once in the model happens at once here.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace tutti::sim {

using Time = int64_t;  // picoseconds
inline constexpr Time k_never = INT64_MAX;
inline constexpr double k_per_second = 1e12;

class Network {
 public:
  // Capacities in bytes per second, by link.
  explicit Network(std::span<const double> capacity);

  // A flow's path, before any flow starts; the flows are numbered in order. Links may not repeat.
  uint32_t add_flow(std::span<const uint32_t> path);

  // Between the changes of one moment and settle() the rates are not valid.
  void start(uint32_t flow, double bytes, Time now);
  void finish(uint32_t flow);
  bool pending() const { return !started_.empty() || !dirty_.empty(); }
  // Computes the rates that have changed. Calls moved(flow, time) for every flow that now ends at
  // another time than was said before (k_never: beyond what a Time holds).
  template <class F>
  void settle(Time now, F&& moved) {
    find_changed();
    for (const auto& [flow, rate] : changed_)
      if (set_rate(flow, rate, now)) moved(flow, flows_[flow].end);
    changed_.clear();
  }

  // When the flow ends at the present rates; k_never when it is not under way.
  Time end(uint32_t flow) const { return flows_[flow].end; }
  bool active(uint32_t flow) const { return flows_[flow].active; }
  double rate(uint32_t flow) const { return flows_[flow].rate; }
  uint64_t work() const { return work_; }  // flows whose rates were computed, so far
  double solo_rate(uint32_t flow) const { return flows_[flow].solo; }
  std::span<const uint32_t> path(uint32_t flow) const {
    return std::span(link_).subspan(flows_[flow].begin, flows_[flow].hops);
  }

 private:
  struct Flow {
    uint32_t begin = 0, hops = 0;  // in link_ and place_
    uint32_t mark = 0;
    bool active = false;
    double solo = 0;  // bytes per second, a whole number
    double rate = 0;
    double left = 0;  // bytes at `since`
    Time since = 0;
    Time end = k_never;
  };
  struct Entry {
    uint32_t flow = 0, hop = 0;
  };
  struct Link {
    double capacity = 0;  // whole numbers, so that sums are exact
    double demand = 0;    // sum of the solo rates
    std::vector<Entry> flows;
    uint32_t mark = 0, dirty = 0;
    uint32_t unfixed = 0;  // while shares are computed
    double left = 0;

    bool contended() const { return demand > capacity; }
  };

  void find_changed();
  void visit(uint32_t flow);
  void share();
  void fix(uint32_t flow, double rate);
  bool set_rate(uint32_t flow, double rate, Time now);
  void soil(uint32_t link);

  std::vector<Flow> flows_;
  std::vector<Link> links_;
  std::vector<uint32_t> link_, place_;  // by hop: the link, and the place among its flows
  std::vector<uint32_t> started_, dirty_;
  uint32_t mark_ = 1;
  uint64_t work_ = 0;

  // Of the components at hand.
  std::vector<uint32_t> members_, bound_;  // flows, contended links
  std::vector<uint32_t> by_solo_;
  std::vector<uint32_t> fixed_;  // by flow: mark_ when its rate is known
  std::vector<std::pair<double, uint32_t>> shares_;
  std::vector<std::pair<uint32_t, double>> changed_;
};

}  // namespace tutti::sim
