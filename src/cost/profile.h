// Profile: what a machine charges. The one cost function of tutti is
//
//   a message:    send_overhead + sum of the links' alpha + bytes * the slowest link's beta +
//   recv_overhead a reduction:  bytes * gamma(element type, operator), per operand that was
//   received
//
// where alpha (seconds) and beta (seconds per byte) belong to a link's class and direction. The
// topology says what the links are in principle; a profile says what was measured on them. The
// closed forms (src/planner/predict.h) and the simulator (sim/) both ask here, so that they differ
// in what they know about contention, never in prices.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "topology/topology.h"
#include "tutti/status.h"
#include "tutti/types.h"

namespace tutti {

// Measured costs of a class of links in one direction. What is not given is the topology's.
struct LinkCost {
  std::optional<double> alpha;  // seconds for one crossing
  std::optional<double> beta;   // seconds per byte
  double efficiency = 1;        // share of the topology's bandwidth that is reached; with beta: 1

  bool operator==(const LinkCost&) const = default;
};

struct Profile {
  std::string name = "ideal";
  std::string source;  // where the figures come from

  // By class, then direction: 0 outward (away from the ranks), 1 inward.
  LinkCost links[k_link_classes][2];

  double send_overhead = 0;  // seconds that a lane is busy with one send
  double recv_overhead = 0;  // ... with one receive
  double call_overhead = 0;  // seconds of a rank before its lanes start
  double copy = 0;           // seconds per byte of a local copy
  double gamma = 0;          // seconds per byte reduced, where no kernel below says better
  std::map<std::pair<DType, ReduceOp>, double> kernels;

  uint64_t eager_bytes = UINT64_MAX;  // larger messages wait for the receiver (rendezvous)
  uint32_t credits = 4;               // messages in flight per connection (executor/router.h)
  // A lane's messages leave one after the other, as from one thread that stores or copies; else
  // its connections share its links, as sockets and queue pairs do.
  bool serial_lanes = true;

  bool operator==(const Profile&) const = default;

  double alpha(const Link& link) const;                // seconds
  double bandwidth(const Link& link) const;            // bytes per second
  double reduce_cost(DType dtype, ReduceOp op) const;  // seconds per byte
};

// JSON; the keys are in README.md. Errors: invalid_argument naming the key
// ("links.nic.out.alpha_s") and what it should have been, or the place where the text is not JSON.
Result<Profile> parse_profile(std::string_view json);
std::string to_json(const Profile& profile);

}  // namespace tutti
