// Profile: what a machine charges. The one cost function of tutti is
//
//   a message:    sender's end + sum of the links' alpha + bytes * the slowest link's beta +
//                 receiver's end
//   an end:       overhead + bytes * what a byte keeps the thread busy (0 where hardware moves it)
//   either:       a curve over the message's bytes, where one was measured
//   a reduction:  bytes * gamma(element type, operator), per operand that was received
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
#include <vector>

#include "src/cost/corrections.h"
#include "topology/topology.h"
#include "tutti/status.h"
#include "tutti/types.h"

namespace tutti {

// Seconds of a message by its bytes, linear from knot to knot: small and large messages have an
// alpha and a beta of their own, as in LogGP with sizes. Below the first knot as there, beyond the
// last one on with the last slope.
struct SizeCurve {
  struct Knot {
    uint64_t bytes = 0;
    double seconds = 0;
    bool operator==(const Knot&) const = default;
  };
  std::vector<Knot> knots;  // by size, two at least; or none: no curve

  bool operator==(const SizeCurve&) const = default;
  bool empty() const { return knots.empty(); }
  double at(double bytes) const;
  double last_slope() const;  // seconds per byte beyond the last knot
};

// Measured costs of a class of links in one direction. What is not given is the topology's.
struct LinkCost {
  std::optional<double> alpha;  // seconds for one crossing
  std::optional<double> beta;   // seconds per byte
  double efficiency = 1;        // share of the topology's bandwidth that is reached; with beta: 1
  // Instead of the three: one crossing of a message that meets nobody. Its last slope is what the
  // link can carry; what smaller messages take beyond that is latency.
  SizeCurve curve = {};

  bool operator==(const LinkCost&) const = default;
  std::optional<double> alpha_at(double bytes) const;  // of messages of that size
  std::optional<double> beta_beyond() const;           // of the link
};

// What a message costs the threads at its ends, whatever the links do.
struct EndCost {
  double send = 0, recv = 0;                   // seconds a message
  double send_byte = 0, recv_byte = 0;         // seconds a byte: copies, system calls
  SizeCurve send_curve = {}, recv_curve = {};  // instead of the two of that end

  bool operator==(const EndCost&) const = default;
  // Seconds of a message; work on its bytes is `dearer` times as dear.
  double sending(double bytes, double dearer = 1) const;
  double receiving(double bytes, double dearer = 1) const;
};

// What devices charge for calls on their buffers. What is not given has not been measured:
// src/planner/device_choice.h assumes it.
struct DeviceCost {
  std::string name;              // of the device that was measured
  std::optional<double> launch;  // seconds until the blocks of a grid run and their end is seen
  // Seconds of a message at either of its ends, links left out: in packets, where every word has
  // its flag, and through a slot, whose flag is released after it.
  std::optional<double> packet, slot;
  std::optional<double> copy;    // seconds per byte copied by blocks
  std::optional<double> reduce;  // seconds per byte of each operand received
  // Between windows of two devices of a host: seconds until a flag is there, and per byte.
  std::optional<double> peer, peer_byte;
  std::optional<double> proxy;  // seconds of the proxy, at either end of a message to another host

  bool operator==(const DeviceCost&) const = default;
  // Whether there is any price.
  bool measured() const {
    DeviceCost nothing;
    nothing.name = name;
    return *this != nothing;
  }
};

struct Profile {
  std::string name = "ideal";
  std::string source;  // where the figures come from
  std::string
      machine;  // where they were measured (src/cost/machine.h); empty: nowhere in particular

  // By class, then direction: 0 outward (away from the ranks), 1 inward.
  LinkCost links[k_link_classes][2];

  EndCost ends;  // of every message ...
  std::optional<EndCost>
      network_ends;          // ... but for those that cross a link of class nic or network
  double call_overhead = 0;  // seconds of a rank before its lanes start
  double copy = 0;           // seconds per byte of a local copy
  double gamma = 0;          // seconds per byte reduced, where no kernel below says better
  std::map<std::pair<DType, ReduceOp>, double> kernels;

  // CPUs. A rank is one thread: its lanes share it. Ranks that outnumber the CPUs of their host
  // share those, and one that waits is found running again `handover` seconds late for every rank
  // per CPU. 0 CPUs: every lane has one of its own, as on a GPU.
  uint32_t cpus = 0;  // of a host
  double handover = 0;
  // Ends, copies and reductions cost `beyond_cache` times as much for blocks above `cache_bytes`.
  uint64_t cache_bytes = UINT64_MAX;
  double beyond_cache = 1;
  // Ranks that share windows (src/executor/shared_direct.h): seconds until a flag is seen, and what
  // `handover` is there.
  double flag = 0, flag_handover = 0;

  uint64_t eager_bytes = UINT64_MAX;  // larger messages wait for the receiver (rendezvous)
  uint32_t credits = 4;               // messages in flight per connection (executor/router.h)
  // A lane's messages leave one after the other, as from one thread that stores or copies; else
  // its connections share its links, as sockets and queue pairs do.
  bool serial_lanes = true;

  DeviceCost device;

  Corrections corrections;  // of what all these prices predict

  bool operator==(const Profile&) const = default;

  double alpha(const Link& link, double bytes = 0) const;  // seconds, of a message of that size
  double bandwidth(const Link& link) const;                // bytes per second
  double reduce_cost(DType dtype, ReduceOp op) const;      // seconds per byte
  const EndCost& ends_of(bool over_network) const {
    return over_network && network_ends ? *network_ends : ends;
  }
  // Whether some price is a curve.
  bool by_size() const;
  // How much dearer work on the bytes of a block of this size is.
  double cache_factor(uint64_t block_bytes) const {
    return block_bytes > cache_bytes ? beyond_cache : 1;
  }
};

// JSON; the keys are in README.md. Errors: invalid_argument naming the key
// ("links.nic.out.alpha_s") and what it should have been, or the place where the text is not JSON.
Result<Profile> parse_profile(std::string_view json);
std::string to_json(const Profile& profile, bool compact = false);

// For communicators on hosts with CPUs where nobody has run `tutti tune`; measured on the machines
// that src/cost/README.md names.
Profile builtin_profile();

}  // namespace tutti
