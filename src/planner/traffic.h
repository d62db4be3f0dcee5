// Traffic: what messages cost when certain ranks talk at the same time. A pattern says whom each
// rank sends to (to[r]; r itself: nobody); the price of patterns that are played together is that
// of the dearest message, with every link's beta counting all that cross it at once, and every CPU
// shared by those who need it.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "src/cost/profile.h"
#include "src/planner/placement.h"
#include "topology/topology.h"
#include "tutti/types.h"

namespace tutti {

struct TrafficPrice {
  double alpha = 0, mean_alpha = 0;  // of one message, ends included: the most, the mean
  double beta = 0, mean_beta = 0;    // of a byte: links at their most crowded, and ends
  double ends = 0;                   // of alpha: what keeps threads busy
  double busy = 0, sending = 0;      // of beta: the same, and the sender's part of it
  double credits = 0;  // time between two messages that the credits of a connection allow
};

class Traffic {
 public:
  virtual ~Traffic() = default;
  virtual uint32_t ranks() const = 0;
  // Of messages of that many bytes, where the profile has curves: parts of the price are then those
  // that make such a message cost what the curves say.
  virtual TrafficPrice price(std::span<const std::vector<Rank>> patterns, double bytes) = 0;
  // Ranks per CPU where they outnumber the CPUs, else 1.
  virtual double crowd() const = 0;
};

// Over the links of a topology. Both must outlive it.
class TopologyTraffic final : public Traffic {
 public:
  TopologyTraffic(const Topology& topology, const Profile& profile);
  // With ranks so crowded on CPUs, whatever hosts the topology has.
  TopologyTraffic(const Topology& topology, const Profile& profile, double crowd);
  uint32_t ranks() const override { return topology_.ranks(); }
  TrafficPrice price(std::span<const std::vector<Rank>> patterns, double bytes) override;
  double crowd() const override { return crowd_; }

 private:
  const Topology& topology_;
  const Profile& profile_;
  Routes routes_;
  double crowd_ = 1;
  std::vector<LinkId> way_, used_;
  std::vector<uint32_t> flows_;  // by link
  bool by_size_;
  // By size and patterns, one after the other.
  std::map<std::pair<double, std::vector<Rank>>, TrafficPrice> known_;
};

// Between the ranks of a communicator: hosts on one switch, each behind its own link. A few
// nanoseconds a rank, where a topology of thousands of ranks would have to be built and searched.
// Both must outlive it.
class PlacementTraffic final : public Traffic {
 public:
  PlacementTraffic(const Placement& placement, const Profile& profile);
  uint32_t ranks() const override { return placement_.ranks; }
  TrafficPrice price(std::span<const std::vector<Rank>> patterns, double bytes) override;
  double crowd() const override { return crowd_; }

 private:
  struct Way {
    LinkCost out, in;
    double out_beta = 0, in_beta = 0;
    EndCost ends;

    double alpha(double bytes) const {  // links only
      return out.alpha_at(bytes).value_or(0) + in.alpha_at(bytes).value_or(0);
    }
  };
  const Placement& placement_;
  Way inside_, across_;
  double crowd_ = 1, handover_ = 0;
  uint32_t credits_;
  std::vector<uint32_t> leaving_, entering_;  // flows by host
  std::vector<uint32_t> received_;            // flows by rank
};

}  // namespace tutti
